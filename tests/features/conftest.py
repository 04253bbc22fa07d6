"""The frameworks without telemetry and downloads, pointed to the emulator by the environment, as a user's are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kluster_integrations.emulator import Emulator

os.environ |= {  # read when they are imported
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


@pytest.fixture
def kluster(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Emulator:
    monkeypatch.setenv("KLUSTER_API_KEY", "test-key")
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    return emulator
