"""Two turns about a city, the second of which needs the first: a LangGraph checkpointer remembers.

Run it with `python -m examples.langchain.conversation`.
"""

from examples._service import service
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from kluster_integrations.langchain import ChatKluster


def main() -> None:
    model = ChatKluster(model="klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", temperature=0)
    guide = create_agent(
        model,
        system_prompt="You are a helpful travel guide. Keep answers short.",
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "trip-1"}}

    for turn in (
        "I want to visit San Francisco in June for its bridges. What should I see first?",
        "Which city did I say that I want to visit, and when?",
    ):
        state = guide.invoke({"messages": [("user", turn)]}, thread)
        print("You:  ", turn)
        print("Guide:", state["messages"][-1].text)


#: What the emulator answers, without a key.
REPLIES = [
    {"text": "The Golden Gate Bridge, early, before the fog."},
    {"text": "You want to visit San Francisco in June."},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
