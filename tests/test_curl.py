"""The scripts of examples/curl, with the real curl, for every model."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.emulator import Emulator

CURL = Path(__file__).parent.parent / "examples" / "curl"
KEY = "kk-secret-key-of-the-curl-tests"
CHAT = [spec for spec in catalog.all_models() if spec.purpose == "chat" and spec.status == "current"]
GEMMA = "google/gemma-3-27b-it"
PIXELS = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
REAL = shutil.which("curl")


@pytest.fixture(autouse=True)
def _curl_is_there() -> None:
    if REAL is None or shutil.which("bash") is None:
        reason = "there is no curl or no bash"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def run(name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CURL / name), *arguments],
        env={**os.environ, "KLUSTER_API_KEY": KEY, **env},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def text_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    message: dict[str, Any] = json.loads(done.stdout)["choices"][0]["message"]
    return str(message["content"])


@pytest.mark.parametrize("model", [spec.id for spec in CHAT])
def test_chat(emulator: Emulator, model: str) -> None:
    assert "breakfast sandwich" in text_of(run("chat.sh", model, KLUSTER_BASE_URL=emulator.base_url))
    [request] = emulator.requests
    assert request.body["model"] == model


@pytest.mark.parametrize("model", [spec.id for spec in CHAT])
def test_stream(emulator: Emulator, model: str) -> None:
    done = run("stream.sh", model, "Why is the sky blue?", KLUSTER_BASE_URL=emulator.base_url)
    lines = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
    assert lines.pop() == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    assert "sky blue" in "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize("model", [spec.id for spec in CHAT if spec.supports_vision])
def test_image(emulator: Emulator, model: str, tmp_path: Path) -> None:
    path = tmp_path / "a square.png"
    path.write_bytes(base64.b64decode(PIXELS))
    for arguments in ([], [str(path)]):
        answer = text_of(run("image.sh", model, *arguments, KLUSTER_BASE_URL=emulator.base_url))
        assert answer == "Echo: What is in this image?\n[image/png]"
        assert PIXELS in str(emulator.requests[-1].body)
    run("image.sh", model, "https://example.com/a.png", KLUSTER_BASE_URL=emulator.base_url)
    part = emulator.requests[-1].body["messages"][0]["content"][1]
    assert part == {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def test_a_large_image(emulator: Emulator, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(base64.b64decode(PIXELS) + bytes(2_000_000))  # more than an argument of a command may have
    assert "image/png" in text_of(run("image.sh", GEMMA, str(path), KLUSTER_BASE_URL=emulator.base_url))


def test_a_file_that_is_not_there(emulator: Emulator) -> None:
    done = run("image.sh", GEMMA, "no-such-file.png", KLUSTER_BASE_URL=emulator.base_url)
    assert done.returncode != 0
    assert "no-such-file.png" in done.stderr
    assert emulator.requests == []


def test_any_question_arrives_as_it_is(emulator: Emulator) -> None:
    question = 'a "quote", a \\backslash\\, a tab\t, two\nlines, $(id) `id` and Grüße'
    text_of(run("chat.sh", GEMMA, question, KLUSTER_BASE_URL=emulator.base_url))
    assert emulator.requests[0].body["messages"] == [{"role": "user", "content": question}]


def test_the_key_is_in_no_argument(emulator: Emulator, tmp_path: Path) -> None:
    shim = tmp_path / "curl"
    shim.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/arguments"\nexec "{REAL}" "$@"\n')
    shim.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    text_of(run("chat.sh", GEMMA, KLUSTER_BASE_URL=emulator.base_url, PATH=path))
    arguments = (tmp_path / "arguments").read_text()
    assert emulator.base_url in arguments
    assert KEY not in arguments


def test_an_error_is_shown_and_fails(emulator: Emulator) -> None:
    done = run("chat.sh", "no/such-model", KLUSTER_BASE_URL=emulator.base_url)
    assert done.returncode == 22
    assert json.loads(done.stdout)["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ([], {}, "Usage: "),
        ([GEMMA], {"KLUSTER_API_KEY": ""}, "KLUSTER_API_KEY is not set"),
        ([GEMMA], {"KLUSTER_BASE_URL": "http://example.com/v1"}, "unencrypted"),
        ([GEMMA], {"KLUSTER_BASE_URL": "http://127.0.0.1.example.com/v1"}, "unencrypted"),
    ],
)
@pytest.mark.parametrize("name", ["chat.sh", "stream.sh", "image.sh"])
def test_refusals(name: str, arguments: list[str], env: dict[str, str], said: str) -> None:
    done = run(name, *arguments, **{"KLUSTER_BASE_URL": "https://127.0.0.1:9/v1", **env})
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert KEY not in done.stderr


def test_every_script_is_tested() -> None:
    assert {path.name for path in CURL.iterdir()} == {"_common.sh", "chat.sh", "stream.sh", "image.sh"}
