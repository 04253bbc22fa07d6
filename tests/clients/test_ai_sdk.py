"""Vercel's AI SDK with the module that is written for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kluster_integrations import catalog
from kluster_integrations.emulator import Emulator
from tests.litellm.proxy_server import MASTER_KEY

from .conftest import KEY, LLAMA, QWEN, R1, Node, bodies, export


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_straight(node: Node, emulator: Emulator, tmp_path: Path, model: str) -> None:
    export("ai-sdk", "--output", tmp_path / "kluster.mjs", "--base-url", emulator.base_url)
    tools = catalog.get(model).supports_tools
    rows = node("ai_sdk.mjs", model, "tools" if tools else "", KLUSTER_API_KEY=KEY)
    found = {row["kind"]: row["answer"] for row in rows}

    assert "What is breakfast?" in found["text"]
    assert "Stream!" in found["stream"]
    assert found["object"] == {"name": "Lisbon", "country": "Portugal"}
    assert "Sunny in Lisbon" in found["tools"] if tools else "tools" not in found
    assert bodies(emulator)[0]["max_completion_tokens"] == 200


def test_through_the_proxy_also_tools_on_models_without_them(
    node: Node, proxy: tuple[str, Emulator], tmp_path: Path
) -> None:
    url, _ = proxy
    export("ai-sdk", "--output", tmp_path / "kluster.mjs", "--base-url", url, "--proxy")
    found = {row["kind"]: row["answer"] for row in node("ai_sdk.mjs", R1, "tools", LITELLM_MASTER_KEY=MASTER_KEY)}

    assert "What is breakfast?" in found["text"]
    assert "Stream!" in found["stream"]
    assert found["object"] == {"name": "Lisbon", "country": "Portugal"}
    assert "Sunny in Lisbon" in found["tools"]


def test_the_default_model(node: Node, emulator: Emulator, tmp_path: Path) -> None:
    export("ai-sdk", "--output", tmp_path / "kluster.mjs", "--base-url", emulator.base_url)
    node("ai_sdk.mjs", KLUSTER_API_KEY=KEY)
    assert {body["model"] for body in bodies(emulator)} == {LLAMA}


@pytest.mark.parametrize("model", [R1, QWEN], ids=["r1", "qwen3"])
def test_responses_of_models_that_think(node: Node, proxy: tuple[str, Emulator], model: str) -> None:
    """What elizaOS' plugin asks, in the newest AI SDK: text, reasoning, objects and tools, whole and streamed."""
    url, _ = proxy
    rows = node("ai_sdk.mjs", model, "tools", "responses", LITELLM_MASTER_KEY=MASTER_KEY, BASE_URL=url)
    found = {row["kind"]: row.get("answer") for row in rows}

    assert "What is breakfast?" in found["text"]
    assert "Stream!" in found["stream"]
    assert found["object"] == found["streamedObject"] == {"name": "Lisbon", "country": "Portugal"}
    assert found["reasoning"] == 'No reply is stated to "What is breakfast?".'
    assert found["streamedReasoning"] == 'No reply is stated to "Stream!".'
    assert "Sunny in Lisbon" in found["tools"]
