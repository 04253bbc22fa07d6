"""A real terminal, for tests and pictures: tmux, one server each, driven by keys and read as a person reads it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Tmux", "tmux"]

_PATIENCE = 60.0


class Tmux:
    """A terminal that runs one command, and says `[exit N]` when that has ended.

    Args:
        folder: Where tmux keeps its socket; the command runs there.
        command: The command.
        env: Its environment.
        columns: Characters per line.
    """

    def __init__(self, folder: Path, command: list[str], env: dict[str, str], *, columns: int = 100) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]
        # The trap: a Ctrl-C that comes while the command does not listen for keys must not end the shell.
        script = f'trap : INT; {shlex.join(command)}; echo "[exit $?]"; exec sleep 1000'
        setting = [f"{name}={value}" for name, value in env.items()]
        size = ("-x", str(columns), "-y", "50")
        self._run("new-session", "-d", *size, "-c", str(folder), "env", *setting, "sh", "-c", script)

    def _run(self, *args: str, stdin: str | None = None) -> str:
        done = subprocess.run([*self._tmux, *args], input=stdin, capture_output=True, encoding="utf-8", check=True)
        return done.stdout

    @property
    def screen(self) -> str:
        """What is on the screen and above it, wrapped lines joined; white space at the end of a line is not there."""
        return self._run("capture-pane", "-p", "-J", "-S", "-")

    @property
    def colors(self) -> str:
        """The screen as ANSI text: with the escape codes of its colors."""
        return self._run("capture-pane", "-e", "-p", "-J", "-S", "-")

    def until(self, text: str, *, times: int = 1) -> str:
        """Wait until the screen has a text, so many times, and return the screen."""
        end = time.monotonic() + _PATIENCE
        while (screen := self.screen).count(text) < times:
            assert time.monotonic() < end, f"no {text!r} on\n{screen}"
            time.sleep(0.05)
        return screen

    def prompted(self, times: int) -> None:
        """Wait for the prompt of `kluster chat`; what is typed before it is read by nobody."""
        self.until("\n>", times=times)

    def type(self, text: str, *keys: str) -> None:
        """Type a text, and then keys by tmux's names (`Enter`, `C-c`, `Tab`)."""
        if text:
            self._run("send-keys", "-l", text)
        if keys:
            self._run("send-keys", *keys)

    def enter(self, line: str, *shown: str) -> None:
        """Type a line and Enter, and wait for what the screen shows then."""
        self.type(line, "Enter")
        for text in shown:
            self.until(text)

    def resize(self, columns: int) -> None:
        """Make the window that many columns wide."""
        self._run("resize-window", "-x", str(columns))

    def paste(self, text: str) -> None:
        """Paste a text, as a terminal does."""
        self._run("load-buffer", "-", stdin=text)
        self._run("paste-buffer", "-p")

    def close(self) -> None:
        self._run("kill-server")


@contextmanager
def tmux(folder: Path, command: list[str], env: dict[str, str]) -> Iterator[Tmux]:
    """Run a command in a terminal. Where tmux is missing the test is skipped, but in CI it fails."""
    import pytest  # the pictures are made without it

    if shutil.which("tmux") is None:
        reason = "tmux is not installed (Debian: apt-get install tmux)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    terminal = Tmux(folder, command, env)
    try:
        yield terminal
    finally:
        terminal.close()
