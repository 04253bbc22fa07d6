"""One limiter per key and address in this process."""

from __future__ import annotations

import hashlib
import os
import threading

from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.limits.limiter import Counts, Limiter, Limits

__all__ = ["shared"]

_limiters: dict[tuple[str, Limits], Limiter] = {}
_counts: dict[tuple[str, float], Counts] = {}
_limiters_lock = threading.Lock()


def _start_anew() -> None:
    """After a fork: forget the parent's requests, and a lock that a thread which the child does not have may hold."""
    global _limiters_lock
    _limiters_lock = threading.Lock()
    _limiters.clear()
    _counts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def shared(limits: Limits, config: KlusterConfig) -> Limiter | None:
    """Return the limiter of a key at an address, None if there is nothing to limit.

    All adapters of a process share it, and limiters of one key with other `limits` share its window.
    """
    if limits.requests is None and limits.concurrent is None:
        return None
    key = config.api_key.get_secret_value() if config.api_key else ""
    name = hashlib.sha256(f"{config.base_url}\n{key}".encode()).hexdigest()[:32]
    with _limiters_lock:
        limiter = _limiters.get((name, limits))
        if limiter is None:
            counts = _counts.setdefault((name, limits.period + limits.slack), Counts())
            limiter = _in_redis(limits, counts, name) if limits.redis_url else Limiter(limits, counts)
            _limiters[name, limits] = limiter
    return limiter


def _in_redis(limits: Limits, counts: Counts, name: str) -> Limiter:
    from kluster_integrations.core.limits.redis import RedisLimiter

    return RedisLimiter(limits, name, counts)
