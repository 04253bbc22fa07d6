"""What the routes share: settings, recorded requests, faults, limits, the engine, and the line to the client."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kluster_integrations import catalog
from kluster_integrations.emulator.faults import FaultSchedule
from kluster_integrations.emulator.jobs import Batches
from kluster_integrations.emulator.limits import Limiter
from kluster_integrations.emulator.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request

    from kluster_integrations.emulator.engine import Engine
    from kluster_integrations.emulator.gate import RecordedRequest

__all__ = ["MAX_RECORDED", "Gone", "Line", "Service", "line_of", "service_of"]


MAX_RECORDED = 10_000  # requests; a server that runs for days keeps the newest


class Gone(Exception):  # noqa: N818 - not an error: nobody is left to answer
    """The client has hung up, or the emulator is stopping."""


class Line:
    """The connection to one client.

    Args:
        stopping: Set when the emulator stops.
        listener: A task that ends when the client hangs up.
    """

    def __init__(self, stopping: asyncio.Event, listener: asyncio.Task[None]) -> None:
        self._stopping = stopping
        self._listener = listener

    def check(self) -> None:
        """Raise `Gone` if there is nobody left to answer."""
        if self._stopping.is_set() or self._listener.done():
            raise Gone

    async def pause(self, seconds: float | None) -> None:
        """Wait (None: for ever), but no longer than the client does.

        Raises:
            Gone: If the client hangs up or the emulator stops meanwhile.
        """
        self.check()
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((stop, self._listener), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        self.check()


@dataclass(slots=True, eq=False)
class Service:
    """The state of one emulator."""

    settings: Settings
    engine: Engine
    faults: FaultSchedule = field(init=False)
    limiter: Limiter = field(init=False)
    batches: Batches = field(init=False)
    requests: deque[RecordedRequest] = field(default_factory=lambda: deque(maxlen=MAX_RECORDED))
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        plan = self.settings.plan
        self.faults = FaultSchedule(self.settings.faults)
        limits = catalog.PLANS[plan] if plan else catalog.PlanLimits()
        self.limiter = Limiter(limits)
        self.batches = Batches(limits)


def service_of(request: Request) -> Service:
    """Return the service that a request is for."""
    service: Service = request.app.state.service
    return service


def line_of(request: Request) -> Line:
    """Return the line to the client of a request."""
    line: Line = request.scope["kluster.line"]
    return line
