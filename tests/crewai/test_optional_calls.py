"""Where CrewAI can do without a call (a plan, an observation, a synthesis) the crew goes on; else it ends at once."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai.agent.planning_config import PlanningConfig
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.agent_events import AgentExecutionErrorEvent

from kluster_integrations import errors
from kluster_integrations.crewai import KlusterInternalServerError, kluster_llm

from ..raw_server import RawRequest, RawServer, Reply, whole
from .crews import KEY, LLAMA, hello, make_agent, since

STEPS = [{"step_number": 1, "description": "look up"}, {"step_number": 2, "description": "report"}]
PLAN = {"name": "create_reasoning_plan", "arguments": json.dumps({"plan": "p", "ready": True, "steps": STEPS})}
OBSERVATION = {
    "step_completed_successfully": True,
    "key_information_learned": "a word",
    "remaining_plan_still_valid": True,
    "needs_full_replan": False,
}
PARTS = {
    "plan": "strategic planning",
    "observation": "observing execution progress",
    "step": "executing ONE specific step",
    "synthesis": "Synthesize the results",
}


def part(request: RawRequest) -> str:
    """Return which part of an agent's work a request is for."""
    prompt = str(request.json["messages"][0]["content"])
    return next((name for name, words in PARTS.items() if words in prompt), "task")


def failing(*parts: str, status: int) -> Callable[[RawRequest], Reply]:
    """Return a model whose server fails whenever it is asked for these parts."""

    def answer(request: RawRequest) -> Reply:
        kind = part(request)
        if kind in parts:
            body = json.dumps({"error": {"message": "no"}}).encode()
            return Reply([body], status, "application/json", {"retry-after-ms": "1"}, framing="length")
        if kind == "plan":
            call = {"id": "c", "type": "function", "function": PLAN}
            return whole({"content": None, "tool_calls": [call]}, finish="tool_calls")
        return whole({"content": json.dumps(OBSERVATION) if kind == "observation" else f"by the {kind}"})

    return answer


@pytest.mark.parametrize("status", [500, 429, 400])
@pytest.mark.parametrize(
    ("fails", "answer"),
    [
        ("plan", "by the task"),
        ("observation", "by the synthesis"),
        ("synthesis", "Step 1 (look up):\nby the step\n\nStep 2 (report):\nby the step"),
    ],
)
def test_the_crew_ends_with_its_answer(
    fails: str, answer: str, status: int, server: RawServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = failing(fails, status=status)
    llm = kluster_llm(LLAMA, base_url=server.base_url, api_key=KEY, max_retries=1)
    planning = PlanningConfig(reasoning_effort="medium", max_attempts=1)

    assert hello(llm, agent={"planning_config": planning}).kickoff().raw == answer
    failed = [part(r) for r in server.requests].count(fails)
    calls = {"plan": 2, "observation": 2, "synthesis": 1}[fails]  # a plan also in words, an observation of each step
    assert failed == calls * (1 if status == 400 else 2)
    assert "mismatch" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("status", [500, 429, 401])
@pytest.mark.parametrize("planning", [None, PlanningConfig(max_attempts=1)])
def test_what_a_task_cannot_do_without_ends_it(
    planning: Any, status: int, server: RawServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = failing("plan", "task", status=status)
    llm = kluster_llm(LLAMA, base_url=server.base_url, api_key=KEY, max_retries=1)
    seen: list[AgentExecutionErrorEvent] = []

    with crewai_event_bus.scoped_handlers():
        crewai_event_bus.on(AgentExecutionErrorEvent)(lambda _, event: seen.append(event))
        with pytest.raises(errors.KlusterError, match=str(status)):
            hello(llm, agent={"planning_config": planning}).kickoff()
        crewai_event_bus.flush()
    assert [part(r) for r in server.requests].count("task") == (1 if status == 401 else 2)
    assert [str(status) in event.error for event in seen] == [True]
    assert "mismatch" not in "".join(capsys.readouterr())


@since[1, 15, 30]  # older versions go on with the next step
def test_a_step_that_fails_ends_the_task(server: RawServer) -> None:
    server.answer = failing("step", status=500)
    llm = kluster_llm(LLAMA, base_url=server.base_url, api_key=KEY, max_retries=0)

    with pytest.raises(KlusterInternalServerError) as caught:  # CrewAI would answer "Step 1: (no result)"
        hello(llm, agent={"planning_config": PlanningConfig(max_attempts=1)}).kickoff()
    assert "synthesis" not in [part(r) for r in server.requests]
    assert pickle.loads(pickle.dumps(caught.value)).status_code == 500


def test_an_agent_alone_ends_after_one_error(server: RawServer) -> None:
    server.answer = failing("task", status=500)
    llm = kluster_llm(LLAMA, base_url=server.base_url, api_key=KEY, max_retries=0)

    with pytest.raises(KlusterInternalServerError) as caught:
        make_agent(llm).kickoff("Say hello")
    assert len(server.requests) == 1
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (KlusterInternalServerError, str(caught.value))
