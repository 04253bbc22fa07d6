"""What the tests of the LangChain adapter share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessageChunk
from langchain_core.tools import tool

from kluster_integrations.emulator import Emulator
from kluster_integrations.langchain import ChatKluster

from ..raw_server import RawServer

KEY = "kk-secret-key"
LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
MAGISTRAL = "mistralai/Magistral-Small-2506"
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"
GEMMA = "google/gemma-3-27b-it"
R1 = "deepseek-ai/DeepSeek-R1"
R1_0528 = "deepseek-ai/DeepSeek-R1-0528"


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"Sunny in {city}"


@tool
def get_time(city: str) -> str:
    """Get the time of day in a city."""
    return f"12:30 in {city}"


def version_of(package: str) -> tuple[int, ...]:
    """Return the installed version, such as `(1, 7, 2)`."""
    return tuple(int(number) for number in version(package).split(".")[:3])


CORE = version_of("langchain-core")


def since(*first: int, what: str) -> pytest.MarkDecorator:
    """Skip a test of what older versions of langchain-core do not have."""
    return pytest.mark.skipif(first > CORE, reason=f"{what}: langchain-core {'.'.join(map(str, first))}")


def model_of(server: Emulator | RawServer, model: str = LLAMA, **fields: Any) -> ChatKluster:
    """Return a model that asks this server."""
    return ChatKluster(**{"model": model, "api_key": KEY, "base_url": server.base_url, "max_retries": 0, **fields})


@pytest.fixture
def chat(emulator: Emulator) -> Callable[..., ChatKluster]:
    """Make models that ask the emulator: `chat(model, **fields)`."""
    return partial(model_of, emulator)


def merged(chunks: Iterator[Any]) -> AIMessageChunk:
    """Return the sum of chunks."""
    first, *rest = chunks
    for chunk in rest:
        first = first + chunk
    assert isinstance(first, AIMessageChunk)
    return first


async def amerged(chunks: AsyncIterator[Any]) -> AIMessageChunk:
    """Return the sum of chunks."""
    return merged(iter([chunk async for chunk in chunks]))


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
