"""The shape of a cassette: what is asked, and of each answer all but the texts and numbers.

Two recordings of the same calls have the same shape as long as the server keeps to its contract, whatever it says.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["shape_of"]

_TYPES = {str: "text", bool: "bool", int: "number", float: "number", type(None): "null"}
# A text or a number or null, depending on what the model wrote.
_WHATEVER = frozenset({"stop_reason", "matched_stop"})
# What a client sends back of an earlier answer.
_IDS = frozenset({"id", "tool_call_id"})


def shape_of(data: Mapping[str, Any]) -> list[Any]:
    """Return a cassette's requests, but for the server's ids and address, and the shapes of its answers."""
    return [[_question(row["request"]), _answer(row["response"])] for row in data["interactions"]]


def _question(request: Mapping[str, Any]) -> list[Any]:
    body = json.loads(request["body"], object_pairs_hook=_without_ids)
    return [request["method"], urlsplit(request["uri"]).path, body, request["headers"]]


def _without_ids(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: "id" if name in _IDS else value for name, value in pairs}


def _answer(response: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": response["status"],
        "headers": {name: _headers(name, values) for name, values in response["headers"].items()},
        "body": _body(response["body"]["string"]),
    }


def _headers(name: str, values: list[str]) -> list[str]:
    return values if name == "content-type" else ["text"] * len(values)


def _body(text: str) -> Any:
    if not text.startswith("data: "):
        return _kind(json.loads(text))
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    shapes = [event if event == "[DONE]" else _kind(json.loads(event)) for event in events]
    # How many tokens an answer has is the model's affair; in which order what comes is the server's.
    return [shape for shape, _ in itertools.groupby(shapes)]


def _kind(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _kind(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_kind(item) for item in value]
    return "any" if name in _WHATEVER else _TYPES[type(value)]
