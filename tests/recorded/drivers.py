"""Each adapter as its framework's users call it, sync and async; whatever it makes of an answer as plain data.

Of a framework's objects the fields that come from the answer are taken one by one, for further ones come and go with
the framework's versions.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import httpx
from pydantic import BaseModel

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import embeddings
from kluster_integrations.core.client import Client
from kluster_integrations.core.transport import Transport
from kluster_integrations.core.types import Completion, collect
from kluster_integrations.errors import KlusterError

from ..features.adapters import heard, sum_up

os.environ |= {  # read when they are imported
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

Outcome = dict[str, Any]


class Driver(Protocol):
    """An adapter, called in one way; `sync` or `async`, which goes over aiohttp, or `httpx`, async without it."""

    def __init__(self, config: KlusterConfig, way: str) -> None: ...

    def ask(
        self,
        model: str,
        messages: list[Any],
        *,
        stream: bool = False,
        tools: list[Any] | None = None,
        schema: type[BaseModel] | None = None,
        **params: Any,
    ) -> Outcome: ...

    def embed(self, texts: list[str]) -> Outcome: ...


def described(error: KlusterError) -> Outcome:
    """Return all that an error says."""
    fields = ("status_code", "code", "message", "request_id", "retry_after", "hint", "headers")
    return {"error": type(error).__name__, "shown": str(error), **{name: getattr(error, name) for name in fields}}


def vectors(rows: Sequence[Sequence[float]]) -> Outcome:
    """Return how many vectors there are, how long they are, where each begins, and a hash of every number."""
    numbers = array("d", [float(number) for row in rows for number in row])
    begins = [[round(float(number), 6) for number in row[:3]] for row in rows]
    return {"lengths": [len(row) for row in rows], "begin": begins, "sha256": hashlib.sha256(numbers).hexdigest()}


class Core:
    """The core itself, which the adapters are made of."""

    def __init__(self, config: KlusterConfig, way: str) -> None:
        self._config, self._way = config, way

    def ask(
        self,
        model: str,
        messages: list[Any],
        *,
        stream: bool = False,
        tools: list[Any] | None = None,
        schema: type[BaseModel] | None = None,
        **params: Any,
    ) -> Outcome:
        if schema is not None:
            shape = {"name": schema.__name__, "schema": schema.model_json_schema()}
            params["response_format"] = {"type": "json_schema", "json_schema": shape}
        params["tools"] = tools
        if stream:  # each delta as the server sends it
            deltas = self._run("stream", model, messages, params, stream=True, max_repairs=-1)
            answer = collect(deltas)
            pieces = [[*delta[:4], delta.logprobs, delta.meta] for delta in deltas]
            return {"pieces": _plain(pieces), **self._told(answer)}
        return self._told(self._run("complete", model, messages, params, max_repairs=0))

    def _told(self, answer: Completion) -> Outcome:
        told = asdict(answer)
        assert told.pop("priced") is None  # of batch jobs alone
        assert told.pop("earlier") == ""  # of repaired answers alone
        for call in told["tool_calls"]:
            assert call.pop("error") is None
        return {"headers": dict(told.pop("headers")), "answer": told}

    def embed(self, texts: list[str]) -> Outcome:
        (body,) = embeddings.build(embeddings.DEFAULT_MODEL, texts, config=self._config)
        answer = self._run("post", embeddings.EMBEDDINGS_PATH, body)
        said = {name: answer.data[name] for name in ("object", "model", "usage")}
        return {"vectors": vectors(embeddings.read(answer.data, body)), **said, "headers": dict(answer.headers)}

    def _run(self, how: str, *args: Any, **options: Any) -> Any:
        if self._way == "sync":
            if how == "post":
                return Transport(self._config).post(*args)
            client = Client(self._config)
            request = client.build(*args, **options)
            return list(client.stream(request)) if how == "stream" else client.complete(request)
        return asyncio.run(self._later(how, *args, **options))

    async def _later(self, how: str, *args: Any, **options: Any) -> Any:
        if self._way == "async":
            return await self._await(None, how, *args, **options)
        async with httpx.AsyncClient(verify=False) as own:
            return await self._await(own, how, *args, **options)

    async def _await(self, own: httpx.AsyncClient | None, how: str, *args: Any, **options: Any) -> Any:
        if how == "post":
            return await Transport(self._config, http_async_client=own).apost(*args)
        client = Client(self._config, http_async_client=own)
        request = client.build(*args, **options)
        if how == "stream":
            return [delta async for delta in client.astream(request)]
        return await client.acomplete(request)


def _plain(value: Any) -> Any:
    """Return named tuples, dataclasses and models as JSON has them."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(exclude_none=True))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


