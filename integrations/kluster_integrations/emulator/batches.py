"""`/v1/batches`: jobs with the chat requests of a file, answered like direct requests."""

from __future__ import annotations

import functools
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.emulator import chat, rules
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.jobs import ENDPOINT, WINDOWS, Job
from kluster_integrations.emulator.rules import bad_request
from kluster_integrations.emulator.service import Json, connection_of, service_of

__all__ = ["ROUTES"]

_MOST_LISTED = 100
_FIELDS = frozenset({"input_file_id", "endpoint", "completion_window", "metadata"})
_OVER = frozenset({"completed", "failed", "expired", "cancelled"})


async def _create(request: Request) -> Response:
    service = service_of(request)
    body = rules.parse_json(await request.body())
    if service.settings.strict:
        rules.reject_unknown(body, _FIELDS)
    file = service.batches.files.get(str(body.get("input_file_id")))
    if file is None:
        raise ApiError(404, f"No such file: {body.get('input_file_id')}.", param="input_file_id")
    if file.purpose != "batch":
        raise bad_request(f"The file's purpose is {file.purpose!r}, not 'batch'", "input_file_id")
    if body.get("endpoint") != ENDPOINT:
        raise bad_request(f"'endpoint' must be '{ENDPOINT}'", "endpoint")
    window, metadata = body.get("completion_window"), body.get("metadata")
    if not isinstance(window, str) or window not in WINDOWS:
        raise bad_request(f"'completion_window' must be one of {', '.join(WINDOWS)}", "completion_window")
    if metadata is not None and not isinstance(metadata, dict):
        raise bad_request("'metadata' must be an object", "metadata")
    behavior = service.batches.next_behavior()
    await _fail(request, behavior.create, "before")
    job = service.batches.create(file, window, metadata, behavior, functools.partial(chat.complete, service))
    await _fail(request, behavior.create, "after")
    return Json(job.fields())


async def _fail(request: Request, how: str, when: str) -> None:
    if how == f"500 {when}":
        raise ApiError(500, "The server had an error while processing your request")
    if how == f"hang {when}":
        await connection_of(request).pause(None)


async def _list(request: Request) -> Response:
    limit = request.query_params.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= _MOST_LISTED:
        raise bad_request(f"'limit' must be a number from 1 to {_MOST_LISTED}", "limit")
    now = time.time()
    jobs = [
        job for job in reversed(service_of(request).batches.jobs.values()) if now >= job.created + job.behavior.list_lag
    ]
    if (after := request.query_params.get("after")) is not None:
        ids = [job.id for job in jobs]
        if after not in ids:
            raise bad_request(f"'after' is not the id of a batch: {after}", "after")
        jobs = jobs[ids.index(after) + 1 :]
    page = jobs[: int(limit)]
    return Json(
        {
            "object": "list",
            "data": [job.fields() for job in page],
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": len(jobs) > len(page),
            "count": len(page),
            "page": 1,
            "page_count": -1,
            "items_per_page": int(limit),
        }
    )


async def _retrieve(request: Request) -> Response:
    return Json(_job(request).fields())


async def _cancel(request: Request) -> Response:
    job = _job(request)
    if job.status in _OVER:
        raise bad_request(f"The batch is {job.status} and cannot be cancelled", None)
    job.turn("cancelling")
    return Json(job.fields())


def _job(request: Request) -> Job:
    id_ = request.path_params["id"]
    job = service_of(request).batches.jobs.get(id_)
    if job is None:
        raise ApiError(404, f"No such batch: {id_}.", param="id")
    return job


ROUTES = [
    Route("/batches", _create, methods=["POST"]),
    Route("/batches", _list, methods=["GET"]),
    Route("/batches/{id}", _retrieve, methods=["GET"]),
    Route("/batches/{id}/cancel", _cancel, methods=["POST"]),
]
