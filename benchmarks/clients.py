"""The candidates behind one small interface, with equal settings: same messages, no retries, the SDK's own limits.

Nothing is imported before it is used: `cold` times the imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

from benchmarks.wire import MESSAGES, MODEL, TOOLS

_KEY = "not-a-key"
_TIMEOUT = 60.0


class Client(ABC):
    """A candidate.

    Args:
        base_url: Its answers differ by path; see `wire.replies`.
        tools: Whether every request carries the tools.
        handler: Whether LangChain calls a callback handler at every token.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    """What a user imports to have it; the candidate is skipped where one is missing."""
    sync = True
    handles = False
    """Whether it is LangChain's, and so has callback handlers."""

    def __init__(self, base_url: str, *, tools: bool = False, handler: bool = False) -> None:
        self.base_url = base_url
        self.tools = tools
        self.handler = handler

    @classmethod
    def missing(cls) -> str | None:
        """Return a module that is not installed."""
        return next((m for m in cls.modules if importlib.util.find_spec(m.partition(".")[0]) is None), None)

    @abstractmethod
    def call(self) -> str:
        """Return the text of one answer, or the arguments of its first tool call."""

    @abstractmethod
    async def acall(self) -> str: ...

    @abstractmethod
    def stream(self) -> Iterator[Any]:
        """Yield the candidate's own chunks."""

    @abstractmethod
    def astream(self) -> AsyncIterator[Any]: ...

    @abstractmethod
    def text(self, chunk: Any) -> str:
        """Return the text, or the arguments, of one chunk."""

    @abstractmethod
    async def aclose(self) -> None: ...


class RawHttpx(Client):
    """No client at all: the floor."""

    name = "raw httpx"
    modules = ("httpx",)

    def __init__(self, base_url: str, **options: Any) -> None:
        super().__init__(base_url, **options)
        self._httpx = importlib.import_module("httpx")
        self._body = {
            "model": MODEL,
            "messages": MESSAGES,
            "temperature": 0,
            **({"tools": TOOLS} if self.tools else {}),
        }
        limits = self._httpx.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=5.0)
        self._options = {
            "base_url": base_url,
            "headers": {"Authorization": f"Bearer {_KEY}"},
            "timeout": _TIMEOUT,
            "limits": limits,
        }
        self._client = self._httpx.Client(**self._options)
        self._async: Any = None

    def _async_client(self) -> Any:
        if self._async is None:
            self._async = self._httpx.AsyncClient(**self._options)
        return self._async

    def _request(self) -> dict[str, Any]:
        return {"method": "POST", "url": "/chat/completions", "json": {**self._body, "stream": True}}

    @staticmethod
    def _answer(response: Any) -> str:
        message = response.json()["choices"][0]["message"]
        return str(message["content"] or message["tool_calls"][0]["function"]["arguments"])

    def call(self) -> str:
        return self._answer(self._client.post("/chat/completions", json=self._body))

    async def acall(self) -> str:
        return self._answer(await self._async_client().post("/chat/completions", json=self._body))

    def stream(self) -> Iterator[Any]:
        with self._client.stream(**self._request()) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])

    async def astream(self) -> AsyncIterator[Any]:
        async with self._async_client().stream(**self._request()) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])

    def text(self, chunk: Any) -> str:
        if not chunk["choices"]:
            return ""
        delta = chunk["choices"][0]["delta"]
        calls = delta.get("tool_calls")
        return str(calls[0]["function"]["arguments"] if calls else delta.get("content") or "")

    async def aclose(self) -> None:
        if self._async is not None:
            await self._async.aclose()


class RawAiohttp(RawHttpx):
    """The floor of async calls."""

    name = "raw aiohttp"
    modules = ("aiohttp",)
    sync = False

    def _session(self) -> Any:
        if self._async is None:
            import aiohttp

            self._async = aiohttp.ClientSession(
                f"{self.base_url}/",
                headers=self._options["headers"],
                connector=aiohttp.TCPConnector(limit=1000),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(sock_read=_TIMEOUT),
            )
        return self._async

    async def acall(self) -> str:
        async with self._session().post("chat/completions", json=self._body) as response:
            message = (await response.json())["choices"][0]["message"]
        return str(message["content"] or message["tool_calls"][0]["function"]["arguments"])

    async def astream(self) -> AsyncIterator[Any]:
        async with self._session().post("chat/completions", json={**self._body, "stream": True}) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])

    async def aclose(self) -> None:
        if self._async is not None:
            await self._async.close()


