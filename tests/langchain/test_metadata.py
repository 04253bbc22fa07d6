"""What a message and the callbacks say of a call: usage, cost, model, finish reason, tokens, each of them once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    UsageMetadataCallbackHandler,
    get_usage_metadata_callback,
)
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages.ai import add_usage
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.tracers.context import collect_runs

from kluster_integrations import catalog
from kluster_integrations._version import __version__
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.langchain import ChatKluster

from ..raw_server import DONE, RawServer, Reply, chunk, event, sse, whole
from .conftest import amerged, merged, model_of, since

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"
UNPRICED = "mistralai/Magistral-Small-2506"
CHAT_MODELS = [spec for spec in catalog.all_models() if spec.purpose == "chat"]


# Usage and cost.

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 7},
}
EXPECTED = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_token_details": {"cache_read": 64},
    "output_token_details": {"reasoning": 7},
}


def test_usage_as_the_server_reports_it(server: RawServer) -> None:
    server.script(whole({"content": "Hello"}, usage=USAGE))

    message = model_of(server).invoke("go")

    assert message.usage_metadata == EXPECTED
    assert "usage_estimated" not in message.response_metadata
    assert message.response_metadata["token_usage"]["total_tokens"] == 120


WHERE = {
    "on the finish chunk": [event(chunk({"content": "Hi"})), event(chunk({}, "stop", usage=USAGE)), DONE],
    "on an empty chunk": [
        event(chunk({"content": "Hi"})),
        event(chunk({}, "stop")),
        event({**chunk(), "choices": [], "usage": USAGE}),
        DONE,
    ],
    "on both": [
        event(chunk({"content": "Hi"})),
        event(chunk({}, "stop", usage=USAGE)),
        event({**chunk(), "choices": [], "usage": USAGE}),
        DONE,
    ],
    "on every chunk": [
        event(chunk({"content": "Hi"}, usage={**USAGE, "completion_tokens": 1, "total_tokens": 101})),
        event(chunk({}, "stop", usage=USAGE)),
        DONE,
    ],
}


@pytest.mark.parametrize("where", WHERE)
async def test_usage_in_a_stream_counts_once(server: RawServer, where: str) -> None:
    server.script(Reply(WHERE[where]), Reply(WHERE[where]))

    assert merged(model_of(server).stream("go")).usage_metadata == EXPECTED
    assert (await amerged(model_of(server).astream("go"))).usage_metadata == EXPECTED


async def test_reasoning_has_its_share_of_the_tokens(server: RawServer) -> None:
    pieces = [{"reasoning_content": "Let me see. " * 20}, {"content": "Paris."}]
    both = {name: "".join(piece.get(name, "") for piece in pieces) for name in ("reasoning_content", "content")}
    server.script(whole(both, usage=None), Reply(sse(*pieces)), Reply(sse(*pieces)))
    model = model_of(server, R1)

    for message in (model.invoke("go"), merged(model.stream("go")), await amerged(model.astream("go"))):
        assert message.usage_metadata is not None
        share = message.usage_metadata["output_token_details"]["reasoning"]
        assert 50 < share < message.usage_metadata["output_tokens"] < 70


def test_usage_in_a_stream_is_estimated_where_the_server_gives_none(server: RawServer) -> None:
    server.script(Reply(sse({"content": "Hello, "}, {"content": "world! How are you?"})))

    message = merged(model_of(server).stream("What is the ultimate breakfast sandwich?"))

    usage = message.usage_metadata
    assert usage is not None
    assert 5 <= usage["input_tokens"] <= 30
    assert 3 <= usage["output_tokens"] <= 12
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert message.response_metadata["usage_estimated"] is True


@pytest.mark.parametrize("streamed", [False, True])
def test_cost_where_the_price_is_known(server: RawServer, streamed: bool) -> None:
    million = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000, "total_tokens": 2_000_000}
    end = event(chunk({}, "stop", usage=million))
    server.script(
        Reply([event(chunk({"content": "Hi"})), end, DONE]) if streamed else whole({"content": "Hi"}, usage=million)
    )
    model = model_of(server, R1)

    message = merged(model.stream("go")) if streamed else model.invoke("go")

    assert message.response_metadata["cost"] == pytest.approx(8.00)


@pytest.mark.parametrize("streamed", [False, True])
def test_cost_has_no_more_digits_than_the_price(server: RawServer, streamed: bool) -> None:
    usage = {"prompt_tokens": 161, "completion_tokens": 5, "total_tokens": 166}
    end = event(chunk({}, "stop", usage=usage))
    server.script(
        Reply([event(chunk({"content": "Hi"})), end, DONE]) if streamed else whole({"content": "Hi"}, usage=usage)
    )
    model = model_of(server, LLAMA)  # 0.70 US$ per million

    message = merged(model.stream("go")) if streamed else model.invoke("go")

    assert str(message.response_metadata["cost"]) == "0.0001162"


def test_usage_adds_up_with_langchains_own_function(server: RawServer) -> None:
    """It takes whole numbers only, so that LangSmith's `total_cost` cannot stand there."""
    details = {
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30, **details}
    server.answer = lambda _: whole({"content": "Hi"}, usage=usage)
    first, second = (model_of(server, LLAMA).invoke("go").usage_metadata for _ in range(2))
    assert add_usage(first, second) == {
        "input_tokens": 20,
        "output_tokens": 40,
        "total_tokens": 60,
        "input_token_details": {"cache_read": 6},
        "output_token_details": {"reasoning": 8},
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_no_cost_where_it_is_not_known(chat: Callable[..., ChatKluster], streamed: bool) -> None:
    model = chat(UNPRICED)

    message = merged(model.stream("hi")) if streamed else model.invoke("hi")

    assert "cost" not in message.response_metadata


def test_usage_callback_adds_up(chat: Callable[..., ChatKluster]) -> None:
    with get_usage_metadata_callback() as seen:
        first, second = chat(LLAMA).invoke("Hello"), chat(LLAMA).invoke("Hello again")
        chat(R1).invoke("Hello")

    assert first.usage_metadata is not None
    assert second.usage_metadata is not None
    total = first.usage_metadata["total_tokens"] + second.usage_metadata["total_tokens"]
    assert seen.usage_metadata[LLAMA]["total_tokens"] == total
    assert set(seen.usage_metadata) == {LLAMA, R1}


def test_usage_callback_in_a_stream(chat: Callable[..., ChatKluster]) -> None:
    handler = UsageMetadataCallbackHandler()

    message = merged(chat().stream("Hello", config={"callbacks": [handler]}))

    assert handler.usage_metadata == {LLAMA: message.usage_metadata}


# Response metadata.


async def test_response_metadata(chat: Callable[..., ChatKluster]) -> None:
    for message in (
        chat().invoke("hi"),
        await chat().ainvoke("hi"),
        merged(chat().stream("hi")),
        await amerged(chat().astream("hi")),
    ):
        metadata = message.response_metadata
        assert metadata["model_provider"] == "kluster"
        assert metadata["model_name"] == LLAMA
        assert metadata["finish_reason"] == "stop"
        assert metadata["id"]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_model_name_is_the_servers(server: RawServer, streamed: bool) -> None:
    server.script(Reply(sse({"content": "Hi"})) if streamed else whole({"content": "Hi"}))
    model = model_of(server)

    message = merged(model.stream("go")) if streamed else model.invoke("go")

    assert message.response_metadata["model_name"] == "served"


def test_each_piece_of_metadata_stands_on_one_chunk(server: RawServer) -> None:
    head = {"system_fingerprint": "fp_1"}
    events = [event(chunk({"content": c}, **head)) for c in ("a", "b")] + [event(chunk({}, "stop", **head)), DONE]
    server.script(Reply(events))

    message = merged(model_of(server).stream("go"))

    assert message.response_metadata["system_fingerprint"] == "fp_1"
    assert message.response_metadata["model_name"] == "served"
    assert message.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter"])
def test_finish_reason(server: RawServer, finish: str) -> None:
    server.script(whole({"content": "Hi"}, finish=finish), Reply(sse({"content": "Hi"}, finish=finish)))

    assert model_of(server).invoke("go").response_metadata["finish_reason"] == finish
    assert merged(model_of(server).stream("go")).response_metadata["finish_reason"] == finish


@pytest.mark.parametrize("field", ["matched_stop", "stop_reason"])
def test_what_stopped_the_answer(server: RawServer, field: str) -> None:
    def reply() -> Reply:
        body = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop", field: "END"}
        return whole({}, choices=[body])

    server.script(reply())

    assert model_of(server).invoke("go").response_metadata["matched_stop"] == "END"


LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}


