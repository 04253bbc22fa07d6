from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.gateway import Gateway

from .conftest import CITY, GEMMA, KEY, LISBON, LLAMA, MODELS, PARIS, QWEN, R1, SQUARE, THINKERS, WEATHER, Serve

from .conftest import bodies, settings, user  # isort: skip

TOOLS: list[Any] = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
# What the clients of OpenAI's API send by habit, and kluster.ai does not take.
HABITS: dict[str, Any] = {
    "max_tokens": 200,
    "n": 1,
    "store": True,
    "user": "ada",
    "service_tier": "auto",
    "reasoning_effort": "low",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "verbosity": "low",
}


def whole_of(chunks: list[ChatCompletionChunk]) -> dict[str, Any]:
    """Put the chunks of a stream together."""
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for call in delta.tool_calls or []:
            function: Any = call.function
            calls.setdefault(call.index, []).append((function.name or "") + (function.arguments or ""))
    return {
        "text": "".join(delta.content or "" for delta in deltas),
        "reasoning": "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas),
        "calls": ["".join(parts) for parts in calls.values()],
        "finish": [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason],
        "roles": [delta.role for delta in deltas if delta.role],
    }


def parts_of(answer: ChatCompletion) -> dict[str, Any]:
    message = answer.choices[0].message
    return {
        "text": message.content or "",
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "calls": [call.function.name + call.function.arguments for call in message.tool_calls or []],  # type: ignore[union-attr]
        "finish": [answer.choices[0].finish_reason],
        "roles": [message.role],
    }


@pytest.mark.parametrize("model", MODELS)
def test_whole_and_streamed_are_the_same(client: openai.OpenAI, emulator: Emulator, model: str) -> None:
    asked: Any = {"model": model, "messages": [{"role": "user", "content": "Hello!", "name": "ada"}], **HABITS}
    answer = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))

    ChatCompletion.model_validate(answer.model_dump(exclude_unset=True))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True))
    assert parts_of(answer) == whole_of(chunks)
    assert answer.choices[0].message.content == "Echo: Hello!"
    assert bool(parts_of(answer)["reasoning"]) == (model in THINKERS)
    assert {chunk.model for chunk in chunks} == {answer.model} == {model}
    assert len({chunk.id for chunk in chunks}) == 1
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert answer.usage
    assert answer.usage.total_tokens > 0
    assert not [body for body in bodies(emulator) if HABITS.keys() & body.keys() or "stream_options" in body]
    assert bodies(emulator)[0]["max_completion_tokens"] == 200


@pytest.mark.parametrize("model", MODELS)
async def test_the_async_client(gateway: Gateway, model: str) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="any") as client:
        answer = await client.chat.completions.create(model=model, messages=user("Hello!"))
        stream = await client.chat.completions.create(model=model, messages=user("Hello!"), stream=True)
        chunks = [chunk async for chunk in stream]
    assert parts_of(answer) == whole_of(chunks)
    assert not any(chunk.usage for chunk in chunks)  # nobody has asked for it


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_round(client: openai.OpenAI, model: str, stream: bool) -> None:
    messages = user(PARIS)
    asked: Any = {"model": model, "tools": TOOLS, "stream": stream}
    answer: Any = client.chat.completions.create(messages=messages, **asked)
    parts = whole_of(list(answer)) if stream else parts_of(answer)
    assert parts["calls"] == ['get_weather{"city": "Paris"}']
    assert parts["finish"] == ["tool_calls"]

    first = client.chat.completions.create(messages=messages, model=model, tools=TOOLS)
    call = first.choices[0].message.tool_calls[0]  # type: ignore[index]
    result = {"role": "tool", "tool_call_id": call.id, "content": "It is sunny."}
    messages += [first.choices[0].message.model_dump(exclude_unset=True), result]
    answer = client.chat.completions.create(messages=messages, **asked)
    parts = whole_of(list(answer)) if stream else parts_of(answer)
    assert "It is sunny." in parts["text"]
    assert parts["finish"] == ["stop"]


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize(
    ("choice", "parallel", "count"),
    [("auto", True, 2), ("auto", False, 1), ("required", None, 2), ("none", None, 0)],
)
def test_tool_choice(client: openai.OpenAI, model: str, choice: Any, parallel: Any, count: int) -> None:
    tools = [*TOOLS, {"type": "function", "function": {"name": "get_time", "parameters": WEATHER}}]
    given = {} if parallel is None else {"parallel_tool_calls": parallel}
    question = user("What is the weather in Paris and the time in Tokyo?")
    answer = client.chat.completions.create(model=model, messages=question, tools=tools, tool_choice=choice, **given)
    assert len(answer.choices[0].message.tool_calls or []) == count


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_an_object(client: openai.OpenAI, emulator: Emulator, model: str, stream: bool) -> None:
    asked: Any = {"model": model, "messages": user(LISBON), "response_format": FORMAT, "stream": stream}
    answer: Any = client.chat.completions.create(**asked)
    text = (whole_of(list(answer)) if stream else parts_of(answer))["text"]
    assert json.loads(text) == {"name": "Lisbon", "country": "Portugal"}
    assert "response_format" not in bodies(emulator)[0]


