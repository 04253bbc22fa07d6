"""Tool calls in streams, native and prompted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kluster_integrations.langchain import ChatKluster

from ..raw_server import RawServer, Reply, sse
from .conftest import get_time, get_weather, merged, model_of, since
from .tool_calls import BOTH, short, written

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"  # no tools, and no thoughts


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("model", [LLAMA, R1, "Qwen/Qwen3-235B-A22B-FP8"])
async def test_streamed_calls_are_the_same(chat: Callable[..., ChatKluster], model: str, version: str) -> None:
    bound = chat(model, output_version=version).bind_tools([get_weather, get_time])
    expected = [("get_weather", {"city": "Paris"}), ("get_time", {"city": "Tokyo"})]

    streamed = merged(bound.stream(BOTH))
    chunks = [chunk async for chunk in bound.astream(BOTH)]

    for message in (streamed, merged(iter(chunks))):
        assert short(message) == expected
        assert message.invalid_tool_calls == []
        assert len({call["id"] for call in message.tool_calls}) == 2
        assert message.response_metadata["finish_reason"] == "tool_calls"
    assert [b["name"] for b in streamed.content_blocks if b["type"] == "tool_call"] == ["get_weather", "get_time"]


@since(1, 4, what="events of version 3")
@pytest.mark.parametrize("model", [LLAMA, R1])
def test_streamed_calls_v3(chat: Callable[..., ChatKluster], model: str) -> None:
    bound = chat(model).bind_tools([get_weather, get_time])

    output = bound.stream_events(BOTH, version="v3").output

    assert short(output) == [("get_weather", {"city": "Paris"}), ("get_time", {"city": "Tokyo"})]


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_text_then_two_native_calls_merge_right(server: RawServer, version: str) -> None:
    def fragment(index: int | None, arguments: str, **head: Any) -> dict[str, Any]:
        function = {"arguments": arguments, **({"name": head.pop("name")} if "name" in head else {})}
        return {"tool_calls": [{**({} if index is None else {"index": index}), **head, "function": function}]}

    server.script(
        Reply(
            sse(
                {"content": "Let me"},
                {"content": " check."},
                fragment(0, '{"city": ', id="a", name="get_weather", type="function"),
                fragment(0, '"Paris"}'),
                fragment(1, "", id="b", name="get_time", type="function"),
                fragment(1, '{"city": "Tokyo"}'),
                finish="tool_calls",
            )
        )
    )

    message = merged(model_of(server, LLAMA, output_version=version).bind_tools([get_weather, get_time]).stream("go"))

    assert message.text == "Let me check."
    assert short(message) == [("get_weather", {"city": "Paris"}), ("get_time", {"city": "Tokyo"})]
    assert [b["type"] for b in message.content_blocks] == ["text", "tool_call", "tool_call"]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_prompted_call_in_pieces_of_any_size(server: RawServer, size: int) -> None:
    text = f"Let me look, 1 < 2.\n{written('get_weather', city='Paris')}\n{written('get_time', city='Tokyo')}"
    server.script(Reply(sse(*({"content": text[at : at + size]} for at in range(0, len(text), size)))))

    message = merged(model_of(server, NEMO).bind_tools([get_weather, get_time]).stream("go"))

    assert message.text.strip() == "Let me look, 1 < 2."
    assert short(message) == [("get_weather", {"city": "Paris"}), ("get_time", {"city": "Tokyo"})]


def test_a_smaller_sign_comes_with_the_character_that_settles_it(server: RawServer) -> None:
    server.script(Reply(sse(*({"content": character} for character in "a<b <t> c"))))

    pieces = [chunk.text for chunk in model_of(server, NEMO).bind_tools([get_weather]).stream("go")]

    assert "".join(pieces) == "a<b <t> c"
    assert [piece for piece in pieces if piece] == ["a", "<b", " ", "<t>", " ", "c"]


def test_index_of_calls_counts_from_zero(chat: Callable[..., ChatKluster]) -> None:
    for model in (LLAMA, R1):
        chunks = [c for c in chat(model).bind_tools([get_weather, get_time]).stream(BOTH) if c.tool_call_chunks]
        indices = [part["index"] for chunk in chunks for part in chunk.tool_call_chunks]
        assert sorted(set(indices)) == [0, 1]
        assert indices == sorted(indices)


def test_streamed_calls_come_whole(server: RawServer) -> None:
    begun = {"index": 0, "id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city'}}
    pieces = [{"content": "I "}, {"content": "look."}, {"tool_calls": [begun]}]
    pieces += [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in ('": "Par', 'is"}')]
    server.script(Reply(sse(*pieces, finish="tool_calls")))

    chunks = list(model_of(server, LLAMA).bind_tools([get_weather]).stream("go"))

    assert [chunk.text for chunk in chunks if chunk.text] == ["I ", "look."]
    assert [chunk.tool_calls[0]["args"] for chunk in chunks if chunk.tool_call_chunks] == [{"city": "Paris"}]


def test_headers_of_a_repaired_stream_stand_once(server: RawServer) -> None:
    def reply(arguments: str) -> Reply:
        call = {"index": 0, "id": "1", "function": {"name": "get_weather", "arguments": arguments}}
        pieces = sse({"reasoning_content": "Hm."}, {"tool_calls": [call]}, finish="tool_calls")
        return Reply(pieces, headers={"x-request-id": "req-1"})

    server.script(reply('{"city": '), reply('{"city": "Paris"}'))

    message = merged(model_of(server, LLAMA, include_response_headers=True).bind_tools([get_weather]).stream("go"))

    assert message.response_metadata["headers"]["x-request-id"] == "req-1"
    assert message.response_metadata["id"] == "chatcmpl-1"
    assert short(message) == [("get_weather", {"city": "Paris"})]
