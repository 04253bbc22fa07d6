"""LiteLLM's settings for the connections of all providers: `ssl_verify`, `client_session`, `aclient_session`."""

from __future__ import annotations

import asyncio
import os
import ssl
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import litellm

from kluster_integrations.errors import BadRequestError

__all__ = ["Settings", "settings"]


class Settings(NamedTuple):
    """The settings of a call. `verify` is True, False, a path of certificates, or an `SSLContext`."""

    verify: Any
    session: Any
    async_session: Any

    def clients(self) -> dict[str, Any]:
        """Return the HTTP clients for the core; an empty dict if its own connections are right.

        Raises:
            BadRequestError: If the path of the certificates does not exist.
        """
        sync, asynchronous = self.session, self.async_session
        if self.verify is not True:
            verify = _context(self.verify)
            sync, asynchronous = sync or httpx.Client(verify=verify), asynchronous or _ByLoop(verify)
        return {"http_client": sync, "http_async_client": asynchronous}


class _ByLoop(httpx.AsyncClient):
    """An async client for any event loop; httpx's own works only in the first loop that uses it."""

    def __init__(self, verify: Any) -> None:
        super().__init__(verify=verify)
        self._ours = verify
        self._clients: weakref.WeakKeyDictionary[Any, httpx.AsyncClient] = weakref.WeakKeyDictionary()

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        loop = asyncio.get_running_loop()
        if (client := self._clients.get(loop)) is None:
            client = self._clients[loop] = httpx.AsyncClient(verify=self._ours)
        return await client.send(request, **options)


def settings() -> Settings:
    """Return the present settings. As for LiteLLM's other providers, the variable `SSL_VERIFY` wins."""
    verify: Any = os.environ.get("SSL_VERIFY", litellm.ssl_verify)
    if isinstance(verify, str) and verify.strip().lower() in ("true", "false", ""):
        verify = verify.strip().lower() != "false"
    return Settings(True if verify is None else verify, litellm.client_session, litellm.aclient_session)


def _context(verify: Any) -> Any:
    if not isinstance(verify, str):
        return verify
    path = Path(verify)
    if not path.exists():
        raise BadRequestError(
            f"ssl_verify={verify!r} is neither true nor false, and no file or folder of that name is there.",
            hint="name a file of certificates (PEM) in SSL_VERIFY or litellm.ssl_verify, or unset it.",
        )
    return ssl.create_default_context(**{"capath" if path.is_dir() else "cafile": verify})  # type: ignore[arg-type]
