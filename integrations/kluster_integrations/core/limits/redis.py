"""The account's limits, shared through Redis by all processes and machines that use the key."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from kluster_integrations.core.limits.limiter import Counts, Limiter, Limits, Queue, Steps, Ticket, Turn

__all__ = ["LEASE", "RedisLimiter"]

LEASE = 30.0
"""Seconds after which the slot of a process that has stopped renewing it is free."""

_POLL_SECONDS = 0.05
_TURN_SECONDS = 1.0
_REST_SECONDS = 10.0
_REDIS_TIMEOUT = 2.0

# Scripts run as one step, on Redis' clock. Running one again with the same id (after a broken connection) changes
# nothing.
_SLOT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3] * 2)
return 1
"""
_START = """
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local most, span, patience = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local booked = redis.call('ZSCORE', KEYS[1], ARGV[1])
if booked then return math.max(0, math.ceil(booked - now)) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - span)
local start = now
if redis.call('ZCARD', KEYS[1]) >= most then
  local before = redis.call('ZRANGE', KEYS[1], -most, -most, 'WITHSCORES')
  start = math.max(now, before[2] + span)
end
local wait = math.ceil(start - now)
if patience >= 0 and wait > patience then return -wait end
redis.call('ZADD', KEYS[1], string.format('%.3f', start), ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(wait + span) + 1000)
return wait
"""
_RENEW = """
local t = redis.call('TIME')
local until_ = t[1] * 1000 + t[2] / 1000 + ARGV[1]
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', until_, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1] * 2)
"""


class RedisLimiter(Limiter):
    """Keeps the limits of one key in all processes that share a Redis.

    While Redis does not answer, each process keeps the limits by itself, and says so once.

    Args:
        limits: The limits; `redis_url` is set.
        name: The key's name in Redis: a hash.
        counts: What the key has sent in this process while Redis did not answer; default: nothing.
    """

    def __init__(self, limits: Limits, name: str, counts: Counts | None = None) -> None:
        super().__init__(limits, counts)
        try:
            import redis
        except ImportError:
            raise ImportError('redis_url needs the redis package: pip install "kluster-integrations[redis]"') from None
        self._errors = (redis.RedisError, OSError)
        self._redis = redis.Redis.from_url(
            str(limits.redis_url), socket_timeout=_REDIS_TIMEOUT, socket_connect_timeout=_REDIS_TIMEOUT
        )
        # The braces keep both on one node of a cluster.
        self._keys = (f"kluster:{{{name}}}:starts", f"kluster:{{{name}}}:slots")
        self._slot_script = self._redis.register_script(_SLOT)
        self._start_script = self._redis.register_script(_START)
        self._renew = self._redis.register_script(_RENEW)
        self._first = Queue(1)  # of the requests of this process that wait for a slot, only the first asks Redis
        self._held: set[str] = set()
        self._renewing = False
        self._down_until = 0.0

    def entering(self, ticket: Ticket) -> Steps:
        """Yield the steps of a request that waits for a slot."""
        if self.limits.concurrent is None:
            return
        turn, late, free = self._first.join(), False, None
        try:
            # A second longer than the deadline: with max_wait=0 a request still asks Redis once.
            patience = None if ticket.deadline is None else ticket.deadline + _TURN_SECONDS
            late = not turn.done() and not (yield Turn(turn, patience))
            while not late and (free := (yield partial(self._try, partial(self._take_slot, ticket)))) == 0:
                late = ticket.deadline is not None and time.monotonic() >= ticket.deadline
                yield 0.0 if late else _POLL_SECONDS
        except BaseException:
            self._forget_soon(self._keys[1], ticket.id)
            raise
        finally:
            self._first.leave(turn)
        if late:
            raise self.too_many_at_once()
        if free is None:
            yield from super().entering(ticket)
        else:
            self._hold(ticket)

    def starting(self, ticket: Ticket) -> Steps:
        """Yield the steps of a try that waits for its start."""
        if self.limits.requests is None:
            return
        wait = yield partial(self._try, partial(self._book_start, ticket))
        if wait is None:
            yield from super().starting(ticket)
            return
        if wait < 0:
            raise self.too_many(-wait / 1000)
        try:
            yield wait / 1000
        except BaseException:
            self._forget_soon(self._keys[0], ticket.start_id)
            raise

    def leaving(self, ticket: Ticket) -> Steps:
        """Yield the steps that give a slot back."""
        if ticket.in_redis:
            ticket.in_redis = False
            self._held.discard(ticket.id)
            yield partial(self._try, partial(self._redis.zrem, self._keys[1], ticket.id))
        yield from super().leaving(ticket)

    def _take_slot(self, ticket: Ticket) -> int:
        """Return 1 if there is a slot, else 0."""
        arguments: list[str | int | float] = [ticket.id, self.limits.concurrent or 0, int(LEASE * 1000)]
        return int(self._slot_script(keys=self._keys[1:], args=arguments))

    def _book_start(self, ticket: Ticket) -> int:
        """Return the milliseconds to wait; a negative number if that is longer than the deadline allows."""
        deadline = ticket.deadline
        patience = -1 if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
        arguments: list[str | int | float] = [
            ticket.start_id,
            self.limits.requests or 0,
            int(self.span * 1000),
            patience,
        ]
        return int(self._start_script(keys=self._keys[:1], args=arguments))

    def _try(self, command: Callable[[], Any]) -> Any:
        if time.monotonic() < self._down_until:
            return None
        try:
            return command()
        except self._errors as err:
            self._down_until = time.monotonic() + _REST_SECONDS
            warnings.warn(
                f"The Redis that shares this key's limits does not answer ({type(err).__name__}); until it does, each "
                "process keeps them by itself.",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def _hold(self, ticket: Ticket) -> None:
        ticket.in_redis = True
        with self._lock:
            self._held.add(ticket.id)
            if not self._renewing:
                self._renewing = True
                threading.Thread(target=self._keep_renewing, name="kluster-limits", daemon=True).start()

    def _keep_renewing(self) -> None:
        while True:
            time.sleep(LEASE / 3)
            with self._lock:
                held = list(self._held)
                self._renewing = bool(held)
            if not held:
                return
            self._try(partial(self._renew, keys=self._keys[1:], args=[int(LEASE * 1000), *held]))

    def _forget_soon(self, key: str, member: str) -> None:
        """Take back the booking of a request that is not sent. In a thread: this one may be an event loop's."""
        forget = partial(self._try, partial(self._redis.zrem, key, member))
        threading.Thread(target=forget, name="kluster-limits-forget", daemon=True).start()
