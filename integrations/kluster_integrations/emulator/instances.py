"""Instances of JSON schemas, for the generic engine: arguments of tool calls, and answers to a schema."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import cast

__all__ = ["example", "instance"]

Schema = Mapping[str, object]

_DEPTH = 6
_DEEPEST = 16
_MOST_VALUES = 10_000  # of one instance: a schema that requires itself twice would double sixteen times
_LONGEST = 10_000  # of a text, a list or an object, whatever the schema wants
_FORMATS = {
    "date": "2025-01-01",
    "date-time": "2025-01-01T00:00:00Z",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "user@example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.com",
    "binary": "AA==",
    "byte": "AA==",
}


def instance(schema: object) -> object:
    """Return a small value that fits a JSON schema, always the same for the same schema.

    A value is the schema's `const`, `default`, first example or first enum member. Otherwise a text is the field's
    name, a number is 1, a flag is true and a list has one item, if the schema's bounds allow it. Optional fields are
    left out. No text or list is longer than 10,000. A schema that nothing can fit gets some value.

    Args:
        schema: A JSON schema; `$ref` is followed within it.
    """
    root = cast("Schema", schema) if isinstance(schema, Mapping) else {}
    return _Filler(root).fill(root, "text", 0)


class _Filler:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._values = 0

    def fill(self, schema: object, name: str, depth: int) -> object:
        """Return a value for a schema; `name` is the field's name."""
        self._values += 1
        if depth > _DEEPEST or self._values > _MOST_VALUES:  # a schema that requires itself has no instance
            return None
        flat = self._resolved(schema)
        if "const" in flat:
            return flat["const"]
        if "default" in flat:
            return flat["default"]
        for given in ("examples", "enum"):
            if isinstance(values := flat.get(given), list) and values:
                return next((value for value in values if value is not None), None)
        if options := _options(flat):
            return self._option(options, name, depth)
        kind = _kind(flat)
        if kind in {"integer", "number"}:
            return _number(flat, kind)
        if kind == "object":
            return self._object(flat, depth)
        if kind == "array":
            return self._array(flat, name, depth)
        if kind == "string":
            return _text(flat, name)
        return True if kind == "boolean" else None

    def _resolved(self, schema: object, depth: int = 0) -> Schema:
        """Follow `$ref`, and merge `allOf`."""
        flat: dict[str, object] = dict(schema) if isinstance(schema, Mapping) and depth <= _DEPTH else {}
        for _ in range(32):
            reference = flat.pop("$ref", None)
            if isinstance(reference, str):
                flat = {**self._lookup(reference), **flat}
            elif isinstance(parts := flat.pop("allOf", None), list):
                for part in parts:
                    flat = _merged(flat, self._resolved(part, depth + 1))
            else:
                break
        return flat

    def _lookup(self, reference: str) -> Schema:
        node: object = self._root
        for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            key = step.replace("~1", "/").replace("~0", "~")
            node = node.get(key, {}) if isinstance(node, Mapping) else {}
        return cast("Schema", node) if isinstance(node, Mapping) else {}

    def _option(self, options: list[Schema], name: str, depth: int) -> object:
        """Return a value of the first object or list, else null or the first alternative; null at the maximum depth."""
        kinds = [_kind(self._resolved(option)) for option in options]
        nested = [option for option, kind in zip(options, kinds, strict=True) if kind in {"object", "array"}]
        if "null" in kinds and (not nested or depth >= _DEPTH):
            return None
        rest = [option for option, kind in zip(options, kinds, strict=True) if kind != "null"]
        return self.fill((nested or rest)[0], name, depth + 1)

    def _object(self, schema: Schema, depth: int) -> dict[str, object]:
        fields, required = schema.get("properties"), schema.get("required")
        properties: dict[str, object] = fields if isinstance(fields, dict) else {}
        wanted = [name for name in required if isinstance(name, str)] if isinstance(required, list) else None
        values: dict[str, object] = {}
        for key, field in properties.items():
            # Without `required`, fill all properties except those with a default.
            if key in wanted if wanted is not None else "default" not in self._resolved(field):
                values[key] = self.fill(field, key, depth + 1)
        extra = schema.get("additionalProperties")
        least, _ = _lengths(schema, "Properties")
        for key in (*(wanted or ()), *(f"key{number}" for number in range(1, least + 1))):
            if key in (wanted or ()) or len(values) < least:
                values.setdefault(key, self.fill(extra if isinstance(extra, Mapping) else {}, key, depth + 1))
        return values

    def _array(self, schema: Schema, name: str, depth: int) -> list[object]:
        low, high = _lengths(schema, "Items")
        prefix = schema.get("prefixItems")
        values = [self.fill(item, name, depth + 1) for item in prefix] if isinstance(prefix, list) else []
        # One item says more than none, unless it nests for ever.
        least = min(max(low, int(depth < _DEPTH and not values)), high)
        members = self._resolved(schema.get("items", {})).get("enum")
        while len(values) < least:
            number = len(values)
            if isinstance(members, list) and number < len(members):
                values.append(members[number])
                continue
            value = self.fill(schema.get("items", {}), name, depth + 1)
            if schema.get("uniqueItems") and number:
                value = f"{value} {number + 1}" if isinstance(value, str) else value
                value = value + number if isinstance(value, int | float) else value
            values.append(value)
        return values


