"""Warnings, for a program's author and for its operator."""

from __future__ import annotations

import logging
import time
import warnings

__all__ = ["warn"]

_logger = logging.getLogger("kluster_integrations")
_AGAIN_SECONDS = 60.0
_MAX_KNOWN = 1_000
_last_logged: dict[str, float] = {}


def warn(message: str, category: type[Warning] = UserWarning, *, stacklevel: int = 1) -> None:
    """Warn, and log the same message at level WARNING, at most once a minute.

    The log is for services: LiteLLM's proxy replaces `warnings.showwarning` by a function that shows nothing (1.90 to
    1.110). If a program shows warnings and has not set up logging, nothing is logged, because it would appear twice.

    Args:
        message: What happened, and what to do.
        category: The warning's class.
        stacklevel: As in `warnings.warn`: 1 is the caller.
    """
    warnings.warn(message, category, stacklevel=stacklevel + 1)
    shown = warnings.showwarning.__module__ in ("warnings", "_py_warnings")  # the latter from Python 3.14 on
    now = time.monotonic()
    if (shown and not _logger.hasHandlers()) or now - _last_logged.get(message, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
        return
    if len(_last_logged) >= _MAX_KNOWN:
        _last_logged.clear()
    _last_logged[message] = now
    _logger.warning("%s", message)
