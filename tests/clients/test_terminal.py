"""The programs of the terminal, with the files that are written for them: `llm`, aider, Continue's `cn`, opencode."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest

from kluster_integrations.emulator import Emulator
from tests.litellm.proxy_server import MASTER_KEY

from .conftest import CLIENTS, GEMMA, KEY, LLAMA, R1, SQUARE, bodies, export, need, run

LLM = Path(sys.executable).with_name("llm")
AIDER = CLIENTS / "aider" / "bin" / "aider"
CN = CLIENTS / "node" / "node_modules" / ".bin" / "cn"
OPENCODE = CLIENTS / "node" / "node_modules" / ".bin" / "opencode"


def llm(folder: Path, url: str, name: str, key: str, *options: str) -> Llm:
    export("llm", "--output", folder / "extra-openai-models.yaml", "--base-url", url, *options)
    run([need(LLM), "keys", "set", name], cwd=folder, env={"LLM_USER_PATH": str(folder)}, stdin=f"{key}\n")
    return Llm(folder)


class Llm:
    """The command `llm`, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *words: str) -> str:
        return run([LLM, *words], cwd=self._folder, env={"LLM_USER_PATH": str(self._folder)})


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_llm(emulator: Emulator, tmp_path: Path, model: str) -> None:
    ask = llm(tmp_path, emulator.base_url, "kluster", KEY)

    assert "breakfast" in ask("-m", model, "-s", "You are a cook.", "-o", "temperature", "0.2", "What is breakfast?")
    assert "lunch" in ask("-m", model, "-c", "And lunch?")
    assert [body["stream"] for body in bodies(emulator)] == [False, False]


def test_llm_tools_and_images(emulator: Emulator, tmp_path: Path) -> None:
    ask = llm(tmp_path, emulator.base_url, "kluster", KEY)
    (tmp_path / "square.png").write_bytes(base64.b64decode(SQUARE))

    assert "This is what the tools have said" in ask("-m", LLAMA, "-T", "llm_version", "Which version of llm is this?")
    assert "[image/png]" in ask("-m", GEMMA, "-a", "square.png", "What is this?")


def test_llm_through_the_proxy_has_all_of_it(proxy: tuple[str, Emulator], tmp_path: Path) -> None:
    url, server = proxy
    ask = llm(tmp_path, url, "kluster-proxy", MASTER_KEY, "--proxy")

    assert "breakfast" in ask("-m", R1, "-o", "max_tokens", "200", "What is breakfast?")
    found = ask("-m", R1, "--schema", "name,country", "name: Lisbon, country: Portugal")
    assert json.loads(found) == {"name": "Lisbon", "country": "Portugal"}
    assert "This is what the tools have said" in ask("-m", R1, "-T", "llm_version", "Which version of llm is this?")
    assert bodies(server)[0]["stream"] is True


@pytest.mark.parametrize("proxied", [False, True])
def test_aider(emulator: Emulator, proxy: tuple[str, Emulator], tmp_path: Path, proxied: bool) -> None:
    url, server = proxy if proxied else (emulator.base_url, emulator)
    options = ["--proxy"] if proxied else []
    export("aider", "--output", tmp_path / ".aider.conf.yml", "--base-url", url, *options)
    words = ["--yes-always", "--no-git", "--no-pretty", "--no-check-update", "--message", "Say breakfast."]
    env = {"OPENAI_API_KEY": MASTER_KEY if proxied else KEY, "AIDER_ANALYTICS": "false"}

    assert "Say breakfast" in run([need(AIDER), *words], cwd=tmp_path, env=env)
    assert {body["model"] for body in bodies(server)} == {LLAMA}


def continue_answer(folder: Path, env: dict[str, str]) -> str:
    return run([need(CN), "--config", "config.yaml", "-p", "Say breakfast."], cwd=folder, env=env)


def test_continue(lenient: Emulator, tmp_path: Path) -> None:
    export("continue", "--output", tmp_path / "config.yaml", "--base-url", lenient.base_url, "--models", LLAMA)

    assert "Say breakfast" in continue_answer(tmp_path, {"KLUSTER_API_KEY": KEY})
    assert bodies(lenient)[0]["stream_options"] == {"include_usage": True}  # what its file says of it


def test_continue_through_the_proxy(proxy: tuple[str, Emulator], tmp_path: Path) -> None:
    url, server = proxy
    export("continue", "--output", tmp_path / "config.yaml", "--base-url", url, "--proxy", "--models", LLAMA)

    assert "Say breakfast" in continue_answer(tmp_path, {"LITELLM_MASTER_KEY": MASTER_KEY})
    assert bodies(server)[0]["model"] == LLAMA


def test_opencode(lenient: Emulator, tmp_path: Path) -> None:
    export("opencode", "--output", tmp_path / "opencode.jsonc", "--base-url", lenient.base_url)
    out = run([need(OPENCODE), "run", "Hello there"], cwd=tmp_path, env={"KLUSTER_API_KEY": KEY})

    assert "Hello there" in out
    assert all("stream_options" not in body for body in bodies(lenient))
    assert bodies(lenient)[-1]["max_tokens"]  # what its file says of it


def test_opencode_through_the_proxy(proxy: tuple[str, Emulator], tmp_path: Path) -> None:
    url, server = proxy
    export("opencode", "--output", tmp_path / "opencode.jsonc", "--base-url", url, "--proxy")

    assert "Hello there" in run(
        [need(OPENCODE), "run", "Hello there"], cwd=tmp_path, env={"LITELLM_MASTER_KEY": MASTER_KEY}
    )
    assert LLAMA in {body["model"] for body in bodies(server)}


def test_llm_without_its_key_sends_openais(tmp_path: Path) -> None:
    """What the head of its file warns of."""
    with Emulator(api_keys=["another-companys-key"]) as server:
        export("llm", "--output", tmp_path / "extra-openai-models.yaml", "--base-url", server.base_url)
        env = {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "another-companys-key"}
        assert "breakfast" in run([need(LLM), "-m", LLAMA, "What is breakfast?"], cwd=tmp_path, env=env)
