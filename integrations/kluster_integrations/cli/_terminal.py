"""What commands show on a terminal, in a pipe, and without colors."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kluster_integrations._extras import MODULES, install_command
from kluster_integrations.cli._errors import UsageError
from kluster_integrations.cli._text import CONTROL
from kluster_integrations.errors import KlusterError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "AnswerPrinter",
    "console",
    "is_interactive",
    "money",
    "need",
    "read_file",
    "read_stdin",
    "typed_path",
]

_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_PIPE_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """Return a console for stdout or stderr. `NO_COLOR` is plain text; a pipe is wide, so that tables stay tables."""
    from kluster_integrations.cli._console import SafeConsole

    plain = bool(os.environ.get("NO_COLOR"))
    # Some terminals of editors and of CI say COLUMNS=0; rich would then print nothing at all.
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS" or value.strip("0")}
    made = SafeConsole(
        stderr=stderr,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
        _environ=environ,
    )
    if not made.is_terminal and "COLUMNS" not in environ:
        made.width = _PIPE_WIDTH
    return made


def need(command: str, *extras: str) -> None:
    """Check that what a command needs is installed.

    Raises:
        KlusterError: If it is not; the message is what to install.
    """
    missing = [extra for extra in extras if any(find_spec(module) is None for module in MODULES[extra])]
    if missing:
        raise KlusterError(f"`{command}` needs more: {install_command(*missing)}")


def money(cost: float | None) -> str:
    """Return a cost in US$ for a reader; None is unknown."""
    return "unknown" if cost is None else f"${cost:.6f}"


class AnswerPrinter:
    """Writes an answer as it comes: the text to one stream, thoughts, dimmed, to another (or the same).

    Args:
        text: Where the text goes; in a pipe it is the model's text and nothing else.
        thoughts: Where the reasoning goes.
    """

    def __init__(self, text: Console, thoughts: Console) -> None:
        self._text = text
        self._thoughts = thoughts
        self._thinking = False
        self._open_line = False

    def add(self, text: str, thought: str = "") -> None:
        """Write the next piece."""
        if thought:
            if not self._thinking:
                self._begin_thought()
            _write(self._thoughts, thought)
        if text:
            self._end_thought()
            _write(self._text, text)
            self._open_line = not text.endswith("\n")

    def end(self) -> None:
        """End the line that is open."""
        self._end_thought()
        if self._open_line:
            _write(self._text, "\n")
            self._open_line = False

    def _begin_thought(self) -> None:
        self._thinking = True
        self._thoughts.file.write(_DIM if self._thoughts.color_system else "")
        _write(self._thoughts, "Thoughts: ")

    def _end_thought(self) -> None:
        if self._thinking:
            self._thinking = False
            self._thoughts.file.write(_RESET if self._thoughts.color_system else "")
            _write(self._thoughts, "\n")


def _write(to: Console, text: str) -> None:
    to.file.write(CONTROL.sub("", text) if to.is_terminal else text)
    to.file.flush()


def read_file(option: str, path: str | Path) -> str:
    """Return the text of a file that an option names.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        return typed_path(str(path)).read_text("utf-8-sig")
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except OSError as err:
        why = err.strerror or str(err)
    raise UsageError(f"{option} {path} cannot be read: {why}.")


def read_stdin() -> str:
    """Return all text of stdin, without the line's end behind it.

    Raises:
        UsageError: If it is not text.
    """
    try:
        text = sys.stdin.read().rstrip("\n")
        text.encode()  # in the C locale Python reads any bytes, as surrogates
    except UnicodeError:
        raise UsageError("stdin is not text; images go to `kluster chat --image FILE`.") from None
    return text


def typed_path(text: str) -> Path:
    """Return the path that a user has typed; `~name` stays as it is where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def is_interactive() -> bool:
    """Whether somebody types at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()
