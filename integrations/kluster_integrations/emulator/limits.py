"""The plan's limits as the server enforces them, by key: requests a minute (a sliding window), concurrent requests."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable

from kluster_integrations.catalog import PlanLimits
from kluster_integrations.emulator.errors import ApiError

__all__ = ["Limiter"]

_MINUTE = 60.0


class Limiter:
    """Counts requests by key and answers 429 past a limit. Lives in one event loop.

    Args:
        limits: The plan's limits; None is no limits.
        clock: Returns seconds, never going back.
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
