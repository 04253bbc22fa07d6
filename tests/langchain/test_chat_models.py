"""`ChatKluster` against a strict emulator, and against raw answers where the emulator is too well-behaved."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel

from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import (
    BadRequestError,
    TruncatedStreamError,
    UnsupportedParameterError,
)

from ..raw_server import DONE, Gate, RawServer, Reply, chunk, event, sse, whole
from ..stated import stated
from .conftest import GEMMA, LLAMA, MAGISTRAL, NEMO, QWEN, R1, R1_0528, get_time, get_weather, model_of

PNG = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Joke(BaseModel):
    """A joke."""

    setup: str


def together(chunks: Sequence[BaseMessageChunk]) -> AIMessageChunk:
    whole_message = chunks[0]
    for part in chunks[1:]:
        whole_message += part
    assert isinstance(whole_message, AIMessageChunk)
    return whole_message


async def _collected(stream: Any) -> list[Any]:
    return [part async for part in stream]


Ask = Callable[..., AIMessage]
WAYS: dict[str, Ask] = {
    "invoke": lambda m, prompt, **kw: m.invoke(prompt, **kw),
    "ainvoke": lambda m, prompt, **kw: asyncio.run(m.ainvoke(prompt, **kw)),
    "stream": lambda m, prompt, **kw: together(list(m.stream(prompt, **kw))),
    "astream": lambda m, prompt, **kw: together(asyncio.run(_collected(m.astream(prompt, **kw)))),
    "batch": lambda m, prompt, **kw: m.batch([prompt, "other"], **kw)[0],
    "abatch": lambda m, prompt, **kw: asyncio.run(m.abatch([prompt, "other"], **kw))[0],
}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return WAYS[request.param]


@pytest.fixture(params=["invoke", "ainvoke", "stream", "astream"])
def ask_one(request: pytest.FixtureRequest) -> Ask:
    return WAYS[request.param]


def body(server: Emulator | RawServer) -> dict[str, Any]:
    """Return the body of the last request."""
    last = server.requests[-1]
    found = last.json if not isinstance(server, Emulator) else last.body  # type: ignore[union-attr]
    assert isinstance(found, dict)
    return found


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


def test_new_tokens_are_told_to_callbacks(emulator: Emulator) -> None:
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
def test_arguments_that_are_no_json_object_are_invalid_calls(
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


@pytest.mark.parametrize("version", ["v2", "v3"])
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


@pytest.mark.filterwarnings("error")
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


# Parameters

FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0}, {"temperature": 0}),
    ({"temperature": 0.0}, {"temperature": 0.0}),
    ({"top_p": 0.5}, {"top_p": 0.5}),
    ({"frequency_penalty": -1.5}, {"frequency_penalty": -1.5}),
    ({"presence_penalty": 2}, {"presence_penalty": 2}),
    ({"logit_bias": {"5": -100}}, {"logit_bias": {"5": -100}}),
    ({"seed": 0}, {"seed": 0}),
    ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ({"max_tokens": 9}, {"max_completion_tokens": 9}),
    ({"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
    ({"stop": "x"}, {"stop": ["x"]}),
    ({"stop": ["x", "y"]}, {"stop": ["x", "y"]}),
    ({"stop": []}, {}),
    ({"extra_body": {"metadata": {"a": "b"}}}, {"metadata": {"a": "b"}}),
    ({"n": 1}, {}),
]


@pytest.mark.parametrize(("fields", "sent"), FIELDS)
@pytest.mark.parametrize("how", ["constructed", "called"])
def test_each_parameter_on_the_wire(emulator: Emulator, fields: dict[str, Any], sent: Any, how: str) -> None:
    if how == "constructed":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # n goes to model_kwargs, and says so
            model_of(emulator, **fields).invoke("hi")
    else:
        model_of(emulator).invoke("hi", **fields)
    assert {k: v for k, v in body(emulator).items() if k not in ("model", "messages")} == sent


def test_stop_sequences_is_another_name_of_stop(emulator: Emulator) -> None:
    model_of(emulator, stop_sequences=["x"]).invoke("hi")
    assert body(emulator)["stop"] == ["x"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_callers_model_kwargs_stay_as_they_are(emulator: Emulator) -> None:
    given = {"seed": 1}
    for _ in range(2):  # a second model made of the same dict must be the same
        model_of(emulator, model_kwargs=given, n=1).invoke("hi")
        assert body(emulator)["seed"] == 1
    assert given == {"seed": 1}


def test_a_copy_goes_where_it_was_told_to(emulator: Emulator, server: RawServer) -> None:
    model_of(emulator).model_copy(update={"base_url": server.base_url}).invoke("hi")
    assert (len(server.requests), len(emulator.requests)) == (1, 0)


def test_a_call_wins_over_the_model(emulator: Emulator, ask_one: Ask) -> None:
    model = model_of(emulator, temperature=0.1, max_tokens=5, stop=["a"])
    ask_one(model, "hi", temperature=0.9, max_tokens=7, stop=["b"], model=GEMMA)
    sent = body(emulator)
    assert (sent["temperature"], sent["max_completion_tokens"], sent["stop"], sent["model"]) == (0.9, 7, ["b"], GEMMA)
    assert "max_tokens" not in sent


@pytest.mark.parametrize("stops", [["zq1"], [f"zq{i}" for i in range(4)], [f"zq{i}" for i in range(7)]])
def test_stops_up_to_four_are_sent_the_rest_is_done_here(server: RawServer, stops: list[str], ask_one: Ask) -> None:
    # The server honours what it was told; what it was not told is in its text.
    def answer(request: Any) -> Reply:
        text = "before " + next(iter([s for s in stops if s not in request.json["stop"]]), "") + " after"
        if request.json.get("stream"):
            return Reply(sse(*({"content": c} for c in text)))
        return whole({"content": text})

    server.answer = answer
    got = ask_one(model_of(server, stop=stops), "hi")
    assert body(server)["stop"] == stops[:4]
    assert got.content == ("before " if len(stops) > 4 else "before  after")
    assert got.response_metadata["finish_reason"] == "stop"


def test_max_tokens_cuts_the_answer(emulator: Emulator, ask_one: Ask) -> None:
    answer = ask_one(model_of(emulator, max_tokens=3), "Hello there, tell me a lot")
    assert answer.response_metadata["finish_reason"] == "length"


def test_logprobs_are_in_the_metadata(emulator: Emulator, ask_one: Ask) -> None:
    answer = ask_one(model_of(emulator, logprobs=True, top_logprobs=2), "hi")
    rows = answer.response_metadata["logprobs"]["content"]
    assert "".join(r["token"] for r in rows) == answer.content


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 3},
        {"top_p": -1},
        {"top_logprobs": 2},
        {"max_tokens": 0},
        {"frequency_penalty": 2.1},
        {"seed": "x"},
    ],
)
def test_values_out_of_range_are_errors_before_any_request(emulator: Emulator, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=next(iter(fields)).replace("max_tokens", "max_(completion_)?tokens")):
        model_of(emulator).invoke("hi", **fields)
    assert emulator.requests == []


def test_an_unknown_argument_warns_and_goes_to_model_kwargs(emulator: Emulator) -> None:
    with pytest.warns(UserWarning, match="top_k"):
        model = model_of(emulator, top_k=5)
    assert model.model_kwargs == {"top_k": 5}
    with pytest.raises(UnsupportedParameterError, match="top_k"):
        model.invoke("hi")


def test_unsupported_parameters_are_dropped_where_that_is_wished(emulator: Emulator) -> None:
    with pytest.warns(UserWarning, match="service_tier") as told:
        model_of(emulator, unsupported="drop").invoke("hi", n=2, service_tier="flex")
    assert len(told) == 1
    assert body(emulator).keys() == {"model", "messages"}


def test_extra_body_is_sent_as_it_is(server: RawServer) -> None:
    model_of(server, "ep-4711", extra_body={"top_k": 5}).invoke("hi", extra_body={"min_p": 0.1})
    assert (body(server)["top_k"], body(server)["min_p"]) == (5, 0.1)


def test_extra_headers_and_timeout_of_a_call(server: RawServer) -> None:
    model_of(server, default_headers={"X-A": "1"}).invoke("hi", extra_headers={"X-B": "2"}, timeout=30)
    assert (server.requests[0].headers["x-a"], server.requests[0].headers["x-b"]) == ("1", "2")
    assert server.requests[0].json.keys() == {"model", "messages"}


def test_headers_of_the_answer(server: RawServer, ask_one: Ask) -> None:
    server.answer = lambda r: Reply(
        sse({"content": "x"}) if r.json.get("stream") else whole({"content": "x"}).pieces,
        headers={"X-Request-Id": "req-1"},
        content_type="text/event-stream" if r.json.get("stream") else "application/json",
    )
    answer = ask_one(model_of(server, include_response_headers=True), "hi")
    assert answer.response_metadata["headers"]["x-request-id"] == "req-1"
    assert "headers" not in ask_one(model_of(server), "hi").response_metadata


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
