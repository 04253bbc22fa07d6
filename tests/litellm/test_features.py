"""What LiteLLM builds on a provider: its other ways to ask, fallbacks of a call, caches, mocks and lookups."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import litellm
import pytest

from kluster_integrations.emulator import Emulator, Fault
from tests.litellm.asking import ASK, EMBED, LLAMA, NEMO, R1, SCOUT, WAYS, WEATHER, bodies, weather_tool
from tests.litellm.test_provider import TAKEN

LLAMA_ID = LLAMA.removeprefix("kluster/")
SMALL = "kluster/mistralai/Mistral-Small-24B-Instruct-2501"  # 32k
RESPONSES_TOOL = {"type": "function", **weather_tool()["function"]}


def test_many_conversations_at_once(kluster: Emulator) -> None:
    asks = [[{"role": "user", "content": f"Say {number}"}] for number in range(5)]
    answers = litellm.batch_completion(LLAMA, messages=asks)
    assert [f"Say {i}" in a.choices[0].message.content for i, a in enumerate(answers)] == [True] * 5


@pytest.mark.parametrize("status", [401, 429, 500])
@pytest.mark.parametrize("way", ["completion", "acompletion", "astream"])
def test_fallbacks_of_a_call(kluster: Emulator, way: str, status: int) -> None:
    """Not of a sync stream: LiteLLM makes it in an event loop that has ended, whoever the provider is."""
    kluster.add_fault(Fault("status", status=status, times=None, model=LLAMA_ID))
    assert WAYS[way](model=LLAMA, messages=ASK, fallbacks=[NEMO]).choices[0].message.content
    assert [body["model"] for body in bodies(kluster)] == [LLAMA_ID, NEMO.removeprefix("kluster/")]


def test_a_longer_window_for_a_call(kluster: Emulator) -> None:
    long = [{"role": "user", "content": "word " * 33_000}]
    litellm.completion(model=SMALL, messages=long, context_window_fallback_dict={SMALL: LLAMA})
    assert [body["model"] for body in bodies(kluster)] == [LLAMA_ID]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", [LLAMA, NEMO], ids=["native", "prompted"])
def test_a_schema_beside_json_object(kluster: Emulator, way: str, model: str) -> None:
    """LiteLLM's other spelling of a schema, of its Gemini, Anthropic and Bedrock providers."""
    schema = {"type": "object", "properties": {"rivers": {"type": "integer"}}, "required": ["rivers"]}
    wish = {"type": "json_object", "response_schema": schema}
    answer = WAYS[way](model=model, messages=ASK, response_format=wish)
    if isinstance(answer, list):
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        text = answer.choices[0].message.content
    assert isinstance(json.loads(text)["rivers"], int)


def test_responses_with_tools(kluster: Emulator) -> None:
    output = litellm.responses(model=LLAMA, input=WEATHER[0]["content"], tools=[RESPONSES_TOOL]).output
    (call,) = (item for item in output if item.type == "function_call")
    assert json.loads(call.arguments) == {"city": "Boston"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "34 degrees"}
    conversation = [WEATHER[0], call.model_dump(exclude_none=True), result]
    answer = litellm.responses(model=LLAMA, input=conversation, tools=[RESPONSES_TOOL])
    assert "34 degrees" in answer.output[0].content[0].text
    assert all(set(body) <= TAKEN for body in bodies(kluster))


@pytest.mark.parametrize("model", [LLAMA, NEMO], ids=["native", "prompted"])
async def test_responses_that_stream_a_call(kluster: Emulator, model: str) -> None:
    wish: dict[str, Any] = {"model": model, "input": WEATHER[0]["content"], "tools": [RESPONSES_TOOL], "stream": True}
    for events in (list(litellm.responses(**wish)), [e async for e in await litellm.aresponses(**wish)]):
        arguments = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
        assert json.loads(arguments) == {"city": "Boston"}
        assert events[-1].type == "response.completed"
        assert events[-1].response.usage.output_tokens > 0


