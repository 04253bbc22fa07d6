"""Runs `kluster` against a local server: most often in this process, for speed; else in one of its own."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
import typer.testing
from typer.testing import CliRunner

from kluster_integrations.cli import app
from kluster_integrations.emulator import Emulator

KEY = "kk-secret-key-of-the-tests"
LLAMA = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
GEMMA = "google/gemma-3-27b-it"

# Typer builds all commands anew at each call, which takes longer than most calls.
typer.testing._get_command = functools.cache(typer.testing._get_command)

Run = Callable[..., subprocess.CompletedProcess[str]]

# Blocks modules as if they were not installed, then runs the command.
_WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys({blocked!r})); from kluster_integrations.cli import main; main()"
)


def command(*args: str, without: Sequence[str] = ()) -> list[str]:
    if without:
        return [sys.executable, "-c", _WITHOUT.format(blocked=list(without)), *args]
    return [sys.executable, "-m", "kluster_integrations.cli", *args]


def environment(**env: str) -> dict[str, str]:
    """Return this test's environment (conftest.py has cleaned it), and these variables."""
    return {**os.environ, "PYTHONIOENCODING": "utf-8", **env}


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C reach what the tests start: a shell's background jobs ignore it, and so would their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def kluster() -> Run:
    """`kluster("chat", …, stdin="…", env={…})`, in this process; `alone` in its own, `without=[…]` without modules.

    With `traceback` there is to be one: a program's of the user's.
    """

    def run(
        *args: str,
        stdin: str = "",
        env: dict[str, str] | None = None,
        without: Sequence[str] = (),
        alone: bool = False,
        traceback: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        if without or alone:
            done = subprocess.run(
                command(*args, without=without),
                input=stdin,
                env=environment(**(env or {})),
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
        else:
            result = CliRunner().invoke(app, args, input=stdin, env=env, prog_name="kluster")
            done = subprocess.CompletedProcess(args, result.exit_code, result.stdout, result.stderr)
        assert KEY not in done.stdout + done.stderr
        assert ("Traceback" in done.stderr) == traceback
        return done

    return run


@pytest.fixture
def reach(emulator: Emulator) -> dict[str, str]:
    """The variables that point to the emulator."""
    return {"KLUSTER_BASE_URL": emulator.base_url, "KLUSTER_API_KEY": KEY}
