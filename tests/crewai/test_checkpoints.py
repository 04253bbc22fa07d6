"""A crew with an embedder is written into a checkpoint, and goes on from it, also in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Crew
from crewai.rag.embeddings.factory import build_embedder
from crewai.state.checkpoint_config import CheckpointConfig

from kluster_integrations.crewai import kluster_embedder, kluster_llm
from kluster_integrations.emulator import Emulator

from .crews import KEY, LLAMA, hello

RESTORE = """
import sys
import kluster_integrations.crewai
from crewai import Crew
from crewai.rag.embeddings.factory import build_embedder
from crewai.state.checkpoint_config import CheckpointConfig
crew = Crew.from_checkpoint(CheckpointConfig(restore_from=sys.argv[1]))
print(len(build_embedder(crew.embedder)(["Hello"])[0]), crew.kickoff().raw)
"""


@pytest.fixture
def environment(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)


def write(folder: Path, **embedder: Any) -> Path:
    """Run a crew, and return its checkpoint; with memory CrewAI 1.15.30 can write none, whatever the LLM."""
    config = CheckpointConfig(location=str(folder), on_events=["task_completed"])
    hello(kluster_llm(LLAMA), crew={"embedder": kluster_embedder(**embedder), "checkpoint": config}).kickoff()
    (written,) = folder.rglob("*.json")
    assert KEY not in written.read_text()
    return written


def test_a_crew_goes_on(environment: None, tmp_path: Path, emulator: Emulator) -> None:
    written = write(tmp_path / "points", default_headers={"x-team": "red"})

    crew: Any = Crew.from_checkpoint(CheckpointConfig(restore_from=str(written)))
    build_embedder(crew.embedder)(["Hello"])
    assert emulator.requests[-1].headers["x-team"] == "red"
    assert crew.kickoff().raw


def test_in_another_process(environment: None, tmp_path: Path, emulator: Emulator) -> None:
    written = write(tmp_path / "points", chunk_size=2)
    command = [sys.executable, "-c", RESTORE, str(written)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})

    assert "1024 " in done.stdout, done.stderr


def test_another_text2vec_is_crewais_own() -> None:
    with pytest.raises(ValueError, match="text2vec python package is not installed"):
        build_embedder({"provider": "text2vec", "config": {}})
