"""`/v1/files` and `/v1/batches`, passed through in OpenAI's form. What stands in a file goes out as it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kluster_integrations.batch.foreign import counted
from kluster_integrations.batch.types import WINDOWS
from kluster_integrations.errors import BadRequestError
from kluster_integrations.gateway.service import Json, body_of, service_of

__all__ = ["ROUTES"]


async def _upload(request: Request) -> Response:
    form = await request.form()
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise BadRequestError("The form has no file in its field 'file'.", hint="send it as multipart/form-data.")
    purpose = str(form.get("purpose") or "batch")
    name = (file.filename or "batch.jsonl").replace('"', "_").replace("\r", "_").replace("\n", "_")
    service = service_of(request)
    made = await service.files.aupload(file.file, name, purpose=purpose)
    if service.budget is not None and purpose == "batch":
        await service.jobs.note(made["id"], file.file)
    return Json(made)


async def _content(request: Request) -> Response:
    pieces = service_of(request).files.apieces(request.path_params["id"])
    return _File(await anext(pieces, b""), pieces)


class _File(Response):
    """A file, passed on piece by piece, none of which is read before the client has taken those before it.

    The first is there before the 200, so that what the service refuses has its own status. Where it breaks later, the
    connection breaks: an answer in chunks without its end is known to be cut.
    """

    media_type = "application/octet-stream"

    def __init__(self, first: bytes, pieces: AsyncGenerator[bytes]) -> None:
        self._first = first
        self._pieces = pieces
        self.status_code = 200
        self.background = None
        self.init_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        async with aclosing(self._pieces) as pieces:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _create(request: Request) -> Response:
    body, service = await body_of(request), service_of(request)
    if service.budget is None:
        return Json(await service.files.acreate_batch(body))
    file_id, window = body.get("input_file_id"), body.get("completion_window")
    if not isinstance(file_id, str) or not file_id:
        raise BadRequestError(
            f"input_file_id={file_id!r} must be the id of a file.", hint="upload one with POST /v1/files."
        )
    if window not in WINDOWS:
        raise BadRequestError(
            f"completion_window={window!r} must be one of {', '.join(WINDOWS)}.", hint=f"write {WINDOWS[0]!r}, say."
        )
    expected = await service.jobs.expected(file_id)
    with service.counted(), counted(expected, window, service.client.config):
        return Json(await service.files.acreate_batch(body))


async def _batch(request: Request) -> Response:
    return Json(await service_of(request).files.abatch(request.path_params["id"]))


async def _cancel(request: Request) -> Response:
    return Json(await service_of(request).files.acancel_batch(request.path_params["id"]))


async def _batches(request: Request) -> Response:
    limit = request.query_params.get("limit")
    if limit is not None and not (limit.isdigit() and 1 <= int(limit) <= 100):
        raise BadRequestError(f"limit={limit!r} must be a whole number from 1 to 100.", hint="write limit=20, say.")
    found = await service_of(request).files.abatches(request.query_params.get("after"), int(limit) if limit else None)
    return Json(found)


# kluster.ai documents no list, no retrieve and no delete of files.
ROUTES = [
    Route("/files", _upload, methods=["POST"]),
    Route("/files/{id}/content", _content),
    Route("/batches", _create, methods=["POST"]),
    Route("/batches", _batches),
    Route("/batches/{id}", _batch),
    Route("/batches/{id}/cancel", _cancel, methods=["POST"]),
]
