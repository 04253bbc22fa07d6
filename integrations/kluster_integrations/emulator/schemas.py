"""JSON and JSON schemas inside of prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

__all__ = ["ANY_OBJECT", "find_schema", "is_schema", "json_values"]

#: What is wanted of an answer in JSON without a schema.
ANY_OBJECT: dict[str, object] = {"type": "object"}

_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_TAGGED = re.compile(r"<schema>(.*?)</schema>", re.DOTALL | re.IGNORECASE)
_ANY_JSON = re.compile(r"\b(?:answer|respond|reply|output|return)\b[^.?!\n]{0,40}\bJSON\b", re.IGNORECASE)
_EMPTY_FENCE = re.compile(r"```(?:json)?\s*```", re.IGNORECASE)
_JSON_WORD = re.compile(r"json|schema", re.IGNORECASE)
#: A line or sentence about the form of the answer, and not about its matter.
_FORM = re.compile(r"[^\n.!?]*\b(?:json|schema)\b[^\n.!?]*[.!?:]*", re.IGNORECASE)

_decoder = json.JSONDecoder()


def json_values(text: str) -> Iterator[tuple[int, int, object]]:
    """Yield start, end and value of each JSON object or array in a text, outermost only."""
    at = 0
    while (match := re.compile(r"[{\[]").search(text, at)) is not None:
        try:
            value, end = _decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            at = match.start() + 1
            continue
        yield match.start(), end, value
        at = end


def is_schema(value: object) -> bool:
    """Return whether a JSON value is a JSON schema, as far as one can tell."""
    if not isinstance(value, dict):
        return False
    kind = value.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return (
        isinstance(value.get("properties"), dict)
        or isinstance(value.get("$defs"), dict)
        or isinstance(value.get("items"), dict)
        or isinstance(value.get("enum"), list)
        or any(isinstance(value.get(name), list) for name in ("anyOf", "oneOf", "allOf"))
        or ("type" in value and all(isinstance(name, str) and name in _TYPES for name in kinds))
    )


def find_schema(text: str) -> tuple[object | None, str]:
    """Return the schema that a prompt wants its JSON answer to fit, and the prompt without it.

    A schema counts in `<schema>` tags, in a fence or inline, if the prompt speaks of JSON. A prompt that asks to answer
    in JSON and has no schema wants any object.

    Returns:
        The schema, None without one; the text without it and without the sentences on the form of the answer.
    """
    if match := _TAGGED.search(text):
        for _, _, value in json_values(match[1]):
            return _unwrap(value), _matter(text[: match.start()] + text[match.end() :])
    for start, end, value in json_values(text):
        around = text[:start] + text[end:]
        schema = _unwrap(value)
        if is_schema(schema) and _JSON_WORD.search(around):
            return schema, _matter(around)
    if _ANY_JSON.search(text):
        return ANY_OBJECT, _matter(text)
    return None, text


def _unwrap(value: object) -> object:
    """Return the schema inside of OpenAI's `{"name": ..., "schema": {...}}`."""
    inner = value.get("schema") if isinstance(value, dict) else None
    return inner if is_schema(inner) else value


def _matter(text: str) -> str:
    return _FORM.sub("", _EMPTY_FENCE.sub("", text)).strip()
