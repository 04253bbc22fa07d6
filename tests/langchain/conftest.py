"""What the tests of the LangChain adapter share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

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


def chat(server: Emulator | RawServer, model: str = LLAMA, **fields: Any) -> ChatKluster:
    """Return a model that asks this server."""
    return ChatKluster(**{"model": model, "api_key": KEY, "base_url": server.base_url, "max_retries": 0, **fields})


@pytest.fixture
def raw() -> Iterator[RawServer]:
    """A server that sends what the test says, byte by byte."""
    with RawServer() as running:
        yield running
