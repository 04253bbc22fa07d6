from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from kluster_integrations.emulator import Emulator

from .conftest import KEY, LLAMA, QWEN, Run, command, environment

Start = Callable[..., str]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `kluster emulator …` in a process, and return what it prints; at the end Ctrl-C stops it."""
    processes: list[subprocess.Popen[str]] = []

    def run(*args: str) -> str:
        process = subprocess.Popen(
            command("emulator", "--port", "0", *args),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        processes.append(process)
        assert process.stdout is not None
        return "".join(process.stdout.readline() for _ in range(3))

    yield run
    for process in processes:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, "")


def _ask(said: str, model: str = LLAMA, key: str = "any", **fields: Any) -> httpx.Response:
    found = re.search(r"KLUSTER_BASE_URL=(\S+)", said)
    assert found
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{found[1]}/chat/completions", json=body, headers=headers, trust_env=False)


def test_says_where_it_is_in_words_a_shell_can_read(start: Start) -> None:
    said = start()
    assert said.startswith("# A local emulator, not kluster.ai")
    shell = f'{said}echo "$KLUSTER_BASE_URL $KLUSTER_API_KEY"'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1 emulator\n", done.stdout)
    assert _ask(said).status_code == 200
    assert _ask(said, n=1).status_code == 400


def test_lenient_in_the_other_shape(start: Start) -> None:
    said = start("--lenient", "--shape", "sglang", "--reasoning", "think")
    answer = _ask(said, QWEN, n=1).json()
    assert "matched_stop" in answer["choices"][0]
    assert answer["choices"][0]["message"]["content"].startswith("<think>")


def test_keys_and_plan(start: Start) -> None:
    said = start("--api-key", KEY, "--plan", "trial", "--usage-in-stream")
    assert KEY not in said
    assert _ask(said, key="another").status_code == 401
    assert _ask(said, key=KEY, max_completion_tokens=5_000).status_code == 400
    assert '"usage":{' in _ask(said, key=KEY, stream=True).text


def test_upstream_writes_the_text(start: Start, emulator: Emulator) -> None:
    said = start("--upstream", emulator.base_url, "--upstream-model", LLAMA)
    # The strict emulator refuses what other servers take, which shows that it was asked.
    assert emulator.base_url in said
    assert _ask(said).status_code == 502
    assert emulator.requests


def test_a_taken_port_is_an_error(kluster: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = kluster("emulator", "--port", str(taken.getsockname()[1]))
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert "cannot listen on 127.0.0.1" in error
    assert hint == "Hint: --port 0 takes any free port."
