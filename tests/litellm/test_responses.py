"""`responses` on models that think: what OpenAI's clients, the AI SDK and Codex read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm
import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.limits import Limits
from kluster_integrations.litellm import _versions, register
from tests.litellm.asking import LLAMA, R1, weather_tool

OLD = _versions.numbers(str(_versions.installed())) < (1, 100)
QWEN = "kluster/Qwen/Qwen3-235B-A22B-FP8"
TOOL = {"type": "function", **weather_tool()["function"]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "object": {"text": {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA}}},
    "tool": {"tools": [TOOL]},
}


@pytest.fixture
def thinking(kluster: Emulator) -> Emulator:
    call = [{"name": "get_weather", "arguments": {"city": "Oslo"}}]
    kluster.reply(reasoning="Oslo is meant.", text="It is Oslo.", when="text", times=None)
    kluster.reply(reasoning="Oslo is meant.", json={"city": "Oslo"}, when="object", times=None)
    kluster.reply(reasoning="Oslo is meant.", tool_calls=call, when="tool", times=None)
    return kluster


def fields(event: Any) -> dict[str, Any]:
    """Return an event as it goes over the wire."""
    found: dict[str, Any] = json.loads(event.model_dump_json(exclude_none=True, exclude_unset=True))
    return found


def sync_events(**call: Any) -> list[dict[str, Any]]:
    return [fields(event) for event in litellm.responses(stream=True, **call)]


def async_events(**call: Any) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [fields(event) async for event in await litellm.aresponses(stream=True, **call)]

    return asyncio.run(collect())


def check_reasoning(item: dict[str, Any]) -> None:
    assert item["summary"] == [{"type": "summary_text", "text": "Oslo is meant."}]
    assert all(part["type"] == "reasoning_text" for part in item.get("content", []))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [R1, QWEN], ids=["r1", "qwen3"])
def test_whole_answers_have_a_summary(thinking: Emulator, model: str, kind: str) -> None:
    output = [fields(item) for item in litellm.responses(model=model, input=kind, **KINDS[kind]).output]
    check_reasoning(output[0])
    assert {item["type"] for item in output} >= {"reasoning", "function_call" if kind == "tool" else "message"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [R1, QWEN], ids=["r1", "qwen3"])
@pytest.mark.parametrize("ask", [sync_events, async_events], ids=["sync", "async"])
def test_streams_announce_each_item_and_keep_its_id(thinking: Emulator, model: str, kind: str, ask: Any) -> None:
    if OLD and ask is sync_events:
        pytest.skip("LiteLLM 1.90 leaves the first delta of a sync stream out")
    events = ask(model=model, input=kind, **KINDS[kind])
    items: dict[str, str] = {}
    texts: dict[str, str] = {"reasoning": "", "message": "", "function_call": ""}
    for event in events:
        name = event["type"].removeprefix("response.")
        if name == "output_item.added":
            items[event["item"]["id"]] = event["item"]["type"]
        elif name == "output_item.done":
            assert event["item"]["id"] in items
        elif "item_id" in event:
            assert items[event["item_id"]]
        if name.startswith("reasoning_summary"):
            assert event["summary_index"] == 0
        if name.endswith(".delta"):
            texts[items[event["item_id"]]] += event["delta"]
    assert texts["reasoning"] == "Oslo is meant."
    assert "Oslo" in texts["function_call" if kind == "tool" else "message"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    parts = [event for event in events if event["type"] == "response.reasoning_summary_part.added"]
    assert len(parts) == 1
    last = events[-1]
    assert last["type"] == "response.completed"
    check_reasoning(last["response"]["output"][0])
    assert {item["id"] for item in last["response"]["output"] if item["type"] in ("reasoning", "message")} <= set(items)


def test_another_providers_answers_stay_as_they_are(thinking: Emulator) -> None:
    if OLD:
        pytest.skip("LiteLLM 1.90 sends `tools: []`, which the emulator refuses of this model")
    call: dict[str, Any] = {"model": R1.replace("kluster/", "custom_openai/"), "input": "text", "api_key": "k"}
    with Emulator(strict=False) as lenient:  # LiteLLM sends stream_options
        call["api_base"] = lenient.base_url
        lenient.reply(reasoning="Oslo is meant.", text="It is Oslo.", times=None)
        assert not hasattr(litellm.responses(**call).output[0], "summary")
        kinds = {event["type"] for event in sync_events(**call)}
    assert "response.reasoning_summary_part.added" not in kinds


@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_what_the_server_refuses_is_raised_at_the_call(kluster: Emulator, status: int) -> None:
    """In the proxy it then has its status, and is no event inside a 200."""
    kluster.add_fault(Fault("status", status=status, times=None))
    messages = [{"role": "user", "content": "Hi"}]
    calls = {
        "responses": litellm.aresponses(model=LLAMA, input="Hi", stream=True),
        "messages": litellm.anthropic.messages.acreate(model=LLAMA, messages=messages, max_tokens=9, stream=True),
        "chat": litellm.acompletion(model=LLAMA, messages=messages, stream=True),
        "text": litellm.atext_completion(model=LLAMA, prompt="Hi", stream=True),
    }

    async def ask() -> dict[str, int]:
        found = {}
        for name, call in calls.items():
            with pytest.raises(litellm.exceptions.openai.APIError) as caught:
                await call
            found[name] = caught.value.status_code  # type: ignore[attr-defined]
        return found

    assert asyncio.run(ask()) == dict.fromkeys(calls, status)


async def test_a_stream_that_nobody_reads_gives_its_slot_back(kluster: Emulator) -> None:
    register(KlusterConfig(api_key="k", base_url=kluster.base_url), limits=Limits(concurrent=1, max_wait=0.0))
    for _ in range(3):
        stream = await litellm.acompletion(model=LLAMA, messages=[{"role": "user", "content": "Hi"}], stream=True)
        await stream.aclose()
