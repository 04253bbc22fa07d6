"""What CrewAI is told while an answer comes: text at once where it may be shown, and never two answers as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallCompletedEvent, LLMStreamChunkEvent, LLMThinkingChunkEvent

from kluster_integrations.crewai import KlusterLLM, kluster_llm

from ..raw_server import DONE, Gate, RawServer, Reply, chunk, event, sse
from .crews import KEY, LLAMA, R1, Report, hello, ran, weather

PARIS = '{"city": "Paris"}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>'
ACTION = f"Thought: I look.\nAction: get_weather\nAction Input: {PARIS}"
FINAL = "Thought: I know.\nFinal Answer: Sunny."
REPORT = '{"city": "Paris", "temperature": 21}'


@pytest.fixture
def on(server: RawServer) -> Callable[..., KlusterLLM]:
    """Make an LLM that streams."""
    return lambda model=LLAMA, **options: kluster_llm(
        model, base_url=server.base_url, api_key=KEY, max_retries=0, stream=True, **options
    )


def letters(text: str) -> Reply:
    return Reply(sse(*({"content": letter} for letter in text)))


def native(*arguments: str) -> Reply:
    """Return a stream of native calls whose arguments come letter by letter."""
    deltas: list[dict[str, Any]] = []
    for i, whole in enumerate(arguments):
        function = {"name": "get_weather", "arguments": ""}
        deltas.append({"tool_calls": [{"index": i, "id": f"c{i}", "type": "function", "function": function}]})
        deltas += [{"tool_calls": [{"index": i, "function": {"arguments": letter}}]} for letter in whole]
    return Reply(sse(*deltas, finish="tool_calls"))


def texts(events: list[Any]) -> list[str]:
    """Return the pieces of text that CrewAI was told of, joined up to each end of a call."""
    found = [""]
    for one in events:
        if isinstance(one, LLMStreamChunkEvent) and one.tool_call is None:
            found[-1] += one.chunk
        elif isinstance(one, LLMCallCompletedEvent):
            found.append("")
    return found[:-1]


@pytest.mark.parametrize("run", [hello, weather])
@pytest.mark.parametrize("model", [LLAMA, R1])
def test_the_text_of_an_agent_comes_at_once(
    run: Any, model: str, server: RawServer, on: Any, events: list[Any]
) -> None:
    gate = Gate()  # the server sends a piece when CrewAI has been told of the one before

    @crewai_event_bus.on(LLMStreamChunkEvent)
    @crewai_event_bus.on(LLMThinkingChunkEvent)
    def told(_: Any, __: Any) -> None:
        gate.release()

    pieces = [event(chunk({"content": piece})) for piece in ("Bon", "jour", " Paris")]
    if model == R1:
        pieces.insert(0, event(chunk({"reasoning_content": "Hm."})))
    pieces[-1] += event(chunk({}, "stop")) + DONE
    server.script(Reply(pieces, gate=gate))

    assert run(on(model)).kickoff().raw == "Bonjour Paris"
    assert not gate.waited_in_vain
    assert [e.chunk for e in events if isinstance(e, LLMStreamChunkEvent)] == ["Bon", "jour", " Paris"]


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_answer_adds_nothing_to_the_next(empty: str, server: RawServer, on: Any, events: list[Any]) -> None:
    server.script(letters(empty), letters("Bonjour"))

    assert hello(on()).kickoff().raw == "Bonjour"
    assert texts(events) == ["Bonjour"]


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_an_object_that_was_wrong_is_never_told(model: str, server: RawServer, on: Any, events: list[Any]) -> None:
    server.script(letters('</think>Here: {"city": "Paris"}'), letters(f"</think>Here: {REPORT}"))

    assert on(model).call("hi", response_model=Report) == Report(city="Paris", temperature=21)
    assert texts(events) == [REPORT]
    assert events[-1].response == REPORT


def test_an_object_after_tools_that_was_wrong_is_never_told(server: RawServer, on: Any, events: list[Any]) -> None:
    server.script(native(PARIS), letters("Sunny."), letters(f"Here: {REPORT}"))

    assert weather(on(), output_pydantic=Report).kickoff().pydantic == Report(city="Paris", temperature=21)
    assert texts(events) == ["", REPORT]


def test_a_reply_in_react_is_told_as_crewai_gets_it(server: RawServer, on: Any, events: list[Any]) -> None:
    invented = f"{ACTION}\nFinal Answer: It snows."
    server.script(letters("Thought: I look."), letters(invented), letters(FINAL))

    assert weather(on(tool_calling="react")).kickoff().raw == "Sunny."
    assert texts(events) == [ACTION, FINAL]


TEXT_CALLS = {
    "hermes": CALL,
    "words before it": f"I look. {CALL}",
    "llama": f'{{"name": "get_weather", "parameters": {PARIS}}}',
    "python tag": f'<|python_tag|>{{"name": "get_weather", "parameters": {PARIS}}}',
    "mistral": f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}}]',
}


@pytest.mark.parametrize("form", TEXT_CALLS)
def test_a_call_in_place_of_the_last_answer_is_never_told(
    form: str, server: RawServer, on: Any, events: list[Any]
) -> None:
    server.script(native(PARIS), letters(TEXT_CALLS[form]), letters("Sunny."))

    assert weather(on(), agent={"max_iter": 1}).kickoff().raw == "Sunny."
    assert texts(events) == ["", "Sunny."]
    assert len(server.requests) == 3


@pytest.mark.parametrize("form", TEXT_CALLS)
def test_a_call_that_the_server_did_not_read_is_told_as_a_call(
    form: str, server: RawServer, on: Any, events: list[Any]
) -> None:
    server.script(letters(TEXT_CALLS[form]), letters("Sunny."))

    assert weather(on()).kickoff().raw == "Sunny."
    assert ran == ["Paris"]
    assert texts(events)[-1] == "Sunny."
    assert not any(sign in "".join(texts(events)) for sign in "<[{")


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_calls_are_told_whole_once_they_are_right(model: str, server: RawServer, on: Any, events: list[Any]) -> None:
    if model == LLAMA:
        server.script(native(PARIS, '{"city": "Os'), native(PARIS, '{"city": "Oslo"}'))
    else:
        server.script(letters(CALL.replace("}}", "")), letters(CALL + CALL.replace("Paris", "Oslo")))
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": schema}}

    found = on(model).call("hi", tools=[tool])
    told = [e for e in events if isinstance(e, LLMStreamChunkEvent)]
    assert [json.loads(call["function"]["arguments"])["city"] for call in found] == ["Paris", "Oslo"]
    assert [e.chunk for e in told] == [call["function"]["arguments"] for call in found]
    assert [e.tool_call.model_dump() for e in told] == found
    assert len(server.requests) == 2
