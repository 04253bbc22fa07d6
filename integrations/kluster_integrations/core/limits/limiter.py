"""The account's limits: requests per minute and concurrent requests of one key. Requests wait until they may be sent.

In one process, threads and event loops share a limiter. Several processes and machines share it through Redis, which
holds a hash of the key, never the key.

A request first waits for a slot (concurrent requests), first come first served. Then each of its tries gets a start:
the earliest moment at which no minute has more starts than the limit. Starts are booked in advance, so nothing polls,
requests keep their order, and a request that would wait longer than `max_wait` fails at once. The transport books a
start (`wait_for_rate_limit`) just before it sends. The slot of a process that died is free after half a minute.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent import futures
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Self

from kluster_integrations.core.config import env_value
from kluster_integrations.core.errors import BadRequestError, KlusterError, RateLimitError
from kluster_integrations.core.plans import PLANS, Plan, parse_plan

__all__ = [
    "Counts",
    "Limiter",
    "Limits",
    "Queue",
    "Steps",
    "Ticket",
    "Turn",
    "aadmitted",
    "admitted",
    "await_for_rate_limit",
    "wait_for_rate_limit",
]

_log = logging.getLogger("kluster_integrations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of an API key. Requests wait until they may be sent.

    Args:
        requests: Requests per `period`; None is no limit.
        concurrent: Requests at the same time; None is no limit.
        period: Seconds.
        slack: Seconds added to `period`, because some requests take longer than others to reach the server.
        max_wait: The most seconds that a request waits. A request that would wait longer fails with `RateLimitError` at
            once. 0 never waits, None waits as long as it takes.
        redis_url: A Redis that several processes share (`redis://…`, `rediss://…` or `unix://…`); None limits this
            process alone.

    Raises:
        ValueError: If a number is not acceptable.
    """

    requests: int | None = None
    concurrent: int | None = None
    period: float = 60.0
    slack: float = 1.0
    max_wait: float | None = None
    redis_url: str | None = field(default=None, repr=False)  # it may hold a password

    def __post_init__(self) -> None:
        for name in ("requests", "concurrent"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name}={value!r} must be a whole number, 1 or more, or None for no limit.")
        if not _is_seconds(self.period) or not self.period:
            raise ValueError(f"period={self.period!r} must be a number of seconds above 0.")
        if not _is_seconds(self.slack):
            raise ValueError(f"slack={self.slack!r} must be a number of seconds, 0 or more.")
        if self.max_wait is not None and not _is_seconds(self.max_wait):
            raise ValueError(f"max_wait={self.max_wait!r} must be a number of seconds, 0 or more, or None for no end.")

    @classmethod
    def of(cls, plan: Plan | None, *, max_wait: float | None = None, redis_url: str | None = None) -> Limits:
        """Return a plan's limits; no limits without a plan.

        Args:
            plan: The account's plan, None if it is unknown.
            max_wait: As in `Limits`. Default: `KLUSTER_MAX_WAIT`, else None.
            redis_url: As in `Limits`. Default: `KLUSTER_REDIS_URL`, else None.

        Raises:
            ValueError: If no plan has that name, or `KLUSTER_MAX_WAIT` is not a number of seconds.
        """
        limits = PLANS[parse_plan(plan)] if plan else None
        return cls(
            requests=limits.requests_per_minute if limits else None,
            concurrent=limits.concurrent_requests if limits else None,
            max_wait=_max_wait() if max_wait is None else max_wait,
            redis_url=redis_url or env_value("redis_url"),
        )

    @classmethod
    def check(cls, limits: Limits | None) -> None:
        """Refuse what is neither limits nor None.

        Raises:
            BadRequestError: If it is anything else.
        """
        if limits is not None and not isinstance(limits, cls):
            raise BadRequestError(
                f"limits={limits!r} is of type {type(limits).__name__}; it must be a Limits.",
                hint="write limits=Limits(requests=30, concurrent=2), or leave it out for those of the plan.",
            )


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def _max_wait() -> float | None:
    text = env_value("max_wait")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not _is_seconds(seconds):
        raise ValueError(f"KLUSTER_MAX_WAIT={text!r} must be a number of seconds, 0 or more, such as 5.")
    return seconds


# Sans-I/O steps, for threads and event loops alike: a generator yields a Turn (and gets back whether it came in time),
# seconds to sleep, or a callable (and gets back its result; on an event loop it runs in a thread). _run and _arun wait.
Steps = Generator[Any, Any, None]
Loop = asyncio.AbstractEventLoop | None
_SWEEP_SECONDS = 1.0  # between looks for slots of event loops that were closed over them


def _run(steps: Steps) -> None:
    value: Any = None
    try:
        while True:
            step = steps.send(value)
            if isinstance(step, Turn):
                value = bool(futures.wait([step.future], step.seconds()).done)
            elif callable(step):
                value = step()
            else:
                value = None
                time.sleep(step)
    except StopIteration:
        return
    finally:
        steps.close()


