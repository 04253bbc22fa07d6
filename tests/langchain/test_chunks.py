"""Chunks that are built without validation are what LangChain itself would have built."""

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from kluster_integrations import catalog
from kluster_integrations.core.types import Delta, ToolCallDelta, Usage
from kluster_integrations.langchain._messages import ChunkMaker


def maker() -> ChunkMaker:
    return ChunkMaker(catalog.get("a-model"), with_headers=False, v1=False)


def _everything(chunk: ChatGenerationChunk) -> list[object]:
    parts = (chunk, chunk.message)
    return [
        (type(p), vars(p), p.model_fields_set, p.__pydantic_extra__, p.__pydantic_private__, repr(p), p.model_dump())
        for p in parts
    ]


@pytest.mark.parametrize("delta", [Delta("hello"), Delta(""), Delta(" \n"), Delta("", "thinking"), Delta("a", "b")])
def test_text_and_thoughts(delta: Delta) -> None:
    extra = {"additional_kwargs": {"reasoning_content": delta.reasoning}} if delta.reasoning else {}
    wanted = ChatGenerationChunk(message=AIMessageChunk(content=delta.content, **extra))

    made = maker().make(delta)

    assert _everything(made) == _everything(wanted)
    assert made == wanted


def test_no_two_chunks_share_a_list() -> None:
    one, two = maker().make(Delta("a")), maker().make(Delta("b"))
    one.message.response_metadata["x"] = 1
    one.message.tool_call_chunks.append(tool_call_chunk(name="f"))  # type: ignore[attr-defined]

    assert two == ChatGenerationChunk(message=AIMessageChunk(content="b"))
    assert maker().make(Delta("a")) == ChatGenerationChunk(message=AIMessageChunk(content="a"))


@pytest.mark.parametrize("cut", ['{"path": "/tm', '{"a": [1, {"b": 2', '{"a": "x\\', '{"a": 1}}', "{'a': 1}", '{"a"'])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_arguments_that_were_cut_stay_an_invalid_call(cut: str, size: int) -> None:
    pieces = [cut[at : at + size] for at in range(0, len(cut), size)]
    heads = [("id", "write"), *[(None, None)] * len(pieces)]
    deltas = [Delta(tool_calls=(ToolCallDelta(0, *head, piece),)) for head, piece in zip(heads, pieces, strict=False)]
    make = maker().make

    first, *rest = [make(delta) for delta in [*deltas, Delta(usage=Usage(1, 1, 2))]]
    message = (first + rest).message

    assert isinstance(message, AIMessageChunk)
    assert message.tool_calls == []
    assert message.invalid_tool_calls[0]["name"] == "write"
