"""What openai's error classes need; two adapters inherit from them."""

from __future__ import annotations

import importlib
import json
from typing import Any

import openai

from kluster_integrations.errors import KlusterError

__all__ = ["response_of"]

# openai speaks httpx2 from version 3 on, httpx before.
_httpx: Any = importlib.import_module("httpx2" if int(openai.__version__.split(".")[0]) >= 3 else "httpx")
_OF_THE_WIRE = ("content-length", "content-encoding", "transfer-encoding")


def response_of(error: KlusterError, base_url: str | None = None) -> Any:
    """Return an HTTP response with the status, headers and body of an error; None if there was no response.

    Args:
        error: The error.
        base_url: The address for the response's request. It is a new request, because the real one holds the key.
    """
    if error.status_code is None:
        return None
    # Bytes: from text httpx takes only ASCII.
    headers = [(k.encode(), v.encode("utf-8", "replace")) for k, v in error.headers.items() if k not in _OF_THE_WIRE]
    body = error.body if isinstance(error.body, str) else json.dumps({"error": error.body}, default=str)
    request = _httpx.Request("POST", base_url) if base_url else None
    return _httpx.Response(error.status_code, headers=headers, content=body.encode("utf-8", "replace"), request=request)
