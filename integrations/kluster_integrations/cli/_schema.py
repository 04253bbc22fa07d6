"""`--schema`: a JSON schema from a file, from the command line, or in the short form `name:type,…`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from kluster_integrations.cli._errors import UsageError
from kluster_integrations.cli._terminal import read_file, typed_path

__all__ = ["read_schema"]

_TYPES: Mapping[str, str] = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
}
_FIELD = re.compile(r"(\w+)(?:(?:\s*:\s*|\s+)(\w+)(\[\])?)?")  # `age:int`, and `age int` as `llm` has it
_SHORT_FORM = "name:type,…, such as title:str,year:int,tags:str[]"


def read_schema(source: str) -> dict[str, Any]:
    """Return the schema that `--schema` names.

    Args:
        source: A file, the JSON itself, or fields: `name:type,…`, where a type is str, int, float or bool (`[]` behind
            it makes a list), and str where it is left out.

    Raises:
        UsageError: If it is none of them.
    """
    text = source.strip()
    if text.startswith("{"):
        return _object(text, "--schema")
    if text.endswith(".json") or _is_file(text):
        return _object(read_file("--schema", text), f"--schema {text}")
    fields = [_FIELD.fullmatch(part.strip()) for part in text.split(",")]
    properties: dict[str, Any] = {}
    for field in fields:
        if field is None or (kind := field[2] or "str") not in _TYPES:
            raise UsageError(
                f"--schema {source!r} must be a JSON file, a JSON object, or {_SHORT_FORM}; types are "
                "str, int, float and bool."
            )
        if field[1] in properties:
            raise UsageError(f"--schema {source!r} has the field {field[1]!r} twice: give each a name of its own.")
        item = {"type": _TYPES[kind]}
        properties[field[1]] = {"type": "array", "items": item} if field[3] else item
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _is_file(text: str) -> bool:
    try:
        return typed_path(text).is_file()
    except OSError:  # many fields are too long for the name of a file
        return False


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as err:
        raise UsageError(f"{where} is not JSON: {err}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{where} must be a JSON object, and is a {type(found).__name__}.")
    return found