async def _arun(steps: Steps) -> None:
    value: Any = None
    try:
        while True:
            step = steps.send(value)
            if isinstance(step, Turn):
                done, _ = await asyncio.wait([asyncio.wrap_future(step.future)], timeout=step.seconds())
                value = bool(done)
            elif callable(step):
                value = await asyncio.to_thread(step)
            else:
                value = None
                await asyncio.sleep(step)
    except StopIteration:
        return
    finally:
        steps.close()


@dataclass(slots=True)
class Turn:
    """A place in a queue, and the deadline for waiting for it."""

    future: futures.Future[Any]
    deadline: float | None

    def seconds(self) -> float | None:
        """Return the seconds until the deadline; None if there is no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


class Queue:
    """A semaphore, first come first served, for threads and tasks of any event loop."""

    def __init__(self, free: int) -> None:
        self._lock = threading.Lock()
        self._free = free
        self._waiting: deque[futures.Future[None]] = deque()
        self._loops: dict[futures.Future[None], Loop] = {}  # of all that wait or have a slot

    def __len__(self) -> int:
        return len(self._loops)

    def join(self, loop: Loop = None) -> futures.Future[None]:
        """Return a future that is resolved when a slot is free; call `leave` afterwards, also if you stop waiting.

        Args:
            loop: The event loop of the waiting task; None for a thread.
        """
        turn: futures.Future[None] = futures.Future()
        with self._lock:
            self._loops[turn] = loop
            if self._free:
                self._free -= 1
                turn.set_result(None)
            else:
                self._waiting.append(turn)
        return turn

    def leave(self, turn: futures.Future[None]) -> None:
        """Give the slot, or the place in the queue, to the next one. Calling it again does nothing."""
        with self._lock:
            if turn not in self._loops:
                return
            del self._loops[turn]
            if not turn.done():
                self._waiting.remove(turn)
            elif self._waiting:
                self._waiting.popleft().set_result(None)
            else:
                self._free += 1

    def sweep(self) -> None:
        """Give back the slots of closed event loops: their tasks will never run again."""
        with self._lock:
            gone = [turn for turn, loop in self._loops.items() if loop is not None and loop.is_closed()]
        for turn in gone:
            self.leave(turn)


class Ticket:
    """A request that holds a slot. Enter it as a context manager while the request is being sent, then call `leave`.

    Args:
        limiter: The limiter that the slot belongs to.
        loop: The event loop that will give the slot back; None for a thread.

    Attributes:
        loop: As the argument.
        id: The slot's name in Redis.
        start_id: The name in Redis of this try's start.
        deadline: When this try stops waiting, on the monotonic clock; None is never.
        turn: The slot in this process.
        in_redis: Whether the slot is in Redis.
    """

    def __init__(self, limiter: Limiter, loop: Loop = None) -> None:
        self._limiter = limiter
        self.loop = loop
        self._tries = 0
        self._token: Token[Ticket | None] | None = None
        self.id = self.start_id = uuid.uuid4().hex
        self.deadline = limiter.deadline()
        self.turn: futures.Future[None] | None = None
        self.in_redis = False

    def wait_for_start(self) -> None:
        """Wait until the next try may be sent."""
        self._next_try()
        _run(self._limiter.starting(self))

    async def await_for_start(self) -> None:
        """As `wait_for_start`."""
        self._next_try()
        await _arun(self._limiter.starting(self))

    def _next_try(self) -> None:
        self._tries += 1
        self.start_id = f"{self.id}:{self._tries}"
        if self._tries > 1:
            self.deadline = self._limiter.deadline()

    def leave(self) -> None:
        """Give the slot back."""
        _run(self._limiter.leaving(self))

    async def aleave(self) -> None:
        """As `leave`; also when the task is being cancelled."""
        await asyncio.shield(_arun(self._limiter.leaving(self)))

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _current.reset(self._token)


_current: ContextVar[Ticket | None] = ContextVar("kluster_ticket", default=None)


def wait_for_rate_limit() -> None:
    """Wait until the request of this context may be sent; the transport calls it before each try.

    Raises:
        RateLimitError: If that takes more than `max_wait`.
    """
    if ticket := _current.get():
        ticket.wait_for_start()


async def await_for_rate_limit() -> None:
    """As `wait_for_rate_limit`."""
    if ticket := _current.get():
        await ticket.await_for_start()


class Counts:
    """What a key has sent in this process.

    Shared by all limiters of a key, so changing limits does not reset the window.

    Attributes:
        lock: Held while `starts` changes.
        starts: When the requests of the window were or will be sent, in order.
        slots: The queues for concurrent requests, by their number of slots.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.starts: list[float] = []
        self.slots: dict[int, Queue] = {}

    def is_idle(self, span: float) -> bool:
        """Whether later requests need not wait for anything here."""
        with self.lock:
            return not any(self.slots.values()) and (not self.starts or self.starts[-1] < time.monotonic() - span)