def test_responses_with_a_schema_and_thoughts(kluster: Emulator) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wish = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    response = litellm.responses(model=R1, input="Say this", text=wish)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert isinstance(json.loads(response.output[1].content[0].text)["a"], int)


async def test_anthropics_messages(kluster: Emulator) -> None:
    answer = await litellm.anthropic.messages.acreate(model=LLAMA, messages=ASK, max_tokens=50)
    assert "breakfast sandwich" in answer["content"][0]["text"]
    assert answer["usage"]["output_tokens"] > 0


@pytest.fixture
def cache() -> Iterator[None]:
    if importlib.util.find_spec("fastapi") is None:
        pytest.skip("LiteLLM's cache needs the proxy's packages")
    from litellm.caching.caching import Cache

    litellm.cache = Cache()
    yield
    litellm.cache = None


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("way", ["completion", "stream"])
def test_an_answer_from_the_cache(kluster: Emulator, way: str) -> None:
    first, second = (WAYS[way](model=R1, messages=ASK, caching=True) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.choices[0].message.reasoning_content == second.choices[0].message.reasoning_content
    assert second.usage.total_tokens > 0
    assert len(kluster.requests) == 1


@pytest.mark.usefixtures("cache")
def test_vectors_from_the_cache(kluster: Emulator) -> None:
    first, second = (litellm.embedding(EMBED, input=["a", "b"], caching=True) for _ in range(2))
    assert [row["embedding"] for row in first.data] == [row["embedding"] for row in second.data]
    assert len(kluster.requests) == 1


def test_a_mocked_answer_sends_nothing(kluster: Emulator) -> None:
    assert litellm.completion(LLAMA, messages=ASK, mock_response="Hi").choices[0].message.content == "Hi"
    chunks = litellm.completion(LLAMA, messages=ASK, mock_response="Hi there", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hi there"
    with pytest.raises(litellm.RateLimitError):
        litellm.completion(LLAMA, messages=ASK, mock_response="litellm.RateLimitError")
    assert kluster.requests == []


def test_a_logger_sees_the_body_and_no_key(kluster: Emulator) -> None:
    seen: list[Any] = []
    litellm.completion(LLAMA, messages=ASK, logger_fn=seen.append)
    assert bodies(kluster)[0] in [entry["additional_args"]["complete_input_dict"] for entry in seen]
    assert "test-key" not in str(seen)


def test_an_answer_longer_than_the_model_is_cut_where_the_caller_lets_litellm(
    kluster: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "modify_params", True)
    litellm.completion(LLAMA, messages=ASK, max_tokens=10_000_000)
    assert bodies(kluster)[0]["max_completion_tokens"] <= 131_072


def test_the_provider_said_apart(kluster: Emulator) -> None:
    answer = litellm.completion(LLAMA_ID, messages=ASK, custom_llm_provider="kluster")
    assert (answer.model, bodies(kluster)[0]["model"]) == (LLAMA_ID, LLAMA_ID)
    assert litellm.supports_vision(SCOUT.removeprefix("kluster/"), "kluster") is True
    assert litellm.get_max_tokens(LLAMA) == 131_072


@pytest.mark.parametrize("way", ["embedding", "aembedding"])
def test_vectors_are_lists_of_numbers_however_they_are_sent(kluster: Emulator, way: str) -> None:
    call = {"model": EMBED, "input": "some text", "encoding_format": "base64", "drop_params": True}
    answer = litellm.embedding(**call) if way == "embedding" else asyncio.run(litellm.aembedding(**call))
    assert len(answer.data[0]["embedding"]) == 1024
    assert isinstance(answer.data[0]["embedding"][0], float)


def test_both_names_of_an_address_and_both_of_headers(kluster: Emulator) -> None:
    with Emulator() as other:
        wish = {"headers": {"X-One": "1"}, "extra_headers": {"X-Two": "2"}}
        litellm.completion(LLAMA, messages=ASK, base_url=other.base_url, api_key="own", **wish)
        assert (other.requests[0].headers["x-one"], other.requests[0].headers["x-two"]) == ("1", "2")
    assert kluster.requests == []
