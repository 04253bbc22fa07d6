"""Images on the command line: what `--image` names, as a URL that goes into a message; and one to ask about."""

from __future__ import annotations

import base64
import struct
import sys
import zlib

import typer

from kluster_integrations.cli._terminal import is_interactive, typed_path

__all__ = ["data_url", "image_url", "red_disc"]

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def image_url(source: str) -> str:
    """Return a URL as it is, and a file (`-` is stdin) as data URL, its type told by its content.

    Raises:
        typer.BadParameter: If there is no such file, or it is not a PNG, JPEG, GIF or WebP image.
    """
    if source.lower().startswith(("https://", "http://", "data:image/")):
        return source
    if not source or "://" in source:
        raise typer.BadParameter(f"{source!r} must be a file, or an http(s) address.", param_hint="--image")
    try:
        content = _content(source)
    except OSError as err:
        raise typer.BadParameter(f"cannot read {source!r}: {err.strerror}.", param_hint="--image") from None
    media_type = _media_type(content)
    if media_type is None:
        what = "is empty" if not content else "is not a PNG, JPEG, GIF or WebP image"
        raise typer.BadParameter(f"{source!r} {what}.", param_hint="--image")
    return data_url(content, media_type)


def _content(source: str) -> bytes:
    """Return the bytes of a file; of one that is not an image (it may have no end) only the first."""
    if source == "-":
        if is_interactive():
            raise typer.BadParameter("'-' is stdin, and nothing is piped into it.", param_hint="--image")
        return sys.stdin.buffer.read()
    with typed_path(source).open("rb") as file:
        head = file.read(16)
        return head + file.read() if _media_type(head) else head


def _media_type(content: bytes) -> str | None:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES if content.startswith(signature)), None)


def data_url(content: bytes, media_type: str) -> str:
    """Return content as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def red_disc(size: int = 96) -> bytes:
    """Return a PNG: a red disc on white, `size` pixels wide and high."""
    center, radius = (size - 1) / 2, size * 0.4
    rows = bytearray()
    for y in range(size):
        rows.append(0)  # the row's filter: none
        for x in range(size):
            inside = (x - center) ** 2 + (y - center) ** 2 <= radius**2
            rows += b"\xd4\x1f\x1f" if inside else b"\xff\xff\xff"
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
