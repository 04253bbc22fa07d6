"""The account's limits, shared through Redis by all processes and machines that use the key."""

from __future__ import annotations

import os
import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from typing import Any, Literal

from kluster_integrations._extras import needs
from kluster_integrations.core.limits.limiter import Counts, Limiter, Limits, Steps, Ticket, Turn
from kluster_integrations.core.notices import warn

__all__ = ["LEASE", "RedisLimiter"]

LEASE = 30.0
"""Seconds after which the slot of a process that has stopped renewing it is free."""

_POLL_SECONDS = 0.05
_IDLE_SECONDS = 1.0
_REST_SECONDS = 10.0
_REDIS_TIMEOUT = 2.0
_MOST_QUESTIONS = 500  # in one script; Redis does nothing else meanwhile
_MOST_CONNECTIONS = 8  # of a process to one Redis, however many keys it has

# It runs as one step, on Redis' clock, and answers any number of questions, each of three arguments: what is asked, the
# id, and how many milliseconds it may wait. Run again with the same ids (after a broken connection) it changes nothing.
# Where the clock was set back, what is booked by the old one is moved: else all would wait until it is that late again.
_SCRIPT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local starts, slots, clock = KEYS[1], KEYS[2], KEYS[3]
local lease, concurrent, requests, span = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local back = (tonumber(redis.call('GET', clock)) or now) - now
if back > 1000 then
  for _, key in ipairs({starts, slots}) do
    for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -back, id) end
  end
end
redis.call('SET', clock, string.format('%.3f', now), 'PX', 86400000)
redis.call('ZREMRANGEBYSCORE', starts, '-inf', now - span)
redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)

local function slot(id)
  if not redis.call('ZSCORE', slots, id) and redis.call('ZCARD', slots) >= concurrent then return 0 end
  redis.call('ZADD', slots, now + lease, id)
  redis.call('PEXPIRE', slots, lease * 2)
  return 1
end

local function start(id, patience)
  local booked = redis.call('ZSCORE', starts, id)
  if booked then return math.max(0, math.ceil(booked - now)) end
  local at = now
  if redis.call('ZCARD', starts) >= requests then
    local before = redis.call('ZRANGE', starts, -requests, -requests, 'WITHSCORES')
    at = math.max(now, before[2] + span)
  end
  local wait = math.ceil(at - now)
  if patience >= 0 and wait > patience then return -wait end
  redis.call('ZADD', starts, string.format('%.3f', at), id)
  redis.call('PEXPIRE', starts, math.ceil(wait + span) + 1000)
  return wait
end

