"""A hierarchical crew: a manager on DeepSeek-R1 gives work to an agent on a small, cheap model.

Run it with `python -m examples.crewai.hierarchical`.
"""

from crewai import Agent, Crew, Process, Task
from crewai.tools import tool
from examples._service import service

from kluster_integrations.crewai import kluster_llm


@tool("get_price")
def get_price(item: str) -> str:
    """The price of an item in the shop."""
    print(f"get_price({item!r})")
    return f"The {item} costs 12 euros."


def main() -> None:
    clerk = Agent(
        role="Clerk",
        goal="Know every price",
        backstory="You look prices up.",
        tools=[get_price],
        llm=kluster_llm("klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"),
    )
    task = Task(
        description="Delegate work to the coworker Clerk: what is the price of a teapot?",
        expected_output="The price",
    )
    crew = Crew(
        agents=[clerk], tasks=[task], process=Process.hierarchical, manager_llm=kluster_llm("deepseek-ai/DeepSeek-R1")
    )
    output = crew.kickoff()
    print("Answer:  ", output.raw)
    print("Requests:", output.token_usage.successful_requests)


#: What the emulator answers, without a key.
REPLIES = [
    {
        "tool_calls": [
            {
                "name": "delegate_work_to_coworker",
                "arguments": {
                    "coworker": "Clerk",
                    "task": "What is the price of a teapot?",
                    "context": "For a customer.",
                },
            }
        ]
    },
    {"tool_calls": [{"name": "get_price", "arguments": {"item": "teapot"}}]},
    {"text": "The teapot costs 12 euros."},
    {"text": "A teapot costs 12 euros."},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
