"""`GET /v1/models`, in a form that is OpenAI's and Anthropic's at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.errors import InternalServerError
from kluster_integrations.gateway.errors import refusal
from kluster_integrations.gateway.service import Json, Service, service_of

__all__ = ["ROUTES"]

_YEAR_10000 = 253_402_300_800  # seconds; some servers give milliseconds


async def _list(request: Request) -> Response:
    rows = await _rows(service_of(request))
    ends = {"first_id": rows[0]["id"] if rows else None, "last_id": rows[-1]["id"] if rows else None}
    return Json({"object": "list", "data": rows, "has_more": False, **ends})


async def _one(request: Request) -> Response:
    service = service_of(request)
    name = request.path_params["name"]
    row = next((row for row in await _rows(service) if row["id"] == service.model(name)), None)
    if row is None:
        raise refusal(404, f"The model {name!r} does not exist; GET /v1/models lists those that do.", "model_not_found")
    return Json({**row, "id": name})


async def _rows(service: Service) -> list[dict[str, Any]]:
    answer = await service.client.aget("/models")
    data = answer.data.get("data") if isinstance(answer.data, Mapping) else None
    if not isinstance(data, list):
        raise InternalServerError("The server's list of models has a form that cannot be read.")
    return [_row(entry) for entry in data if isinstance(entry, Mapping) and isinstance(entry.get("id"), str)]


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    created = entry.get("created")
    created = created if isinstance(created, int) and 0 <= created < _YEAR_10000 else 0
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
    openai = {"object": "model", "created": created, "owned_by": str(entry.get("owned_by") or "kluster.ai")}
    anthropic = {"type": "model", "display_name": str(entry.get("name") or entry["id"]), "created_at": at}
    return {**entry, **openai, **anthropic}


ROUTES = [Route("/models", _list), Route("/models/{name:path}", _one)]
