"""One limiter per key and address in this process."""

from __future__ import annotations

import hashlib
import os
import threading
from weakref import WeakValueDictionary

from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.forks import free_in_forks
from kluster_integrations.core.limits.limiter import Counts, Limiter, Limits

__all__ = ["shared"]

_limiters: WeakValueDictionary[tuple[str, Limits], Limiter] = WeakValueDictionary()
_counts: dict[tuple[str, float], Counts] = {}  # kept longer than any limiter, because a new client may have sent before
_MOST_COUNTS = 1_000
_limiters_lock = free_in_forks(threading.Lock())


def _start_anew() -> None:
    """After a fork: forget the parent's requests."""
    _limiters.clear()
    _counts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def shared(limits: Limits, config: KlusterConfig) -> Limiter | None:
    """Return the limiter of a key at an address; None if there is nothing to limit.

    All adapters of a process share it. Limiters of one key with different `limits` share one window.
    """
    if limits.requests is None and limits.concurrent is None:
        return None
    key = config.api_key.get_secret_value() if config.api_key else ""
    name = hashlib.sha256(f"{config.base_url}\n{key}".encode()).hexdigest()[:32]
    with _limiters_lock:
        limiter = _limiters.get((name, limits))
        if limiter is None:
            if len(_counts) >= _MOST_COUNTS:
                for idle in [known for known, counts in _counts.items() if counts.is_idle(known[1])]:
                    del _counts[idle]
            counts = _counts.setdefault((name, limits.period + limits.slack), Counts())
            limiter = _in_redis(limits, counts, name) if limits.redis_url else Limiter(limits, counts)
            _limiters[name, limits] = limiter
    return limiter


def _in_redis(limits: Limits, counts: Counts, name: str) -> Limiter:
    from kluster_integrations.core.limits.redis import RedisLimiter

    return RedisLimiter(limits, name, counts)
