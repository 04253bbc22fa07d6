"""`GET /v1/models`, plain and extended, and one model by id."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.catalog import PLANS, ModelSpec
from kluster_integrations.emulator import rules
from kluster_integrations.emulator.service import Json, Service, service_of

__all__ = ["ROUTES"]

#: When the models were added is not in the catalog to the second; one fixed time keeps answers the same.
_CREATED = 1_746_057_600


async def _list(request: Request) -> Response:
    service = service_of(request)
    extended = request.query_params.get("extended") == "true"
    rows = [{**_row(spec), **(_details(service, spec) if extended else {})} for spec in service.settings.specs()]
    return Json({"object": "list", "data": rows})


async def _one(request: Request) -> Response:
    return Json(_row(rules.find_spec(request.path_params["model"], service_of(request).settings)))


def _row(spec: ModelSpec) -> dict[str, object]:
    owner = spec.id.partition("/")[0] if "/" in spec.id else "klusterai"
    return {"id": spec.id, "object": "model", "created": _CREATED, "owned_by": owner}


def _details(service: Service, spec: ModelSpec) -> dict[str, object]:
    plan = service.settings.plan or "core"
    concurrent = spec.concurrent_requests or PLANS[plan].concurrent_requests
    name = spec.id.rpartition("/")[2].replace("-", " ")
    purpose = "text" if spec.purpose == "chat" else spec.purpose
    tags = ["vision"] * spec.supports_vision + ["fine-tunable"] * spec.fine_tunable
    return {
        "name": name,
        "description": f"{name}, as served by the kluster.ai emulator",
        "tags": tags,
        "model_purpose": "multimodal" if spec.purpose == "chat" and spec.supports_vision else purpose,
        "tools_supported": spec.supports_tools,
        "context_length": spec.context_window,
        "output_length": spec.max_output_tokens,
        "limits": {"concurrent_requests": concurrent},
    }


ROUTES = [Route("/models", _list, methods=["GET"]), Route("/models/{model:path}", _one, methods=["GET"])]
