"""A research crew with tools on DeepSeek-R1, which has no tools of its own: they are prompted. Its thoughts are shown.

Run it with `python -m examples.crewai.research`.
"""

from typing import Any

from crewai import Agent, Crew, Task
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMThinkingChunkEvent
from crewai.tools import tool
from examples._service import service

from kluster_integrations.crewai import kluster_llm

POPULATION = {"Lisbon": 545_796, "Porto": 231_800}


@tool("population")
def population(city: str) -> str:
    """The population of a city."""
    print(f"population({city!r})")
    return f"{city} has {POPULATION.get(city, 'an unknown number of')} inhabitants."


def main() -> None:
    @crewai_event_bus.on(LLMThinkingChunkEvent)
    def show(_: Any, event: LLMThinkingChunkEvent) -> None:
        print("[thinks]", event.chunk.strip())

    r1 = kluster_llm("deepseek-ai/DeepSeek-R1")
    researcher = Agent(
        role="Researcher",
        goal="Find figures that can be relied upon",
        backstory="You look everything up.",
        tools=[population],
        llm=r1,
    )
    writer = Agent(role="Writer", goal="Write plainly", backstory="You write for busy people.", llm=r1)
    look_up = Task(
        description="What is the population of Lisbon?", expected_output="A number with its city", agent=researcher
    )
    write = Task(description="Write a sentence for a guide.", expected_output="A sentence", agent=writer)
    output = Crew(agents=[researcher, writer], tasks=[look_up, write]).kickoff()
    print("Found:  ", output.tasks_output[0].raw)
    print("Written:", output.raw)
    print("Requests:", output.token_usage.successful_requests)


#: What the emulator answers, without a key.
REPLIES = [
    {"reasoning": "I look it up.", "tool_calls": [{"name": "population", "arguments": {"city": "Lisbon"}}]},
    {"reasoning": "There it is.", "text": "Lisbon has 545796 inhabitants."},
    {"reasoning": "A sentence, then.", "text": "Lisbon is home to more than half a million people."},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
