"""Files and batch jobs of kluster.ai, with the signatures of LiteLLM's functions, which refuse custom providers.

LiteLLM's own functions, used with kluster.ai as an OpenAI server, create the job and then fail on its answer (LiteLLM
1.105: a status that OpenAI does not have, `errors: []`). Use `kluster_integrations.batch.BatchJob` to be sure that no
line is sent twice.
"""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import litellm
from litellm.types.llms.openai import HttpxBinaryResponseContent, OpenAIFileObject
from litellm.types.utils import LiteLLMBatch
from openai.pagination import AsyncCursorPage, SyncCursorPage
from pydantic import PrivateAttr

from kluster_integrations.batch.types import Window
from kluster_integrations.errors import BadRequestError, KlusterError
from kluster_integrations.files import Files
from kluster_integrations.litellm._calls import Connections, merged
from kluster_integrations.litellm._errors import to_litellm
from kluster_integrations.litellm._models import PROVIDER

__all__ = [
    "acancel_batch",
    "acreate_batch",
    "acreate_file",
    "afile_content",
    "alist_batches",
    "aretrieve_batch",
    "cancel_batch",
    "create_batch",
    "create_file",
    "file_content",
    "list_batches",
    "retrieve_batch",
]


def create_file(
    file: Any,
    purpose: str = "batch",
    expires_after: Any = None,
    custom_llm_provider: str = PROVIDER,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> OpenAIFileObject:
    """Upload a file of batch requests, as `litellm.create_file`.

    All functions here use the connection of `register`, else that of the environment. `api_key`, `api_base`, `timeout`,
    `max_retries` and `extra_headers` win over it.

    Args:
        file: Bytes, an open file (text is sent as UTF-8), a path, or a tuple of a name and one of these.
        purpose: `batch`, or another word that the service knows.
        expires_after: Refused, because the service does not have it.
        custom_llm_provider: `kluster`.
        extra_headers: Sent with the request.
        extra_body: Further fields of the form.
        kwargs: `api_key`, `api_base`, `timeout` (seconds, or an `httpx.Timeout`, of which `read` counts) and
            `max_retries`. Other arguments of LiteLLM have no effect.

    Raises:
        KlusterError: Whatever goes wrong. It is also LiteLLM's exception class.
    """
    with _connected(custom_llm_provider, extra_headers, kwargs) as files, _opened(file, expires_after) as (name, data):
        return OpenAIFileObject(**files.upload(data, name, purpose=purpose, **(extra_body or {})))


async def acreate_file(
    file: Any,
    purpose: str = "batch",
    expires_after: Any = None,
    custom_llm_provider: str = PROVIDER,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> OpenAIFileObject:
    """As `create_file`."""
    with _connected(custom_llm_provider, extra_headers, kwargs) as files, _opened(file, expires_after) as (name, data):
        return OpenAIFileObject(**await files.aupload(data, name, purpose=purpose, **(extra_body or {})))


def file_content(
    file_id: str,
    model: str | None = None,
    custom_llm_provider: str = PROVIDER,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> HttpxBinaryResponseContent:
    """Return the content of a file, as `litellm.file_content`, but as a whole even with `stream=True`."""
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        return _binary(files.content(file_id))


async def afile_content(
    file_id: str,
    custom_llm_provider: str = PROVIDER,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> HttpxBinaryResponseContent:
    """As `file_content`."""
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        return _binary(await files.acontent(file_id))


def create_batch(
    completion_window: Window,
    endpoint: str,
    input_file_id: str,
    custom_llm_provider: str = PROVIDER,
    metadata: dict[str, str] | None = None,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> LiteLLMBatch:
    """Create a batch job, as `litellm.create_batch`. There are no retries, because one could create a second job.

    Args:
        completion_window: `24h`, `48h` or `72h`.
        endpoint: `/v1/chat/completions`.
        input_file_id: The file's id, from `create_file`.
        custom_llm_provider: `kluster`.
        metadata: Kept with the job.
        extra_headers: Sent with the request.
        extra_body: Further fields of the body.
        kwargs: As in `create_file`.

    Returns:
        The job. The service's own status is in `_hidden_params["kluster_status"]`.

    Raises:
        KlusterError: As in `create_file`. After an `APIConnectionError` or a 5xx the job may exist; see `list_batches`.
    """
    body = _batch_body(completion_window, endpoint, input_file_id, metadata, extra_body)
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        return _batch(files.create_batch(body))


async def acreate_batch(
    completion_window: Window,
    endpoint: str,
    input_file_id: str,
    custom_llm_provider: str = PROVIDER,
    metadata: dict[str, str] | None = None,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> LiteLLMBatch:
    """As `create_batch`."""
    body = _batch_body(completion_window, endpoint, input_file_id, metadata, extra_body)
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        return _batch(await files.acreate_batch(body))


def retrieve_batch(
    batch_id: str,
    custom_llm_provider: str = PROVIDER,
    metadata: dict[str, str] | None = None,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> LiteLLMBatch:
    """Return a batch job, as `litellm.retrieve_batch`."""
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        return _batch(files.batch(batch_id))


async def aretrieve_batch(
    batch_id: str,
    custom_llm_provider: str = PROVIDER,
    metadata: dict[str, str] | None = None,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> LiteLLMBatch:
    """As `retrieve_batch`."""
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        return _batch(await files.abatch(batch_id))


def cancel_batch(
    batch_id: str,
    model: str | None = None,
    custom_llm_provider: str = PROVIDER,
    metadata: dict[str, str] | None = None,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> LiteLLMBatch:
    """Cancel a batch job, as `litellm.cancel_batch`."""
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        return _batch(files.cancel_batch(batch_id))


async def acancel_batch(
    batch_id: str,
    model: str | None = None,
    custom_llm_provider: str = PROVIDER,
    metadata: dict[str, str] | None = None,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> LiteLLMBatch:
    """As `cancel_batch`."""
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        return _batch(await files.acancel_batch(batch_id))


def list_batches(
    after: str | None = None,
    limit: int | None = None,
    custom_llm_provider: str = PROVIDER,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> SyncCursorPage[LiteLLMBatch]:
    """Return a page of the account's batch jobs, as `litellm.list_batches`. Iterating it fetches the next pages."""
    options = {"limit": limit, "custom_llm_provider": custom_llm_provider, "extra_headers": extra_headers, **kwargs}
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        found = files.batches(after, limit)
    page = _Page.construct(data=[_batch(one) for one in found["data"]], has_more=found["has_more"])
    page._options_of_list = options
    return page


async def alist_batches(
    after: str | None = None,
    limit: int | None = None,
    custom_llm_provider: str = PROVIDER,
    metadata: dict[str, str] | None = None,
    extra_headers: dict[str, str] | None = None,
    extra_body: dict[str, str] | None = None,
    **kwargs: Any,
) -> AsyncCursorPage[LiteLLMBatch]:
    """As `list_batches`."""
    options = {"limit": limit, "custom_llm_provider": custom_llm_provider, "extra_headers": extra_headers, **kwargs}
    with _connected(custom_llm_provider, extra_headers, kwargs) as files:
        found = await files.abatches(after, limit)
    page = _AsyncPage.construct(data=[_batch(one) for one in found["data"]], has_more=found["has_more"])
    page._options_of_list = options
    return page


class _Page(SyncCursorPage[LiteLLMBatch]):
    _options_of_list: dict[str, Any] = PrivateAttr(default_factory=dict)

    def get_next_page(self) -> Any:
        return list_batches(self.data[-1].id, **self._options_of_list)

    def iter_pages(self) -> Iterator[Any]:
        page: Any = self
        while True:
            yield page
            if not page.has_next_page():
                return
            page = page.get_next_page()


class _AsyncPage(AsyncCursorPage[LiteLLMBatch]):
    _options_of_list: dict[str, Any] = PrivateAttr(default_factory=dict)

    async def get_next_page(self) -> Any:
        return await alist_batches(self.data[-1].id, **self._options_of_list)

    async def iter_pages(self) -> AsyncIterator[Any]:
        page: Any = self
        while True:
            yield page
            if not page.has_next_page():
                return
            page = await page.get_next_page()


@contextmanager
def _connected(provider: str, headers: dict[str, str] | None, kwargs: dict[str, Any]) -> Iterator[Files]:
    """Yield the connection of a call, and turn errors inside into this adapter's classes."""
    address = str(kwargs.get("api_base") or "")
    try:
        if provider != PROVIDER:
            raise BadRequestError(
                f"custom_llm_provider={provider!r} must be {PROVIDER!r} here.", hint="use litellm's own function."
            )
        handlers: list[Any] = [
            one["custom_handler"] for one in litellm.custom_provider_map if one["provider"] == PROVIDER
        ]
        connections = handlers[0]._connections if handlers else Connections(None, None)
        config = connections.client(kwargs.get("api_key"), kwargs.get("api_base"), drop=False).config
        address = config.base_url
        timeout = kwargs.get("timeout")
        options = {
            "timeout": timeout.read if isinstance(timeout, httpx.Timeout) else timeout,
            "max_retries": kwargs.get("max_retries"),
            "default_headers": {**config.default_headers, **(headers or {})},
        }
        yield Files(merged(config, **options))
    except KlusterError as err:
        raise to_litellm(err, "", address) from None


@contextmanager
def _opened(file: Any, expires_after: Any) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the name and the content of a file, in any form that LiteLLM accepts."""
    if expires_after is not None:
        raise BadRequestError(f"expires_after={expires_after!r} cannot be had here.", hint="leave it out.")
    is_named = isinstance(file, tuple) and len(file) >= 2 and isinstance(file[0], str | None)
    name, content = file[:2] if is_named else (None, file)
    if isinstance(content, os.PathLike):
        path = Path(content)
        try:
            opened = path.open("rb")
        except OSError as err:
            raise BadRequestError(
                f"file={str(path)!r} cannot be read: {err.strerror}.", hint="check the path."
            ) from None
        with opened:
            yield name or path.name, opened
    elif isinstance(content, bytes | bytearray):
        yield name or "requests.jsonl", io.BytesIO(content)
    elif hasattr(content, "read"):
        is_text = isinstance(content.read(0), str)
        data = io.BytesIO(content.read().encode()) if is_text else content
        yield name or Path(str(getattr(content, "name", "requests.jsonl"))).name, data
    else:
        given = f"={content!r}" if isinstance(content, tuple) else f" is of type {type(content).__name__}"
        raise BadRequestError(
            f"file{given}; it must be bytes, an open file, a path, or a tuple of a name and one of these.",
            hint="pass pathlib.Path(…) for a path.",
        )


def _batch_body(
    window: str, endpoint: str, input_file_id: str, metadata: dict[str, str] | None, extra: dict[str, str] | None
) -> dict[str, Any]:
    body = {"completion_window": window, "endpoint": endpoint, "input_file_id": input_file_id, **(extra or {})}
    return body if metadata is None else {**body, "metadata": metadata}


def _batch(fields: dict[str, Any]) -> LiteLLMBatch:
    status = fields.pop("kluster_status")
    batch = LiteLLMBatch(**fields)
    batch._hidden_params = {"kluster_status": status}
    return batch


def _binary(content: bytes) -> HttpxBinaryResponseContent:
    return HttpxBinaryResponseContent(httpx.Response(200, content=content))
