"""JSON schemas: whether a schema is usable, and whether a value follows it.

A schema may come from a stranger (a proxy's client) and a value from a model, so no check may take more than linear
time. Patterns run on pydantic's regex engine, which is linear but has neither look-around nor backreferences. A schema
with those is refused. Python's `re`, which jsonschema uses, takes minutes for `^(a+)+$` and 32 characters.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jsonschema  # here, although it takes 50 ms: in a function the first schema would block the event loop
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry
from referencing.exceptions import Unresolvable

from kluster_integrations.core.errors import BadRequestError

__all__ = ["check_schema", "schema_error"]

_MAX_MESSAGE = 1_000  # characters of an error, which may quote a value
_MAX_COMPILING = 1.0  # CPU seconds for the patterns of one schema; the largest that the engine takes needs 0.6
_DATA = ("const", "default", "enum", "examples")  # keywords whose values are no schemas
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_ASCII = {r"\w": "[0-9A-Za-z_]", r"\d": "[0-9]"}  # which the engine takes within a class, too


class _Schema(NamedTuple):
    """A checked schema: its validator, itself and its number of references, or what is wrong with it."""

    validator: Any = None
    schema: Any = None
    references: int = 0
    problem: str | None = None


def schema_error(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Return how a value breaks a JSON schema, or None. An empty schema allows any object.

    References to other documents are not followed: nothing is fetched.

    Raises:
        BadRequestError: If the schema itself cannot be used.
    """
    if not schema:
        return None if isinstance(value, dict) else "The answer is not a JSON object."
    checked = check_schema(schema)
    nodes, depth = _measure(value)
    left = iter(range(1_000 + 4 * nodes * checked.references))  # one of each at each value is far below that
    validator = checked.validator(checked.schema, registry=Registry(), format_checker=_Steps(left))
    try:
        worst = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except (Unresolvable, _TooManyStepsError) as err:
        raise _unusable(str(err)) from None
    except RecursionError:
        if depth < _DEEP:
            raise _unusable("it refers to itself without end.") from None
        return "The value is nested too deeply to be checked."
    except ArithmeticError as err:  # 10**400 / 0.5
        return f"The value cannot be checked: {err}."
    except (AttributeError, LookupError, TypeError, ValueError) as err:
        raise _unusable(f"{type(err).__name__}: {err}") from None  # jsonschema's own
    return f"{worst.json_path}: {worst.message[:_MAX_MESSAGE]}" if worst else None


