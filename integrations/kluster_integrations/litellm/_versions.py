"""Which versions of LiteLLM work. Imports nothing of it."""

from __future__ import annotations

import re
from importlib import metadata

__all__ = ["RECOMMENDED", "handler_from_file", "installed", "numbers", "problem"]

RECOMMENDED = "litellm>=1.90,<2,!=1.106.*"


def installed() -> str | None:
    """Return the version of LiteLLM that is installed, None if none is."""
    try:
        return metadata.version("litellm")
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def problem(version: str) -> str | None:
    """Return what is wrong with a version, and what to install; None if nothing is known."""
    given = numbers(version)
    if given in ((1, 82, 7), (1, 82, 8)):
        what = "was malicious, and takes credentials: change every key that this machine has had"
    elif given < (1, 90):
        what = "is older than what is tested, and does not stream from a custom provider"
    elif given[:2] == (1, 106):
        what = "fails on every call with tools (it imports a module of mcp 2 that is not installed)"
    elif given >= (2,):
        what = "is newer than what is tested"
    else:
        return None
    return f'litellm {version} {what}; pip install "{RECOMMENDED}"'


def handler_from_file(version: str) -> bool:
    """Whether the proxy takes a handler from a file beside its configuration only, and not from a package."""
    return numbers(version) < (1, 94)
