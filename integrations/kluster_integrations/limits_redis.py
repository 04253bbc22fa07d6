"""The account's limits, shared through Redis by all processes and machines that use the key."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from kluster_integrations.limits import Limiter, Limits, Queue, Steps, Ticket, Turn

__all__ = ["LEASE", "RedisLimiter"]

LEASE = 30.0
"""Seconds after which the slot of a process that has stopped renewing it is free."""

_POLL_SECONDS = 0.05
_TURN_SECONDS = 1.0
_REST_SECONDS = 10.0
_REDIS_TIMEOUT = 2.0

# All of it in one script, so that it happens at once, on Redis' clock. Answers {state, milliseconds}: 0 is let in,
# start in so long; 1 is no slot free; 2 is that the start would be later than the caller waits. Asking again under the
# same id (after a broken connection) changes nothing.
_ENTER = """
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local most, span, slots = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local lease, patience = tonumber(ARGV[6]), tonumber(ARGV[7])
if slots > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if not redis.call('ZSCORE', KEYS[2], ARGV[2]) and redis.call('ZCARD', KEYS[2]) >= slots then
    return {1, 0}
  end
end
local start = now
if most > 0 then
  local booked = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if booked then
    start = tonumber(booked)
  else
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - span)
    if redis.call('ZCARD', KEYS[1]) >= most then
      local before = redis.call('ZRANGE', KEYS[1], -most, -most, 'WITHSCORES')
      start = math.max(now, before[2] + span)
    end
    if patience >= 0 and start - now > patience then
      return {2, math.ceil(start - now)}
    end
    redis.call('ZADD', KEYS[1], string.format('%.3f', start), ARGV[1])
    redis.call('PEXPIRE', KEYS[1], math.ceil(start - now + span) + 1000)
  end
end
if slots > 0 then
  redis.call('ZADD', KEYS[2], now + lease, ARGV[2])
  redis.call('PEXPIRE', KEYS[2], lease * 2)
end
return {0, math.max(0, math.ceil(start - now))}
"""
_RENEW = """
local t = redis.call('TIME')
local until_ = t[1] * 1000 + t[2] / 1000 + ARGV[1]
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', until_, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1] * 2)
"""


class RedisLimiter(Limiter):
    """Lets requests in under the limits of one key, in all processes that share a Redis.

    While Redis does not answer, each process keeps the limits by itself, and says so once.

    Args:
        limits: The limits; `redis_url` is set.
        name: What the key is called in Redis: a hash.
    """

    def __init__(self, limits: Limits, name: str) -> None:
        super().__init__(limits)
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
        self._enter = self._redis.register_script(_ENTER)
        self._renew = self._redis.register_script(_RENEW)
        self._first = Queue(1)  # of those of this process that look for a slot, only the first asks
        self._held: set[str] = set()
        self._renewing = False
        self._down_until = 0.0

    def entering(self, ticket: Ticket) -> Steps:
        """Yield what a request waits for before it is sent."""
        deadline = self.deadline()
        turn = self._first.join()
        try:
            # With patience: whoever will not wait at all still asks Redis once.
            patience = None if deadline is None else deadline + _TURN_SECONDS
            late = not turn.done() and not (yield Turn(turn, patience))
            answer = None if late else (yield self._asking(ticket, deadline, slot=True))
            while answer is not None and answer[0] == 1 and not late:
                late = deadline is not None and time.monotonic() >= deadline
                yield 0.0 if late else _POLL_SECONDS
                answer = answer if late else (yield self._asking(ticket, deadline, slot=True))
        except BaseException:
            self._forget_soon(ticket)
            raise
        finally:
            self._first.leave(turn)
        if late:
            raise self.too_many_at_once()
        if answer is None:
            yield from super().entering(ticket)
        elif answer[0] == 2:
            raise self.too_many(answer[1])
        else:
            self._hold(ticket)
            yield from self._wait_for_start(ticket, answer[1])

    def starting(self, ticket: Ticket, deadline: float | None = None) -> Steps:
        """Yield what a try waits for before it is sent."""
        if self.limits.requests is None:
            return
        deadline = deadline if deadline is not None else self.deadline()
        answer = None
        if ticket.in_redis:
            answer = yield self._asking(ticket, deadline, slot=False)
        if answer is None:
            yield from super().starting(ticket, deadline)
        elif answer[0] == 2:
            raise self.too_many(answer[1])
        else:
            yield from self._wait_for_start(ticket, answer[1])

    def leaving(self, ticket: Ticket) -> Steps:
        """Yield what is to be done when a request is over."""
        if ticket.in_redis:
            ticket.in_redis = False
            self._held.discard(ticket.slot_id)
            if self.limits.concurrent:
                yield lambda: self._try(lambda: self._redis.zrem(self._keys[1], ticket.slot_id))
        self._give_back(ticket)

    def _wait_for_start(self, ticket: Ticket, seconds: float) -> Steps:
        try:
            yield seconds
        except BaseException:
            self._forget_soon(ticket)
            raise

    def _asking(self, ticket: Ticket, deadline: float | None, *, slot: bool) -> Callable[[], tuple[int, float] | None]:
        """Return the question to Redis. Its answer is a state and seconds, None where there is no answer."""
        limits = self.limits
        patience = -1 if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        arguments: list[str | int | float] = [
            ticket.start_id,
            ticket.slot_id,
            limits.requests or 0,
            self.span * 1000,
            (limits.concurrent or 0) if slot else 0,
            int(LEASE * 1000),
            patience,
        ]

        def ask() -> tuple[int, float] | None:
            answer = self._try(lambda: self._enter(keys=self._keys, args=arguments))
            return None if answer is None else (int(answer[0]), int(answer[1]) / 1000)

        return ask

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
        if self.limits.concurrent is None:
            return
        with self._lock:
            self._held.add(ticket.slot_id)
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

    def _forget_soon(self, ticket: Ticket) -> None:
        """Take back what was booked for a request that is not sent. Off this thread: it may be an event loop's."""
        ticket.in_redis = False
        self._held.discard(ticket.slot_id)

        def forget() -> None:
            self._try(lambda: self._redis.zrem(self._keys[0], ticket.start_id))
            self._try(lambda: self._redis.zrem(self._keys[1], ticket.slot_id))

        threading.Thread(target=forget, name="kluster-limits-forget", daemon=True).start()
