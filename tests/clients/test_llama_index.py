"""LlamaIndex with the module that is written for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.emulator import Emulator
from tests.litellm.proxy_server import MASTER_KEY

from .conftest import CLIENTS, KEY, LLAMA, R1, bodies, export, need, run


def answers(folder: Path, model: str, *, tools: bool, **env: str) -> dict[str, Any]:
    python = need(CLIENTS / "openai2" / "bin" / "python")
    shutil.copy(Path(__file__).with_name("llama_index.py"), folder / "ask.py")
    return dict(json.loads(run([python, "ask.py", model, "tools" if tools else ""], cwd=folder, env=env)))


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_straight(emulator: Emulator, tmp_path: Path, model: str) -> None:
    export("llama-index", "--output", tmp_path / "kluster_models.py", "--base-url", emulator.base_url)
    tools = catalog.get(model).supports_tools
    found = answers(tmp_path, model, tools=tools, KLUSTER_API_KEY=KEY)

    assert "What is breakfast?" in found["chat"]
    assert "What is breakfast?" in found["stream"]
    if tools:
        assert found["object"] == {"name": "Lisbon", "country": "Portugal"}
        assert "Sunny in Lisbon" in found["tools"]
    assert {body["max_completion_tokens"] for body in bodies(emulator)} == {200}


def test_through_the_proxy_tools_on_models_without_them(proxy: tuple[str, Emulator], tmp_path: Path) -> None:
    url, _ = proxy
    export("llama-index", "--output", tmp_path / "kluster_models.py", "--base-url", url, "--proxy")
    found = answers(tmp_path, R1, tools=True, LITELLM_MASTER_KEY=MASTER_KEY)

    assert found["object"] == {"name": "Lisbon", "country": "Portugal"}
    assert "Sunny in Lisbon" in found["tools"]
