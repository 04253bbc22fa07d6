"""`ChatKluster` against a strict emulator, and against raw answers where the emulator is too well-behaved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel

from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import (
    BadRequestError,
    TruncatedStreamError,
)

from ..raw_server import DONE, Gate, RawServer, Reply, chunk, event, sse, whole
from ..stated import stated
from .conftest import (
    GEMMA,
    LLAMA,
    MAGISTRAL,
    NEMO,
    QWEN,
    R1,
    R1_0528,
    WAYS,
    Ask,
    body,
    get_time,
    get_weather,
    model_of,
    since,
)

PNG = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Joke(BaseModel):
    """A joke."""

    setup: str


# Answers


@pytest.mark.parametrize("model", [LLAMA, NEMO, GEMMA, QWEN, R1])
def test_every_way_gives_the_same_answer(emulator: Emulator, model: str) -> None:
    answers = [ask(model_of(emulator, model), "What is the ultimate breakfast sandwich?") for ask in WAYS.values()]
    assert answers[0].content
    for answer in answers:
        assert answer.content == answers[0].content
        assert answer.additional_kwargs == answers[0].additional_kwargs
        assert answer.response_metadata["finish_reason"] == "stop"
        assert answer.response_metadata["model_name"] == model
        assert answer.response_metadata["model_provider"] == "kluster"
        assert answer.usage_metadata is not None


def test_nothing_but_what_is_documented_is_sent(emulator: Emulator, ask_one: Ask) -> None:
    ask_one(model_of(emulator), [SystemMessage("Be brief."), HumanMessage("hi", name="bob")])
    sent = body(emulator)
    assert sent.pop("stream", True) is True
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert sent == {"model": LLAMA, "messages": messages}


def test_a_batch_keeps_its_order(emulator: Emulator) -> None:
    prompts = [f"My number is {n}" for n in range(20)]
    for answers in (model_of(emulator).batch(prompts), asyncio.run(model_of(emulator).abatch(prompts))):
        assert all(f" {n}" in a.text for n, a in enumerate(answers))
    assert len(emulator.requests) == 40


def test_a_stream_comes_in_many_chunks_and_metadata_in_one(emulator: Emulator) -> None:
    chunks = list(model_of(emulator).stream("Hello there, who are you?"))
    assert sum(bool(c.content) for c in chunks) > 3
    for name in ("model_name", "id", "finish_reason"):
        assert sum(name in c.response_metadata for c in chunks) == 1, name
    assert sum(c.usage_metadata is not None for c in chunks) == 1


@pytest.mark.parametrize("shape", ["vllm", "sglang"])
def test_both_shapes_of_answers(shape: Any) -> None:
    with Emulator(shape=shape, engine=stated) as server:
        for ask in (WAYS["invoke"], WAYS["stream"]):
            answer = ask(model_of(server), "hi")
            assert answer.content
            called = ask(model_of(server).bind_tools([get_weather], tool_choice="any"), "weather in Paris")
            assert called.tool_calls[0]["args"] == {"city": "Paris"}


def test_callbacks_get_new_tokens(emulator: Emulator) -> None:
    told: list[str] = []

    class Listener(BaseCallbackHandler):
        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            told.append(token)

    answer = WAYS["stream"](model_of(emulator, callbacks=[Listener()]), "Hello")
    assert "".join(told) == answer.content


# Usage


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_usage_is_exact_where_it_is_reported(model: str) -> None:
    with Emulator(usage_in_stream=True) as server:
        answers = [ask(model_of(server, model), "Hello there") for ask in WAYS.values()]
    assert all(a.usage_metadata == answers[0].usage_metadata for a in answers)
    assert not any("usage_estimated" in a.response_metadata for a in answers)


@pytest.mark.parametrize("name", ["stream", "astream"])
def test_usage_of_a_stream_without_it_is_estimated_and_marked(emulator: Emulator, name: str) -> None:
    answer = WAYS[name](model_of(emulator), "Hello there")
    assert answer.response_metadata["usage_estimated"] is True
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


def test_usage_on_every_chunk_is_not_added_up(server: RawServer) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    chunks = [
        chunk({"content": "a"}, usage=usage),
        chunk({"content": "b"}, usage=usage),
        chunk({}, "stop", usage=usage),
    ]
    server.script(Reply([*map(event, chunks), event({"choices": [], "usage": usage}), DONE]))
    answer = WAYS["stream"](model_of(server), "hi")
    assert answer.usage_metadata == {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}


def test_a_finish_reason_that_comes_twice_stands_once(server: RawServer) -> None:
    server.script(
        Reply([*map(event, [chunk({"content": "a"}), chunk({}, "stop"), chunk({"content": ""}, "stop")]), DONE])
    )
    assert WAYS["stream"](model_of(server), "hi").response_metadata["finish_reason"] == "stop"


# Reasoning


@pytest.mark.parametrize("model", [R1, R1_0528, QWEN, MAGISTRAL])
def test_thoughts_come_out_the_same_from_every_kind_of_server(model: str) -> None:
    found = set()
    for style in ("reasoning_content", "reasoning", "think", "open"):
        with Emulator(reasoning=style) as server:
            for ask in (WAYS["invoke"], WAYS["stream"], WAYS["astream"]):
                answer = ask(model_of(server, model), "Which is larger, 9.9 or 9.11?")
                found.add((answer.content, answer.additional_kwargs["reasoning_content"]))
    assert len(found) == 1
    ((text, thought),) = found
    assert text
    assert thought
    assert "think>" not in text + thought


def test_thoughts_are_content_blocks_too(emulator: Emulator, ask_one: Ask) -> None:
    answer = ask_one(model_of(emulator, R1), "hi")
    kinds = [block["type"] for block in answer.content_blocks]
    assert "reasoning" in kinds
    assert "text" in kinds


def test_thoughts_are_not_sent_back(emulator: Emulator) -> None:
    model = model_of(emulator, R1)
    first = model.invoke("hi")
    model.invoke([HumanMessage("hi"), first, HumanMessage("again")])
    assert body(emulator)["messages"][1] == {"role": "assistant", "content": first.content}


# Tools

CHOICES: list[tuple[Any, Any]] = [
    (None, None),
    ("auto", "auto"),
    ("none", "none"),
    ("any", "required"),
    ("required", "required"),
    ("get_weather", {"type": "function", "function": {"name": "get_weather"}}),
    (True, {"type": "function", "function": {"name": "get_weather"}}),
    (False, None),
    (
        {"type": "function", "function": {"name": "get_weather"}},
        {"type": "function", "function": {"name": "get_weather"}},
    ),
]


@pytest.mark.parametrize(("choice", "sent"), CHOICES)
def test_tool_choice_on_the_wire(emulator: Emulator, choice: Any, sent: Any, ask_one: Ask) -> None:
    answer = ask_one(
        model_of(emulator).bind_tools([get_weather], tool_choice=choice), "Tell me about the weather in Paris"
    )
    assert body(emulator).get("tool_choice") == sent
    assert body(emulator)["tools"][0]["function"]["name"] == "get_weather"
    assert [c["args"] for c in answer.tool_calls] == ([] if choice == "none" else [{"city": "Paris"}])
    assert answer.response_metadata["finish_reason"] == ("stop" if choice == "none" else "tool_calls")


@pytest.mark.parametrize("choice", [c for c, _ in CHOICES])
@pytest.mark.parametrize("model", [NEMO, R1])
def test_tool_choice_on_models_without_tools(emulator: Emulator, model: str, choice: Any) -> None:
    for ask in (WAYS["invoke"], WAYS["stream"]):
        bound = model_of(emulator, model).bind_tools([get_weather], tool_choice=choice)
        answer = ask(bound, "Tell me about the weather in Paris")
        assert not {"tools", "tool_choice", "parallel_tool_calls"} & body(emulator).keys()
        assert [c["args"] for c in answer.tool_calls] == ([] if choice == "none" else [{"city": "Paris"}])
        assert "<tool_call>" not in answer.text


def test_tool_choices_that_cannot_be(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        model_of(emulator).bind_tools([get_weather, get_time], tool_choice=True)
    with pytest.raises(BadRequestError, match="get_wether"):
        model_of(emulator).bind_tools([get_weather], tool_choice="get_wether").invoke("hi")
    assert emulator.requests == []


@pytest.mark.parametrize(
    "given", [get_weather, get_weather.func, Joke, {"type": "function", "function": {"name": "bare"}}]
)  # type: ignore[attr-defined]
def test_tools_of_every_kind(emulator: Emulator, given: Any) -> None:
    answer = model_of(emulator).bind_tools([given], tool_choice="any").invoke("Paris")
    (called,) = answer.tool_calls
    assert called["name"] in ("get_weather", "Joke", "bare")
    assert called["id"]


@pytest.mark.parametrize("model", [LLAMA, QWEN, NEMO, GEMMA, R1])
def test_a_round_trip_with_parallel_tools(emulator: Emulator, model: str, ask_one: Ask) -> None:
    bound = model_of(emulator, model).bind_tools([get_weather, get_time])
    messages: list[Any] = [HumanMessage("What is the weather in Paris and what is the time in Tokyo?")]
    called = ask_one(bound, messages)
    assert [(c["name"], c["args"]["city"]) for c in called.tool_calls] == [
        ("get_weather", "Paris"),
        ("get_time", "Tokyo"),
    ]
    results = [(get_weather if c["name"] == "get_weather" else get_time).invoke(c) for c in called.tool_calls]
    assert all(isinstance(r, ToolMessage) for r in results)
    answer = ask_one(bound, [*messages, called, *results])
    assert not answer.tool_calls
    assert "Sunny in Paris" in answer.text
    assert "12:30 in Tokyo" in answer.text


def test_no_parallel_calls_where_not_wished(emulator: Emulator) -> None:
    bound = model_of(emulator).bind_tools([get_weather, get_time], parallel_tool_calls=False)
    assert len(bound.invoke("What is the weather in Paris and what is the time in Tokyo?").tool_calls) == 1
    assert body(emulator)["parallel_tool_calls"] is False


WRITTEN = r'{"path": "/a/\u00e9\n", "deep": {"list": [1, {"a": "b\\"}], "on": true}, "n": -1.5e3}'


def _called(arguments: Sequence[str]) -> list[dict[str, Any]]:
    function = [{"name": "write", "arguments": text} for text in arguments]
    return [{"index": i, "id": f"call_{i}", "type": "function", "function": f} for i, f in enumerate(function)]


@pytest.mark.parametrize(
    ("way", "streaming"),
    [("invoke", False), ("ainvoke", False), ("invoke", True), ("ainvoke", True), ("stream", False), ("astream", False)],
)
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_arguments_that_are_not_a_json_object_are_invalid_calls(
    server: RawServer, way: str, streaming: bool, version: str
) -> None:
    cut = [WRITTEN[:length] for length in range(1, len(WRITTEN))]
    broken = [
        "[1]",
        "1",
        '"a"',
        "null!",
        "{]",
        '{"a": 1}}',
        '{"a": 1} and more',
        '{"a": 1',
        '{"a": 1, ',
        "{'a': 1}",
        "\\",
        '"\\',
    ]
    fine = [WRITTEN, "{}", "", ' {"a": "new\nline"} ']
    calls = _called([*cut, *broken, *fine])
    if "stream" in way or streaming:
        split = [{"index": c["index"], "function": {"arguments": c["function"]["arguments"][9:]}} for c in calls]
        begun = [{**c, "function": {**c["function"], "arguments": c["function"]["arguments"][:9]}} for c in calls]
        server.script(Reply(sse({"tool_calls": begun}, {"tool_calls": split}, finish="length")))
    else:
        server.script(whole({"content": None, "tool_calls": calls}, finish="length"))

    model = model_of(server, output_version=version, **({"streaming": True} if streaming else {}))
    answer = WAYS[way](model.bind_tools([get_weather, get_time]), "hi")

    invalid = [f"call_{i}" for i in range(len(cut) + len(broken))]
    assert [c["id"] for c in answer.invalid_tool_calls] == invalid
    assert [c["args"] for c in answer.tool_calls] == [json.loads(WRITTEN), {}, {}, {"a": "new\nline"}]


@pytest.mark.parametrize("version", ["v2", pytest.param("v3", marks=since(1, 4, what="events of version 3"))])
def test_arguments_cut_off_are_an_invalid_call_in_events(server: RawServer, version: Any) -> None:
    server.script(Reply(sse({"tool_calls": _called(['{"path": "/tm'])}, finish="length")))
    model = model_of(server).bind_tools([get_weather])
    if version == "v3":
        answer = model.stream_events("hi", version="v3").output
    else:

        async def last() -> Any:
            return [e async for e in model.astream_events("hi", version="v2")][-1]["data"]["output"]

        answer = asyncio.run(last())

    assert answer.tool_calls == []
    assert [c["id"] for c in answer.invalid_tool_calls] == ["call_0"]


# Blocks without a form in OpenAI's API. Nobody can correct what a tool has returned.

RESULTS: list[tuple[dict[str, Any], str]] = [
    ({"type": "file", "base64": "JVBERi0=", "mime_type": "application/pdf", "filename": "a.pdf"}, "[file: a.pdf]"),
    ({"type": "file", "url": "https://example.com/a.pdf"}, "[file: https://example.com/a.pdf]"),
    ({"type": "audio", "base64": "UklGRg==", "mime_type": "audio/wav"}, "[audio]"),
    ({"type": "image", "file_id": "file-1"}, "[image: file-1]"),
    ({"type": "resource_link", "uri": "file:///a.txt", "name": "a"}, "[resource_link: a file:///a.txt]"),
    ({"type": "tool_reference", "tool_name": "search"}, "[tool_reference: search]"),
    ({"type": "text-plain", "text": "a note", "mime_type": "text/plain"}, "a note"),
    ({"type": "image", "base64": PNG.split(",")[1], "mime_type": "image/png"}, "[image: the model takes no images]"),
]


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # those are of earlier tests
@pytest.mark.parametrize(("block", "sent_as"), RESULTS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_tool_returns_never_ends_an_agent(
    emulator: Emulator, block: dict[str, Any], sent_as: str, ask_one: Ask
) -> None:
    call = AIMessage("", tool_calls=[{"name": "get_weather", "args": {}, "id": "c1"}])
    ask_one(model_of(emulator), [HumanMessage("hi"), call, ToolMessage(["Sunny", block], tool_call_id="c1")])
    assert body(emulator)["messages"][2]["content"] == f"Sunny\n{sent_as}"


def test_an_image_of_a_tool_follows_its_result(emulator: Emulator, ask_one: Ask) -> None:
    call = AIMessage("", tool_calls=[{"name": "get_weather", "args": {}, "id": "c1"}])
    image = {"type": "image", "base64": PNG.split(",")[1], "mime_type": "image/png"}
    ask_one(model_of(emulator, GEMMA), [HumanMessage("hi"), call, ToolMessage([image], tool_call_id="c1")])
    assert PNG in json.dumps(body(emulator)["messages"][-1])


def test_a_file_in_a_question_is_refused_before_any_request(emulator: Emulator) -> None:
    with pytest.raises(BadRequestError, match=r"messages\[0\].content\[0\].type='file' must be text or image_url"):
        model_of(emulator, GEMMA).invoke([HumanMessage([RESULTS[0][0]])])
    assert emulator.requests == []


# Images


@pytest.mark.parametrize("model", [GEMMA, "Qwen/Qwen2.5-VL-7B-Instruct"])
@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image", "base64": PNG.split(",")[1], "mime_type": "image/png"},
        {"type": "image", "url": "https://example.com/a.png"},
        {"type": "image", "source_type": "base64", "data": PNG.split(",")[1], "mime_type": "image/png"},
    ],
)
def test_images(emulator: Emulator, model: str, block: dict[str, Any], ask_one: Ask) -> None:
    answer = ask_one(model_of(emulator, model), [HumanMessage([{"type": "text", "text": "What is this?"}, block])])
    text, image = body(emulator)["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    assert image["image_url"]["url"] in (PNG, "https://example.com/a.png")
    assert answer.text in ("Echo: What is this?\n[image/png]", "Echo: What is this?\n[https://example.com/a.png]")


def test_an_image_for_a_text_model_is_an_error_before_any_request(emulator: Emulator) -> None:
    with pytest.raises(BadRequestError, match="image"):
        model_of(emulator).invoke([HumanMessage([{"type": "image_url", "image_url": {"url": PNG}}])])
    assert emulator.requests == []


# Delay, retries, connections


@pytest.mark.parametrize("name", ["stream", "astream"])
def test_each_chunk_is_given_before_the_next_is_sent(server: RawServer, name: str) -> None:
    gate = Gate()
    server.script(Reply(sse({"content": "a"}, {"content": " <b"}, {"reasoning_content": "c"}, done=False), gate=gate))

    async def later() -> None:
        async for _ in model_of(server, QWEN).astream("hi"):
            gate.release()

    if name == "astream":
        asyncio.run(later())
    else:
        for _ in model_of(server, QWEN).stream("hi"):
            gate.release()
    assert not gate.waited_in_vain


def test_retries_are_not_multiplied(emulator: Emulator, ask: Ask) -> None:
    emulator.add_fault(Fault("status", times=None, status=500, headers={"retry-after-ms": "1"}))
    with pytest.raises(Exception, match="HTTP 500"):
        ask(model_of(emulator, max_retries=2), "hi")
    assert len([r for r in emulator.requests if "'hi'" in str(r.body)]) == 3


def test_models_share_their_connection(server: RawServer) -> None:
    for _ in range(3):
        model_of(server).invoke("hi")
        model_of(server, QWEN, temperature=0.5).invoke("hi")
    assert server.connections == 1


def test_a_stream_that_is_left_early_is_closed(server: RawServer) -> None:
    server.script(Reply(sse({"content": "a"}, finish=None, done=False), end="hang"))
    for _ in model_of(server).stream("hi"):
        break
    assert server.hung_up.wait(5)


async def test_an_async_stream_that_is_left_early_is_closed(server: RawServer) -> None:
    server.script(Reply(sse({"content": "a"}, finish=None, done=False), end="hang"))
    async for _ in model_of(server).astream("hi"):
        break
    assert await asyncio.to_thread(server.hung_up.wait, 5)


async def test_close_and_aclose_then_use(server: RawServer) -> None:
    model = model_of(server)
    for _ in range(2):
        model.invoke("hi")
        model.close()
        await model.ainvoke("hi")
        await model.aclose()
    assert len(server.requests) == server.connections == 4


@pytest.mark.parametrize("name", ["stream", "astream"])
def test_a_cut_stream_gives_what_came_and_raises(emulator: Emulator, name: str) -> None:
    emulator.add_fault(Fault("end", chunks=4))
    with pytest.raises(TruncatedStreamError) as caught:
        WAYS[name](model_of(emulator), "Hello there")
    assert caught.value.partial