class Langchain:
    """`ChatKluster` and `KlusterEmbeddings`."""

    def __init__(self, config: KlusterConfig, way: str) -> None:
        self._config, self._way = config, way

    def ask(
        self,
        model: str,
        messages: list[Any],
        *,
        stream: bool = False,
        tools: list[Any] | None = None,
        schema: type[BaseModel] | None = None,
        **params: Any,
    ) -> Outcome:
        from kluster_integrations.langchain import ChatKluster

        chat: Any = ChatKluster(model=model, config=self._config, include_response_headers=True, **params)
        if tools:
            chat = chat.bind_tools(tools)
        if schema:
            chat = chat.with_structured_output(schema, include_raw=True)
        if stream:
            pieces = (
                list(chat.stream(messages)) if self._way == "sync" else asyncio.run(_listed(chat.astream(messages)))
            )
            return {"pieces": [self._message(piece) for piece in pieces], "answer": self._message(sum_up(pieces))}
        answer = chat.invoke(messages) if self._way == "sync" else asyncio.run(chat.ainvoke(messages))
        if schema:
            return {"answer": self._message(answer["raw"]), "parsed": _plain(answer["parsed"])}
        return {"answer": self._message(answer)}

    def _message(self, message: Any) -> Outcome:
        names = ("content", "tool_calls", "additional_kwargs", "response_metadata", "usage_metadata")
        found = {name: _plain(getattr(message, name)) for name in names}
        return {name: value for name, value in found.items() if value not in (None, "", [], {})}

    def embed(self, texts: list[str]) -> Outcome:
        from kluster_integrations.langchain import KlusterEmbeddings

        made = KlusterEmbeddings(config=self._config)
        rows = made.embed_documents(texts) if self._way == "sync" else asyncio.run(made.aembed_documents(texts))
        return {"vectors": vectors(rows)}


async def _listed(items: Any) -> list[Any]:
    return [item async for item in items]


