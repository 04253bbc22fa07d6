"""The service's files and batch jobs, one request per call, for adapters that offer OpenAI's API.

To run a job use `BatchJob`: its journal makes sure that each line is sent exactly once. Nothing is kept here.
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, BinaryIO

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.errors import InternalServerError, KlusterError, shortened
from kluster_integrations.core.transport import Transport, path_of

__all__ = ["Files"]

_RUNS = {"validating", "in_progress", "finalizing", "cancelling"}
_ENDED = {"completed", "failed", "expired", "cancelled"}


class Files:
    """Sends requests about files and batch jobs. Each method has an async twin, with an `a` before its name.

    Results have OpenAI's form: `*_at` and counts are numbers (the service sometimes sends text), `errors` is None or an
    object with a list in `data`, and `status` is one of OpenAI's words. The service's own status, such as
    `pre_schedule`, is in `kluster_status`.

    Args:
        config: The connection.
        adapt: An adapter's error class for each of `errors`.

    Raises:
        KlusterError: From each method, whatever goes wrong.
    """

    def __init__(
        self, config: KlusterConfig, *, adapt: Mapping[type[KlusterError], type[KlusterError]] | None = None
    ) -> None:
        self._transport = Transport(config, adapt=adapt)

    def upload(self, file: BinaryIO, name: str, **form: str) -> dict[str, Any]:
        """Upload a file; `form` is the other fields, such as `purpose`."""
        return self._read(_file, self._transport.upload("/files", form, "file", name, file).data)

    async def aupload(self, file: BinaryIO, name: str, **form: str) -> dict[str, Any]:
        """As `upload`."""
        return self._read(_file, (await self._transport.aupload("/files", form, "file", name, file)).data)

    def content(self, file_id: str) -> bytes:
        """Return the content of a file."""
        to = io.BytesIO()
        self._transport.download(path_of("files", file_id, "content"), to)
        return to.getvalue()

    async def acontent(self, file_id: str) -> bytes:
        """As `content`."""
        to = io.BytesIO()
        await self._transport.adownload(path_of("files", file_id, "content"), to)
        return to.getvalue()

    async def apieces(self, file_id: str) -> AsyncGenerator[bytes]:
        """Yield the content of a file as it comes; close the generator to stop early. Has no sync twin."""
        async with aclosing(self._transport.apieces(path_of("files", file_id, "content"))) as pieces:
            async for piece in pieces:
                yield piece

    def create_batch(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create a batch job. It is sent once: a retry after a 500 that came too late has made a second job."""
        return self._read(_batch, self._transport.post("/batches", body, max_retries=0).data)

    async def acreate_batch(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """As `create_batch`."""
        return self._read(_batch, (await self._transport.apost("/batches", body, max_retries=0)).data)

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Return a batch job."""
        return self._read(_batch, self._transport.get(path_of("batches", batch_id)).data)

    async def abatch(self, batch_id: str) -> dict[str, Any]:
        """As `batch`."""
        return self._read(_batch, (await self._transport.aget(path_of("batches", batch_id))).data)

    def cancel_batch(self, batch_id: str) -> dict[str, Any]:
        """Cancel a batch job."""
        return self._read(_batch, self._transport.post(path_of("batches", batch_id, "cancel"), {}).data)

    async def acancel_batch(self, batch_id: str) -> dict[str, Any]:
        """As `cancel_batch`."""
        return self._read(_batch, (await self._transport.apost(path_of("batches", batch_id, "cancel"), {})).data)

    def batches(self, after: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """Return a page of the account's batch jobs, newest first: `data` and `has_more`."""
        return self._read(_page, self._transport.get("/batches", query=_query(after, limit)).data, limit)

    async def abatches(self, after: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """As `batches`."""
        return self._read(_page, (await self._transport.aget("/batches", query=_query(after, limit))).data, limit)

    def _read(self, reader: Callable[..., dict[str, Any]], data: Any, *more: Any) -> dict[str, Any]:
        with self._transport.errors:
            return reader(data, *more)


def _query(after: str | None, limit: int | None) -> dict[str, object]:
    given: dict[str, object] = {"after": after, "limit": limit}
    return {name: value for name, value in given.items() if value is not None}


def _page(data: Any, limit: int | None) -> dict[str, Any]:
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        raise InternalServerError(f"The answer is not a list of batch jobs: {shortened(data)}")
    batches = [_batch(one) for one in data["data"]]
    has_more = data.get("has_more", len(batches) == (limit or 20))  # OpenAI's default of `limit`
    return {"object": "list", "data": batches, "has_more": bool(batches and has_more)}


def _batch(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or not isinstance(data.get("id"), str):
        raise InternalServerError(f"The answer is not a batch job: {shortened(data)}")
    status = str(data.get("status"))
    shown = status if status in _RUNS | _ENDED else "validating" if status == "pre_schedule" else "in_progress"
    errors = data.get("errors")
    listed = errors.get("data") if isinstance(errors, dict) else errors
    problems = [_problem(e) for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
    counts = data.get("request_counts")
    numbers = {name: _number(counts.get(name)) or 0 for name in _COUNTS} if isinstance(counts, dict) else None
    metadata = data.get("metadata")
    return {
        **data,
        **{name: _number(value) for name, value in data.items() if name.endswith("_at")},
        "object": "batch",
        "created_at": _number(data.get("created_at")) or 0,
        "status": shown,
        "kluster_status": status,
        "errors": {"object": "list", "data": problems} if problems else None,
        "request_counts": numbers,
        "metadata": {k: str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else None,
        **{name: str(data.get(name) or "") for name in ("completion_window", "endpoint", "input_file_id")},
    }


_COUNTS = ("total", "completed", "failed")


def _problem(error: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: None if error.get(name) is None else str(error[name]) for name in ("code", "message", "param")}
    return {**texts, "line": _number(error.get("line"))}


def _file(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or not isinstance(data.get("id"), str):
        raise InternalServerError(f"The answer is not a file: {shortened(data)}")
    numbers = {name: _number(data.get(name)) or 0 for name in ("bytes", "created_at")}
    texts = {name: str(data.get(name) or default) for name, default in (("filename", ""), ("purpose", "batch"))}
    return {**data, "object": "file", **numbers, **texts}


def _number(value: object) -> int | None:
    """Return a number, also from text (the live service has sent `*_at` as text); None for anything else."""
    try:
        return int(float(str(value)))
    except (ValueError, OverflowError):
        return None