class Limiter:
    """Keeps the limits of one key in this process.

    Args:
        limits: The limits.
        counts: What the key has sent so far; default: nothing.
    """

    def __init__(self, limits: Limits, counts: Counts | None = None) -> None:
        counts = counts or Counts()
        self.limits = limits
        self.span = limits.period + limits.slack
        most = limits.concurrent
        self._slots = counts.slots.setdefault(most, Queue(most)) if most else None
        self._lock = counts.lock
        self._starts = counts.starts

    def enter(self) -> Ticket:
        """Wait for a slot.

        Raises:
            RateLimitError: If that takes more than `max_wait`.
        """
        ticket = Ticket(self)
        _run(self.entering(ticket))
        return ticket

    async def aenter(self) -> Ticket:
        """As `enter`."""
        ticket = Ticket(self, asyncio.get_running_loop())
        await _arun(self.entering(ticket))
        return ticket

    def entering(self, ticket: Ticket) -> Steps:
        """Yield the steps of a request that waits for a slot."""
        if self._slots is None:
            return
        turn = self._slots.join(ticket.loop)
        try:
            while not turn.done():
                self._slots.sweep()
                soon = time.monotonic() + _SWEEP_SECONDS
                deadline = soon if ticket.deadline is None else min(ticket.deadline, soon)
                if not (yield Turn(turn, deadline)) and deadline == ticket.deadline:
                    raise self.too_many_at_once()
        except BaseException:
            self._slots.leave(turn)
            raise
        ticket.turn = turn

    def starting(self, ticket: Ticket) -> Steps:
        """Yield the steps of a try that waits for its start."""
        if self.limits.requests is None:
            return
        start = self._book(ticket.deadline)
        try:
            yield self.announced(start - time.monotonic())
        except BaseException:
            with self._lock, contextlib.suppress(ValueError):  # it has left the window, and so the list
                self._starts.remove(start)
            raise

    def leaving(self, ticket: Ticket) -> Steps:
        """Yield the steps that give a slot back."""
        turn, ticket.turn = ticket.turn, None
        if turn is not None and self._slots is not None:
            self._slots.leave(turn)
        yield from ()

    def _book(self, deadline: float | None) -> float:
        most = self.limits.requests or 0
        with self._lock:
            now = time.monotonic()
            del self._starts[: bisect.bisect_right(self._starts, now - self.span)]
            start = now if len(self._starts) < most else max(now, self._starts[-most] + self.span)
            if deadline is not None and start > max(now, deadline):
                raise self.too_many(start - now)
            bisect.insort(self._starts, start)
        return start

    def deadline(self) -> float | None:
        """Return when a request that begins now stops waiting; None is never."""
        return None if self.limits.max_wait is None else time.monotonic() + self.limits.max_wait

    def announced(self, wait: float) -> float:
        """Return the seconds to wait, 0 or more, and log a wait that a user would notice."""
        if wait >= 1:
            _log.info(
                "Wait %.1f s: the limit is %s.", wait, self._limit(), extra={"retry_in": wait, "limit": self._limit()}
            )
        return max(0.0, wait)

    def _limit(self) -> str:
        return f"{self.limits.requests} requests in {self.limits.period:g} s"

    def too_many(self, wait: float) -> KlusterError:
        """Return the error of a request whose start is too far away."""
        return refused(f"This key's limit of {self._limit()} is reached; the next is free in {wait:.1f} s.", wait)

    def too_many_at_once(self) -> KlusterError:
        """Return the error of a request for which no slot is free."""
        return refused(f"This key's limit of {self.limits.concurrent} concurrent requests is reached.", 1.0)


def refused(message: str, wait: float) -> KlusterError:
    """Return the error of a request that the limits hold back for too long."""
    return RateLimitError(
        f"{message} Nothing was sent.",
        status_code=429,
        retry_after=wait,
        headers={"retry-after": str(math.ceil(wait))},
        hint="wait, raise max_wait, or take a higher plan.",
    )


@contextlib.contextmanager
def admitted(limiter: Limiter | None) -> Iterator[None]:
    """Wait for a slot, and hold it until the request inside is over; the transport waits for the starts."""
    if limiter is None:
        yield
        return
    ticket = limiter.enter()
    try:
        with ticket:
            yield
    finally:
        ticket.leave()


@contextlib.asynccontextmanager
async def aadmitted(limiter: Limiter | None) -> AsyncIterator[None]:
    """As `admitted`."""
    if limiter is None:
        yield
        return
    ticket = await limiter.aenter()
    try:
        with ticket:
            yield
    finally:
        await ticket.aleave()
