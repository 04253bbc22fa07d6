"""Locks of modules, over `os.fork`."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["free_in_forks"]


def free_in_forks(lock: Any) -> Any:
    """Return a lock that is free in a forked process, whoever held it: the child does not have that thread."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lock._at_fork_reinit)  # as the standard library does
    return lock
