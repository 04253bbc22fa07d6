"""JSON schemas: is one usable, and does a value follow it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import jsonschema  # here, although it takes 50 ms: in a function the first schema would block the event loop
from referencing import Registry
from referencing.exceptions import Unresolvable

from kluster_integrations.core.errors import BadRequestError

__all__ = ["check_schema", "schema_error"]

_MAX_MESSAGE = 1_000  # characters of what is wrong; a value may be quoted in it


def schema_error(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a value under a JSON schema (an empty one: any object), None if nothing is.

    References to other documents are not followed: nothing is fetched.

    Raises:
        BadRequestError: If the schema itself cannot be used.
    """
    if not schema:
        return None if isinstance(value, dict) else "The answer is not a JSON object."
    check_schema(schema)
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        worst = jsonschema.exceptions.best_match(validator(schema, registry=Registry()).iter_errors(value))
    except (Unresolvable, re.error) as err:
        raise _unusable(str(err)) from None
    except RecursionError:  # of the value, or of a schema that refers to itself
        return "The value is nested too deeply to be checked."
    return f"{worst.json_path}: {worst.message[:_MAX_MESSAGE]}" if worst else None


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuse what is not a JSON schema. References in it are followed only when there is a value.

    Raises:
        BadRequestError: If the schema cannot be used.
    """
    if wrong := _wrong_with(json.dumps(dict(schema))):
        raise _unusable(wrong)


@functools.lru_cache(maxsize=256)  # a check takes milliseconds, and a schema is asked for again and again
def _wrong_with(schema: str) -> str | None:
    loaded = json.loads(schema)
    try:
        jsonschema.validators.validator_for(loaded, default=jsonschema.Draft202012Validator).check_schema(loaded)
    except jsonschema.SchemaError as err:
        return str(err.message)
    return None


def _unusable(why: str) -> BadRequestError:
    said = why.splitlines()[0][:_MAX_MESSAGE]
    return BadRequestError(f"The JSON schema cannot be used: {said}", hint="correct the schema.")
