"""A gateway in front of the strict emulator, and the real SDKs of OpenAI and Anthropic in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from kluster_integrations import KlusterConfig
from kluster_integrations.emulator import Emulator
from kluster_integrations.gateway import Gateway

KEY = "kk-secret-key-of-the-gateway"
LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1-0528"
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
GEMMA = "google/gemma-3-27b-it"
MODELS = [LLAMA, R1, QWEN, GEMMA]
THINKERS = {R1, QWEN}
SQUARE = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PARIS = "What is the weather in Paris?"
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "country": {"type": "string"}},
    "required": ["name", "country"],
    "additionalProperties": False,
}
LISBON = "name: Lisbon, country: Portugal"


def user(text: object) -> list[Any]:
    return [{"role": "user", "content": text}]


def settings(emulator: Emulator, **more: Any) -> KlusterConfig:
    return KlusterConfig(**{"api_key": KEY, "base_url": emulator.base_url, "max_retries": 0, **more})


def bodies(emulator: Emulator) -> list[dict[str, Any]]:
    """Return what the service was sent."""
    return [request.body for request in emulator.requests if isinstance(request.body, dict)]


@pytest.fixture(scope="session")
def _gateway(_shared_emulator: Emulator) -> Iterator[Gateway]:
    with Gateway(settings(_shared_emulator)) as server:
        yield server


@pytest.fixture
def gateway(_gateway: Gateway, emulator: Emulator) -> Gateway:
    """A gateway with default settings, shared by all tests that change nothing of it."""
    return _gateway


Serve = Callable[..., Gateway]


@pytest.fixture
def serve(emulator: Emulator) -> Iterator[Serve]:
    """Start gateways with any settings; they stop after the test."""
    running: list[Gateway] = []

    def start(config: KlusterConfig | None = None, **options: Any) -> Gateway:
        running.append(Gateway(config or settings(emulator), **{"grace": 1, **options}).start())
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key="any") as made:
        yield made


@pytest.fixture
def claude(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.base_url.removesuffix("/v1"), api_key="any") as made:
        yield made


@pytest.fixture
def http(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.base_url, trust_env=False, timeout=20) as made:
        yield made
