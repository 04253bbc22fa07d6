"""The ways to send a request, sync and async, and what the tests of them share."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import request, types
from kluster_integrations.core.response import read
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.core.types import Delta

from .raw_server import RawServer, Reply, sse

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
KEY = "kk-secret-key"
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SO_FAR = sse({"content": "so "}, {"content": "far"}, finish=None, done=False)


def config(server: RawServer, **fields: Any) -> KlusterConfig:
    return KlusterConfig(**{"api_key": KEY, "base_url": server.base_url, "max_retries": 0, "timeout": 20, **fields})


def asked(settings: KlusterConfig, *, stream: bool, **params: Any) -> types.ChatRequest:
    model = params.pop("model", LLAMA)
    return request.build(model, [{"role": "user", "content": "hi"}], params, config=settings, stream=stream)


class Way:
    """One way to send: `sync`, `aiohttp` (the default of async calls), or `async-httpx`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def post(self, settings: KlusterConfig) -> str:
        """Return the text of a whole answer."""
        sent = asked(settings, stream=False)
        answer = self._run(settings, lambda t: t.post(CHAT_PATH, sent.body), lambda t: t.apost(CHAT_PATH, sent.body))
        with Transport(settings).errors:
            return read(answer.data, sent).text

    def stream(
        self, settings: KlusterConfig, seen: Callable[[Delta], None] = lambda _: None, **params: Any
    ) -> list[Delta]:
        """Return the deltas of a streamed answer; `seen` gets each as it comes."""
        sent = asked(settings, stream=True, **params)
        deltas: list[Delta] = []

        def take(delta: Delta) -> None:
            deltas.append(delta)
            seen(delta)

        def sync(sender: Transport) -> None:
            for delta in sender.stream(sent.body, ChatStream(sent)):
                take(delta)

        async def later(sender: Transport) -> None:
            async for delta in sender.astream(sent.body, ChatStream(sent)):
                take(delta)

        self._run(settings, sync, later)
        return deltas

    def _run(
        self,
        settings: KlusterConfig,
        sync: Callable[[Transport], Any],
        later: Callable[[Transport], Awaitable[Any]],
    ) -> Any:
        if self.name == "sync":
            return sync(Transport(settings))

        async def go() -> Any:
            if self.name == "aiohttp":
                return await later(Transport(settings))
            async with httpx.AsyncClient(verify=False) as client:
                return await later(Transport(settings, http_async_client=client))

        return asyncio.run(go())


def text_of(deltas: list[Delta]) -> str:
    return "".join(d.content for d in deltas)


def everything_of(err: BaseException) -> str:
    """Return all that a log, a debugger or a queue may show of an exception."""
    shown = traceback.TracebackException.from_exception(err, capture_locals=True)
    return f"{err} {err!r} {vars(err)} {pickle.dumps(err)!r} {''.join(shown.format())}"


JSON = {"content_type": "application/json", "framing": "length"}


def failing(status: int, **headers: str) -> Reply:
    return Reply([b'{"error": {"message": "no"}}'], status=status, headers=headers, **JSON)
