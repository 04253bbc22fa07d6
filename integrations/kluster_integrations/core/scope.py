"""Settings for every request inside a `with` block, in all its tasks and threads: budgets, `deferred`.

A context variable holds what a request belongs to. Tasks, `asyncio.to_thread` and executors that copy the context
(LangChain's) inherit it. `threading.Thread` and `ThreadPoolExecutor` begin with an empty context: requests of such a
thread belong to everything that was opened before the thread began and is still open. A thread that is older, such as
one that serves another user, belongs to nothing unless it enters a block itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakSet

__all__ = ["Scope"]

T = TypeVar("T")


class _Opening(NamedTuple):
    times: int
    older_threads: WeakSet[threading.Thread]


class Scope(Generic[T]):
    """The open items of one kind, compared with `==`. Each may be entered more than once.

    Args:
        name: The name of the context variable.
        over_forks: Whether open items stay open in a forked process.

    Attributes:
        lock: Held while an item is opened or closed. A forked process gets a new one.
    """

    def __init__(self, name: str, *, over_forks: bool = True) -> None:
        self.lock = threading.Lock()
        self._inherited: ContextVar[tuple[T, ...]] = ContextVar(name, default=())
        self._open: Mapping[T, _Opening] = {}  # replaced, never changed: `current` reads it without the lock
        self._over_forks = over_forks
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_anew)

    def enter(self, item: T) -> None:
        """Open an item, for this context and for the threads that begin from now on."""
        with self.lock:
            before = self._open.get(item) or _Opening(0, WeakSet(threading.enumerate()))
            self._open = {**self._open, item: before._replace(times=before.times + 1)}
        self._inherited.set((*self._inherited.get(), item))

    def leave(self, item: T) -> None:
        """Close an item, or undo one of several entries."""
        with self.lock:
            now = {**self._open}
            opening = now.pop(item, None)
            if opening is not None and opening.times > 1:
                now[item] = opening._replace(times=opening.times - 1)
            self._open = now
        # Not ContextVar.reset: pytest's async fixtures, for one, leave in another context than they enter in.
        inherited = list(self._inherited.get())
        if item in inherited:
            inherited.remove(item)
            self._inherited.set(tuple(inherited))

    def current(self) -> tuple[T, ...]:
        """Return the items that a request of this context belongs to, the innermost last."""
        if not self._open:
            return ()
        inherited = tuple(dict.fromkeys(item for item in self._inherited.get() if item in self._open))
        thread = threading.current_thread()
        # A thread that was not started by Python's threading (uWSGI's, mod_wsgi's) is first seen here, whatever its
        # age.
        if inherited or isinstance(thread, threading._DummyThread):
            return inherited
        return tuple(item for item, opening in self._open.items() if thread not in opening.older_threads)

    def _start_anew(self) -> None:
        """After a fork only this thread exists: keep its own open items, and make a new lock."""
        self.lock = threading.Lock()
        mine = self.current() if self._over_forks else ()
        self._open = {item: self._open[item] for item in mine}
