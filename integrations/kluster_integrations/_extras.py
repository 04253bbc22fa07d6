"""The package's extras: what each installs, and the error if it is not installed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["MODULES", "install_command", "needs"]

_NAME = "kluster-integrations"

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
"""The modules that each extra installs, by its name."""


def install_command(*extras: str) -> str:
    """Return the command that installs extras, from the checkout if the package was installed from one."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:  # its folder is on the path, and nothing is installed
        origin = None
    return _command(json.loads(origin or "{}"), ",".join(extras))


def _command(origin: Mapping[str, Any], extras: str) -> str:
    """Return the command for an origin as pip records it: packaging.python.org, "Recording the Direct URL Origin"."""
    from urllib.parse import urlsplit  # this one and the next take milliseconds, and only an error needs them
    from urllib.request import url2pathname

    if "dir_info" in origin:
        folder = url2pathname(urlsplit(origin["url"]).path)
        if Path(folder).is_dir():
            editable = "--editable " if origin["dir_info"].get("editable") else ""
            return f'pip install {editable}"{folder}[{extras}]"'
    return f'pip install "{_NAME}[{extras}]"'


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """If an import inside fails because an extra is not installed, say how to install it.

    Raises:
        ModuleNotFoundError: With the missing module's `name`. Errors about other modules pass unchanged.
    """
    missing = None
    try:
        yield
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in MODULES[extra]:
            raise
        missing = err.name
    if missing:
        # `from None`: the import's own traceback says nothing more.
        raise ModuleNotFoundError(f"{missing} is not installed: {install_command(extra)}", name=missing) from None
