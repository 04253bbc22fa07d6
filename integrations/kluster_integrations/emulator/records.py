"""The record of each request, for tests, for the log and for the page."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from kluster_integrations.catalog import ModelSpec

__all__ = ["LOGGER", "LONGEST_ANSWER", "MAX_BYTES", "MAX_RECORDED", "RecordedRequest", "Records"]

LOGGER = "kluster_integrations.emulator"
"""The logger for answered requests: one record each, at level INFO, with the `RecordedRequest` as `request`."""
MAX_RECORDED = 10_000  # requests; a server that runs for days keeps the newest
MAX_BYTES = 64 * 1024 * 1024  # of bodies and answers
_ROW = [
    "number",
    "time",
    "method",
    "path",
    "model",
    "status",
    "reason",
    "prompt_tokens",
    "completion_tokens",
    "cost",
    "seconds",
]
LONGEST_ANSWER = 200_000  # bytes


@dataclass(slots=True)
class RecordedRequest:
    """One request as it arrived, and its answer.

    Args:
        method: `GET`, `POST`, ….
        path: The path, which begins with `/v1`.
        query: The query parameters; of a repeated one, the last value.
        headers: The headers by lower-case name. The key is masked, as `Bearer ***`.
        body: The parsed JSON, the bytes of a body that is not JSON, or None without a body.
        size: Bytes of the body, and of the recorded part of the answer.
        number: The request's number in this emulator, from 1.
        time: When it came, in seconds since 1970.
        status: The answer's status; None before there is one.
        reason: Why it was refused, which fault it met, or that the client hung up; "" if nothing went wrong.
        prompt_tokens: Tokens of the prompt; None if they were not counted.
        completion_tokens: Tokens of the answer; None if they were not counted.
        cost: US$ at the catalog's price; None if it is unknown.
        seconds: The time until the last byte; None before that.
        answer: The bytes that were sent, at most the first 200,000.
        holds_key: Whether the body contains the client's key; the page then does not show it.
        version: A number that grows with each change of any request.
    """

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: object = None
    size: int = 0
    number: int = 0
    time: float = field(default_factory=time.time)
    status: int | None = None
    reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None
    answer: bytearray = field(default_factory=bytearray, repr=False)
    holds_key: bool = False
    version: int = 0

    @property
    def model(self) -> str | None:
        """The model in the body; None if there is none."""
        model = self.body.get("model") if isinstance(self.body, dict) else None
        return model if isinstance(model, str) else None

    def count(self, spec: ModelSpec, prompt_tokens: int, completion_tokens: int) -> None:
        """Record the tokens and their cost."""
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens
        self.cost = spec.cost(prompt_tokens, completion_tokens)

    def row(self) -> dict[str, object]:
        """Return the fields for the page and the JSON log: no headers, and so no key."""
        return {name: getattr(self, name) for name in _ROW}

    def line(self) -> str:
        """Return the line of the readable log."""
        parts = [time.strftime("%H:%M:%S", time.localtime(self.time)), f"{self.method} {self.path}"]
        parts += [str(self.status or "no answer"), *([self.model] if self.model else [])]
        if self.prompt_tokens is not None:
            parts.append(f"{self.prompt_tokens} + {self.completion_tokens} tokens")
            parts.append("price unknown" if self.cost is None else f"${self.cost:.6f}")
        parts.append(f"{1000 * (self.seconds or 0):.0f} ms")
        refused = self.status is not None and self.status >= 400
        parts += [f"{'refused: ' if refused else ''}{self.reason}"] if self.reason else []
        return "  ".join(json.dumps(part, ensure_ascii=False)[1:-1] for part in parts)  # one line, whatever is in it


class Records:
    """The newest requests of one emulator; at most 10,000, and 64 MiB of bodies and answers."""

    def __init__(self) -> None:
        self._rows: deque[RecordedRequest] = deque()
        self._size = 0
        self._count = 0
        self._version = 0

    def __iter__(self) -> Iterator[RecordedRequest]:
        return iter(list(self._rows))  # a copy in one step: the server's thread may add

    def add(self, record: RecordedRequest) -> None:
        """Add a request, and drop the oldest if there are too many."""
        self._count += 1
        record.number = self._count
        self._rows.append(record)
        self.changed(record, record.size)
        while len(self._rows) > MAX_RECORDED or (self._size > MAX_BYTES and len(self._rows) > 1):
            self._size -= self._rows.popleft().size

    def changed(self, record: RecordedRequest, more: int = 0) -> None:
        """Record that a request has changed and has `more` bytes more."""
        self._version += 1
        record.version = self._version
        self._size += more

    def finish(self, record: RecordedRequest, seconds: float) -> None:
        """Record the end of an answer, and log it."""
        record.seconds = seconds
        record.size += len(record.answer)
        self.changed(record, len(record.answer))
        logger = logging.getLogger(LOGGER)
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", record.line(), extra={"request": record})

    def clear(self) -> None:
        """Remove all requests."""
        self._rows.clear()
        self._size = 0
