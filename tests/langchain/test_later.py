"""`later`: a LangGraph node that asks in a batch job, pauses, and goes on when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from kluster_integrations import errors
from kluster_integrations.batch import BatchJob
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import BatchBehavior, Emulator
from kluster_integrations.emulator.jobs import StoredFile
from kluster_integrations.langchain import ChatKluster, alater, later

from .conftest import LLAMA, R1, model_of

Make = Callable[..., ChatKluster]
both_ways = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


class Mood(BaseModel):
    """A mood."""

    mood: Literal["good", "bad"]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    monkeypatch.setenv("KLUSTER_BATCH_POLL", "0.005")
    monkeypatch.setenv("KLUSTER_BATCH_SETTLE", "0.05")
    with Emulator(plan="core") as server:
        server.batches.behavior = BatchBehavior(line_time=3600)
        yield server


@pytest.fixture
def chat(service: Emulator) -> Make:
    return partial(model_of, service)


THREAD: Any = {"configurable": {"thread_id": "1"}}
ASK: Any = {"messages": [HumanMessage("Question 0")]}
RESUME: Any = Command(resume=True)


class Runs:
    """A graph of one node, in both ways, that counts how often the node begins."""

    def __init__(self, model: Any, folder: Path, *, is_async: bool = False, **options: Any) -> None:
        self.begun = 0

        def node(state: MessagesState) -> Any:
            self.begun += 1
            return said(later(model, state["messages"], folder=folder, **options))

        async def anode(state: MessagesState) -> Any:
            self.begun += 1
            return said(await alater(model, state["messages"], folder=folder, **options))

        self._is_async = is_async
        self.graph = graph_of(anode if is_async else node)

    async def __call__(self, given: Any, config: Any = THREAD) -> dict[str, Any]:
        found: dict[str, Any] = (
            await self.graph.ainvoke(given, config) if self._is_async else self.graph.invoke(given, config)
        )
        return found


def said(answer: Any) -> dict[str, Any]:
    return {"messages": [AIMessage(answer.mood) if isinstance(answer, Mood) else answer]}


def graph_of(*nodes: Any, saver: Any = None) -> Any:
    builder = StateGraph(MessagesState)
    names = [f"node {number}" for number in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=InMemorySaver() if saver is None else saver)


def finish(server: Emulator, text: str = '{"mood": "good"}', status: int = 200) -> None:
    """End the jobs, which would take hours, with this answer to each line."""
    for job in server.batches.jobs.values():
        if job.output_file_id is not None:
            continue
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        body = {"id": "1", "object": "chat.completion", "model": LLAMA, "choices": [choice], "usage": usage}
        response = {"status_code": status, "body": body if status == 200 else {"error": {"message": "No."}}}
        results = [{"custom_id": line["custom_id"], "response": response} for line in job.lines]
        data = "".join(json.dumps(result) + "\n" for result in results).encode()
        job.output_file_id = server.batches.keep(StoredFile("output.jsonl", "batch_output", data)).id
        job.status = "completed"


@both_ways
async def test_too_early_and_in_time(service: Emulator, chat: Make, tmp_path: Path, is_async: bool) -> None:
    run = Runs(chat(), tmp_path, is_async=is_async, window="72h")
    first = await run(ASK)
    [interrupted] = first["__interrupt__"]
    [job] = service.batches.jobs.values()
    assert interrupted.value["batch_ids"] == [job.id]
    assert interrupted.value["window"] == job.window == "72h"
    assert Path(interrupted.value["folder"]).parent == tmp_path

    for _ in range(2):
        early = await run(RESUME)
        assert early["__interrupt__"][0].value == interrupted.value
        assert [m.type for m in early["messages"]] == ["human"]
    assert run.begun == 3

    finish(service, "Here it is.")
    done = await run(RESUME)
    assert "__interrupt__" not in done
    assert isinstance(done["messages"][-1], AIMessage)
    assert done["messages"][-1].text == "Here it is."
    assert list(service.batches.jobs) == [job.id]


@both_ways
async def test_without_a_wait_there_is_no_interrupt(
    service: Emulator, chat: Make, tmp_path: Path, is_async: bool
) -> None:
    service.batches.behavior = BatchBehavior()
    run = Runs(chat(), tmp_path, is_async=is_async)
    state = await run(ASK)
    while "__interrupt__" in state:  # the emulator takes some milliseconds
        state = await run(RESUME)
    assert state["messages"][-1].text == "Echo: Question 0"
    assert len(service.batches.jobs) == 1


@both_ways
async def test_a_repair_is_a_further_wait(service: Emulator, chat: Make, tmp_path: Path, is_async: bool) -> None:
    run = Runs(chat(R1).with_structured_output(Mood), tmp_path, is_async=is_async)
    await run(ASK)
    finish(service, "I would rather not.")
    again = await run(RESUME)
    assert again["__interrupt__"][0].value["batch_ids"] == list(service.batches.jobs)
    assert len(service.batches.jobs) == 2
    finish(service)
    assert (await run(RESUME))["messages"][-1].text == "good"
    assert len(service.batches.jobs) == 2


@both_ways
async def test_an_error_is_raised_in_the_node(service: Emulator, chat: Make, tmp_path: Path, is_async: bool) -> None:
    run = Runs(chat(), tmp_path, is_async=is_async)
    await run(ASK)
    finish(service, status=400)
    with pytest.raises(openai.BadRequestError, match="No"):
        await run(RESUME)


@both_ways
async def test_a_job_that_costs_too_much_is_not_sent(
    service: Emulator, chat: Make, tmp_path: Path, is_async: bool
) -> None:
    with pytest.raises(errors.CostLimitError):
        await Runs(chat(), tmp_path, is_async=is_async, max_cost=0)(ASK)
    assert service.batches.jobs == {}


@both_ways
async def test_a_job_that_somebody_cancels(service: Emulator, chat: Make, tmp_path: Path, is_async: bool) -> None:
    run = Runs(chat(), tmp_path, is_async=is_async)
    folder = (await run(ASK))["__interrupt__"][0].value["folder"]
    [job] = service.batches.jobs.values()
    job.status = "cancelled"
    with BatchJob.open(folder, config=KlusterConfig(api_key="k", base_url=service.base_url)) as cancelled:
        cancelled.cancel()
    with pytest.raises(errors.KlusterError, match="cancelled"):
        await run(RESUME)
    assert len(service.batches.jobs) == 1


def test_another_process_goes_on(service: Emulator, chat: Make, tmp_path: Path) -> None:
    saver = InMemorySaver()

    def make() -> Any:
        model = chat()
        return graph_of(lambda state: {"messages": [later(model, state["messages"], folder=tmp_path)]}, saver=saver)

    make().invoke(ASK, THREAD)
    finish(service, "Here it is.")
    assert make().invoke(RESUME, THREAD)["messages"][-1].text == "Here it is."
    assert len(service.batches.jobs) == 1


def test_steps_threads_and_names_have_jobs_of_their_own(service: Emulator, chat: Make, tmp_path: Path) -> None:
    model = chat()

    def node(state: MessagesState) -> Any:
        first = later(model, "Question 0", folder=tmp_path)
        second = later(model, "Question 0", folder=tmp_path, name="second")
        return {"messages": [first, second]}

    graph = graph_of(node, node)
    for thread in ("1", "2"):
        config: Any = {"configurable": {"thread_id": thread}}
        state = graph.invoke(ASK, config)
        for number in range(4):
            assert "__interrupt__" in state
            finish(service, f"Answer {number}")
            state = graph.invoke(RESUME, config)
        assert [m.text for m in state["messages"][1:]] == [f"Answer {number}" for number in range(4)]
    assert len(service.batches.jobs) == 8


def test_a_request_that_changes_is_not_sent_again(service: Emulator, chat: Make, tmp_path: Path) -> None:
    model, clock = chat(), iter(range(9))
    graph = graph_of(lambda state: {"messages": [later(model, f"It is {next(clock)}.", folder=tmp_path)]})
    graph.invoke(ASK, THREAD)
    with pytest.raises(openai.BadRequestError, match="other requests"):
        graph.invoke(RESUME, THREAD)
    assert len(service.batches.jobs) == 1


def test_without_a_thread(service: Emulator, chat: Make, tmp_path: Path) -> None:
    model = chat()
    graph = graph_of(lambda state: {"messages": [later(model, "Hi", folder=tmp_path)]}, saver=False)
    with pytest.raises(openai.BadRequestError, match="thread_id"):
        graph.invoke(ASK)
    with pytest.raises(openai.BadRequestError, match="outside of a LangGraph node"):
        later(model, "Hi", folder=tmp_path)
    assert service.batches.jobs == {}


def test_the_config_may_be_given(service: Emulator, chat: Make, tmp_path: Path) -> None:
    model = chat()

    def node(state: MessagesState, config: RunnableConfig) -> Any:
        return {"messages": [later(model, "Hi", folder=tmp_path, config=config)]}

    graph = graph_of(node)
    graph.invoke(ASK, THREAD)
    finish(service, "Here it is.")
    assert graph.invoke(RESUME, THREAD)["messages"][-1].text == "Here it is."