def test_logprobs(server: RawServer) -> None:
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop", "logprobs": LOGPROBS}
    server.script(whole({}, choices=[choice]))

    message = model_of(server, logprobs=True, top_logprobs=2).invoke("go")

    assert message.response_metadata["logprobs"] == LOGPROBS
    assert server.requests[0].json["top_logprobs"] == 2


def test_logprobs_in_a_stream_add_up(server: RawServer) -> None:
    def part(text: str) -> bytes:
        logprobs = {"content": [{"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, "logprobs": logprobs}
        return event(chunk(choices=[choice]))

    server.script(Reply([part("Hel"), part("lo"), event(chunk({}, "stop")), DONE]))

    message = merged(model_of(server, logprobs=True).stream("go"))

    assert [row["token"] for row in message.response_metadata["logprobs"]["content"]] == ["Hel", "lo"]


@pytest.mark.parametrize("wanted", [False, True])
async def test_response_headers(server: RawServer, wanted: bool) -> None:
    model = model_of(server, include_response_headers=wanted)
    plain, streamed = whole({"content": "Hi"}), Reply(sse({"content": "a"}, {"content": "b"}))
    for reply in (plain, streamed):
        reply.headers = {"x-request-id": "req-1"}
    server.script(plain, plain, streamed, streamed)

    for message in (
        model.invoke("go"),
        await model.ainvoke("go"),
        merged(model.stream("go")),
        await amerged(model.astream("go")),
    ):
        assert message.response_metadata.get("headers", {}).get("x-request-id") == ("req-1" if wanted else None)


# What LangSmith is told.


def test_ls_params() -> None:
    model = ChatKluster(model=LLAMA, api_key="key", temperature=0.5, max_tokens=9, stop=["END"])

    params = model._get_ls_params()

    assert params["ls_provider"] == "kluster"
    assert params["ls_model_name"] == LLAMA
    assert params["ls_model_type"] == "chat"
    assert params["ls_temperature"] == 0.5
    assert params["ls_max_tokens"] == 9
    assert params["ls_stop"] == ["END"]


def test_ls_params_of_a_call_win() -> None:
    model = ChatKluster(model=LLAMA, api_key="key", temperature=0.5, max_tokens=9, stop="END")

    params = model._get_ls_params(stop=["X"], model=R1, temperature=0.1, max_tokens=5)

    assert (params["ls_model_name"], params["ls_temperature"], params["ls_max_tokens"]) == (R1, 0.1, 5)
    assert params["ls_stop"] == ["X"]


@since(1, 5, what="versions in traces")
def test_a_trace_names_the_packages(chat: Callable[..., ChatKluster]) -> None:
    with collect_runs() as runs:
        chat().invoke("hi")

    metadata = runs.traced_runs[0].extra["metadata"]  # type: ignore[index]
    assert metadata["lc_versions"]["kluster-integrations"] == __version__
    assert metadata["ls_provider"] == "kluster"


def test_a_trace_holds_no_key(chat: Callable[..., ChatKluster]) -> None:
    with collect_runs() as runs:
        ChatKluster(model=LLAMA, api_key="sekret", base_url=chat().base_url, default_headers={"x": "sekret"}).invoke(
            "x"
        )

    run = runs.traced_runs[0]
    assert "sekret" not in repr((run.inputs, run.outputs, run.extra, run.serialized))


def test_parameters_are_in_the_trace(chat: Callable[..., ChatKluster]) -> None:
    with collect_runs() as runs:
        chat(temperature=0.25).bind(seed=7).invoke("hi")

    params = runs.traced_runs[0].extra["invocation_params"]  # type: ignore[index]
    assert (params["temperature"], params["seed"], params["model"]) == (0.25, 7, LLAMA)


# Profile.


@pytest.mark.parametrize("spec", CHAT_MODELS, ids=lambda spec: spec.id)
def test_profile_is_the_catalogs(spec: ModelSpec) -> None:
    profile = ChatKluster(model=spec.id, api_key="key").profile

    assert profile is not None
    assert profile["max_input_tokens"] == spec.context_window
    assert profile["max_output_tokens"] == spec.max_output_tokens
    assert profile["image_inputs"] is spec.supports_vision
    assert profile["reasoning_output"] is spec.reasoning
    assert profile["tool_calling"] is True  # native or prompted
    assert profile["structured_output"] is False  # else create_agent would send response_format


def test_profile_follows_the_plan() -> None:
    profile = ChatKluster(model=R1, api_key="key", plan="trial").profile

    assert profile is not None
    assert (profile["max_input_tokens"], profile["max_output_tokens"]) == (32_768, 4_096)


def test_profile_can_be_given() -> None:
    model = ChatKluster(model="my-deployment", api_key="key", profile={"max_input_tokens": 5})

    assert model.profile == {"max_input_tokens": 5}


# Callbacks.


class Seen(BaseCallbackHandler):
    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.chunks: list[Any] = []
        self.ends: list[LLMResult] = []
        self.errors: list[BaseException] = []

    def on_chat_model_start(self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **kwargs: Any) -> None:
        self.starts.append(kwargs)

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        self.tokens.append(token)
        self.chunks.append(chunk)

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        self.ends.append(response)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


class AsyncSeen(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.seen = Seen()

    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        self.seen.on_chat_model_start(serialized, messages, **kwargs)

    async def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        self.seen.on_llm_new_token(token, chunk=chunk)

    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        self.seen.on_llm_end(response)


def ended(seen: Seen) -> AIMessage:
    assert len(seen.starts) == 1
    assert len(seen.ends) == 1
    assert seen.errors == []
    message = seen.ends[0].generations[0][0].message  # type: ignore[union-attr]
    assert isinstance(message, AIMessage)
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] > 0
    return message


async def test_callbacks_of_invoke(chat: Callable[..., ChatKluster]) -> None:
    seen, later = Seen(), AsyncSeen()

    message = chat().invoke("hi", config={"callbacks": [seen]})
    await chat().ainvoke("hi", config={"callbacks": [later]})

    assert ended(seen).content == ended(later.seen).content == message.content
    assert seen.tokens == later.seen.tokens == []


async def test_callbacks_of_a_stream(chat: Callable[..., ChatKluster]) -> None:
    seen, later = Seen(), AsyncSeen()

    message = merged(chat().stream("hi", config={"callbacks": [seen]}))
    await amerged(chat().astream("hi", config={"callbacks": [later]}))

    assert "".join(seen.tokens) == "".join(later.seen.tokens) == message.content
    assert ended(seen).usage_metadata == message.usage_metadata
    ended(later.seen)


def test_callbacks_get_the_chunks_too(chat: Callable[..., ChatKluster]) -> None:
    seen = Seen()

    message = merged(chat(R1).stream("hi", config={"callbacks": [seen]}))

    assert all(isinstance(part, ChatGenerationChunk) for part in seen.chunks)
    thoughts = "".join(part.message.additional_kwargs.get("reasoning_content", "") for part in seen.chunks)
    assert thoughts == message.additional_kwargs["reasoning_content"]


async def test_callbacks_with_streaming_underneath(chat: Callable[..., ChatKluster]) -> None:
    seen, later = Seen(), AsyncSeen()

    message = chat(streaming=True).invoke("hi", config={"callbacks": [seen]})
    await chat(streaming=True).ainvoke("hi", config={"callbacks": [later]})

    assert "".join(seen.tokens) == "".join(later.seen.tokens) == message.content
    ended(seen)
    ended(later.seen)


def test_callbacks_see_the_error(server: RawServer) -> None:
    server.script(Reply([b"{}"], status=500, content_type="application/json", framing="length"))
    seen = Seen()

    with pytest.raises(Exception, match="500"):
        model_of(server).invoke("go", config={"callbacks": [seen]})
    assert (len(seen.starts), len(seen.ends), len(seen.errors)) == (1, 0, 1)


def test_callbacks_of_a_repair(server: RawServer) -> None:
    server.script(whole({"content": "no"}), whole({"content": '{"name": "Ada"}'}))
    seen = Seen()
    schema = {"title": "person", "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}

    model_of(server, R1).with_structured_output(schema).invoke("go", config={"callbacks": [seen]})

    assert ended(seen).usage_metadata["total_tokens"] == 14  # type: ignore[index] - one call, with the tokens of both


class Turnstile(BaseRateLimiter):
    def __init__(self) -> None:
        self.taken = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.taken += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.taken += 1
        return True


async def test_rate_limiter_is_asked_once_a_call(chat: Callable[..., ChatKluster]) -> None:
    limiter = Turnstile()
    model = chat(rate_limiter=limiter)

    model.invoke("a")
    list(model.stream("a"))
    await model.ainvoke("a")
    [part async for part in model.astream("a")]

    assert limiter.taken == 4


def test_generate_adds_the_tokens_up(server: RawServer) -> None:
    server.script(whole({"content": "one"}), whole({"content": "two"}), whole({"content": "three"}, usage=None))
    model = model_of(server)

    two = model.generate([[HumanMessage("a")], [HumanMessage("b")]]).llm_output
    estimated = model.generate([[HumanMessage("c")]]).llm_output

    assert two == {
        "token_usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
        "model_name": LLAMA,
    }
    assert estimated is not None
    assert estimated["token_usage"]["estimated"] is True
    server.script(Reply(sse({"content": "streamed"})))
    assert model_of(server, streaming=True).generate([[HumanMessage("d")]]).llm_output == {}
