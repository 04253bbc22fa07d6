"""The LLM by itself: calls, streams, events, usage, windows, copies."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import LLM, Crew
from crewai.events.types.llm_events import (
    LLMCallCompletedEvent,
    LLMCallStartedEvent,
    LLMCallType,
    LLMStreamChunkEvent,
    LLMThinkingChunkEvent,
)

from kluster_integrations.crewai import KlusterLLM, kluster_llm
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import OutputValidationError

from ..raw_server import RawServer, Reply, sse, whole
from .crews import GEMMA, KEY, LLAMA, R1, Report, hello, make_agent

Make = Callable[..., KlusterLLM]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
BOTH = pytest.mark.parametrize("model", [LLAMA, R1])


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_call(model: str, stream: bool, llm: Make, events: list[Any]) -> None:
    text = llm(model, stream=stream).call("What is the capital of France?")

    kinds = [type(e) for e in events]
    assert kinds[0] is LLMCallStartedEvent
    assert kinds[-1] is LLMCallCompletedEvent
    assert len({e.call_id for e in events}) == 1
    assert events[-1].response == text
    assert events[-1].finish_reason == "stop"
    assert events[-1].response_id
    assert events[-1].usage["completion_tokens"] > 0
    assert (LLMThinkingChunkEvent in kinds) is (model == R1)
    chunks = [e.chunk for e in events if isinstance(e, LLMStreamChunkEvent)]
    assert "".join(chunks) == (text if stream else "")
    assert not stream or len(chunks) > 3


@BOTH
async def test_acall(model: str, llm: Make, events: list[Any]) -> None:
    one = llm(model, stream=True)

    text = await one.acall([{"role": "user", "content": "What is the capital of France?"}])
    assert "".join(e.chunk for e in events if isinstance(e, LLMStreamChunkEvent)) == text
    assert await llm(model).acall("hi", response_model=Report)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_are_returned(model: str, stream: bool, llm: Make, events: list[Any]) -> None:
    (call,) = llm(model, stream=stream).call("What is the weather in Paris?", tools=[WEATHER])

    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert events[-1].call_type is LLMCallType.TOOL_CALL
    pieces = [e for e in events if isinstance(e, LLMStreamChunkEvent) and e.call_type is LLMCallType.TOOL_CALL]
    assert "".join(e.chunk for e in pieces) == (call["function"]["arguments"] if stream else "")
    if stream:
        assert pieces[-1].tool_call.function.arguments == call["function"]["arguments"]


@BOTH
def test_functions_are_run(model: str, llm: Make, events: list[Any]) -> None:
    functions = {"get_weather": lambda city: f"sunny in {city}"}

    assert llm(model).call("Weather in Paris?", tools=[WEATHER], available_functions=functions) == "sunny in Paris"
    assert [type(e) for e in events].count(LLMCallCompletedEvent) == 1


def test_a_response_format_of_its_own(llm: Make) -> None:
    assert llm(response_format=Report).call("21 degrees in Paris") == Report(city="Paris", temperature=21)


def test_parameters_are_sent_under_their_present_names(llm: Make, emulator: Emulator) -> None:
    llm(max_tokens=50, temperature=0.5, top_p=0.9, seed=1, logprobs=True, n=1, extra_body=None).call("hi")

    body = emulator.requests[0].body
    assert {k: v for k, v in body.items() if k not in ("model", "messages")} == {
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 1,
        "logprobs": True,
    }


def test_usage_of_a_stream_without_usage_is_estimated(llm: Make, events: list[Any]) -> None:
    one = llm(stream=True)

    one.call("hi there")
    usage = one.get_token_usage_summary()
    assert usage.successful_requests == 1
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
    assert events[-1].usage["estimated"] is True


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_counted_where_the_server_does_not(stream: bool, server: RawServer, events: list[Any]) -> None:
    message = {"content": "42", "reasoning_content": "Six times seven. " * 9}
    server.script(Reply(sse(message)) if stream else whole(message))
    one = kluster_llm(R1, base_url=server.base_url, api_key=KEY, stream=stream)

    one.call("6 * 7?")
    assert events[-1].usage["reasoning_tokens"] > 0
    assert one.get_token_usage_summary().reasoning_tokens == events[-1].usage["reasoning_tokens"]


def test_tokens_and_requests_of_an_answer_that_stays_wrong_are_counted(server: RawServer) -> None:
    server.answer = lambda _: whole({"content": "no"})
    one = kluster_llm(LLAMA, base_url=server.base_url, api_key=KEY)

    with pytest.raises(OutputValidationError):
        one.call("hi", response_model=Report)
    usage = one.get_token_usage_summary()
    assert (usage.successful_requests, usage.total_tokens) == (3, 3 * 7)


def test_crews_that_are_summed_up_at_the_same_time(llm: Make) -> None:
    shared = llm()
    shared.call("hi")
    crews = [Crew(agents=[make_agent(shared), make_agent(shared)], tasks=[]) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            sums = pool.map(lambda one: [one.calculate_usage_metrics() for _ in range(200)], crews)
            counts = [each.successful_requests for total in sums for each in total]
    finally:
        sys.setswitchinterval(interval)
    assert counts == [1] * 1_600


@pytest.mark.parametrize(("plan", "window"), [(None, 131_072), ("core", 131_072), ("trial", 32_768)])
def test_the_window_is_the_models_under_the_plan(plan: Any, window: int, llm: Make) -> None:
    assert llm(plan=plan).get_context_window_size() == int(window * 0.85)


def test_natively_the_window_is_6963(native: Any, emulator: Emulator) -> None:
    assert native(emulator).get_context_window_size() == 6_963


def test_tokens_are_counted_without_a_request(llm: Make, emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    one = llm()

    assert one.get_input_tokens_count("four") == 5  # with what a message costs
    longer = [{"role": "user", "content": "x" * 400}]
    assert 100 <= one.get_input_tokens_count(longer) <= 110
    assert one.get_input_tokens_count(longer, tools=[WEATHER]) > one.get_input_tokens_count(longer) + 30
    assert one.get_input_tokens_count(longer, response_model=Report) > one.get_input_tokens_count(longer) + 30
    assert (emulator.requests, caplog.text) == ([], "")


def test_what_it_says_it_can_do(llm: Make) -> None:
    assert [llm(m).supports_function_calling() for m in (LLAMA, R1)] == [True, True]
    assert llm(tool_calling="react").supports_function_calling() is False
    assert [llm(m).supports_multimodal() for m in (LLAMA, R1, GEMMA)] == [False, False, True]
    assert llm().supports_stop_words() is True


def test_images(llm: Make, emulator: Emulator) -> None:
    emulator.reply("A picture of 2x3 pixels.")
    image = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhAgADAAAAACw="}}

    text = llm(GEMMA).call([{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}])
    assert "2x3" in text
    assert emulator.requests[0].body["messages"][0]["content"][1] == image


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: one.model_copy(deep=True)])
def test_copies_share_the_connection_and_not_the_usage(duplicate: Any, llm: Make) -> None:
    one = llm(R1, temperature=0.5, stop=["END"], tool_calling="prompted")
    one.call("hi")
    twin = duplicate(one)

    assert type(twin) is KlusterLLM
    assert twin.get_token_usage_summary().successful_requests == 0
    twin.call("hi")
    twin.stop.append("more")
    assert (one.get_token_usage_summary().successful_requests, one.stop) == (1, ["END"])
    assert (twin.temperature, twin.tool_calling, twin.client) == (0.5, "prompted", one.client)


def test_a_pickle_holds_no_key(llm: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = llm(R1, plan="trial", max_tokens=99)
    one.call("hi")
    pickled = pickle.dumps(one)
    monkeypatch.setenv("KLUSTER_API_KEY", "kk-other")
    restored = pickle.loads(pickled)

    assert KEY.encode() not in pickled
    assert restored.client.config.api_key.get_secret_value() == "kk-other"
    assert (restored.spec.context_window, restored.base_url, restored.max_tokens) == (32_768, one.base_url, 99)
    assert restored.call("hi")


def test_no_dump_holds_the_key(llm: Make) -> None:
    one = llm(default_headers={"X-Secret": "kk-header"})
    agent = make_agent(one)
    crew = hello(one, crew={"chat_llm": one})
    dumps = [
        *(repr(one), str(one), str(one.model_dump()), one.model_dump_json(), str(one.to_config_dict())),
        *(str(agent.model_dump(mode="json")), str(crew.model_dump(mode="json")), str(vars(one))),
    ]

    assert [dump for dump in dumps if KEY in dump or "kk-header" in dump] == []


def test_an_llm_that_crewai_rebuilds_from_its_dump_is_the_same(llm: Make, emulator: Emulator) -> None:
    one = llm(R1, max_completion_tokens=99, timeout=7, tool_calling="prompted", max_repairs=1, logprobs=True)
    twin: Any = hello(one, crew={"planning_llm": one, "chat_llm": one}).copy().chat_llm

    assert type(twin) is KlusterLLM
    assert twin is not one
    assert (twin.max_tokens, twin.tool_calling, twin.max_repairs) == (99, "prompted", 1)
    assert twin.client is one.client
    assert twin.call("hi")
    assert emulator.requests[0].body["max_completion_tokens"] == 99


def test_an_llm_made_of_the_config_dict(llm: Make, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-company")
    monkeypatch.setenv("VLLM_API_KEY", "kk-for-resuming")
    keys: list[str] = []
    made: Any = LLM(**llm(R1, temperature=0.5).to_config_dict())
    keys.append(made.api_key)

    assert made.call("hi")
    assert (emulator.requests[0].body["model"], emulator.requests[0].body["temperature"]) == (R1, 0.5)
    assert keys == ["kk-for-resuming"]


def test_no_key_is_said_before_any_request() -> None:
    with pytest.raises(Exception, match="KLUSTER_API_KEY"):
        kluster_llm(LLAMA).call("hi")


def test_it_is_made_of_the_environment(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)

    assert isinstance(hello(kluster_llm(LLAMA)), Crew)
    assert kluster_llm(LLAMA).call("hi")
