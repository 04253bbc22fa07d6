"""CrewAI's messages as OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["to_wire"]


def to_wire(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the messages with the images of tool results in a user message behind them.

    CrewAI's executors put what an image tool returns into the tool's own message, where kluster.ai takes text alone.
    """
    wire: list[Mapping[str, Any]] = []
    images: list[Any] = []
    for message in messages:
        content = message.get("content")
        if images and message.get("role") != "tool":
            wire.append({"role": "user", "content": images})
            images = []
        if message.get("role") == "tool" and isinstance(content, list):
            pictures = [p for p in content if isinstance(p, Mapping) and p.get("type") == "image_url"]
            rest = [p for p in content if p not in pictures]
            images += pictures
            message = {**message, "content": rest or "The image is in the next message."}
        wire.append(message)
    return [*wire, {"role": "user", "content": images}] if images else wire
