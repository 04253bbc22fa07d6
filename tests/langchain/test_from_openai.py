"""What people who move from ChatOpenAI have in their code: it works, or is refused with what to do instead."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from langchain_core.load import dumps, loads
from langchain_openai import ChatOpenAI
from pydantic import SecretStr, ValidationError

from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import BadRequestError, PermissionDeniedError, UnsupportedParameterError
from kluster_integrations.langchain import (
    ChatKluster,
    KlusterAPITimeoutError,
    KlusterBadRequestError,
    KlusterEmbeddings,
)

from ..raw_server import RawServer, Reply
from .conftest import LLAMA, Ask, body, model_of

HARMLESS: list[dict[str, Any]] = [
    {"stream_usage": True},
    {"stream_usage": False},
    {"use_responses_api": False},
    {"use_previous_response_id": False},
    {"n": 1, "store": False, "service_tier": "auto"},
    {"organization": None, "openai_proxy": "", "default_query": {}, "reasoning_effort": None, "user": None},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"use_responses_api": True}, "Responses API"),
    ({"use_previous_response_id": True}, "Responses API"),
    ({"organization": "org-1"}, "organizations"),
    ({"openai_api_base": "https://api.kluster.ai/v1"}, "pass base_url"),
    ({"openai_api_key": "kk-abcdefgh"}, "pass api_key"),
    ({"openai_proxy": "http://proxy:1"}, r"httpx.Client\(proxy="),
    ({"default_query": {"a": "b"}}, r"httpx.Client\(params="),
    ({"http_socket_options": [(1, 2, 3)]}, "http_client"),
    ({"stream_chunk_timeout": 5.0}, "pass timeout"),
    ({"tiktoken_model_name": "gpt-4o"}, "custom_get_token_ids"),
    ({"disabled_params": {"parallel_tool_calls": None}}, "leave it out"),
    ({"client": object()}, "http_client"),
]
# What ChatKluster sends on: refused at the call, by its name, or left out with unsupported="drop".
PARAMETERS: dict[str, Any] = {
    "reasoning_effort": "low",
    "reasoning": {"effort": "low"},
    "verbosity": "low",
    "service_tier": "flex",
    "store": True,
    "n": 2,
    "include": ["reasoning.encrypted_content"],
    "truncation": "auto",
    "context_management": [{"type": "compaction"}],
    "prompt_cache_options": {"retention": "24h"},
}


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # those are of earlier tests
def test_what_asks_for_nothing_is_taken(emulator: Emulator, fields: dict[str, Any], ask_one: Ask) -> None:
    assert ask_one(model_of(emulator, **fields), "hi").usage_metadata
    assert body(emulator).keys() - {"stream"} == {"model", "messages"}


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # those are of earlier tests
def test_stream_usage_of_a_call(emulator: Emulator) -> None:
    chunks = list(model_of(emulator).stream("hi", stream_usage=True))
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1


@pytest.mark.parametrize(("fields", "instead"), REFUSED, ids=lambda value: str(value)[:30])
def test_the_rest_is_refused_with_what_to_do(emulator: Emulator, fields: dict[str, Any], instead: str) -> None:
    with pytest.raises(ValidationError, match=instead) as caught:
        model_of(emulator, **fields)
    assert next(iter(fields)) in str(caught.value)
    assert "abcdefgh" not in str(caught.value)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_refused_at_the_call(emulator: Emulator, name: str) -> None:
    with pytest.warns(UserWarning, match=f"^{name} is not an argument of ChatKluster") as told:
        model = model_of(emulator, **{name: PARAMETERS[name]})
    with pytest.raises(UnsupportedParameterError, match=f"does not take {name}="):
        model.invoke("hi")
    assert [w.filename for w in told] == [model_of.__code__.co_filename]
    assert emulator.requests == []


def test_no_field_of_chat_openai_is_forgotten() -> None:
    ours = {n for name, field in ChatKluster.model_fields.items() for n in (name, field.alias)}
    stated = {name for fields in HARMLESS + [fields for fields, _ in REFUSED] for name in fields} | PARAMETERS.keys()
    theirs = {field.alias or name for name, field in ChatOpenAI.model_fields.items()}
    assert theirs - ours - stated <= {"async_client", "root_client", "root_async_client"}  # as `client`


def test_a_parameter_of_a_deployment_is_refused_with_a_hint(emulator: Emulator) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        model_of(emulator).invoke("hi", top_k=5, n=2)
    assert "extra_body={'top_k': 5}" in (caught.value.hint or "")


# metadata


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # those are of earlier tests
def test_metadata_in_model_kwargs_goes_to_the_server(emulator: Emulator, ask_one: Ask) -> None:
    model = model_of(emulator, metadata={"for": "traces"}, model_kwargs={"metadata": {"for": "kluster"}})
    ask_one(model, "hi")
    assert body(emulator)["metadata"] == {"for": "kluster"}
    assert model.metadata is not None
    assert model.metadata["for"] == "traces"


def test_an_argument_in_model_kwargs_becomes_one(emulator: Emulator) -> None:
    with pytest.warns(UserWarning, match="temperature in model_kwargs"):
        model = model_of(emulator, model_kwargs={"temperature": 0.5})
    assert (model.temperature, model.model_kwargs) == (0.5, {})


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["temperature", "user"])
def test_what_is_passed_twice_is_refused(emulator: Emulator, name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} is an argument, and in model_kwargs"):
        model_of(emulator, **{name: 1}, model_kwargs={name: 2})


# timeout


@pytest.fixture
def hanging(server: RawServer) -> RawServer:
    server.answer = lambda _: Reply(silent=True, end="hang")
    return server


@pytest.mark.parametrize(
    "timeout",
    [(3, 0.2), [3, 0.2], httpx.Timeout(3, read=0.2), httpx2.Timeout(3, read=0.2), 0.2],
    ids=lambda value: f"{type(value).__module__}.{type(value).__name__}",
)
@pytest.mark.parametrize("how", ["constructed", "called"])
def test_timeouts_in_the_forms_of_the_sdk(hanging: RawServer, timeout: Any, how: str, ask_one: Ask) -> None:
    fields, options = ({"timeout": timeout}, {}) if how == "constructed" else ({}, {"timeout": timeout})
    with pytest.raises(KlusterAPITimeoutError):
        ask_one(model_of(hanging, **fields), "hi", **options)


def test_a_timeout_of_embeddings(hanging: RawServer) -> None:
    model = KlusterEmbeddings(api_key="key", base_url=hanging.base_url, timeout=(3, 0.2), max_retries=0)
    with pytest.raises(KlusterAPITimeoutError):
        model.embed_query("hi")


@pytest.mark.parametrize("timeout", [(), (1, 2, 3, 4, 5), (0, 30), ("3", 30), (True,)], ids=str)
def test_timeouts_that_cannot_be(emulator: Emulator, timeout: Any) -> None:
    with pytest.raises(ValidationError, match=r"timeout=.* must be numbers of seconds above 0"):
        model_of(emulator, timeout=timeout)
    with pytest.raises(BadRequestError, match=r"timeout=.* must be numbers of seconds above 0"):
        model_of(emulator).invoke("hi", timeout=timeout)


def test_a_model_with_timeouts_can_be_saved(emulator: Emulator) -> None:
    model = model_of(emulator, timeout=httpx.Timeout(30, connect=3))
    text = dumps(model)
    options: dict[str, Any] = {"allowed_objects": [ChatKluster], "valid_namespaces": ["kluster_integrations"]}
    restored = loads(text, secrets_map={"KLUSTER_API_KEY": "key"}, **options)
    assert restored.timeout == pickle.loads(pickle.dumps(model)).timeout == model.timeout == (3, 30, 30, 30)


# api_key


@pytest.fixture
def keys() -> Iterator[Any]:
    return iter(["kk-first-key", "kk-second-key", "kk-third-key"])


def test_a_function_gives_the_key_of_each_request(server: RawServer, keys: Iterator[str], ask_one: Ask) -> None:
    model = model_of(server, api_key=lambda: next(keys))
    assert server.requests == []
    for key in ("kk-first-key", "kk-second-key"):
        ask_one(model, "hi")
        assert server.requests[-1].headers["authorization"] == f"Bearer {key}"
    assert next(keys) == "kk-third-key"  # no call but those two


async def test_a_function_gives_the_key_of_embeddings(emulator: Emulator) -> None:
    called = []
    model = KlusterEmbeddings(api_key=lambda: called.append(1) or "kk-some-key", base_url=emulator.base_url)
    await model.aembed_documents(model.embed_documents(["a"]) and ["b"])
    assert called == [1, 1]


def test_a_function_may_return_a_secret(server: RawServer) -> None:
    model_of(server, api_key=lambda: SecretStr("kk-secret")).invoke("hi")
    assert server.requests[-1].headers["authorization"] == "Bearer kk-secret"


@pytest.mark.parametrize("key", [None, 5])
def test_a_function_that_returns_no_key(server: RawServer, key: Any) -> None:
    with pytest.raises(KlusterBadRequestError, match=f"api_key returned a {type(key).__name__}; it must return a text"):
        model_of(server, api_key=lambda: key).invoke("hi")
    assert not server.requests


def test_a_key_that_is_neither_a_text_nor_a_function() -> None:
    with pytest.raises(ValidationError, match=r"api_key must be a text, or a function .* not of type int") as caught:
        ChatKluster(model=LLAMA, api_key=5)
    assert caught.value.error_count() == 1


def test_a_function_gives_the_key_of_a_batch_job(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", "kk-environment")
    server.answer = lambda _: Reply([b"{}"], 403, content_type="application/json", framing="length")
    model = model_of(server, api_key=lambda: "kk-function")
    with model.batch_job(["hi"], folder=tmp_path / "job") as job, pytest.raises(PermissionDeniedError):
        job.submit()
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer kk-function"}


def test_the_key_of_the_environment_is_not_taken_for_it(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, ask_one: Ask
) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", "kk-environment")
    ask_one(model_of(server, api_key=lambda: "kk-function"), "hi")
    assert server.requests[-1].headers["authorization"] == "Bearer kk-function"


async def test_an_async_function_gives_the_key_of_async_calls(server: RawServer, keys: Iterator[str]) -> None:
    async def key() -> str:
        return next(keys)

    model = model_of(server, api_key=key)
    await model.ainvoke("hi")
    async for _ in model.astream("hi"):
        pass
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer kk-first-key", "Bearer kk-second-key"]


async def test_an_async_function_gives_the_key_of_embeddings(emulator: Emulator) -> None:
    async def key() -> str:
        return "kk-some-key"

    model = KlusterEmbeddings(api_key=key, base_url=emulator.base_url)
    assert len(await model.aembed_documents(["a", "b"])) == 2
    with pytest.raises(BadRequestError, match="sync call cannot wait"):
        model.embed_query("a")


@pytest.mark.filterwarnings("error")  # a coroutine that nobody has waited for
def test_a_sync_call_refuses_an_async_function(server: RawServer, tmp_path: Path) -> None:
    async def key() -> str:
        return "kk-some-key"

    model = model_of(server, api_key=lambda: key())
    calls: list[Any] = [
        lambda: model.invoke("hi"),
        lambda: list(model.stream("hi")),
        lambda: model.batch_job(["hi"], folder=tmp_path / "job"),
    ]
    for call in calls:
        with pytest.raises(KlusterBadRequestError, match=r"sync call cannot wait.*use the async calls"):
            call()
    assert not server.requests


def test_no_dump_has_the_key_of_a_function(emulator: Emulator) -> None:
    model = model_of(emulator, api_key=lambda: "kk-function-key")
    model.invoke("hi")
    assert "kk-function-key" not in f"{model!r} {dumps(model)} {pickle.dumps(model)!r}"


def test_a_key_that_cannot_be_is_not_shown(emulator: Emulator) -> None:
    model = model_of(emulator, api_key=lambda: "kk bad key")
    with pytest.raises(ValidationError, match="api_key") as caught:
        model.invoke("hi")
    assert "bad key" not in str(caught.value)


def test_nothing_but_what_is_documented_is_sent_with_all_of_it(emulator: Emulator) -> None:
    fields: dict[str, Any] = {
        "stream_usage": True,
        "n": 1,
        "max_tokens": 9,
        "timeout": (3, 30),
        "api_key": lambda: "key",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        list(ChatKluster(model=LLAMA, base_url=emulator.base_url, **fields).stream("hi"))
    assert body(emulator).keys() == {"model", "messages", "max_completion_tokens", "stream"}
