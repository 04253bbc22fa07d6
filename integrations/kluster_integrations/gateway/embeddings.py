"""`POST /v1/embeddings`: OpenAI's embeddings."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.core.client import MAX_EMBEDDING_BATCH
from kluster_integrations.core.types import Delta
from kluster_integrations.errors import BadRequestError
from kluster_integrations.gateway.answers import note
from kluster_integrations.gateway.service import Json, body_of, log_of, service_of

__all__ = ["ROUTES"]


async def _embed(request: Request) -> Response:
    body = await body_of(request)
    service = service_of(request)
    model = service.model(body.get("model"))
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise BadRequestError(
            f"encoding_format={encoding!r} must be float or base64.", hint="leave it out: float is the default."
        )
    with service.counted():
        vectors = await service.client.aembed(model, _texts(body.get("input")), dimensions=body.get("dimensions"))
    note(log_of(request), Delta(usage=vectors.usage))
    rows = [
        {"object": "embedding", "index": i, "embedding": _base64(row) if encoding == "base64" else row}
        for i, row in enumerate(vectors.rows)
    ]
    usage = {"prompt_tokens": vectors.usage.prompt_tokens, "total_tokens": vectors.usage.total_tokens}
    return Json({"object": "list", "data": rows, "model": body["model"], "usage": usage})


def _texts(given: object) -> Sequence[str]:
    texts: Any = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise BadRequestError(
            "input must be a text, or a list of texts that is not empty.", hint='write "input": ["first", "second"].'
        )
    if len(texts) > MAX_EMBEDDING_BATCH:
        raise BadRequestError(
            f"input has {len(texts)} texts; allowed are {MAX_EMBEDDING_BATCH}.", hint="send them in several requests."
        )
    if any(isinstance(text, (int, list)) for text in texts):
        raise BadRequestError(
            "input holds token ids: of another tokenizer they would give wrong vectors.",
            hint="send texts; for LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False.",
        )
    return texts


def _base64(row: Sequence[float]) -> str:
    numbers = array("f", row)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


ROUTES = [Route("/embeddings", _embed, methods=["POST"])]
