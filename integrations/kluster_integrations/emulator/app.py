"""The Starlette application. An endpoint group is one module with a list `ROUTES`, and its line in `_GROUPS`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Router

from kluster_integrations.catalog import ModelSpec, Plan
from kluster_integrations.emulator import batches, chat, embeddings, files, models, verify
from kluster_integrations.emulator.errors import ApiError, error_body
from kluster_integrations.emulator.faults import Fault
from kluster_integrations.emulator.gate import Gate
from kluster_integrations.emulator.scripted import ScriptedEngine
from kluster_integrations.emulator.service import Service
from kluster_integrations.emulator.settings import EngineName, ReasoningStyle, Settings, ShapeName
from kluster_integrations.emulator.upstream import UpstreamEngine
from kluster_integrations.emulator.wire import Json

__all__ = ["build_app", "build_service", "create_app"]

_GROUPS = (
    models.ROUTES,
    chat.ROUTES,
    embeddings.ROUTES,
    verify.ROUTES,
    files.ROUTES,
    batches.ROUTES,
)


def create_app(
    *,
    engine: EngineName = "scripted",
    upstream: str | None = None,
    upstream_model: str | None = None,
    strict: bool = True,
    plan: Plan | None = None,
    api_keys: Iterable[str] | None = None,
    shape: ShapeName = "vllm",
    reasoning: ReasoningStyle = "reasoning_content",
    usage_in_stream: bool = False,
    delay: float = 0.0,
    faults: Iterable[Fault] = (),
    models: Iterable[ModelSpec] = (),
) -> Starlette:
    """Return the emulator as an ASGI application, for those who host it themselves.

    The arguments are those of `Emulator`. The application serves one event loop.

    Raises:
        ValueError: If an argument is not allowed.
    """
    settings = Settings(
        engine=engine,
        upstream=upstream,
        upstream_model=upstream_model,
        strict=strict,
        plan=plan,
        api_keys=api_keys,
        shape=shape,
        reasoning=reasoning,
        usage_in_stream=usage_in_stream,
        delay=delay,
        faults=faults,
        models=models,
    )
    return build_app(build_service(settings))


def build_service(settings: Settings) -> Service:
    """Return a service with the engine that the settings name."""
    if settings.upstream is None:
        return Service(settings, ScriptedEngine())
    return Service(settings, UpstreamEngine(settings.upstream, settings.upstream_model))


def build_app(service: Service) -> Starlette:
    """Return the application that serves a service."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.stopping.set()
        await service.engine.close()

    # A redirect for a trailing slash would hide a client's wrong URL.
    router = Router([route for group in _GROUPS for route in group], redirect_slashes=False)
    app = Starlette(
        routes=[Mount("/v1", router)],
        middleware=[Middleware(Gate, service=service)],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


async def _api_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, ApiError)
    return Json(exc.body, exc.status, exc.headers)


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    what = f"{request.method} {request.url.path}"
    message = f"Unknown request URL: {what}." if exc.status_code == 404 else f"{exc.detail}: {what}."
    return Json(error_body(exc.status_code, message), exc.status_code, exc.headers)