@pytest.mark.parametrize("stream", [False, True])
def test_an_object_that_is_cut_says_so(client: openai.OpenAI, emulator: Emulator, stream: bool) -> None:
    emulator.reply('{"name": "Lis', finish_reason="length")
    asked: Any = {"model": LLAMA, "messages": user(LISBON), "response_format": FORMAT, "stream": stream}
    answer: Any = client.chat.completions.create(**asked)
    parts = whole_of(list(answer)) if stream else parts_of(answer)
    assert (parts["text"], parts["finish"]) == ('{"name": "Lis', ["length"])


def test_an_image(client: openai.OpenAI, emulator: Emulator) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SQUARE}", "detail": "low"}}
    content = [{"type": "text", "text": "What is this?"}, image]
    assert client.chat.completions.create(model=GEMMA, messages=user(content)).choices[0].message.content
    assert bodies(emulator)[0]["messages"][0]["content"][1]["image_url"]["url"].endswith(SQUARE)
    with pytest.raises(openai.BadRequestError, match="takes no images"):
        client.chat.completions.create(model=LLAMA, messages=user(content))


def test_several_answers_are_several_requests(client: openai.OpenAI, emulator: Emulator) -> None:
    for text in ("One.", "Two.", "Three."):
        emulator.reply(text)
    answer = client.chat.completions.create(model=LLAMA, messages=user("Count!"), n=3)
    assert sorted(str(choice.message.content) for choice in answer.choices) == ["One.", "Three.", "Two."]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(bodies(emulator)) == 3


@pytest.mark.parametrize(("n", "stream"), [(0, False), (17, False), (2, True), ("2", False)])
def test_as_many_answers_as_cannot_be_had_are_refused(client: openai.OpenAI, n: Any, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match=r"n='?\d+"):
        client.chat.completions.create(model=LLAMA, messages=user("Count!"), n=n, stream=stream)


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_stop_and_logprobs(client: openai.OpenAI, emulator: Emulator, model: str) -> None:
    emulator.reply("One, two, three, four", when=model)
    answer = client.chat.completions.create(model=model, messages=user("Count!"), stop=[", three"])
    assert answer.choices[0].message.content == "One, two"
    answer = client.chat.completions.create(model=LLAMA, messages=user("Hello!"), logprobs=True, top_logprobs=2)
    assert answer.choices[0].logprobs
    assert answer.choices[0].logprobs.content


