"""A crew with tools and a typed report: one agent looks up, the other writes an object that the program can use.

Run it with `python -m examples.crewai.briefing`.
"""

from crewai import Agent, Crew, Task
from crewai.tools import tool
from examples._service import service
from pydantic import BaseModel, Field

from kluster_integrations.crewai import kluster_llm


class Finding(BaseModel):
    """One city of the report."""

    city: str
    population: int = Field(gt=0)
    degrees: int


class Report(BaseModel):
    """What the second agent returns."""

    findings: list[Finding]
    advice: str


@tool("population")
def population(city: str) -> int:
    """Number of people who live in a city."""
    return {"Lisbon": 545796, "Oslo": 717710}.get(city, 0)


@tool("weather")
def weather(city: str) -> str:
    """Current weather in a city."""
    return {"Lisbon": "24 degrees", "Oslo": "11 degrees"}.get(city, "unknown")


def main() -> None:
    scout = Agent(
        role="Scout",
        goal="Look facts up",
        backstory="You never guess.",
        tools=[population, weather],
        llm=kluster_llm("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"),
    )
    writer = Agent(role="Writer", goal="Report", backstory="You are brief.", llm=kluster_llm("google/gemma-3-27b-it"))
    look_up = Task(description="Population and weather of Lisbon and Oslo", expected_output="Facts", agent=scout)
    write = Task(
        description="Where is it nicer today?", expected_output="A report", agent=writer, output_pydantic=Report
    )
    report = Crew(agents=[scout, writer], tasks=[look_up, write]).kickoff().pydantic
    for finding in report.findings:
        print(f"{finding.city}: {finding.population:,} people, {finding.degrees} degrees")
    print("Advice:", report.advice)


CITIES = ("Lisbon", "Oslo")
#: What the emulator answers, without a key.
REPLIES = [
    {"tool_calls": [{"name": n, "arguments": {"city": c}} for c in CITIES for n in ("population", "weather")]},
    {"text": "Lisbon: 545796 people, 24 degrees. Oslo: 717710 people, 11 degrees."},
    {
        "json": {
            "findings": [
                {"city": "Lisbon", "population": 545796, "degrees": 24},
                {"city": "Oslo", "population": 717710, "degrees": 11},
            ],
            "advice": "Go to Lisbon.",
        }
    },
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
