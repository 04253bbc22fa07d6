from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from kluster_integrations.cli import export, gateway
from kluster_integrations.cli.clients import GATEWAY_URL
from kluster_integrations.emulator import Emulator

from ..pages import ROOT
from .conftest import KEY, LLAMA, Run, command, environment

OWN = "kg-a-key-of-the-gateway"


class Start:
    """Starts `kluster gateway …` in a process, and returns where it is and what it announces."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.processes: list[subprocess.Popen[str]] = []

    def __call__(self, *args: str, **env: str) -> tuple[str, str]:
        process = subprocess.Popen(
            command("gateway", "--port", "0", *args),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(KLUSTER_API_KEY=KEY, KLUSTER_BASE_URL=self._upstream, **env),
        )
        self.processes.append(process)
        stderr: Any = process.stderr
        said = "".join(stderr.readline() for _ in range(2))
        assert KEY not in said
        return said.partition(" is at ")[2].partition(" ")[0], said


@pytest.fixture
def start(emulator: Emulator) -> Iterator[Start]:
    run = Start(emulator.base_url)
    yield run
    for process in run.processes:
        process.kill()
        process.communicate(timeout=60)


def ask(url: str, key: str = "any", **fields: Any) -> httpx.Response:
    body = {"model": LLAMA, "messages": [{"role": "user", "content": "Tell nobody!"}], **fields}
    return httpx.post(
        f"{url}/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=30
    )


def test_it_answers_logs_and_stops(start: Start) -> None:
    url, said = start()
    assert "Any key will do." in said
    assert ask(url, n=2, max_tokens=20).status_code == 200
    process = start.processes[0]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    [row] = map(json.loads, out.splitlines())
    assert (row["status"], row["path"], row["model"]) == (200, "/v1/chat/completions", LLAMA)
    assert "Tell nobody" not in out


def test_ctrl_c(start: Start) -> None:
    start("--no-log")
    process = start.processes[0]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_elsewhere_it_makes_a_key_and_says_it_once(start: Start) -> None:
    url, said = start("--host", "0.0.0.0")
    key = said.rpartition("only here: ")[2].strip()
    local = url.replace("0.0.0.0", "127.0.0.1")
    assert (ask(local).status_code, ask(local, key).status_code) == (401, 200)


@pytest.mark.parametrize("by_env", [True, False])
def test_a_key_that_is_given_is_not_said(start: Start, by_env: bool) -> None:
    url, said = start(KLUSTER_GATEWAY_KEY=OWN) if by_env else start("--key", OWN)
    assert OWN not in said
    assert (ask(url).status_code, ask(url, OWN).status_code) == (401, 200)


def test_aliases_and_a_budget(start: Start) -> None:
    url, _ = start("--alias", f"gpt-*={LLAMA}", "--budget", "0")
    answer = ask(url, model="gpt-4o")
    assert (answer.status_code, "budget" in answer.json()["error"]["message"]) == (402, True)


def test_any_origin_without_a_key_is_warned_of(start: Start) -> None:
    start("--allow-origin", "*")
    assert "every web page" in start.processes[0].stderr.readline()


def test_any_origin_with_a_key_is_not(start: Start) -> None:
    start("--allow-origin", "*", KLUSTER_GATEWAY_KEY=OWN)
    process = start.processes[0]
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--alias", "gpt-4o"], "NAME=ID"),
        (["--allow-origin", "chat.example"], "such as https://chat.example"),
        (["--key", "short"], "key (not shown)"),
        (["--unsupported", "maybe"], "unsupported"),
        (["--redis", "localhost"], "redis"),
    ],
)
def test_options_that_cannot_be_had(kluster: Run, args: list[str], said: str) -> None:
    done = kluster("gateway", "--port", "0", *args)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_port_of_the_pages_is_the_default() -> None:
    port = inspect.signature(gateway.run).parameters["port"].default
    page = (ROOT / "docs" / "gateway.md").read_text("utf-8")
    assert set(re.findall(r"`http://127\.0\.0\.1:(\d+)", page)) == {str(port)}
    assert f"http://127.0.0.1:{port}/v1" == GATEWAY_URL
    assert f"on port {port} or at --base-url" in inspect.getsource(export.run)


def test_a_taken_port(kluster: Run, emulator: Emulator) -> None:
    done = kluster("gateway", "--port", str(emulator.port))
    assert done.returncode == 1
    assert "--port 0 takes any free port" in done.stderr
