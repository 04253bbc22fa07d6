"""What the tests of this folder ask: models, messages, tools; and the four ways to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import litellm

__all__ = ["ASK", "EMBED", "LLAMA", "NEMO", "R1", "SCOUT", "WAYS", "WEATHER", "bodies", "stream", "weather_tool"]

LLAMA = "kluster/klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"  # native tools
NEMO = "kluster/mistralai/Mistral-Nemo-Instruct-2407"  # tools through the prompt
R1 = "kluster/deepseek-ai/DeepSeek-R1-0528"  # thinks
SCOUT = "kluster/meta-llama/Llama-4-Scout-17B-16E-Instruct"  # sees
EMBED = "kluster/BAAI/bge-m3"

ASK = [{"role": "user", "content": "What is the ultimate breakfast sandwich?"}]
WEATHER = [{"role": "user", "content": "What is the weather in Boston?"}]


def weather_tool(**extra: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], **extra}
    return {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": parameters}}


def stream(**call: Any) -> list[Any]:
    return list(litellm.completion(stream=True, **call))


def _astream(**call: Any) -> list[Any]:
    async def collect() -> list[Any]:
        return [chunk async for chunk in await litellm.acompletion(stream=True, **call)]

    return asyncio.run(collect())


WAYS: dict[str, Callable[..., Any]] = {
    "completion": litellm.completion,
    "acompletion": lambda **call: asyncio.run(litellm.acompletion(**call)),
    "stream": lambda **call: litellm.stream_chunk_builder(stream(**call), messages=call["messages"]),
    "astream": lambda **call: litellm.stream_chunk_builder(_astream(**call), messages=call["messages"]),
}
"""Each returns a whole answer."""


def bodies(server: Any) -> list[dict[str, Any]]:
    """Return the bodies of the requests so far."""
    return [request.body for request in server.requests]
