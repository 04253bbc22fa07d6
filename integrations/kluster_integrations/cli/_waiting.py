"""A countdown on the terminal, while a request waits to be sent, or to be sent again."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["shown_waits"]

_LOG = "kluster_integrations"


class _Countdown(logging.Handler):
    """Shows the wait that a record of the transport or of the limits announces, from a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        seconds = record.__dict__.get("retry_in")
        if seconds is None:
            return
        self.end()
        if "limit" in record.__dict__:
            why = f"The limit is {record.__dict__['limit']}"
        else:
            why = "Too many requests" if record.__dict__.get("status") == 429 else "No answer yet"
        self._stop.clear()
        self._thread = threading.Thread(target=self._count, args=(why, time.monotonic() + seconds), daemon=True)
        self._thread.start()

    def _count(self, why: str, until: float) -> None:
        while (left := until - time.monotonic()) > 0.05:
            line = f"{why}: next try in {math.ceil(left)} s; Ctrl-C gives up."
            # A line that wraps cannot be cleared, and the terminal itself puts ^C behind it.
            width = _columns() - 3
            sys.stderr.write(_clear() + (line if len(line) <= width else line.partition(";")[0][:width]))
            sys.stderr.flush()
            if self._stop.wait(min(left, left % 1 or 1)):
                break
        sys.stderr.write(_clear())
        sys.stderr.flush()

    def end(self) -> None:
        """Take the line away, whether or not it has counted to its end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _clear() -> str:
    """Return what clears the line; a terminal that calls itself dumb, such as Emacs' shell, shows escape codes."""
    return f"\r{' ' * (_columns() - 1)}\r" if os.environ.get("TERM") in (None, "", "dumb") else "\r\x1b[K"


def _columns() -> int:
    """Return the width of the terminal now: the user may have changed it."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


@contextmanager
def shown_waits() -> Iterator[None]:
    """Show the waits of the requests inside, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    log = logging.getLogger(_LOG)
    countdown, level, propagate = _Countdown(), log.level, log.propagate
    log.addHandler(countdown)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(countdown)
        log.setLevel(level)
        log.propagate = propagate
        countdown.end()
