"""The service's asynchronous requests: one chat request that is answered within a window, without a file.

Unverified. The docs describe the request and its notice. It was never seen live that the notice's id leads to a batch
job, and the id in the docs has another form than real jobs' ids. `BatchJob` is the safe way, also for one request.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kluster_integrations.batch.lines import replay
from kluster_integrations.batch.types import Window
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import BadRequestError, InternalServerError, from_body, shortened
from kluster_integrations.core.request import build
from kluster_integrations.core.sse import loads
from kluster_integrations.core.transport import CHAT_PATH, Answer, Transport, path_of
from kluster_integrations.core.types import ChatRequest, Completion

__all__ = ["PendingAnswer", "asubmit_async", "submit_async"]


@dataclass(frozen=True, slots=True)
class PendingAnswer:
    """An asynchronous request that the service has accepted.

    Attributes:
        id: The notice's id.
        notice: The text of the notice, such as "Your request has been queued for adaptive inference".
        request: The request.
    """

    id: str
    notice: str
    request: ChatRequest
    _transport: Transport = field(repr=False)

    @property
    def batch_id(self) -> str:
        """The batch job's id. According to the docs it is the part of `id` before the underscore. Unverified."""
        return self.id.partition("_")[0]

    def fetch(self) -> Completion | None:
        """Look for the answer once; return None if it is not there yet. Unverified: `batch_id` may be wrong.

        Raises:
            NotFoundError: The service knows no such job. The answer then goes to `callback_url` only.
            KlusterError: The request has failed, or anything else goes wrong.
        """
        with self._transport.errors:
            batch = self._transport.get(path_of("batches", self.batch_id)).data
            file = io.BytesIO()
            if id_ := _file_of(batch):
                self._transport.download(path_of("files", str(id_), "content"), file)
            return self._read(batch, file.getvalue())

    async def afetch(self) -> Completion | None:
        """As `fetch`."""
        with self._transport.errors:
            batch = (await self._transport.aget(path_of("batches", self.batch_id))).data
            file = io.BytesIO()
            if id_ := _file_of(batch):
                await self._transport.adownload(path_of("files", str(id_), "content"), file)
            return self._read(batch, file.getvalue())

    def _read(self, batch: Mapping[str, Any], lines: bytes) -> Completion | None:
        if not lines:
            if batch.get("status") in ("failed", "expired", "cancelled"):
                raise InternalServerError(
                    f"The asynchronous request {self.id} is {batch['status']}, without an answer.",
                    hint="send it again, with a longer window if it has expired.",
                )
            return None
        response = loads(lines.partition(b"\n")[0]).get("response") or {}
        if response.get("status_code") != 200:
            raise from_body(response.get("body"), status_code=response.get("status_code"))
        done = replay(self.request, [response["body"]])
        if done.error is not None:
            raise done.error
        return done.completion


def submit_async(
    request: ChatRequest | Mapping[str, Any],
    *,
    window: Window = "24h",
    callback_url: str | None = None,
    strict: bool = False,
    config: KlusterConfig | None = None,
) -> PendingAnswer:
    """Send a request that is answered later.

    Unverified: the service's docs describe this, but it was never run against the service. `BatchJob` is the safe way,
    also for one request.

    The request is sent once. After a broken connection it may run or not, and sending it again may cost twice. A wrong
    answer is not repaired.

    Args:
        request: A dict with `model`, `messages` and parameters as in OpenAI's API.
        window: How long the service may take: `24h`, `48h` or `72h`.
        callback_url: The address that the service sends the answer to.
        strict: Whether the service drops an answer that comes after the window.
        config: The connection; default: from the environment.

    Raises:
        BadRequestError: The request cannot be sent as it is.
        KlusterError: Whatever else goes wrong.
    """
    transport, asked, body = _prepare(request, window, callback_url, strict, config)
    return _pending(transport.post(CHAT_PATH, body, max_retries=0), asked, transport)


async def asubmit_async(
    request: ChatRequest | Mapping[str, Any],
    *,
    window: Window = "24h",
    callback_url: str | None = None,
    strict: bool = False,
    config: KlusterConfig | None = None,
) -> PendingAnswer:
    """As `submit_async`."""
    transport, asked, body = _prepare(request, window, callback_url, strict, config)
    return _pending(await transport.apost(CHAT_PATH, body, max_retries=0), asked, transport)


def _prepare(
    request: ChatRequest | Mapping[str, Any],
    window: str,
    callback_url: str | None,
    strict: bool,
    config: KlusterConfig | None,
) -> tuple[Transport, ChatRequest, dict[str, Any]]:
    config = KlusterConfig.of(config)
    if not isinstance(request, ChatRequest):
        if not isinstance(request, Mapping):
            raise BadRequestError(
                f"request={str(request)[:100]!r} must be a dict of model, messages and parameters.",
                hint='such as {"model": "…", "messages": [{"role": "user", "content": "Hello!"}]}.',
            )
        values = dict(request)
        request = build(values.pop("model", ""), values.pop("messages", []), values, config=config)
    if request.body.get("stream"):
        raise BadRequestError("stream=True is not possible: the answer comes later, as a whole.", hint="leave it out.")
    request.max_repairs = min(request.max_repairs, 0)
    ours: dict[str, Any] = {"async": True, "completion_window": window, "strict_completion_window": strict}
    if callback_url is not None:
        ours["callback_url"] = callback_url
    metadata = {**(request.body.get("metadata") or {}), "@kluster.ai": ours}
    return Transport(config), request, {**request.body, "metadata": metadata}


def _pending(answer: Answer, request: ChatRequest, transport: Transport) -> PendingAnswer:
    try:
        id_, notice = answer.data["id"], answer.data["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise InternalServerError(
            f"The server did not accept the request as asynchronous: {shortened(answer.data)}"
        ) from None
    return PendingAnswer(str(id_), str(notice or ""), request, transport)


def _file_of(batch: Mapping[str, Any]) -> str | None:
    return batch.get("output_file_id") or batch.get("error_file_id")
