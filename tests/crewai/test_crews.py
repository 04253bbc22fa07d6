"""Every kind of crew finishes on a model with tools and on one without, on a strict server, with few requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Crew, Process, Task

from kluster_integrations.crewai import KlusterLLM
from kluster_integrations.emulator import Emulator

from .crews import LLAMA, R1, Report, get_weather, hello, make_agent, ran, report, since, weather

Make = Callable[..., KlusterLLM]

DOCUMENTED = {"model", "messages", "stop", "stream", "tools", "tool_choice", "parallel_tool_calls", "temperature"}
BOTH = pytest.mark.parametrize("model", [LLAMA, R1])


def sent(emulator: Emulator) -> int:
    """Return how many requests there were, all of them with documented fields only and no tools on R1."""
    for request in emulator.requests:
        assert set(request.body) <= DOCUMENTED
        assert request.body["model"] == LLAMA or "tools" not in request.body
    return len(emulator.requests)


@BOTH
def test_one_agent(model: str, llm: Make, emulator: Emulator) -> None:
    assert "hello in French" in hello(llm(model)).kickoff().raw
    assert sent(emulator) == 1


@BOTH
def test_tools(model: str, llm: Make, emulator: Emulator) -> None:
    assert "sunny in Paris" in weather(llm(model)).kickoff().raw
    assert (ran, sent(emulator)) == (["Paris"], 2)


@BOTH
def test_react_is_still_there(model: str, llm: Make, emulator: Emulator) -> None:
    raw = weather(llm(model, tool_calling="react")).kickoff().raw

    assert raw
    assert all("tools" not in request.body for request in emulator.requests)
    assert "Action Input:" in emulator.requests[0].body["messages"][0]["content"]


@BOTH
def test_output_pydantic(model: str, llm: Make, emulator: Emulator) -> None:
    assert report(llm(model), output_pydantic=Report).kickoff().pydantic == Report(city="Paris", temperature=21)
    assert sent(emulator) == 1


@BOTH
def test_output_json(model: str, llm: Make, emulator: Emulator) -> None:
    assert report(llm(model), output_json=Report).kickoff().json_dict == {"city": "Paris", "temperature": 21}
    assert sent(emulator) == 1


@BOTH
def test_output_pydantic_after_tools(model: str, llm: Make, emulator: Emulator) -> None:
    assert weather(llm(model), output_pydantic=Report).kickoff().pydantic == Report(city="Paris", temperature=21)
    assert (ran, sent(emulator)) == (["Paris"], 2)


@BOTH
def test_output_json_after_tools(model: str, llm: Make, emulator: Emulator) -> None:
    output = weather(llm(model), output_json=Report).kickoff()

    assert output.json_dict == {"city": "Paris", "temperature": 21}
    assert (ran, sent(emulator)) == (["Paris"], 2)
    assert output.token_usage.successful_requests == 2


@BOTH
def test_string_guardrail(model: str, llm: Make, emulator: Emulator) -> None:
    assert report(llm(model), guardrail="The answer must mention Paris").kickoff().raw
    assert sent(emulator) == 2


@BOTH
def test_crew_planning(model: str, llm: Make, emulator: Emulator) -> None:
    one = llm(model)

    assert hello(one, crew={"planning": True, "planning_llm": one}).kickoff().raw
    assert sent(emulator) == 2


@BOTH
@pytest.mark.parametrize(("kind", "most"), [("planning", 5), ("reasoning", 8)])
def test_agents_that_plan(kind: str, most: int, model: str, llm: Make, emulator: Emulator) -> None:
    assert weather(llm(model), agent={kind: True}).kickoff().raw
    assert ran == ["Paris"]
    assert sent(emulator) <= most


@BOTH
def test_hierarchical(model: str, llm: Make, emulator: Emulator) -> None:
    one = make_agent(llm(model), tools=[get_weather])
    job = Task(description="Weather in Paris; delegate work to the coworker Researcher", expected_output="A sentence")
    crew = Crew(agents=[one], tasks=[job], process=Process.hierarchical, manager_llm=llm(model))

    assert crew.kickoff().raw
    assert ran == ["Paris"]
    assert sent(emulator) == 4


@BOTH
def test_streaming(model: str, llm: Make, emulator: Emulator) -> None:
    output = hello(llm(model), crew={"stream": True}).kickoff()
    chunks = "".join(chunk.content for chunk in output)

    assert "hello in French" in output.result.raw
    assert output.result.raw in chunks
    assert sent(emulator) == 1
    assert emulator.requests[0].body["stream"] is True


@BOTH
@pytest.mark.parametrize("method", ["kickoff_async", "akickoff"])
async def test_async(method: str, model: str, llm: Make, emulator: Emulator) -> None:
    output = await getattr(weather(llm(model)), method)()

    assert "sunny in Paris" in output.raw
    assert (ran, sent(emulator)) == (["Paris"], 2)


@BOTH
def test_kickoff_for_each(model: str, llm: Make, emulator: Emulator) -> None:
    one = make_agent(llm(model))
    job = Task(description="Say hello in {language}", expected_output="A greeting", agent=one)
    outputs = Crew(agents=[one], tasks=[job]).kickoff_for_each([{"language": n} for n in ("French", "Greek", "Thai")])

    assert [output.token_usage.successful_requests for output in outputs] == [1, 1, 1]
    assert sent(emulator) == 3


@BOTH
def test_kickoff_for_each_with_a_planning_llm(model: str, llm: Make, emulator: Emulator) -> None:
    # CrewAI rebuilds a planning LLM from its dump, which has no key; and there is none in the environment.
    one = llm(model)
    outputs = hello(one, crew={"planning": True, "planning_llm": one}).kickoff_for_each([{"n": 1}, {"n": 2}])

    assert all(output.raw for output in outputs)
    assert sent(emulator) == 4


@BOTH
def test_agent_kickoff_with_a_response_format(model: str, llm: Make, emulator: Emulator) -> None:
    output: Any = make_agent(llm(model)).kickoff("It is 21 degrees in Paris", response_format=Report)

    assert output.pydantic == Report(city="Paris", temperature=21)
    assert sent(emulator) == 1


@since[1, 15, 30]
def test_forty_tool_results_that_fit_are_neither_summarized_nor_deferred(llm: Make) -> None:
    model = llm()
    messages: list[Any] = [{"role": "user", "content": "Find all"}]
    for n in range(40):
        call = {"id": f"c{n}", "type": "function", "function": {"name": "find", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{n}", "content": "fact " * 2_000})

    assert not model.is_context_window_overflowing_threshold(messages)
    assert not model.is_tool_result_overflowing_threshold("fact " * 15_000)[0]
    assert model.is_context_window_overflowing_threshold(messages + messages)


def test_a_shared_llm_is_counted_once(llm: Make, emulator: Emulator) -> None:
    shared = llm()
    agents = [make_agent(shared), make_agent(shared)]
    tasks = [Task(description="Say hello", expected_output="A greeting", agent=one) for one in agents]
    output = Crew(agents=agents, tasks=tasks).kickoff()

    assert sent(emulator) == 2
    assert output.token_usage.successful_requests == 2
    assert shared.get_token_usage_summary() == output.token_usage