local answers = {}
for i = 5, #ARGV, 3 do
  local what, id = ARGV[i], ARGV[i + 1]
  local answer = 1
  if what == 'slot' then answer = slot(id)
  elseif what == 'start' then answer = start(id, tonumber(ARGV[i + 2]))
  elseif what == 'renew' then redis.call('ZADD', slots, 'XX', now + lease, id); redis.call('PEXPIRE', slots, lease * 2)
  else redis.call('ZREM', slots, id); redis.call('ZREM', starts, id)
  end
  answers[#answers + 1] = answer
end
return answers
"""


@lru_cache(32)
def _connect(redis: Any, url: str, _process: int) -> Any:
    """Return the connections of this process to a Redis, which all its keys share."""
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=_MOST_CONNECTIONS,
        timeout=_REDIS_TIMEOUT,
        socket_timeout=_REDIS_TIMEOUT,
        socket_connect_timeout=_REDIS_TIMEOUT,
    )
    return redis.Redis(connection_pool=pool)


_What = Literal["slot", "start", "renew", "free"]


@dataclass(slots=True, eq=False)
class _Question:
    """A question to Redis, and its answer; None if Redis does not answer."""

    what: _What
    id: str
    deadline: float | None = None
    answer: futures.Future[int | None] = field(default_factory=futures.Future)

    def arguments(self) -> tuple[str, str, int]:
        """Return its part of the script's arguments."""
        left = -1 if self.deadline is None else max(0, int((self.deadline - time.monotonic()) * 1000))
        return self.what, self.id, left

    def grants(self, answer: int | None) -> bool:
        """Whether an answer books something in Redis."""
        return answer is not None and (answer > 0 if self.what == "slot" else self.what == "start" and answer >= 0)

    def is_late(self) -> bool:
        """Whether nobody waits for the answer any longer."""
        return self.deadline is not None and time.monotonic() >= self.deadline


class RedisLimiter(Limiter):
    """Keeps the limits of one key in all processes that share a Redis.

    One thread asks Redis for all requests of this process. Questions that come while it waits for an answer are asked
    together in the next round trip. While Redis does not answer, each process keeps the limits by itself, and logs that
    once.

    Args:
        limits: The limits; `redis_url` is set.
        name: The key's name in Redis: a hash.
        counts: What the key has sent in this process while Redis did not answer; default: nothing.
    """

    def __init__(self, limits: Limits, name: str, counts: Counts | None = None) -> None:
        super().__init__(limits, counts)
        with needs("redis"):
            import redis
        # The braces keep all on one node of a cluster.
        self._keys = [f"kluster:{{{name}}}:{what}" for what in ("starts", "slots", "clock")]
        self._script = _connect(redis, str(limits.redis_url), os.getpid()).register_script(_SCRIPT)
        self._asked: list[_Question] = []
        self._news = threading.Condition()
        self._is_asking = False
        self._held: dict[str, Ticket] = {}
        self._renewing = False
        self._down_until = 0.0
        self._unsaid: str | None = None

    def entering(self, ticket: Ticket) -> Steps:
        """Yield the steps of a request that waits for a slot."""
        if self.limits.concurrent is None:
            return
        question = self._ask("slot", ticket.id, ticket.deadline)
        try:
            yield Turn(question.answer, None)
        except BaseException:
            self._take_back(question)
            raise
        free = question.answer.result()
        if free is None:
            self._say_down()
            yield from super().entering(ticket)
        elif free:
            self._hold(ticket)
        else:
            raise self.too_many_at_once()

    def starting(self, ticket: Ticket) -> Steps:
        """Yield the steps of a try that waits for its start."""
        if self.limits.requests is None:
            return
        question = self._ask("start", ticket.start_id, ticket.deadline)
        try:
            yield Turn(question.answer, None)
            wait = question.answer.result()
            if wait is not None and wait >= 0:
                yield self.announced(wait / 1000)
        except BaseException:
            self._take_back(question)
            raise
        if wait is None:
            self._say_down()
            yield from super().starting(ticket)
        elif wait < 0:
            raise self.too_many(-wait / 1000)

    def leaving(self, ticket: Ticket) -> Steps:
        """Yield the steps that give a slot back."""
        if ticket.in_redis and self._held.pop(ticket.id, None) is not None:
            # Wait, because the process may be about to end; but not for a Redis that is gone.
            yield Turn(self._ask("free", ticket.id).answer, time.monotonic() + _REDIS_TIMEOUT)
        ticket.in_redis = False
        yield from super().leaving(ticket)

    def _hold(self, ticket: Ticket) -> None:
        ticket.in_redis = True
        with self._lock:
            self._held[ticket.id] = ticket
            if not self._renewing:
                self._renewing = True
                threading.Thread(target=self._keep_renewing, name="kluster-limits-renewal", daemon=True).start()

    def _keep_renewing(self) -> None:
        while True:
            time.sleep(LEASE / 3)
            self._sweep()
            with self._lock:
                held = list(self._held)
                self._renewing = bool(held)
            if not held:
                return
            for id_ in held:
                self._ask("renew", id_)

    def _sweep(self) -> None:
        """Give back the slots of closed event loops: their tasks will never run again."""
        for id_, ticket in list(self._held.items()):
            if ticket.loop is not None and ticket.loop.is_closed() and self._held.pop(id_, None) is not None:
                self._ask("free", id_)

    def _ask(self, what: _What, id_: str, deadline: float | None = None) -> _Question:
        """Put a question, which the thread that asks Redis will answer."""
        question = _Question(what, id_, deadline)
        with self._news:
            self._asked.append(question)
            if self._is_asking:
                self._news.notify()
            else:
                self._is_asking = True
                try:
                    threading.Thread(target=self._keep_asking, name="kluster-limits", daemon=True).start()
                except RuntimeError:  # the interpreter is at its end
                    self._is_asking = False
                    question.answer.set_result(None)
        return question

    def _take_back(self, question: _Question) -> None:
        """Return unused permits. Do not wait: this may be the thread of an event loop."""
        if not question.answer.cancel() and question.grants(question.answer.result()):
            self._ask("free", question.id)

    def _keep_asking(self) -> None:
        waiting: list[_Question] = []  # for a slot, first come first served
        while True:
            with self._news:
                if not self._asked:
                    self._news.wait(_POLL_SECONDS if waiting else _IDLE_SECONDS)
                new, self._asked = self._asked, []
                if not new and not waiting:
                    self._is_asking = False
                    return
            self._sweep()
            others = [question for question in new if question.what != "slot"]
            waiting = [*waiting, *(question for question in new if question.what == "slot")]
            waiting = [question for question in waiting if not question.answer.cancelled()]
            # No more than could be let in at all: the rest stands behind them.
            asked = [*others, *waiting[: self.limits.concurrent]]
            answers = self._answers(asked)
            if answers is None:
                asked = [*others, *waiting]
            for question, answer in zip(asked, answers or repeat(None, len(asked)), strict=True):
                self._settle(question, answer)
            waiting = [question for question in waiting if not question.answer.done()]

    def _settle(self, question: _Question, answer: int | None) -> None:
        if question.what == "slot" and answer == 0 and not question.is_late():
            return  # it is asked again
        try:
            question.answer.set_result(answer)
        except futures.InvalidStateError:  # the caller was cancelled in the meantime
            if question.grants(answer):
                self._ask("free", question.id)

    def _answers(self, questions: list[_Question]) -> list[int] | None:
        """Return Redis' answers, None if it gives none."""
        if time.monotonic() < self._down_until:
            return None
        limits, answers = self.limits, list[int]()
        head = [int(LEASE * 1000), limits.concurrent or 0, limits.requests or 0, int(self.span * 1000)]
        try:
            for first in range(0, len(questions), _MOST_QUESTIONS):
                part = questions[first : first + _MOST_QUESTIONS]
                answers += self._script(keys=self._keys, args=[*head, *(a for q in part for a in q.arguments())])
        except Exception as err:  # any error: callers that wait here must not wait for ever
            self._down_until = time.monotonic() + _REST_SECONDS
            self._unsaid = type(err).__name__
            return None
        return answers

    def _say_down(self) -> None:
        """Log once that Redis does not answer: in a caller's thread, not in the thread that asks for all callers."""
        reason, self._unsaid = self._unsaid, None
        if reason is not None:
            warn(
                f"The Redis that shares this key's limits does not answer ({reason}); until it does, each "
                "process keeps them by itself.",
                RuntimeWarning,
                stacklevel=2,
            )