def check_schema(schema: Mapping[str, Any]) -> _Schema:
    """Raise an error if a value is not a usable JSON schema. References are only followed with a value.

    Raises:
        BadRequestError: If the schema cannot be used.
    """
    try:
        checked = _checked(json.dumps(dict(schema), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as err:
        raise _unusable(str(err)) from None
    if checked.problem:
        raise _unusable(checked.problem)
    return checked


@functools.lru_cache(maxsize=256)  # a check takes milliseconds, and a schema is asked for again and again
def _checked(text: str) -> _Schema:
    schema = json.loads(text)
    if not isinstance(dialect := schema.get("$schema", ""), str):
        return _Schema(problem=f"$schema={dialect!r} must be a text.")
    if '"unevaluatedProperties"' in text and '"patternProperties"' in text:
        return _Schema(problem="patternProperties beside unevaluatedProperties: use additionalProperties.")
    known = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    formats = jsonschema.FormatChecker(formats=())
    end = time.thread_time() + _MAX_COMPILING

    def check_pattern(pattern: object) -> bool:
        if isinstance(pattern, str):
            _pattern(pattern)
            if time.thread_time() > end:
                raise ValueError("its patterns are too large.")
        return True

    formats.checkers = {"regex": (check_pattern, ValueError)}
    try:
        wrong = next(_ours(known)(known.META_SCHEMA, format_checker=formats).iter_errors(schema), None)
    except RecursionError:
        return _Schema(problem="it is nested too deeply.")
    if wrong is not None:
        return _Schema(problem=str(wrong.cause or wrong.message))
    return _Schema(_ours(known), _without_dialects(schema), text.count('Ref"') + text.count('"$ref"'))


@functools.lru_cache(maxsize=32)  # one may have 10 MB
def _pattern(pattern: str) -> Callable[[Any], bool]:
    r"""Return a function that searches a text for a match of the pattern.

    `\w` and `\d` match all of Unicode, unless the pattern is then too large. In ECMA-262, which JSON Schema refers to,
    they match only ASCII.

    Raises:
        ValueError: If it is not a valid pattern, or needs more than linear time.
    """
    try:
        return _compiled(pattern)
    except ValueError as err:
        if "size limit" not in str(err):
            raise
    return _compiled(_ESCAPE.sub(lambda m: _ASCII.get(m[0], m[0]), pattern))


def _compiled(pattern: str) -> Callable[[Any], bool]:
    try:
        made = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except (SchemaError, UnicodeError) as err:
        raise ValueError(f"the pattern {pattern[:80]!r} cannot be used: {str(err).splitlines()[-1]}") from None
    return made.isinstance_python


class _TooManyStepsError(Exception):
    def __str__(self) -> str:
        return "its references multiply."


class _Steps:
    """Counts references. It takes the place of jsonschema's format checker, which goes along with a validator."""

    def __init__(self, left: Iterator[int]) -> None:
        self._left = left

    def check(self, *_: object) -> None:
        """Accept any format, as without a checker."""

    def step(self) -> None:
        if next(self._left, None) is None:
            raise _TooManyStepsError


@functools.cache
def _ours(known: Any) -> Any:
    """Return one of jsonschema's validators, with replacements for what takes more than linear time."""

    def counted(follow: Any) -> Any:
        def run(validator: Any, *rest: Any) -> Any:
            if isinstance(validator.format_checker, _Steps):
                validator.format_checker.step()
            return follow(validator, *rest)

        return run

    ours = {"pattern": _check_pattern, "patternProperties": _check_pattern_properties, "uniqueItems": _check_unique}
    ours["additionalProperties"] = _additional(known.VALIDATORS.get("additionalProperties"))
    for name in ("$ref", "$dynamicRef", "$recursiveRef"):
        ours[name] = counted(known.VALIDATORS.get(name))
    ours = {name: check for name, check in ours.items() if name in known.VALIDATORS}
    extend: Any = jsonschema.validators.extend
    return extend(known, ours)


def _check_pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and not _pattern(pattern)(value):
        yield _wrong(f"{value!r} does not match {pattern!r}")


def _check_pattern_properties(validator: Any, patterns: Mapping[str, Any], value: Any, _schema: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for pattern, inner in patterns.items():
            for key in filter(_pattern(pattern), value):
                yield from validator.descend(value[key], inner, path=key, schema_path=pattern)


def _additional(theirs: Any) -> Any:
    def run(validator: Any, inner: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        patterns = schema.get("patternProperties")
        if not isinstance(value, dict) or not patterns:
            yield from theirs(validator, inner, value, schema)
            return
        known = schema.get("properties", {})
        extra = [k for k in value if k not in known and not any(_pattern(pattern)(k) for pattern in patterns)]
        if extra and inner is False:
            yield _wrong(f"Additional properties are not allowed ({', '.join(map(repr, extra))})")
            return
        for key in extra:
            yield from validator.descend(value[key], inner, path=key)

    return run


def _check_unique(_validator: Any, is_unique: bool, value: Any, _schema: Any) -> Iterator[Any]:
    if is_unique and isinstance(value, list):
        # As texts: a hostile answer could hold numbers that all have the same hash.
        seen = {json.dumps(_whole_numbers(item), sort_keys=True) for item in value}
        if len(seen) < len(value):
            yield _wrong(f"{value!r} has non-unique elements")


def _whole_numbers(value: Any) -> Any:
    """Return a value with 1 in place of 1.0; both are the same in JSON."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return {k: _whole_numbers(v) for k, v in value.items()} if isinstance(value, dict) else value


def _wrong(message: str) -> Exception:
    return jsonschema.ValidationError(message)


def _without_dialects(schema: Any) -> Any:
    """Return a schema without `$schema`, which would make jsonschema use its own validators inside ours."""
    if isinstance(schema, list):
        return [_without_dialects(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: v for k, v in schema.items() if k != "$schema" or not isinstance(v, str)}
    return {k: v if k in _DATA else _without_dialects(v) for k, v in kept.items()}


_DEEP = 50  # a schema that ends needs more than Python's thousand frames only for a value deeper than that


def _measure(value: Any) -> tuple[int, int]:
    """Return the number of values in a value, including itself, and the depth of their nesting."""
    count, depth, level = 0, 0, [value]
    while level:
        count, depth = count + len(level), depth + 1
        parts = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [inner for part in parts for inner in part]
    return count, depth


def _unusable(why: str) -> BadRequestError:
    said = why.splitlines()[0][:_MAX_MESSAGE] if why else "it is not JSON."
    return BadRequestError(
        f"The JSON schema cannot be used: {said}",
        hint="change the part that the message names.",
    )
