"""LiteLLM with the provider installed, pointed to the emulator, and put back as it was."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator

import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator
from kluster_integrations.litellm import _versions

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
VERSION = _versions.installed()
if VERSION is None or _versions.problem(VERSION):  # with openai 3.x there is none that works
    collect_ignore_glob = ["test_*.py"]

_LISTS = ("success_callback", "failure_callback", "input_callback")
_KEPT = ("custom_provider_map", "callbacks", "drop_params", *_LISTS, *(f"_async_{name}" for name in _LISTS))


@pytest.fixture(autouse=True)
def _litellm_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import litellm

    before = {name: copy.copy(getattr(litellm, name)) for name in _KEPT}
    prices = dict(litellm.model_cost)
    monkeypatch.setattr(litellm, "suppress_debug_info", True)
    yield
    for name, value in before.items():
        setattr(litellm, name, value)
    litellm.model_cost.clear()
    litellm.model_cost.update(prices)


@pytest.fixture
def kluster(emulator: Emulator) -> Emulator:
    """A strict emulator that `kluster/…` goes to."""
    from kluster_integrations.litellm import register

    register(KlusterConfig(api_key="test-key", base_url=emulator.base_url, max_retries=0))
    return emulator
