"""What the routes share: settings, replies, faults, limits, recorded requests; the connection to a client; JSON."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Scope

from kluster_integrations import catalog
from kluster_integrations.catalog import PlanLimits
from kluster_integrations.emulator.engine import Engine
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.faults import FaultSchedule
from kluster_integrations.emulator.jobs import Batches
from kluster_integrations.emulator.records import RecordedRequest, Records
from kluster_integrations.emulator.replies import Replies
from kluster_integrations.emulator.settings import Settings
from kluster_integrations.emulator.upstream import UpstreamEngine

__all__ = [
    *("DONE", "ClientConnection", "ClientGone", "Json", "Limiter", "Service", "connection_of", "dump", "event"),
    *("record_of", "service_of"),
]


class ClientGone(Exception):  # noqa: N818 - not an error: nobody is left to answer
    """The client has hung up, or the emulator is stopping."""


class ClientConnection:
    """The connection to one client.

    Args:
        stopping: Set when the emulator stops.
        listener: A task that ends when the client hangs up.
    """

    def __init__(self, stopping: asyncio.Event, listener: asyncio.Task[None]) -> None:
        self._stopping = stopping
        self._listener = listener

    def check(self) -> None:
        """Raise `ClientGone` if there is nobody left to answer."""
        if self._stopping.is_set() or self._listener.done():
            raise ClientGone

    async def pause(self, seconds: float | None) -> None:
        """Wait some seconds (None: for ever), but not after the client has hung up.

        Raises:
            ClientGone: If the client hangs up or the emulator stops meanwhile.
        """
        self.check()
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((stop, self._listener), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        self.check()


_MINUTE = 60.0


class Limiter:
    """Counts requests by key, and answers 429 above a limit. For one event loop.

    Args:
        limits: The plan's limits; None is no limits.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, limits: PlanLimits | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or PlanLimits()
        self._clock = clock
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)
        self._running: defaultdict[str, int] = defaultdict(int)

    def enter(self, key: str) -> None:
        """Count a request that begins; `leave` must follow.

        Raises:
            ApiError: 429, if a limit is reached; the request is then not counted.
        """
        now = self._clock()
        times = self._times[key]
        while times and times[0] <= now - _MINUTE:
            times.popleft()
        most = self._limits.requests_per_minute
        if most is not None and len(times) >= most:
            wait = max(1, math.ceil(times[0] + _MINUTE - now))
            raise _too_many(f"Rate limit reached: {most} requests per minute", wait)
        most = self._limits.concurrent_requests
        if most is not None and self._running[key] >= most:
            raise _too_many(f"Rate limit reached: {most} concurrent requests", 1)
        if self._limits.requests_per_minute is not None:
            times.append(now)
        self._running[key] += 1

    def leave(self, key: str) -> None:
        """Count a request that has ended."""
        self._running[key] -= 1


def _too_many(what: str, wait: int) -> ApiError:
    return ApiError(429, f"{what}. Please try again in {wait} seconds.", headers={"Retry-After": str(wait)})


@dataclass(slots=True, eq=False)
class Service:
    """The state of one emulator.

    Raises:
        ValueError: If a reply of the settings is not allowed.
    """

    settings: Settings
    engine: Engine | UpstreamEngine | None = field(init=False)
    replies: Replies = field(default_factory=Replies)
    faults: FaultSchedule = field(init=False)
    limiter: Limiter = field(init=False)
    batches: Batches = field(init=False)
    records: Records = field(default_factory=Records)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        settings = self.settings
        self.engine = None if isinstance(settings.engine, str) else settings.engine
        if settings.upstream:
            self.engine = UpstreamEngine(settings.upstream, settings.upstream_model)
        self.faults = FaultSchedule(settings.faults)
        limits = catalog.PLANS[settings.plan] if settings.plan else PlanLimits()
        self.limiter = Limiter(limits)
        self.batches = Batches(limits)
        for number, row in enumerate(settings.replies, 1):
            try:
                self.replies.state(row)
            except ValueError as exc:
                raise ValueError(f"Emulator: reply {number} of replies is not allowed: {exc}") from None


def service_of(request: Request) -> Service:
    """Return the state of the emulator that got a request."""
    service: Service = request.app.state.service
    return service


def connection_of(request: Request) -> ClientConnection:
    """Return the connection to the client of a request."""
    connection: ClientConnection = request.scope["kluster.connection"]
    return connection


def record_of(scope: Scope) -> RecordedRequest:
    """Return the record of a request."""
    record: RecordedRequest = scope["kluster.record"]
    return record


DONE = b"data: [DONE]\n\n"


def dump(value: object) -> bytes:
    """Return compact JSON. Half a surrogate pair, which UTF-8 cannot encode, becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def event(value: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


class Json(JSONResponse):
    """A JSON answer."""

    def render(self, content: object) -> bytes:
        """Return the body."""
        return dump(content)
