"""What the header bytes of an image say: its media type and its size in pixels."""

from __future__ import annotations

import base64
import binascii
import struct
from urllib.parse import unquote_to_bytes

__all__ = ["describe"]

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def describe(url: str) -> str:
    """Return what can be said of an image: `image/png, 640x480 pixels`, or its address, which is never fetched."""
    if not url.startswith("data:"):
        return f"at {url} (not fetched)"
    head, _, payload = url[5:].partition(",")
    data = _decode(payload, is_base64=head.endswith(";base64"))
    found = _size(data) if data else None
    if found is None:
        return f"{head.partition(';')[0]}, of which no header can be read"
    media, width, height = found
    return f"{media}, {width}x{height} pixels"


def _decode(payload: str, *, is_base64: bool) -> bytes | None:
    if not is_base64:
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode(payload + "=" * (-len(payload) % 4))
    except (binascii.Error, ValueError):
        return None


def _size(data: bytes) -> tuple[str, int, int] | None:
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return ("image/png", *struct.unpack(">II", data[16:24]))
        if data[:6] in {b"GIF87a", b"GIF89a"}:
            return ("image/gif", *struct.unpack("<HH", data[6:10]))
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg(data: bytes) -> tuple[str, int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _JPEG_SIZES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return "image/jpeg", width, height
        at += 2 + length
    return None


def _webp(data: bytes) -> tuple[str, int, int] | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return "image/webp", width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return "image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return "image/webp", width, height
    return None
