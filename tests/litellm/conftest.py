"""LiteLLM with the provider installed, pointed to the emulator."""

from __future__ import annotations

import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator
from kluster_integrations.litellm import _versions

VERSION = _versions.installed()
if VERSION is None or _versions.problem(VERSION):  # with openai 3.x there is none that works
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _without_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    import litellm

    monkeypatch.setattr(litellm, "suppress_debug_info", True)


@pytest.fixture
def kluster(emulator: Emulator) -> Emulator:
    """A strict emulator that `kluster/…` goes to."""
    from kluster_integrations.litellm import register

    register(KlusterConfig(api_key="test-key", base_url=emulator.base_url, max_retries=0))
    return emulator
