"""An answer ends in time and in bytes through LiteLLM, too."""

from __future__ import annotations

from typing import Any

import litellm
import pytest

from kluster_integrations.litellm import register
from tests.raw_server import RawServer
from tests.test_bounds import ENDLESS, Endless
from tests.ways import LLAMA, config

CALL: dict[str, Any] = {"model": f"kluster/{LLAMA}", "messages": [{"role": "user", "content": "hi"}]}


def test_a_call_has_a_total_timeout() -> None:
    with Endless(*ENDLESS["JSON, bytewise"]) as server:
        register(config(server))
        with pytest.raises(litellm.Timeout, match="total_timeout"):
            litellm.completion(**CALL, total_timeout=0.2)


def test_the_configuration_bounds_the_bytes(server: RawServer) -> None:
    register(config(server, max_response_bytes=9))
    with pytest.raises(litellm.InternalServerError, match="max_response_bytes=9"):
        litellm.completion(**CALL)
