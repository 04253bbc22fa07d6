"""Semantic Kernel and Strands through `kluster gateway`; tests/gateway/test_python_clients.py has the others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.emulator import Emulator

from .conftest import CLIENTS, R1, SMALL, bodies, need, rows, run


@pytest.mark.parametrize("model", [SMALL, R1], ids=["llama", "r1"])
def test_through_the_gateway(gateway: tuple[str, Emulator], tmp_path: Path, model: str) -> None:
    url, server = gateway
    python = need(CLIENTS / "openai2" / "bin" / "python")
    shutil.copy(Path(__file__).with_name("openai2_clients.py"), tmp_path)
    found: dict[str, dict[str, Any]] = {}
    for row in rows(run([python, "openai2_clients.py", model], cwd=tmp_path, env={"BASE_URL": url})):
        found.setdefault(row["client"], {})[row["kind"]] = row["answer"]

    assert set(found) == {"semantic-kernel", "strands", "strands responses"}
    for answers in found.values():
        assert answers["text"] == "Echo: What is breakfast?"
        assert answers["stream"] == "Echo: Stream!"
        assert answers["usage"] > 0
        assert "Sunny in Lisbon" in answers["tools"]
        assert answers.get("streamed tools", answers["tools"]) == answers["tools"]
        assert answers["object"] == {"name": "Lisbon", "country": "Portugal"}
        assert bool(answers.get("reasoning")) == (model == R1 and "reasoning" in answers)
    assert found["strands"].keys() == found["strands responses"].keys() >= {"reasoning"}
    assert {request.status for request in server.requests} == {200}
    assert {body["model"] for body in bodies(server)} == {model}
