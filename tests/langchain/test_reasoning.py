"""Thoughts: the same from every way a server sends them, apart from the answer, in every version of the messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser

from kluster_integrations import catalog
from kluster_integrations.emulator import ChatRequest, Emulator

from ..raw_server import DONE, Gate, RawServer, Reply, chunk, event, sse, whole
from ..stated import THOUGHT, stated
from .conftest import amerged, merged, model_of, since

R1 = "deepseek-ai/DeepSeek-R1"
QWEN3 = "Qwen/Qwen3-235B-A22B-FP8"
LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
REASONING = [spec.id for spec in catalog.all_models() if spec.reasoning]
STYLES = ("reasoning_content", "reasoning", "think", "open")
QUESTION = "Ada is a mathematician. What is Ada?"
ANSWER = "Ada is a mathematician, as you say."


def answered(request: ChatRequest) -> object:
    return {"text": ANSWER, "reasoning": THOUGHT} if request.text == QUESTION else stated(request)


@pytest.fixture(scope="module", params=STYLES)
def style(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def styled(style: Any) -> Iterator[Emulator]:
    with Emulator(reasoning=style, engine=answered) as running:
        yield running


def check(message: AIMessage) -> None:
    assert message.text == ANSWER
    assert message.additional_kwargs["reasoning_content"] == THOUGHT
    assert THOUGHT not in str(message.text)
    assert "think>" not in json.dumps(message.model_dump(), default=str)
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]


# Every way of sending thoughts, every way of asking.


@pytest.mark.parametrize("model", REASONING)
async def test_thoughts_of_every_model(styled: Emulator, style: str, model: str) -> None:
    if style == "open" and not catalog.get(model).opens_in_thought:
        pytest.skip("this model's template does not open the thought")
    chat = model_of(styled, model)

    check(chat.invoke(QUESTION))
    check(await chat.ainvoke(QUESTION))
    check(merged(chat.stream(QUESTION)))
    check(await amerged(chat.astream(QUESTION)))


def test_v0_content_is_text(styled: Emulator) -> None:
    message = merged(model_of(styled, R1).stream(QUESTION))

    assert isinstance(message.content, str)
    assert message.content == model_of(styled, R1).invoke(QUESTION).content


async def test_v1_content_is_blocks(styled: Emulator) -> None:
    chat = model_of(styled, R1, output_version="v1")

    for message in (
        chat.invoke(QUESTION),
        await chat.ainvoke(QUESTION),
        merged(chat.stream(QUESTION)),
        await amerged(chat.astream(QUESTION)),
    ):
        assert isinstance(message.content, list)
        assert [block["type"] for block in message.content] == ["reasoning", "text"]  # type: ignore[index]
        assert message.content == message.content_blocks
        assert message.text == ANSWER


@since(1, 4, what="events of version 3")
async def test_v3_events(styled: Emulator) -> None:
    stream = model_of(styled, R1).stream_events(QUESTION, version="v3")
    assert "".join(stream.reasoning) == THOUGHT
    assert "".join(stream.text) == ANSWER
    assert [block["type"] for block in stream.output.content_blocks] == ["reasoning", "text"]

    later = await model_of(styled, R1).astream_events(QUESTION, version="v3")
    assert await later.reasoning == THOUGHT
    assert await later.text == ANSWER


def test_thoughts_come_first_and_piece_by_piece(styled: Emulator) -> None:
    chunks = list(model_of(styled, R1).stream(QUESTION))
    thinking = [bool(c.additional_kwargs.get("reasoning_content")) for c in chunks if c.additional_kwargs or c.text]

    assert thinking == sorted(thinking, reverse=True)
    assert thinking.count(True) > 3
    assert thinking.count(False) > 3


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_thoughts_and_calls(styled: Emulator, style: str, version: str) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for model in (R1,) if style == "open" else (R1, QWEN3):
        bound = model_of(styled, model, output_version=version).bind_tools([tool])
        for message in (bound.invoke("The weather in Paris?"), merged(bound.stream("The weather in Paris?"))):
            assert [(c["name"], c["args"]) for c in message.tool_calls] == [("get_weather", {"city": "Paris"})]
            assert [b["type"] for b in message.content_blocks] == ["reasoning", "tool_call"]


def test_output_parsers_see_the_answer_only(styled: Emulator) -> None:
    chain = model_of(styled, R1) | StrOutputParser()

    assert chain.invoke(QUESTION) == ANSWER
    assert "".join(chain.stream(QUESTION)) == ANSWER


# Not sent back.


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_thoughts_are_not_sent_back(styled: Emulator, version: str) -> None:
    styled.clear()
    chat = model_of(styled, R1, output_version=version)
    first = chat.invoke(QUESTION)

    chat.invoke([HumanMessage(QUESTION), first, HumanMessage("Why?")])

    sent: Any = styled.requests[-1].body
    assert sent["messages"][1] == {"role": "assistant", "content": first.text}


def test_thoughts_of_another_provider_are_not_sent_back(emulator: Emulator) -> None:
    foreign = AIMessage([{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hello"}])

    model_of(emulator, R1).invoke([HumanMessage("Hi"), foreign, HumanMessage("Why?")])

    sent: Any = emulator.requests[-1].body
    assert sent["messages"][1] == {"role": "assistant", "content": "Hello"}


# What real servers do.


def test_answer_without_a_thought_is_content(server: RawServer) -> None:
    server.script(whole({"content": "Paris."}), Reply(sse({"content": "Par"}, {"content": "is."})))
    chat = model_of(server, R1)

    assert chat.invoke("go").content == "Paris."
    assert merged(chat.stream("go")).content == "Paris."


@pytest.mark.parametrize("model", [R1, QWEN3])
def test_tags_split_over_chunks(server: RawServer, model: str) -> None:
    text = "<think>Hm, 1 < 2.</think>\n\nParis."
    server.script(Reply(sse(*({"content": character} for character in text))))

    message = merged(model_of(server, model).stream("go"))

    assert message.content == "Paris."
    assert message.additional_kwargs == {"reasoning_content": "Hm, 1 < 2."}


def test_empty_thoughts_leave_no_trace(server: RawServer) -> None:
    server.script(whole({"content": "<think>\n\n</think>\n\nParis."}))

    message = model_of(server, QWEN3).invoke("go")

    assert message.content == "Paris."
    assert message.additional_kwargs == {}


def test_tags_in_the_text_of_a_model_that_does_not_think(server: RawServer) -> None:
    server.script(whole({"content": "In HTML, `</think>` is no tag; a </think> neither."}))

    assert model_of(server, LLAMA).invoke("go").content == "In HTML, `</think>` is no tag; a </think> neither."


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_thought_text_and_two_calls_merge_right(server: RawServer, version: str) -> None:
    def call(index: int, id_: str, name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": '{"city": "Paris"}'}
        return {"tool_calls": [{"index": index, "id": id_, "type": "function", "function": function}]}

    server.script(
        Reply(
            sse(
                {"reasoning_content": "Two"},
                {"reasoning_content": " things."},
                {"content": "Let me"},
                {"content": " check."},
                call(0, "a", "weather"),
                call(1, "b", "time"),
                finish="tool_calls",
            )
        )
    )

    city = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"name": name, "description": "Look it up.", "parameters": city} for name in ("weather", "time")]
    message = merged(model_of(server, QWEN3, output_version=version).bind_tools(tools).stream("go"))

    kinds = [block["type"] for block in message.content_blocks]
    assert kinds == ["reasoning", "text", "tool_call", "tool_call"]
    assert [block.get("reasoning") or block.get("text") or block.get("name") for block in message.content_blocks] == [
        "Two things.",
        "Let me check.",
        "weather",
        "time",
    ]


async def test_no_chunk_waits_for_the_next_event(server: RawServer) -> None:
    gate = Gate()
    pieces = [
        event(chunk({"reasoning_content": "Hm."})),
        event(chunk({"content": "Par"})),
        event(chunk({"content": "is"})),
        event(chunk({}, "stop")) + DONE,
    ]
    server.script(Reply(pieces, gate=gate))
    seen: list[str] = []

    async for part in model_of(server, R1).astream("go"):
        said = part.additional_kwargs.get("reasoning_content") or part.text
        if said:
            seen.append(said)
        if len(seen) <= 3:
            gate.release()  # the server sends the next event only now

    gate.release()
    assert seen == ["Hm.", "Par", "is"]
    assert not gate.waited_in_vain
