"""Plans end, whatever the model says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai.agent.planning_config import PlanningConfig

from kluster_integrations.crewai import KlusterLLM, kluster_llm
from kluster_integrations.crewai._plans import renumber_steps
from kluster_integrations.errors import OutputValidationError

from ..raw_server import RawRequest, RawServer, Reply, whole
from .crews import KEY, LLAMA, R1, hello, make_agent, weather

Make = Callable[..., KlusterLLM]


def planner(plan: Any) -> Callable[[RawRequest], Reply]:
    """Return a model that plans so, and answers everything else with a word."""

    def answer(request: RawRequest) -> Reply:
        if "strategic planning" not in str(request.json["messages"][0]["content"]):
            return whole({"content": "done"})
        if isinstance(plan, str):
            return whole({"content": plan})
        function = {"name": "create_reasoning_plan", "arguments": json.dumps(plan)}
        call = {"id": "c1", "type": "function", "function": function}
        if "tools" in request.json:
            return whole({"content": None, "tool_calls": [call]}, finish="tool_calls")
        return whole({"content": f"<tool_call>{json.dumps({**function, 'arguments': plan})}</tool_call>"})

    return answer


def plans(server: RawServer) -> int:
    return sum("strategic planning" in str(r.json["messages"][0]["content"]) for r in server.requests)


FINAL = "Thought: I know.\nFinal Answer: done"
NEVER = {"plan": "p", "steps": [], "ready": False}
TWICE = {"plan": "p", "ready": True, "steps": [{"step_number": 1, "description": d} for d in "ab"]}
WAITS = {"plan": "p", "ready": True, "steps": [{"step_number": 1, "description": "a", "depends_on": [1, 9]}]}


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize(
    ("plan", "most"), [(NEVER, 3), (TWICE, 1), (WAITS, 1), ("READY", 3), ("NOT READY", 3), ({"steps": 7}, 3)]
)
def test_an_agent_that_reasons_ends(plan: Any, most: int, model: str, server: RawServer) -> None:
    server.answer = planner(plan)
    llm = kluster_llm(model, base_url=server.base_url, api_key=KEY)

    assert weather(llm, agent={"reasoning": True}).kickoff().raw == "done"
    assert 1 <= plans(server) <= most
    assert len(server.requests) <= 12


THOUGHT = "<think>READY: I am ready to execute the task.</think>1. Look. NOT READY: I must refine it."
UNREADY = ["READY", "1. Look. State: READY or NOT READY", "A plan.", "", "NOT READY", THOUGHT]


@pytest.mark.parametrize("tool_calling", ["auto", "react"])
@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("plan", UNREADY)
@pytest.mark.parametrize("config", [{}, {"system_prompt": "strategic planning, but mine"}])
def test_a_plan_in_text_ends(
    plan: str, model: str, tool_calling: Any, config: dict[str, Any], server: RawServer
) -> None:
    done = planner(plan)
    server.answer = lambda r: done(r) if "strategic" in str(r.json["messages"][0]) else whole({"content": FINAL})
    llm = kluster_llm(model, base_url=server.base_url, api_key=KEY, tool_calling=tool_calling, max_repairs=0)
    planning = PlanningConfig(max_attempts=None, **config)

    assert hello(llm, agent={"planning_config": planning}).kickoff().raw
    assert 1 <= plans(server) <= (3 if tool_calling == "react" else 1)


def test_a_text_that_is_ready_is_asked_for_once(server: RawServer) -> None:
    server.answer = planner("1. Look. READY")
    llm = kluster_llm(R1, base_url=server.base_url, api_key=KEY, tool_calling="react")

    weather(llm, agent={"reasoning": True}).kickoff()
    assert plans(server) == 1


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("tool_calling", ["auto", "react"])
def test_a_plan_is_refined_as_often_as_the_agent_says(tool_calling: Any, model: str, server: RawServer) -> None:
    server.answer = planner("NOT READY" if tool_calling == "react" else NEVER)
    llm = kluster_llm(model, base_url=server.base_url, api_key=KEY, tool_calling=tool_calling)

    weather(llm, agent={"planning_config": PlanningConfig(max_attempts=5)}).kickoff()
    assert plans(server) == 5


@pytest.mark.parametrize("tool_calling", ["auto", "react"])
def test_agent_kickoff_with_a_plan_that_is_never_ready(tool_calling: Any, server: RawServer) -> None:
    server.answer = planner("NOT READY")
    llm = kluster_llm(R1, base_url=server.base_url, api_key=KEY, tool_calling=tool_calling)

    assert make_agent(llm, reasoning=True).kickoff("Say hello").raw
    assert plans(server) <= 3


@pytest.mark.parametrize("said", ["", "No.", "READY", '{"list_of_plans_per_task": 7}'])
@pytest.mark.parametrize("tool_calling", ["auto", "react"])
def test_a_crews_planner_that_gives_no_plan_ends_in_an_error(said: str, tool_calling: Any, server: RawServer) -> None:
    server.answer = lambda _: whole({"content": said})
    llm = kluster_llm(R1, base_url=server.base_url, api_key=KEY, tool_calling=tool_calling)

    with pytest.raises(OutputValidationError, match="not what was asked for"):
        hello(llm, crew={"planning": True, "planning_llm": llm}).kickoff()
    assert len(server.requests) <= 9


def test_natively_a_plan_that_says_only_ready_is_asked_for_without_end(server: RawServer, native: Any) -> None:
    unready, at_last = planner("READY"), planner("READY: I am ready to execute the task.")
    server.answer = lambda request: at_last(request) if plans(server) > 50 else unready(request)

    weather(native(server), agent={"reasoning": True}).kickoff()
    assert plans(server) > 50


def test_natively_a_plan_that_is_never_ready_is_asked_for_without_end(server: RawServer, native: Any) -> None:
    never, at_last = planner(NEVER), planner({**NEVER, "ready": True})
    server.answer = lambda request: at_last(request) if plans(server) > 50 else never(request)

    weather(native(server), agent={"reasoning": True}).kickoff()
    assert plans(server) > 50


THREE = {
    "plan": "p",
    "ready": True,
    "steps": [{"step_number": n, "description": "x", "depends_on": [n - 1] if n > 1 else []} for n in (1, 2, 3)],
}
FAILED = {
    "step_completed_successfully": False,
    "key_information_learned": "",
    "remaining_plan_still_valid": False,
    "needs_full_replan": True,
    "replan_reason": "It failed.",
}


def pessimist(request: RawRequest) -> Reply:
    """Answer as a model that finds each step failed, and makes the same plan anew."""
    if "observing execution" in str(request.json["messages"][0]["content"]):
        return whole({"content": json.dumps(FAILED)})
    return planner(THREE)(request)


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("effort", ["low", "medium", "high"])
@pytest.mark.parametrize("by_task", [True, False])
def test_an_agent_for_whom_every_plan_fails_ends(by_task: bool, effort: Any, model: str, server: RawServer) -> None:
    server.answer = pessimist
    llm = kluster_llm(model, base_url=server.base_url, api_key=KEY)
    planning = PlanningConfig(reasoning_effort=effort)

    if by_task:
        assert weather(llm, agent={"planning_config": planning}).kickoff().raw
    else:
        assert make_agent(llm, planning_config=planning).kickoff("Look").raw
    assert plans(server) <= 4
    assert len(server.requests) <= 16


def test_natively_the_second_of_two_steps_with_a_number_is_taken_again_and_again(
    server: RawServer, native: Any
) -> None:
    server.answer = pessimist

    with pytest.raises(RecursionError, match="infinite loop"):  # CrewAI's last resort, after 10 * max_iter rounds
        weather(native(server), agent={"reasoning": True, "max_retry_limit": 0, "max_iter": 6}).kickoff()
    assert plans(server) == 4
    assert len(server.requests) > 30


def test_steps_of_a_new_plan_do_not_take_the_numbers_of_steps_that_are_done() -> None:
    prompt = [{"role": "user", "content": "Successfully completed steps:\n  - Step 1: a\n  - Step 4: b\n    Result: x"}]
    steps = [
        {"step_number": 1, "description": "c", "tool_to_use": "get_weather", "depends_on": []},
        {"step_number": 2, "description": "d", "tool_to_use": "", "depends_on": [1, 2, 3]},
    ]

    made = renumber_steps({"plan": "p", "steps": steps, "ready": True}, prompt, None)
    assert [(s["step_number"], s["tool_to_use"], s["depends_on"]) for s in made["steps"]] == [
        (5, "get_weather", []),
        (6, None, [5]),
    ]


def test_a_step_that_waits_for_anything_but_a_number() -> None:
    steps = [
        {"step_number": "1", "description": "a", "depends_on": "all"},
        {"step_number": [2], "description": "b", "depends_on": [[1], {}, 1]},
    ]

    made = renumber_steps({"plan": "", "steps": steps}, [], None)
    assert [(s["step_number"], s["depends_on"]) for s in made["steps"]] == [(1, []), (2, [1])]


def test_a_plan_has_no_more_steps_than_the_agent_allows() -> None:
    steps = [{"step_number": n, "description": "x"} for n in range(1, 40)]

    assert len(renumber_steps({"plan": "", "steps": steps}, [], None)["steps"]) == 20
