from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kluster_integrations.emulator import Emulator

from .conftest import KEY, LLAMA, QWEN, Run, command, environment


class Start:
    """Starts `kluster emulator …` in a process, and returns what it announces."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []

    def __call__(self, *args: str, cwd: Path | None = None, announced: str = "stdout") -> str:
        process = subprocess.Popen(
            command("emulator", "--port", "0", *args),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=cwd,
        )
        self.processes.append(process)
        stream: Any = getattr(process, announced)
        return "".join(stream.readline() for _ in range(3))

    def lines(self, number: int) -> list[str]:
        """What the last process prints next."""
        stdout: Any = self.processes[-1].stdout
        return [stdout.readline() for _ in range(number)]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `kluster emulator …`; at the end Ctrl-C stops it."""
    run = Start()
    yield run
    for process in run.processes:
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
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1 any-key\n", done.stdout)
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
    assert "\nexport KLUSTER_API_KEY=...    # a key that you gave with --api-key\n" in said
    assert _ask(said, key="another").status_code == 401
    assert _ask(said, key=KEY, max_completion_tokens=5_000).status_code == 400
    assert '"usage":{' in _ask(said, key=KEY, stream=True).text


def test_upstream_writes_the_text(start: Start, emulator: Emulator) -> None:
    said = start("--upstream", emulator.base_url, "--upstream-model", LLAMA)
    # The strict emulator refuses what other servers take, which shows that it was asked.
    assert emulator.base_url in said
    assert _ask(said).status_code == 502
    assert emulator.requests


def test_replies_of_a_file_and_a_line_per_request(start: Start, tmp_path: Path) -> None:
    (tmp_path / "replies.yaml").write_text("- text: Stated.\n", encoding="utf-8")
    said = start("--replies", str(tmp_path / "replies.yaml"), "--log")
    assert "replies.yaml" in said
    assert _ask(said).json()["choices"][0]["message"]["content"] == "Stated."
    assert _ask(said, n=1, key=KEY).status_code == 400
    line, refused = start.lines(2)
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d  POST /v1/chat/completions  200  {LLAMA}  5 \+ 2 tokens  \$0\.\d+  \d+ ms\n", line
    )
    assert refused.endswith("  refused: Unsupported parameter: 'n'\n")
    assert KEY not in refused


def test_an_engine_and_a_log_for_machines(start: Start, tmp_path: Path) -> None:
    (tmp_path / "answers.py").write_text("def reply(request):\n    return request.text.upper()\n", encoding="utf-8")
    said = start("--engine", "answers:reply", "--log", "json", cwd=tmp_path, announced="stderr")
    assert "answers:reply" in said
    assert _ask(said).json()["choices"][0]["message"]["content"] == "HELLO"
    row = json.loads(start.lines(1)[0])
    assert (row["number"], row["status"], row["model"], row["completion_tokens"]) == (1, 200, LLAMA, 1)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--engine", "no_such_module:reply"], "It must be MODULE:FUNCTION"),
        (["--engine", "json:no_such"], "It must be MODULE:FUNCTION"),
        (["--engine", "json:__name__"], "must be a function, and is of type str"),
        (["--engine", "json:loads", "--upstream", "http://127.0.0.1:1/v1"], "exclude each other"),
        (["--replies", "no-such.yaml"], f"there is no file {Path.cwd() / 'no-such.yaml'}."),
        (["json"], "only --log json"),
        (["--log", "xml"], "only --log json"),
    ],
)
def test_wrong_usage(kluster: Run, args: list[str], said: str) -> None:
    done = kluster("emulator", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_taken_port_is_an_error(kluster: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = kluster("emulator", "--port", str(taken.getsockname()[1]))
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert "cannot listen on 127.0.0.1" in error
    assert hint == "Hint: --port 0 takes any free port."
