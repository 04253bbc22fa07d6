"""The Starlette application. An API is one module with a list `ROUTES`, and its line in `_GROUPS`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from kluster_integrations import Budget
from kluster_integrations._version import __version__
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.files import Files
from kluster_integrations.gateway import chat, embeddings, messages, models, responses
from kluster_integrations.gateway import files as files_
from kluster_integrations.gateway.errors import refusal
from kluster_integrations.gateway.gate import Gate, origin_of
from kluster_integrations.gateway.jobs import Jobs
from kluster_integrations.gateway.service import Json, Service
from kluster_integrations.limits import Limits

__all__ = ["create_app"]

_GROUPS = (chat.ROUTES, responses.ROUTES, messages.ROUTES, embeddings.ROUTES, models.ROUTES, files_.ROUTES)


def create_app(
    config: KlusterConfig | None = None,
    *,
    limits: Limits | None = None,
    budget: Budget | None = None,
    key: str | None = None,
    origins: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    max_body: int = 64 * 2**20,
) -> Starlette:
    """Return the gateway as an ASGI application, for a server of your own. It works in one event loop.

    Args:
        config: The connection to kluster.ai; default: from the environment.
        limits: The account's limits; default: those of the plan.
        budget: Counts and limits what all requests cost; batch jobs by an estimate, when they are created.
        key: What clients must send in place of OpenAI's or Anthropic's key. With None every client is accepted, if it
            addresses this machine by a local name, and if it is not a web page of another site.
        origins: Origins of web pages that may ask without a key, such as `https://www.typingmind.com`; `*` is any, and
            lets every site spend your key.
        aliases: Model ids by the names that clients know; a name may have a `*`, as in `claude-*`.
        max_body: The largest body, in bytes.

    Raises:
        BadRequestError: If `config` or `limits` is of another type.
        ValueError: If another argument or an environment variable is not acceptable.
    """
    _check(budget=budget, key=key, origins=origins, aliases=aliases, max_body=max_body)
    config = KlusterConfig.of(config)
    files = Files(config)
    service = Service(
        Client(config, limits=limits),
        files,
        Jobs(files, config),
        key=key,
        origins=tuple(map(origin_of, origins)),
        aliases=dict(aliases or {}),
        budget=budget,
        max_body=max_body,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await service.client.aclose()

    # A redirect for a trailing slash would hide a client's wrong URL.
    router = Router([route for group in _GROUPS for route in group], redirect_slashes=False)
    app = Starlette(
        routes=[Route("/", _health), Route("/health", _health), Mount("/v1", router)],
        middleware=[Middleware(Gate, service=service)],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


_SHORTEST_KEY = 8


def _check(*, budget: object, key: object, origins: object, aliases: object, max_body: object) -> None:
    if key is not None and not (isinstance(key, str) and len(key) >= _SHORTEST_KEY and re.fullmatch(r"[!-~]+", key)):
        raise ValueError(f"key (not shown) must have {_SHORTEST_KEY} or more characters of ASCII, and no white space.")
    if budget is not None and not isinstance(budget, Budget):
        raise ValueError(f"budget={budget!r} must be a Budget, such as budget(usd=5.0).")
    if isinstance(origins, str) or not (isinstance(origins, Sequence) and all(isinstance(o, str) for o in origins)):
        raise ValueError(f"origins={origins!r} must be a list of origins, such as ['https://www.typingmind.com'].")
    pairs = aliases.items() if isinstance(aliases, Mapping) else () if aliases is None else None
    if pairs is None or not all(isinstance(word, str) and word for pair in pairs for word in pair):
        raise ValueError(f"aliases={aliases!r} must be a dict of names and model ids, such as {{'gpt-4o': '…'}}.")
    if not isinstance(max_body, int) or isinstance(max_body, bool) or max_body < 1:
        raise ValueError(f"max_body={max_body!r} must be a whole number of bytes, 1 or more.")


async def _health(_: Request) -> Response:
    return Json({"status": "ok", "service": "kluster gateway", "version": __version__})


async def _http_error(request: Request, exc: Exception) -> Response:
    """Raise what Starlette refuses in the API's own form, which the gate gives it."""
    assert isinstance(exc, HTTPException)
    what = f"{request.method} {request.url.path}"
    if exc.status_code != 404:
        raise refusal(exc.status_code, f"{exc.detail}: {what}.")
    raise refusal(404, f"The gateway has no {what}.{_where(request.url.path)}")


def _where(path: str) -> str:
    """Return where a path is that a wrong base URL has come to: without `/v1`, with it twice, with a slash too many."""
    rest = re.sub("^(/v1)*(?=/)", "", re.sub("//+", "/", path)).rstrip("/")
    if not any(route.path_regex.match(rest) for group in _GROUPS for route in group):
        return ""
    return f" It has /v1{rest}: give OpenAI's clients a base URL with /v1 at its end, and Anthropic's one without."
