"""An agent with two tools, streamed; on DeepSeek-R1, which has no tools of its own: they are prompted.

Run it with `python -m examples.langchain.agent`.
"""

from examples._service import service
from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, ToolMessage
from langchain_core.tools import tool

from kluster_integrations.langchain import ChatKluster


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"18 degrees and light rain in {city}"


@tool
def get_time(city: str) -> str:
    """Get the time of day in a city."""
    return f"quarter past nine in {city}"


def main() -> None:
    agent = create_agent(ChatKluster(model="deepseek-ai/DeepSeek-R1"), [get_weather, get_time])
    question = "What is the weather in Lisbon and the time in Tokyo?"
    print("Question:", question)

    shown = ""
    for part, _ in agent.stream({"messages": [("user", question)]}, stream_mode="messages"):
        if isinstance(part, ToolMessage):
            print(f"\n{part.name}: {part.content}", end="")
            shown = "tool"
        elif isinstance(part, AIMessageChunk):
            for kind, text in (("thinks", part.additional_kwargs.get("reasoning_content")), ("says", part.text)):
                if text:
                    print(text if kind == shown else f"\n[{kind}] {text}", end="", flush=True)
                    shown = kind
    print()


#: What the emulator answers, without a key.
REPLIES = [
    {
        "reasoning": "Two things to look up.",
        "tool_calls": [
            {"name": "get_weather", "arguments": {"city": "Lisbon"}},
            {"name": "get_time", "arguments": {"city": "Tokyo"}},
        ],
    },
    {"reasoning": "Both are here.", "text": "There is light rain in Lisbon, and it is quarter past nine in Tokyo."},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
