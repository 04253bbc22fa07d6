"""A cassette as text: vcrpy's YAML, with bodies as blocks that a reviewer can read.

JSON that does not fit into a line has one item per line. An event stream stays as it was sent, one line per event. A
body that a block cannot contain (control characters, bytes that are not UTF-8) is quoted, or YAML's base64. So every
body comes back as it was, except for white space in JSON. vcrpy itself can read these files, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

__all__ = ["dump", "load", "readable"]

_WIDTH = 100
_COMMENT = "# Recorded, not written: to change it, record it anew.\n"
_VERSION = 1  # of vcrpy's format
# What YAML reads as a line end, drops or refuses; JSON can say it otherwise.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")

_BREAKS = re.compile("[\r\x85\u2028\u2029\ufeff]")


class _Block(str):
    """A text that is written as a literal block."""


class _Quoted(str):
    """A text that a block would change."""


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Blocks, and lists indented as people write them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(_Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))
_Dumper.add_representer(_Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def dump(about: Mapping[str, str], interactions: list[dict[str, Any]]) -> str:
    """Return the text of a cassette. `about` is its head. Bodies are bytes, text or None."""
    rows = []
    for row in interactions:
        request, response = dict(row["request"]), dict(row["response"])
        request["body"] = _shown(request["body"])
        response["body"] = {"string": _shown(response["body"]["string"])}
        rows.append({"request": request, "response": response})
    options = {"Dumper": _Dumper, "allow_unicode": True, "sort_keys": False, "width": _WIDTH}
    head = yaml.dump({"recorded": dict(about)}, default_flow_style=False, **options)
    rest = yaml.dump({"version": _VERSION, "interactions": rows}, default_flow_style=None, **options)
    return f"{_COMMENT}{head}{rest}"


def load(text: str) -> dict[str, Any]:
    """Return the content of a cassette: `recorded`, `version` and `interactions`.

    Raises:
        ValueError: If the text is not a cassette; the message says where.
    """
    try:
        data = yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as exc:
        raise ValueError(f"it is not YAML: {' '.join(str(exc).split())}") from None
    if not isinstance(data, dict) or not isinstance(data.get("interactions"), list):
        raise ValueError("it has no list `interactions`")
    for number, row in enumerate(data["interactions"]):
        if not _is_interaction(row):
            raise ValueError(f"interactions[{number}] is not a request and a response as vcrpy writes them")
    return data


# libyaml's loader is ten times as fast, and not everywhere.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _is_interaction(row: object) -> bool:
    try:
        request, response = row["request"], row["response"]  # type: ignore[index]
        return (
            {type(request[name]) for name in ("method", "uri")} == {str}
            and isinstance(request["headers"], dict)
            and isinstance(request["body"], str | bytes | None)
            and isinstance(response["headers"], dict)
            and isinstance(response["status"]["code"], int)
            and isinstance(response["body"]["string"], str | bytes | None)
        )
    except (TypeError, KeyError):
        return False


def _shown(body: bytes | str | None) -> str | bytes | None:
    if isinstance(body, bytes):
        try:
            body = body.decode("utf-8")
        except UnicodeDecodeError:
            return body
    if body is None or _BREAKS.search(body):
        return body and _Quoted(body)
    return _Block(body) if "\n" in body or len(body) > _WIDTH else body


def readable(body: bytes) -> bytes:
    """Return JSON with a readable layout; anything else as it is."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(value, dict | list):
        return body
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", _laid_out(value, "")).encode("utf-8", "surrogatepass")


def _laid_out(value: Any, indent: str) -> str:
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or (indent and len(indent) + len(line) <= _WIDTH):
        return line
    inner = indent + "  "
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_laid_out(item, inner)}" for key, item in value.items()]
        opening, closing = "{", "}"
    elif any(isinstance(item, dict | list) for item in value):
        items, opening, closing = [_laid_out(item, inner) for item in value], "[", "]"
    else:
        items, opening, closing = _filled(value, inner), "[", "]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{closing}"


def _filled(values: list[Any], indent: str) -> list[str]:
    """Return full lines of numbers and texts, because vectors have a thousand numbers."""
    lines: list[str] = []
    for item in (json.dumps(value, ensure_ascii=False) for value in values):
        if lines and len(indent) + len(lines[-1]) + len(item) + 2 <= _WIDTH:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return lines
