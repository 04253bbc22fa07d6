"""A terminal without a window: runs a program in it, types, and reads what a person would see, with colors.

From the standard library alone. It knows what prompt_toolkit and rich write: text, colors, moves of the cursor and
erasing.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Terminal"]

_SECONDS = 60.0
_TOKEN = re.compile(
    r"\x1b\[(?P<args>[?>\d;]*)(?P<code>[@-~])"  # such as ESC [ 2 K
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[=>()78][0B]?"  # titles and modes, which show nothing
    r"|(?P<text>[^\x1b])",
    re.DOTALL,
)


class Terminal:
    """Runs one command, until the block ends.

    Args:
        command: The command.
        env: Its environment.
        folder: Where it runs.
        columns: Characters per line.
    """

    def __init__(self, command: list[str], env: dict[str, str], folder: str | Path, columns: int) -> None:
        self._columns = columns
        self._lines: list[list[tuple[str, str]]] = [[]]
        self._row = self._column = 0
        self._style = ""
        self._unread = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._bytes, theirs = pty.openpty()
        # As high as the whole conversation will be: nothing scrolls out of sight.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 200, columns, 0, 0))
        self._process = subprocess.Popen(
            command, env=env, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._bytes)

    @property
    def text(self) -> str:
        """What is on the screen, without colors."""
        return "\n".join("".join(letter for letter, _ in line).rstrip() for line in self._lines).rstrip("\n")

    @property
    def ansi(self) -> str:
        """What is on the screen, with colors."""
        lines = ["".join(f"\x1b[0{style}m{letter}" for letter, style in line) for line in self._lines]
        return "\n".join(lines) + "\x1b[0m"

    def type(self, text: str) -> None:
        """Type a text; a carriage return is the Enter key."""
        os.write(self._bytes, text.encode())

    def until(self, seen: Callable[[str], bool]) -> None:
        """Wait until the text of the screen is as it should be.

        Raises:
            AssertionError: If it is not within a minute; the message shows the screen.
            OSError: If the command has ended.
        """
        end = time.monotonic() + _SECONDS
        while not seen(self.text):
            ready, _, _ = select.select([self._bytes], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"not seen within {_SECONDS} seconds; the screen:\n{self.text}"
            self._unread += self._decoder.decode(os.read(self._bytes, 65_536))
            self._show()

    def _show(self) -> None:
        position = 0
        while token := _TOKEN.match(self._unread, position):
            position = token.end()
            if token["text"]:
                self._put(token["text"])
            elif token["code"]:
                self._obey(token["code"], token["args"])
        self._unread = self._unread[position:]

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self._column = 0
        elif letter == "\n":
            self._row += 1
        elif letter == "\b":
            self._column -= 1
        elif letter >= " ":
            if self._column == self._columns:
                self._row, self._column = self._row + 1, 0
            line = self._line()
            line += [(" ", "")] * (self._column - len(line))
            line[self._column : self._column + 1] = [(letter, self._style)]
            self._column += 1

    def _obey(self, code: str, args: str) -> None:
        number = int(args) if args.isdigit() else 0
        if code == "m":
            first, _, rest = args.partition(";")
            self._style = f"{self._style};{args}" if first.strip("0") else f";{rest}" if rest else ""
        elif code in "AB":
            self._row = max(0, self._row + (number or 1) * (1 if code == "B" else -1))
        elif code in "CD":
            self._column = max(0, self._column + (number or 1) * (1 if code == "C" else -1))
        elif code == "K" or (code == "J" and number == 0):
            del self._line()[self._column :]
            if code == "J":
                del self._lines[self._row + 1 :]
        elif code == "n":  # "where is the cursor?"
            self.type(f"\x1b[{self._row + 1};{self._column + 1}R")

    def _line(self) -> list[tuple[str, str]]:
        self._lines += [[] for _ in range(self._row + 1 - len(self._lines))]
        return self._lines[self._row]
