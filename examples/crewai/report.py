"""A crew whose answers are objects: after a tool, checked by a guardrail in words, on a model without tools.

Run it with `python -m examples.crewai.report`.
"""

from crewai import Agent, Crew, Task
from crewai.tools import tool
from examples._service import service
from pydantic import BaseModel, Field

from kluster_integrations.crewai import kluster_llm


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    temperature: int = Field(description="In degrees Celsius")


@tool("get_weather")
def get_weather(city: str) -> str:
    """Current weather in a city."""
    return f"It is 18 degrees in {city}."


def main() -> None:
    reporter = Agent(
        role="Reporter",
        goal="Report facts",
        backstory="You report what you have looked up.",
        tools=[get_weather],
        llm=kluster_llm("google/gemma-3-27b-it"),
    )
    as_object = Task(
        description="What is the weather in Lisbon?",
        expected_output="The weather",
        agent=reporter,
        output_pydantic=Weather,
        guardrail="The answer names a city and a temperature.",
    )
    as_json = Task(
        description="What is the weather in Tokyo?",
        expected_output="The weather",
        agent=reporter,
        output_json=Weather,
        context=[],  # the first answer is none of its business
    )
    output = Crew(agents=[reporter], tasks=[as_object, as_json]).kickoff()
    print("Object:", repr(output.tasks_output[0].pydantic))
    print("JSON:  ", output.json_dict)


#: What the emulator answers, without a key.
REPLIES = [
    {"tool_calls": [{"name": "get_weather", "arguments": {"city": "Lisbon"}}]},
    {"json": {"city": "Lisbon", "temperature": 18}},
    {"json": {"valid": True, "feedback": None}},  # the guardrail
    {"tool_calls": [{"name": "get_weather", "arguments": {"city": "Tokyo"}}]},
    {"json": {"city": "Tokyo", "temperature": 18}},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
