"""The frameworks without telemetry and downloads, pointed to the emulator by the environment, as a user's are."""

from __future__ import annotations

from pathlib import Path

import pytest

from kluster_integrations.emulator import Emulator


@pytest.fixture
def kluster(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Emulator:
    monkeypatch.setenv("KLUSTER_API_KEY", "test-key")
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    return emulator
