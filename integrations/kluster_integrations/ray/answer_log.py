"""The answers of a Ray job's actors, in a folder that all of them read, so that nothing is asked twice."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from io import BufferedWriter
from pathlib import Path
from typing import NamedTuple

__all__ = ["Answer", "AnswerLog"]


class Answer(NamedTuple):
    """The result of a row: a text, or an error that would come again."""

    text: str | None
    error: str | None


class AnswerLog:
    """Answers by the key of their request.

    Each process appends to its own file and reads those of the others. So no locks are needed, which do not work well
    on network file systems. A killed process leaves at most half a line at the end of its file. No process continues
    that file, and half a line is never read.

    Args:
        folder: The folder of the files; it is made if necessary.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._own = folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}.jsonl"
        self._file: BufferedWriter | None = None
        self._read: dict[Path, int] = {}  # bytes of the other files
        self.answers: dict[str, Answer] = {}

    def refresh(self) -> None:
        """Read what other processes have added. If an actor dies, another one gets its rows."""
        for path in self._folder.glob("*.jsonl"):
            done = self._read.get(path, 0)
            if path == self._own or path.stat().st_size == done:
                continue
            with path.open("rb") as file:
                file.seek(done)
                lines, end, _ = file.read().rpartition(b"\n")
            self._read[path] = done + len(lines) + len(end)
            for line in filter(None, lines.split(b"\n")):
                try:
                    key, text, error = json.loads(line)
                except ValueError:  # a machine without power may leave anything behind; its row is asked again
                    continue
                self.answers[key] = Answer(text, error)

    async def add(self, key: str, answer: Answer) -> None:
        """Save an answer. It is on the disk when this returns.

        Raises:
            OSError: If it cannot be written.
        """
        if self._file is None:
            self._file = self._own.open("ab")
        self._file.write(json.dumps([key, *answer]).encode() + b"\n")
        self._file.flush()  # at once: what the system has survives a kill of this process
        await asyncio.to_thread(os.fsync, self._file.fileno())
        self.answers[key] = answer

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
