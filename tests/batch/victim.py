"""A process that is killed again and again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["Victim"]

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["kluster_integrations.batch", "tests.batch.test_killed"])
_MOST_STARTS = 80


class Victim:
    """Starts the work again and again, until it ends by itself; `kill` ends its present process."""

    def __init__(self, work: Callable[..., None], *args: object) -> None:
        self._work, self._args = work, args
        self._lock = threading.Lock()  # exitcode must not be read in two threads: one of them would see 255
        self._pid: int | None = None
        self.starts = 0

    def kill(self) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._pid is not None:
                os.kill(self._pid, signal.SIGKILL)

    def run(self, begin: Callable[[], None] = lambda: None) -> None:
        while self.starts < _MOST_STARTS:
            process = _PROCESSES.Process(target=self._work, args=self._args)
            self.starts += 1
            begin()
            with self._lock:
                process.start()
                self._pid = process.pid
            process.join(60)
            with self._lock:
                self._pid = None
            if process.exitcode == 0:
                return
            assert process.exitcode == -signal.SIGKILL
        pytest.fail(f"not done after {_MOST_STARTS} starts")

    def run_dying_at_each_step(self, proxy: Any) -> list[str]:
        """Kill the first process at its first event, the second at its second, and so on; return those events."""
        seen: list[str] = []
        died_at: list[str] = []
        of_the_dead: set[threading.Thread] = set()

        def count(event: str) -> None:
            if threading.current_thread() in of_the_dead:
                return  # its request is still passed on, and is no event of the next process
            seen.append(event)
            if len(seen) == self.starts:
                died_at.append(event)
                of_the_dead.add(threading.current_thread())
                self.kill()

        proxy.hook = count
        self.run(seen.clear)
        return died_at

    def run_killed_at(self, proxy: Any, event: str, which: int) -> None:
        """Kill the first process at an event of this name, the first (1) or a later one; the second runs to its end."""
        seen: list[str] = []

        def watch(now: str) -> None:
            if now.startswith(event):
                seen.append(now)
                if len(seen) == which:
                    self.kill()

        proxy.hook = watch
        self.run()
        assert self.starts == 2

    def run_killed_at_random(self, chance: random.Random, most: int, seconds: tuple[float, float]) -> None:
        """Kill each of the first `most` processes after a random time between two numbers of seconds."""
        timers: list[threading.Timer] = []

        def shoot() -> None:
            if self.starts <= most:
                timers.append(threading.Timer(chance.uniform(*seconds), self.kill))
                timers[-1].start()

        self.run(shoot)
        for timer in timers:
            timer.cancel()