class Sdk(Client):
    """The openai SDK as it comes."""

    name = "openai SDK"
    modules: ClassVar[tuple[str, ...]] = ("openai",)

    def __init__(self, base_url: str, **options: Any) -> None:
        super().__init__(base_url, **options)
        import openai

        self._openai = openai
        self._options: dict[str, Any] = {
            "api_key": _KEY,
            "base_url": base_url,
            "max_retries": 0,
            "timeout": _TIMEOUT,
        }
        self._request: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "temperature": 0}
        if self.tools:
            self._request["tools"] = TOOLS
        self._client = openai.OpenAI(**self._options)
        self._async: Any = None

    def _async_client(self) -> Any:
        if self._async is None:
            self._async = self._openai.AsyncOpenAI(**self._options)
        return self._async

    @staticmethod
    def _answer(completion: Any) -> str:
        message = completion.choices[0].message
        return str(message.content or message.tool_calls[0].function.arguments)

    def call(self) -> str:
        return self._answer(self._client.chat.completions.create(**self._request))

    async def acall(self) -> str:
        return self._answer(await self._async_client().chat.completions.create(**self._request))

    def stream(self) -> Iterator[Any]:
        yield from self._client.chat.completions.create(stream=True, **self._request)

    async def astream(self) -> AsyncIterator[Any]:
        async for chunk in await self._async_client().chat.completions.create(stream=True, **self._request):
            yield chunk

    def text(self, chunk: Any) -> str:
        if not chunk.choices:
            return ""
        delta = chunk.choices[0].delta
        return str(delta.tool_calls[0].function.arguments if delta.tool_calls else delta.content or "")

    async def aclose(self) -> None:
        if self._async is not None:
            await self._async.close()


class SdkOnAiohttp(Sdk):
    """The SDK on the transport that ChatKluster's async side uses: tells the adapter's share from the transport's."""

    name = "SDK, aiohttp"
    modules = ("openai", "aiohttp")
    sync = False

    def _async_client(self) -> Any:
        if self._async is None:
            http = self._openai.DefaultAioHttpClient()
            self._async = self._openai.AsyncOpenAI(http_client=http, **self._options)
        return self._async


class _LangChain(Client):
    handles = True

    def __init__(self, base_url: str, **options: Any) -> None:
        super().__init__(base_url, **options)
        self.settings: dict[str, Any] = {
            "model": MODEL,
            "api_key": _KEY,
            "base_url": base_url,
            "temperature": 0,
            "max_retries": 0,
            "timeout": _TIMEOUT,
        }
        self._model = self.make()
        self._runnable: Any = self._model.bind_tools(TOOLS) if self.tools else self._model
        self._input = [(m["role"], m["content"]) for m in MESSAGES]
        self._config: Any = None
        self._async_config: Any = None
        if self.handler:
            from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler

            self._config = {"callbacks": [BaseCallbackHandler()]}
            self._async_config = {"callbacks": [AsyncCallbackHandler()]}

    @abstractmethod
    def make(self) -> Any:
        """Return the chat model."""

    @staticmethod
    def _answer(message: Any) -> str:
        return str(message.content or json.dumps(message.tool_calls[0]["args"]))

    def call(self) -> str:
        return self._answer(self._runnable.invoke(self._input, self._config))

    async def acall(self) -> str:
        return self._answer(await self._runnable.ainvoke(self._input, self._async_config))

    def stream(self) -> Iterator[Any]:
        return self._runnable.stream(self._input, self._config)  # type: ignore[no-any-return]

    def astream(self) -> AsyncIterator[Any]:
        return self._runnable.astream(self._input, self._async_config)  # type: ignore[no-any-return]

    def text(self, chunk: Any) -> str:
        calls = chunk.tool_call_chunks
        return str((calls[0]["args"] or "") if calls else chunk.content)


class ChatOpenAI(_LangChain):
    """langchain-openai's model with another base URL, which is what people use without this package."""

    name = "ChatOpenAI"
    modules = ("langchain_openai",)

    def make(self) -> Any:
        import langchain_openai

        # ChatKluster has no watch over the time between chunks, so it is off here: on, it costs 45 µs a chunk.
        return langchain_openai.ChatOpenAI(**self.settings, stream_chunk_timeout=None)

    async def aclose(self) -> None:
        await self._model.root_async_client.close()


class Kluster(_LangChain):
    """This package."""

    name = "ChatKluster"
    modules = ("langchain_core", "kluster_integrations.langchain")

    def make(self) -> Any:
        from kluster_integrations.langchain import ChatKluster

        return ChatKluster(**self.settings)

    async def aclose(self) -> None:
        await self._model.aclose()


CANDIDATES: tuple[type[Client], ...] = (RawHttpx, RawAiohttp, Sdk, SdkOnAiohttp, ChatOpenAI, Kluster)
