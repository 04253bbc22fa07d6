"""Chunks that are built without validation are what LangChain itself would have built."""

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from kluster_integrations.core.types import Delta, ToolCallDelta
from kluster_integrations.langchain._messages import _unvalidated

ARGUMENTS = ['"city"', ": ", "Paris", "}", "]", " 3", "null", "true", '"', "\n x", "[1]", '["a"', "-", "ü", "\\u00"]


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
    made = _unvalidated(delta)
    assert made is not None
    assert _everything(made) == _everything(wanted)
    assert made == wanted


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_later_fragment_of_a_call(arguments: str) -> None:
    made = _unvalidated(Delta("", "", (ToolCallDelta(1, None, None, arguments),)))
    fragment = tool_call_chunk(name=None, args=arguments, id=None, index=1)
    wanted = ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[fragment]))
    assert made is not None
    assert _everything(made) == _everything(wanted)


@pytest.mark.parametrize("arguments", ["", "{", ' {"a": 1}', "  "])
def test_what_may_be_an_object_is_left_to_langchain(arguments: str) -> None:
    assert _unvalidated(Delta("", "", (ToolCallDelta(0, None, None, arguments),))) is None


def test_the_first_fragment_of_a_call_is_left_to_langchain() -> None:
    assert _unvalidated(Delta("", "", (ToolCallDelta(0, "id", "f", '"a'),))) is None


def test_no_two_chunks_share_a_list() -> None:
    one, two = _unvalidated(Delta("a")), _unvalidated(Delta("b"))
    assert one is not None
    assert two is not None
    one.message.response_metadata["x"] = 1
    one.message.tool_call_chunks.append(tool_call_chunk(name="f"))  # type: ignore[attr-defined]
    assert two == ChatGenerationChunk(message=AIMessageChunk(content="b"))
    assert _unvalidated(Delta("a")) == ChatGenerationChunk(message=AIMessageChunk(content="a"))
