"""Crews on a strict emulator. Without CrewAI the modules here skip themselves, and there are no fixtures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("crewai"):
    from .fixtures import _answering, emulator, events, llm, native, no_other_host, own_storage

    __all__ = ["_answering", "emulator", "events", "llm", "native", "no_other_host", "own_storage"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:  # CrewAI warns of its own deprecated fields at every kickoff
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai"))
