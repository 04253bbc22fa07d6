"""A LangGraph graph that asks in a batch job: it pauses, the program ends, and another day it goes on.

Run it with `python -m examples.langchain.later`. A graph that is to outlive its process needs a checkpointer that does,
such as langgraph-checkpoint-sqlite's.
"""

import time
from typing import TypedDict

from examples._service import job_folder, service
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from kluster_integrations.langchain import ChatKluster, later


class State(TypedDict, total=False):
    """What the graph knows."""

    topic: str
    report: str
    title: str


def main() -> None:
    model = ChatKluster(model="deepseek-ai/DeepSeek-R1", max_tokens=2000)

    def report(state: State) -> State:
        answer = later(model, f"Write a report on {state['topic']}.", folder=job_folder("later"), window="72h")
        return {"report": answer.text}

    def title(state: State) -> State:
        return {"title": model.invoke(f"A title for this report: {state['report']}").text}

    builder = StateGraph(State)
    builder.add_node("report", report)
    builder.add_node("title", title)
    builder.add_edge(START, "report")
    builder.add_edge("report", "title")
    builder.add_edge("title", END)
    graph = builder.compile(checkpointer=InMemorySaver())

    thread = {"configurable": {"thread_id": "bees"}}
    state = graph.invoke({"topic": "honey bees"}, thread)
    while interrupts := state.get("__interrupt__"):
        print("Waits for:", *interrupts[0].value["batch_ids"])
        time.sleep(1)  # an hour, or until tomorrow: too early is no harm
        state = graph.invoke(Command(resume=True), thread)
    print("Report:", state["report"])
    print("Title: ", state["title"])


if __name__ == "__main__":
    with service(line_time=2):
        main()
