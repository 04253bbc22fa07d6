"""JSON and server-sent events as they leave the emulator."""

from __future__ import annotations

import json

from starlette.responses import JSONResponse

__all__ = ["DONE", "Json", "dump", "event"]

DONE = b"data: [DONE]\n\n"


def dump(value: object) -> bytes:
    """Return compact JSON; half a surrogate pair, which no UTF-8 can hold, becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def event(value: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


class Json(JSONResponse):
    """A JSON answer."""

    def render(self, content: object) -> bytes:
        """Return the body."""
        return dump(content)