def test_fields_of_other_servers_go_through(client: openai.OpenAI, serve: Serve) -> None:
    with Emulator(strict=False) as lenient:
        other = openai.OpenAI(base_url=serve(settings(lenient)).base_url, api_key="any")
        other.chat.completions.create(model=LLAMA, messages=user("Hello!"), extra_body={"top_k": 5})
        dropping = openai.OpenAI(base_url=serve(settings(lenient, unsupported="drop")).base_url, api_key="any")
        with pytest.warns(UserWarning, match="top_k"):
            dropping.chat.completions.create(model=LLAMA, messages=user("Hello!"), extra_body={"top_k": 5})
        assert ["top_k" in body for body in bodies(lenient)] == [True, False]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_the_services_errors_are_errors(
    client: openai.OpenAI, emulator: Emulator, status: int, kind: type[openai.APIStatusError], stream: bool
) -> None:
    emulator.add_fault(Fault("status", status=status, retry_after=7 if status == 429 else None, times=None))
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=LLAMA, messages=user("Hello!"), stream=stream)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body.keys() == {"message", "type", "param", "code"}
    assert caught.value.response.headers.get("retry-after") == ("7" if status == 429 else None)
    assert caught.value.request_id
    assert KEY not in caught.value.response.text
    assert len(emulator.requests) == 1  # neither the gateway (max_retries=0) nor the SDK has tried again


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temperature", 3, "temperature"),
        ("messages", [], "messages"),
        ("messages", [{"role": "robot", "content": "x"}], "role"),
        ("model", "", "model"),
        ("tools", [{"type": "web_search"}], "tools"),
        ("modalities", ["text", "audio"], "modalities"),
        ("functions", [{"name": "f"}], "use tools"),
        ("max_tokens", "many", "max_tokens"),
        ("stop", 5, "stop"),
        ("response_format", {"type": "xml"}, "response_format"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    http: httpx.Client, emulator: Emulator, field: str, value: Any, said: str
) -> None:
    for stream in (False, True):
        body = {"model": LLAMA, "messages": user("Hello!"), "stream": stream, field: value}
        answer = http.post("/chat/completions", json=body)
        assert answer.status_code == 400
        assert said in answer.json()["error"]["message"]
    assert not emulator.requests


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b"{}"])
def test_a_body_that_is_not_a_request(http: httpx.Client, body: bytes) -> None:
    for path in ("/chat/completions", "/responses", "/messages", "/messages/count_tokens", "/embeddings"):
        answer = http.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, path
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["cut", "end", "error_event"])
def test_a_stream_that_breaks_is_an_error_in_the_stream(serve: Serve, kind: Any) -> None:
    with Emulator(delay=0.02) as slow:  # each chunk comes alone
        slow.reply("One two three four five six seven")
        slow.add_fault(Fault(kind, chunks=4))
        client = openai.OpenAI(base_url=serve(settings(slow)).base_url, api_key="any")
        stream = client.chat.completions.create(model=LLAMA, messages=user("Count!"), stream=True)
        seen = next(stream).choices[0].delta.content
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert seen in ("", "One")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "server_error"


def test_the_sdks_own_helpers(client: openai.OpenAI) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str
        country: str

    for model in (LLAMA, R1):
        parsed = client.chat.completions.parse(model=model, messages=user(LISBON), response_format=City)
        assert parsed.choices[0].message.parsed == City(name="Lisbon", country="Portugal")
        with client.chat.completions.stream(model=model, messages=user(LISBON), response_format=City) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == City(name="Lisbon", country="Portugal")


def test_text_that_no_utf8_holds(client: openai.OpenAI, emulator: Emulator) -> None:
    emulator.reply("Ünïcödé \u2028 🥪 \x00 end", when=LLAMA)
    answer = client.chat.completions.create(model=LLAMA, messages=user("Hello!"))
    chunks = list(client.chat.completions.create(model=LLAMA, messages=user("Hello!"), stream=True))
    assert answer.choices[0].message.content == whole_of(chunks)["text"] == "Ünïcödé \u2028 🥪 \x00 end"


async def test_many_streams_at_once(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="any", max_retries=0, timeout=60) as client:

        async def one(number: int) -> bool:
            stream = await client.chat.completions.create(
                model=[LLAMA, QWEN][number % 2], messages=user(f"Number {number}!"), stream=True
            )
            return whole_of([chunk async for chunk in stream])["text"] == f"Echo: Number {number}!"

        assert all(await asyncio.gather(*map(one, range(200))))
