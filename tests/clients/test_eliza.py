"""elizaOS's own plugin, in its own runtime, with the `.env` that is written for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kluster_integrations.emulator import Emulator
from tests.litellm.proxy_server import MASTER_KEY

from .conftest import GEMMA, KEY, LLAMA, SMALL, SQUARE, Node, bodies, export


def answers(node: Node, folder: Path, url: str, key: str, *options: str) -> dict[str, Any]:
    env = folder / ".env"
    export("eliza", "--output", env, "--base-url", url, *options)
    text = env.read_text("utf-8")
    env.write_text("".join(f"OPENAI_API_KEY={key}\n" if "API_KEY=" in line else line for line in text.splitlines(True)))
    return {row["kind"]: row for row in node("eliza.mjs", SQUARE=SQUARE, LOG_LEVEL="fatal")}


def test_through_the_proxy_all_of_it_works(node: Node, proxy: tuple[str, Emulator], tmp_path: Path) -> None:
    url, server = proxy
    found = answers(node, tmp_path, url, MASTER_KEY, "--proxy")

    assert "small breakfast" in found["TEXT_SMALL"]["answer"]
    assert "large breakfast" in found["TEXT_LARGE"]["answer"]
    assert isinstance(found["OBJECT_SMALL"]["answer"], dict)
    assert len(found["TEXT_EMBEDDING"]["answer"]) == 1024
    assert any(found["TEXT_EMBEDDING"]["answer"])
    assert "[image/png]" in str(found["IMAGE_DESCRIPTION"]["answer"])
    assert "Stream!" in found["STREAM"]["answer"]
    assert [body["model"] for body in bodies(server)] == [SMALL, LLAMA, SMALL, GEMMA, SMALL]


def test_straight_there_is_no_text(node: Node, emulator: Emulator, tmp_path: Path) -> None:
    """What the head of the file says; once this fails, the proxy is needed no more."""
    found = answers(node, tmp_path, emulator.base_url, KEY)

    assert "/v1/responses" in found["TEXT_SMALL"]["error"]
    assert len(found["TEXT_EMBEDDING"]["answer"]) == 1024
    assert "400" in str(found["IMAGE_DESCRIPTION"]["answer"])  # max_tokens


def test_a_lenient_server_describes_images(node: Node, lenient: Emulator, tmp_path: Path) -> None:
    found = answers(node, tmp_path, lenient.base_url, KEY)

    assert "[image/png]" in str(found["IMAGE_DESCRIPTION"]["answer"])
    [body] = bodies(lenient)
    assert body["max_tokens"] == 8_192