def _text(schema: Schema, name: str) -> str:
    kind, pattern = schema.get("format"), schema.get("pattern")
    if isinstance(kind, str) and kind in _FORMATS:
        return _FORMATS[kind]
    if isinstance(pattern, str) and (text := example(pattern)) is not None:
        return text
    low, high = _lengths(schema, "Length")
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_-]+", " ", name).strip() or "text"
    return text.ljust(low, ".")[:high]


def _merged(left: Mapping[str, object], right: Mapping[str, object]) -> dict[str, object]:
    merged = {**left, **right}
    properties = [s["properties"] for s in (left, right) if isinstance(s.get("properties"), dict)]
    if properties:
        merged["properties"] = {k: v for p in properties for k, v in cast("dict[str, object]", p).items()}
    required = [s["required"] for s in (left, right) if isinstance(s.get("required"), list)]
    if required:
        merged["required"] = [name for names in required for name in cast("list[str]", names)]
    return merged


def _options(schema: Schema) -> list[Schema]:
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list) and schema[name]:
            return cast("list[Schema]", schema[name])
    kinds = schema.get("type")
    return [{**schema, "type": kind} for kind in kinds] if isinstance(kinds, list) else []


def _kind(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "additionalProperties" in schema or isinstance(schema.get("required"), list):
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    if any(name in schema for name in ("minimum", "maximum", "multipleOf", "exclusiveMinimum")):
        return "number"
    return "string"  # anything goes: a text is the most useful thing


def _number(schema: Schema, kind: str) -> float:
    step = 1.0 if kind == "integer" else 1e-6
    lows = [_finite(schema.get("minimum")), _finite(schema.get("exclusiveMinimum"), step)]
    highs = [_finite(schema.get("maximum")), _finite(schema.get("exclusiveMaximum"), -step)]
    low = max((bound for bound in lows if bound is not None), default=-math.inf)
    high = min((bound for bound in highs if bound is not None), default=math.inf)
    value = min(max(1.0, low), high)
    if multiple := _finite(schema.get("multipleOf")):
        value = math.ceil(value / multiple) * multiple
        value = value if value <= high else math.floor(high / multiple) * multiple
    if kind == "integer":
        value = math.ceil(value)
    return int(value) if float(value).is_integer() else value


def _finite(value: object, shift: float = 0.0) -> float | None:
    """Return a number of a schema plus `shift`; None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return value + shift


def _lengths(schema: Schema, of: str) -> tuple[int, int]:
    low, high = schema.get(f"min{of}", 0), schema.get(f"max{of}")
    return (min(low, _LONGEST) if isinstance(low, int) else 0), (high if isinstance(high, int) else _LONGEST)


_CLASSES = {"d": "0", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a"}
_ANCHORS = frozenset("bBAZ")
_QUANTIFIER = re.compile(r"\{(\d+)(?:,\d*)?\}\??|([*+?])\??")
_CANDIDATES = "a0A-_ .:/@"


def example(pattern: str) -> str | None:
    """Return a text that matches a pattern; None if the pattern is too difficult.

    Supported are literals, classes, groups, anchors, alternatives (the first is used) and quantifiers (the minimum is
    used).
    """
    try:
        text, _ = _alternatives(pattern, 0)
        return text if re.search(pattern, text) else None
    except (re.error, IndexError, RecursionError):
        return None


def _alternatives(pattern: str, at: int) -> tuple[str, int]:
    """Read up to the end of a group; return the first alternative's text, and where the reading ended."""
    first: str | None = None
    text = ""
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            first, text, at = text if first is None else first, "", at + 1
            continue
        piece, at = _atom(pattern, at)
        times = 1
        if match := _QUANTIFIER.match(pattern, at):
            times = int(match[1]) if match[1] else int(match[2] == "+")
            at = match.end()
        if len(text) + len(piece) * times > _LONGEST:
            raise IndexError(at)
        text += piece * times
    return (text if first is None else first), at


def _atom(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at]
    if char == "(":
        if lookaround := re.compile(r"\((?:\?:|\?P<\w+>)?(?!\?)").match(pattern, at):
            text, end = _alternatives(pattern, lookaround.end())
            return text, end + 1
        raise IndexError(at)
    if char == "[":
        end = pattern.index("]", at + 2) if pattern[at + 1] != "^" else pattern.index("]", at + 3)
        return _member(pattern[at : end + 1]), end + 1
    if char == "\\":
        escaped = pattern[at + 1]
        return "" if escaped in _ANCHORS else _CLASSES.get(escaped, escaped), at + 2
    if char in "^$":
        return "", at + 1
    return "a" if char == "." else char, at + 1


def _member(char_class: str) -> str:
    literal = char_class[1:2] if char_class[1] not in "^\\" else ""
    candidates: list[str] = [literal, *_CANDIDATES, *map(chr, range(33, 127))]
    for candidate in candidates:
        if candidate and re.fullmatch(char_class, candidate):
            return candidate
    raise IndexError(char_class)
