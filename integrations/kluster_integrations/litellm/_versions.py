"""Which versions of LiteLLM work. Does not import LiteLLM."""

from __future__ import annotations

import re
from importlib import metadata

__all__ = [
    "RECOMMENDED",
    "SUPPORTED",
    "broken",
    "handler_from_file",
    "installed",
    "missing_proxy",
    "numbers",
    "problem",
]

SUPPORTED = ((1, 90), (2,))
"""The first supported version, and the first that is not supported any more."""

RECOMMENDED = "litellm>=1.90,<2,!=1.106.*"

_MALICIOUS = "was malicious, and takes credentials: change every key that this machine has had"
_BROKEN = {
    (1, 82, 7): _MALICIOUS,
    (1, 82, 8): _MALICIOUS,
    (1, 106): "fails on every call with tools (it imports a module of mcp 2 that is not installed)",
}


def installed() -> str | None:
    """Return the installed version of LiteLLM; None if it is not installed."""
    try:
        return metadata.version("litellm")
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def broken(version: str) -> str | None:
    """Return why a version should not be used, at all or with tools; None if no problem is known."""
    given = numbers(version)
    return _BROKEN.get(given) or _BROKEN.get(given[:2])


def problem(version: str) -> str | None:
    """Return what is wrong with a version, and what to install; None if no problem is known."""
    low, high = SUPPORTED
    what = broken(version)
    if what is None and numbers(version) < low:
        what = "is older than what is tested, and does not stream from a custom provider"
    elif what is None and numbers(version) >= high:
        what = "is newer than what is tested"
    return f'litellm {version} {what}; pip install "{RECOMMENDED}"' if what else None


def handler_from_file(version: str) -> bool:
    """Whether the proxy accepts a handler only from a file beside its configuration, not from a package."""
    return numbers(version) < (1, 94)


def missing_proxy(version: str) -> str | None:
    """Return what to install if the proxy is a package of its own that is missing; else None.

    From 1.110 on `litellm[proxy]` needs `litellm-proxy`, which some indexes do not have (seen with 1.110.2).
    """
    if numbers(version) < (1, 110):
        return None
    try:
        metadata.version("litellm-proxy")
    except metadata.PackageNotFoundError:
        return (
            'for its proxy pip install "litellm[proxy]"; where the index has no litellm-proxy, "litellm[proxy]<1.110"'
        )
    return None
