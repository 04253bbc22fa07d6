"""JSON in what a model wrote: the outermost value of a text, and the arguments of a tool call.

An inner value is never taken if the value around it is broken: `{"name": "Oslo", "twin": {"name": "Bergen"}, oops}` is
not Bergen. Small mistakes in a complete value are read (Python's `None`, single quotes, a comma too many). For anything
else the model is asked again.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

__all__ = [
    "MISSING",
    "compact",
    "find_json",
    "is_json_object",
    "loads_lax",
    "read_arguments",
    "read_values",
    "skip_between",
    "value_at",
    "whole_characters",
]

_SPACE = " \t\r\n"  # JSON's; str.strip() takes U+2028 and others away, too
_MAX_LENIENT = 100_000  # characters; Python's own parser takes seconds and gigabytes for more
_ONE_FENCE = re.compile(r"```[a-zA-Z0-9]*[ \t]*\n(.*)```", re.DOTALL)
_FENCE_BEFORE = re.compile(r"```[a-zA-Z0-9]*\s*\Z")
_BRACKET = re.compile(r"[{\[]")
# What tells JSON that failed from a bracket in prose, such as [note] or {placeholder}.
_LIKE_JSON = re.compile(
    r"""\{\s*(?:["'{\[}/\#]|\w+\s*:)
    |\[\s*(?:["'{\[\]/\#\d-]|(?:true|false|null|None|True|False)\b|\w+\s*,)""",
    re.VERBOSE,
)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'", re.DOTALL)
_BEHIND_STRING = re.compile(r"[^\W\d]|\s*[\"']")
_BETWEEN = re.compile(r"[\s;,]*")
_NEXT = re.compile(r"[\"'{}\[\]]")
_ALIEN_ESCAPE = re.compile(r"\\[^'\"\\nrtbf]")  # Python and JSON do not read the same in it
# A constructor's arguments, of which an object is one: City(name="Oslo", twin={…}).
_CALL_BEFORE = re.compile(r"\w\([^()]*=\s*\Z")
MISSING: Any = object()
"""Says that there is no value, where `null` may be one."""


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a JSON number")
    return number


_STRICT: dict[str, Any] = {"parse_constant": _finite, "parse_float": _finite}  # neither NaN nor 1e999 is JSON
_decoder = json.JSONDecoder(strict=False, **_STRICT)  # models write line breaks into strings
_sorted = json.JSONEncoder(sort_keys=True).encode
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair, as JSON may escape it


def value_at(text: str, at: int) -> tuple[Any, int]:
    """Return the value that begins at index `at` of a text, and the index where it ends.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deeply.
    """
    value, end = _decoder.raw_decode(text, at)
    return (json.loads(compact(value)) if _HALF.search(text, at, end) else value), end


def loads_lax(text: str) -> Any:
    """Decode JSON that may have line breaks in strings; half a surrogate pair becomes U+FFFD.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deeply.
    """
    value = json.loads(text, strict=False, **_STRICT)
    return json.loads(compact(value)) if _HALF.search(text) else value


def compact(value: object) -> str:
    """Return a value as JSON text; half a surrogate pair becomes U+FFFD."""
    return whole_characters(json.dumps(value, ensure_ascii=False))


def whole_characters(text: str) -> str:
    """Return a text with U+FFFD for each half of a surrogate pair, which no UTF-8 can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def is_json_object(text: str) -> bool:
    """Whether a text is one JSON object, without any mistake."""
    try:
        return isinstance(json.loads(text, **_STRICT), dict)
    except (ValueError, RecursionError):
        return False


def find_json(text: str, *, is_cut: bool = False, default: Any = None) -> Any:
    """Return the outermost JSON value of a text: the text itself, the first in a fence, or the only one in prose.

    If prose has several different values, none is returned, because only the model knows which one it means. Lists
    such as `[1]` beside an object do not count: they are references to notes.

    Args:
        text: What the model wrote.
        is_cut: Whether the text ends before the model was done. Then no mistakes are forgiven.
        default: The result if there is no value.

    Returns:
        The decoded value.
    """
    fenced = _ONE_FENCE.fullmatch(text.strip())
    for candidate in (text, fenced[1]) if fenced else (text,):
        try:
            return loads_lax(candidate)
        except (ValueError, RecursionError):
            continue
    values: dict[type, dict[str, Any]] = {dict: {}, list: {}}
    at = 0
    while found := _BRACKET.search(text, at):
        start = found.start()
        value, at = _outermost(text, start, is_cut=is_cut)
        if at < 0:
            break
        if value is None:
            continue
        before = text[max(0, start - 500) : start]  # check its end first: the expression tries every position
        if before.rstrip().endswith("=") and _CALL_BEFORE.search(before):
            break
        if "```" in before[-40:] and _FENCE_BEFORE.search(before[-40:]):
            return value
        if len(known := values[type(value)]) < 2:
            known[_sorted(value)] = value
    only = [*(values[dict] or values[list]).values()]
    return only[0] if len(only) == 1 else default


def _outermost(text: str, start: int, *, is_cut: bool) -> tuple[Any, int]:
    """Return the value that begins at a bracket, and where it ends; -1 if the value is broken."""
    if not _LIKE_JSON.match(text, start):
        return None, start + 1
    try:
        return value_at(text, start)
    except RecursionError:  # a model that repeats itself: nothing in there is meant
        return None, -1
    except ValueError:
        pass
    end = -1 if is_cut else _end_of(text, start)
    value = _lenient(text[start:end]) if end > 0 else None
    return (value, end) if value is not None else (None, -1)


def _end_of(text: str, start: int) -> int:
    """Return where the brackets that open at `start` are closed, -1 if they are not, or not plainly."""
    depth, at = 0, start
    while found := _NEXT.search(text, at, start + _MAX_LENIENT):
        sign, at = found.group(), found.end()
        if sign in "\"'":
            string = _STRING.match(text, found.start())
            if string is None:
                return -1
            at = string.end()
            # Python joins neighboring strings and knows prefixes; in JSON both are a quote that was not escaped.
            if text[found.start() - 1].isalpha() or _BEHIND_STRING.match(text, at):
                return -1
        else:
            depth += 1 if sign in "{[" else -1
            if not depth:
                return at
    return -1


def _lenient(text: str) -> Any:
    """Return a complete value that is not JSON, read as a Python literal; None if it cannot be read."""
    if _ALIEN_ESCAPE.search(text):
        return None
    try:
        value = json.loads(json.dumps(ast.literal_eval(text), allow_nan=False))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def skip_between(text: str, at: int) -> int:
    """Return where white space, commas and semicolons end."""
    return _BETWEEN.match(text, at).end()  # type: ignore[union-attr]


def read_values(text: str, at: int, *, is_cut: bool = False) -> list[Any] | None:
    """Return the JSON values of a text from index `at` on, separated by white space, commas or semicolons.

    None if the text contains anything else.
    """
    values: list[Any] = []
    while (at := skip_between(text, at)) < len(text):
        if text[at] not in "{[":
            return None
        value, at = _outermost(text, at, is_cut=is_cut)
        if value is None:
            return None
        values.append(value)
    return values


def read_arguments(text: str, *, is_cut: bool = False) -> tuple[str, str | None]:
    """Return the arguments of a tool call as the text of one JSON object, and what is wrong with them or None.

    Valid JSON stays as the model wrote it, except that half a surrogate pair becomes U+FFFD. No text, or `null`, is an
    empty object. Wrong arguments are returned as they are.
    """
    stripped = text.strip(_SPACE)
    if stripped in ("", "null"):
        return "{}", None
    if is_json_object(stripped) and not _HALF.search(stripped):
        return text, None
    try:
        value = loads_lax(stripped)
        if isinstance(value, str):  # encoded twice
            value = loads_lax(value)
    except (ValueError, RecursionError) as err:
        value = None
        if not is_cut and stripped[:1] == "{" and _end_of(stripped, 0) == len(stripped):
            value = _lenient(stripped)
        if value is None:
            return text, f"Arguments are not valid JSON: {err}"
    return (compact(value), None) if isinstance(value, dict) else (text, "Arguments are not a JSON object.")
