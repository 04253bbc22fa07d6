"""The Starlette application. Each group of endpoints is a module with a list `ROUTES`, named in `_GROUPS`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Unpack

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Router

from kluster_integrations.emulator import batches, chat, embeddings, files, models, page, verify
from kluster_integrations.emulator.errors import ApiError, error_body
from kluster_integrations.emulator.gate import Gate
from kluster_integrations.emulator.service import Json, Service, record_of
from kluster_integrations.emulator.settings import Options, Settings
from kluster_integrations.emulator.upstream import UpstreamEngine

__all__ = ["build_app", "create_app"]

_GROUPS = (models.ROUTES, chat.ROUTES, embeddings.ROUTES, verify.ROUTES, files.ROUTES, batches.ROUTES)


def create_app(settings: Settings | None = None, **options: Unpack[Options]) -> Starlette:
    """Return the emulator as an ASGI application, for a server of your own. It works in one event loop.

    Args:
        settings: The settings; default: those of `Settings`.
        options: Single settings, such as `plan="trial"`, which win over `settings`.

    Raises:
        ValueError: If a setting is not allowed.
    """
    return build_app(Service(replace(settings or Settings(), **options)))


def build_app(service: Service) -> Starlette:
    """Return the application that serves a service."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.stopping.set()
        if isinstance(service.engine, UpstreamEngine):
            await service.engine.close()

    # A redirect for a trailing slash would hide a client's wrong URL.
    router = Router([route for group in _GROUPS for route in group], redirect_slashes=False)
    app = Starlette(
        routes=[Mount("/v1", router), *page.ROUTES],
        middleware=[Middleware(Gate, service=service)],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


async def _api_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, ApiError)
    _note(request, exc.message)
    return Json(exc.body, exc.status, exc.headers)


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    what = f"{request.method} {request.url.path}"
    message = f"Unknown request URL: {what}." if exc.status_code == 404 else f"{exc.detail}: {what}."
    _note(request, message)
    return Json(error_body(exc.status_code, message), exc.status_code, exc.headers)


def _note(request: Request, reason: str) -> None:
    if "kluster.record" in request.scope:  # the page's own paths leave none
        record_of(request.scope).reason = reason
