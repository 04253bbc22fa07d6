"""`/v1/files` and `/v1/uploads`. Files cannot be listed or deleted, since the docs describe neither."""

from __future__ import annotations

import time
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.emulator import rules
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.jobs import FILE_BYTES, StoredFile, Upload
from kluster_integrations.emulator.rules import bad_request
from kluster_integrations.emulator.service import Json, service_of

__all__ = ["ROUTES"]

_PART_BYTES = 64_000_000
_UPLOAD_BYTES = 8_000_000_000
_UPLOAD_SECONDS = 3_600
_PURPOSES = ("batch", "fine-tune")


async def _create(request: Request) -> Response:
    batches = service_of(request).batches
    form = await _form(request)
    name, data = await _content(form, "file")
    purpose = _purpose(form.get("purpose"), name)
    if len(data) > batches.behavior.largest_post:
        raise ApiError(413, f"The file has {len(data)} bytes; allowed are {batches.behavior.largest_post}.")
    _check_size(len(data), purpose)
    return Json(batches.keep(StoredFile(name, purpose, data)).fields())


async def _retrieve(request: Request) -> Response:
    file = _file(request)
    if time.time() < file.created + service_of(request).batches.behavior.file_lag:
        raise _no_file(file.id)
    return Json(file.fields())


async def _download(request: Request) -> Response:
    return Response(_file(request).data, media_type="application/jsonl")


async def _begin(request: Request) -> Response:
    body = rules.parse_json(await request.body())
    name, size = body.get("filename"), body.get("bytes")
    if not isinstance(name, str) or not name:
        raise bad_request("'filename' must be a non-empty string", "filename")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _UPLOAD_BYTES:
        raise bad_request(f"'bytes' must be a number from 1 to {_UPLOAD_BYTES}", "bytes")
    upload = Upload(name, _purpose(body.get("purpose"), name), size)
    service_of(request).batches.uploads[upload.id] = upload
    return Json(upload.fields())


async def _add_part(request: Request) -> Response:
    upload = _pending(request)
    _, data = await _content(await _form(request), "data")
    if len(data) > _PART_BYTES:
        raise bad_request(f"A part is at most {_PART_BYTES} bytes; this one has {len(data)}", "data")
    part = f"part_{len(upload.parts)}_{upload.id}"
    upload.parts[part] = data
    created = int(time.time())
    return Json({"id": part, "object": "upload.part", "created_at": created, "upload_id": upload.id})


async def _complete(request: Request) -> Response:
    upload = _pending(request)
    ids = rules.parse_json(await request.body()).get("part_ids")
    if not isinstance(ids, list) or not ids or any(id_ not in upload.parts for id_ in ids):
        raise bad_request("'part_ids' must be the ids of this upload's parts, in order", "part_ids")
    data = b"".join(upload.parts[id_] for id_ in ids)
    if len(data) != upload.size:
        raise bad_request(f"The parts have {len(data)} bytes; the upload was to have {upload.size}", "part_ids")
    _check_size(len(data), upload.purpose)
    upload.file = service_of(request).batches.keep(StoredFile(upload.name, upload.purpose, data))
    upload.status = "completed"
    upload.parts.clear()
    return Json(upload.fields())


async def _cancel(request: Request) -> Response:
    upload = _pending(request)
    upload.status = "cancelled"
    upload.parts.clear()
    return Json(upload.fields())


def _file(request: Request) -> StoredFile:
    id_ = request.path_params["id"]
    file = service_of(request).batches.files.get(id_)
    if file is None:
        raise _no_file(id_)
    return file


def _no_file(id_: str) -> ApiError:
    return ApiError(404, f"No such file: {id_}.", param="id")


def _pending(request: Request) -> Upload:
    id_ = request.path_params["id"]
    upload = service_of(request).batches.uploads.get(id_)
    if upload is None:
        raise ApiError(404, f"No such upload: {id_}.", param="id")
    if upload.status != "pending" or time.time() > upload.created + _UPLOAD_SECONDS:
        state = "expired" if upload.status == "pending" else upload.status
        raise bad_request(f"The upload is {state}", "id")
    return upload


async def _form(request: Request) -> Any:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise bad_request("The body must be multipart/form-data", None)
    return await request.form()


async def _content(form: Any, name: str) -> tuple[str, bytes]:
    value = form.get(name)
    if not isinstance(value, UploadFile):
        raise bad_request(f"'{name}' must be a file", name)
    return value.filename or "", await value.read()


def _purpose(purpose: object, name: str) -> str:
    if purpose not in _PURPOSES:
        raise bad_request(f"'purpose' must be one of {', '.join(_PURPOSES)}", "purpose")
    if not name.endswith(".jsonl"):
        raise bad_request(f"The file's name must end with .jsonl, not {name!r}", "file")
    return str(purpose)


def _check_size(size: int, purpose: str) -> None:
    if purpose == "batch" and size > FILE_BYTES:
        raise bad_request(f"A batch file is at most {FILE_BYTES} bytes; this one has {size}", "file")


ROUTES = [
    Route("/files", _create, methods=["POST"]),
    Route("/files/{id}", _retrieve, methods=["GET"]),
    Route("/files/{id}/content", _download, methods=["GET"]),
    Route("/uploads", _begin, methods=["POST"]),
    Route("/uploads/{id}/parts", _add_part, methods=["POST"]),
    Route("/uploads/{id}/complete", _complete, methods=["POST"]),
    Route("/uploads/{id}/cancel", _cancel, methods=["POST"]),
]
