"""Whole answers. They go through the same state machine as streams, so that both come out the same."""

from __future__ import annotations

from collections.abc import Mapping

from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.types import ChatRequest, Completion, collect

__all__ = ["read"]


def read(data: object, request: ChatRequest, headers: Mapping[str, str] | None = None) -> Completion:
    """Read a decoded, whole answer.

    Args:
        data: The decoded JSON of the answer.
        request: What was asked.
        headers: The HTTP headers of the answer.

    Raises:
        KlusterError: An error inside a 200, or an answer without choices.
    """
    reader = ChatStream(request)
    reader.headers = headers or {}
    return collect(reader.whole(data))
