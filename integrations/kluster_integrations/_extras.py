"""The package's extras: what each installs, and the error of an import that lacks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["MODULES", "needs"]

MODULES: Mapping[str, tuple[str, ...]] = {
    "langchain": ("langchain_core", "openai"),
    "litellm": ("litellm", "tenacity"),
    "crewai": ("crewai",),
    "emulator": ("starlette", "uvicorn", "python_multipart", "yaml"),
    "gateway": ("starlette", "uvicorn", "httptools", "python_multipart"),
    "recording": ("vcr", "pytest_recording", "yaml"),
    "redis": ("redis",),
    "ray": ("ray",),
    "keyring": ("keyring",),
}
"""The modules that an extra brings, by its name."""


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Let an import inside that lacks a module of an extra say how to install the extra.

    Raises:
        ModuleNotFoundError: With the missing module's `name`, as Python's own. Another module's is left as it is.
    """
    missing = None
    try:
        yield
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in MODULES[extra]:
            raise
        missing = err.name
    if missing:
        install = f'pip install "kluster-integrations[{extra}]"'
        raise ModuleNotFoundError(f"{missing} is not installed: {install}", name=missing)