class Litellm:
    """`litellm.completion("kluster/…")`."""

    def __init__(self, config: KlusterConfig, way: str) -> None:
        from kluster_integrations.litellm import register

        register(config)
        self._way = way

    def ask(
        self,
        model: str,
        messages: list[Any],
        *,
        stream: bool = False,
        tools: list[Any] | None = None,
        schema: type[BaseModel] | None = None,
        **params: Any,
    ) -> Outcome:
        import litellm

        options = {**params, "tools": tools, "response_format": schema}
        options = {name: value for name, value in options.items() if value is not None}
        if stream:
            options |= {"stream": True, "stream_options": {"include_usage": True}}
        options |= {"model": f"kluster/{model}", "messages": messages}
        if not stream:
            answer = (
                litellm.completion(**options) if self._way == "sync" else asyncio.run(litellm.acompletion(**options))
            )
            return {"answer": self._answer(answer), "headers": self._headers(answer)}
        pieces = list(litellm.completion(**options)) if self._way == "sync" else asyncio.run(self._streamed(options))
        whole = litellm.stream_chunk_builder(pieces, messages=messages)
        shown = [self._answer(piece) for piece in pieces]
        for piece in shown[1:]:
            del piece["created"]  # LiteLLM gives the last ones the time of the day
        return {"pieces": shown, "answer": self._answer(whole)}

    async def _streamed(self, options: dict[str, Any]) -> list[Any]:
        import litellm

        return await _listed(await litellm.acompletion(**options))

    def _answer(self, answer: Any) -> Outcome:
        names = ("id", "object", "created", "model")
        said: Outcome = {name: getattr(answer, name) for name in names}
        for choice in answer.choices:
            part = choice.delta if hasattr(choice, "delta") else choice.message
            thoughts = getattr(part, "reasoning_content", "")
            calls = [
                {"id": call.id, "type": call.type, "function": _plain(call.function)} for call in part.tool_calls or []
            ]
            said |= {"role": part.role, "content": part.content, "reasoning_content": thoughts}
            said |= {"tool_calls": calls, "finish_reason": choice.finish_reason}
        usage = getattr(answer, "usage", None)
        if usage is not None:
            said["usage"] = [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]
        return {name: value for name, value in said.items() if value not in (None, "", [])}

    def _headers(self, answer: Any) -> Any:
        headers = answer._hidden_params["additional_headers"]
        return {name: value for name, value in headers.items() if name.startswith("llm_provider-")}

    def embed(self, texts: list[str]) -> Outcome:
        import litellm

        options: dict[str, Any] = {"model": f"kluster/{embeddings.DEFAULT_MODEL}", "input": texts}
        answer = litellm.embedding(**options) if self._way == "sync" else asyncio.run(litellm.aembedding(**options))
        usage = answer.usage
        rows = [row["embedding"] for row in answer.data]
        return {"vectors": vectors(rows), "model": answer.model, "usage": [usage.prompt_tokens, usage.total_tokens]}


class Crewai:
    """`kluster_llm` and `kluster_embedder`."""

    def __init__(self, config: KlusterConfig, way: str) -> None:
        self._config, self._way = config, way

    def ask(
        self,
        model: str,
        messages: list[Any],
        *,
        stream: bool = False,
        tools: list[Any] | None = None,
        schema: type[BaseModel] | None = None,
        **params: Any,
    ) -> Outcome:
        from crewai.events.types import llm_events

        from kluster_integrations.crewai import kluster_llm

        llm = kluster_llm(model, config=self._config, stream=stream, **params)
        events: list[Any] = []
        with heard(llm_events.LLMEventBase, events):
            options = {"tools": tools, "response_model": schema}
            if self._way == "sync":
                result = llm.call(messages, **options)
            else:
                result = asyncio.run(llm.acall(messages, **options))
        (done,) = [event for event in events if isinstance(event, llm_events.LLMCallCompletedEvent)]
        names = ("usage", "finish_reason", "response_id")
        said: Outcome = {name: getattr(done, name) for name in names} | {"call_type": done.call_type.value}
        thoughts = [event.chunk for event in events if isinstance(event, llm_events.LLMThinkingChunkEvent)]
        pieces = [event.chunk for event in events if isinstance(event, llm_events.LLMStreamChunkEvent)]
        total = llm.get_token_usage_summary()
        tokens = [total.prompt_tokens, total.completion_tokens, total.total_tokens, total.successful_requests]
        return {"result": _plain(result), "thoughts": thoughts, "pieces": pieces, "answer": said, "tokens": tokens}

    def embed(self, texts: list[str]) -> Outcome:
        from crewai.rag.embeddings.factory import build_embedder

        from kluster_integrations.crewai import kluster_embedder

        return {"vectors": vectors(list(build_embedder(kluster_embedder(config=self._config))(texts)))}


DRIVERS: dict[str, type[Driver]] = {"core": Core, "langchain": Langchain, "litellm": Litellm, "crewai": Crewai}
WAYS = {
    "core": ("sync", "async", "httpx"),
    "langchain": ("sync", "async"),
    "litellm": ("sync", "async"),
    "crewai": ("sync", "async"),
}
