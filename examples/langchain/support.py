"""A support agent on LangGraph: it remembers, falls back to another model, and asks a human before it pays.

Run it with `python -m examples.langchain.support`. The first model is a deployment of your own, which may be down; then
DeepSeek-R1 answers, which has no tools of its own: they are prompted.
"""

from typing import Any

from examples._service import service
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, ModelFallbackMiddleware
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from kluster_integrations.langchain import ChatKluster

ORDERS = {"A-17": "one lamp, 49 euros, arrived broken"}


@tool
def find_order(number: str) -> str:
    """Find an order by its number."""
    return ORDERS.get(number, "There is no such order.")


@tool
def refund(number: str, euros: int) -> str:
    """Pay the money for an order back."""
    return f"{euros} euros for {number} are on their way."


def main() -> None:
    agent = create_agent(
        ChatKluster(model="our-own-deployment", max_retries=0),
        [find_order, refund],
        system_prompt="You help customers of a lamp shop. Look orders up before you pay anything back.",
        middleware=[
            ModelFallbackMiddleware(ChatKluster(model="deepseek-ai/DeepSeek-R1-0528")),
            HumanInTheLoopMiddleware(interrupt_on={"refund": True}),
        ],
        checkpointer=InMemorySaver(),  # langgraph-checkpoint-sqlite's outlives the program
    )
    thread: Any = {"configurable": {"thread_id": "customer-1"}}

    for question in ("My order A-17 came broken. I want my money back.", "How much was it, again?"):
        print("Customer:", question)
        state = agent.invoke({"messages": [("user", question)]}, thread)
        while interrupts := state.get("__interrupt__"):
            for request in interrupts[0].value["action_requests"]:
                print("Approve: ", request["name"], request["args"], "-> yes")
            decisions = [{"type": "approve"} for _ in interrupts[0].value["action_requests"]]
            state = agent.invoke(Command(resume={"decisions": decisions}), thread)
        answer = state["messages"][-1]
        print("Agent:   ", answer.text)
        print("Model:   ", answer.response_metadata["model_name"])


#: What the emulator answers, without a key.
REPLIES = [
    {"reasoning": "Look first.", "tool_calls": [{"name": "find_order", "arguments": {"number": "A-17"}}]},
    {"tool_calls": [{"name": "refund", "arguments": {"number": "A-17", "euros": 49}}]},
    {"text": "I am sorry. Your 49 euros are on their way."},
    {"text": "The lamp was 49 euros."},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
