"""Replaying without a network, and without traces in the frameworks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_socket


@pytest.fixture(autouse=True)
def frameworks_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    yield
    if litellm := sys.modules.get("litellm"):
        litellm.custom_provider_map = []


@pytest.fixture
def no_network() -> Iterator[None]:
    """Let nothing be connected; the pair of sockets inside an event loop is of another family."""
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()
