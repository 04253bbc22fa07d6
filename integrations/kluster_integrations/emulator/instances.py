"""An instance of a JSON schema, filled from a prompt: arguments of tool calls, and answers that must fit a schema."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

from kluster_integrations.emulator.facts import Facts, Found, number
from kluster_integrations.emulator.patterns import example
from kluster_integrations.emulator.steps import actions, fitting_tool, is_plan, waits
from kluster_integrations.emulator.words import name_words, word_set

__all__ = ["instance"]

Schema = Mapping[str, object]

_DEPTH = 6
_DEEPEST = 16
_MOST_ITEMS = 100
_MOST_CHARACTERS = 10_000
_LONGEST = 10_000  # of a text, a list or an object, whatever the schema wants: nobody waits for more
_MISSING = object()
_FORMAT_DEFAULTS = {
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
_ALIASES = {"url": "uri", "link": "uri", "website": "uri", "mail": "email"}
_PLACES = word_set("location city place country region state town address timezone area destination origin venue")
_FROM = word_set("from origin source departure start sender")
_TO = word_set("to destination target arrival end recipient receiver")
_TEXTS = word_set(
    """query question search text message prompt content task description request sentence body instruction
    instructions summary reason explanation thought reasoning answer response setup punchline comment note
    input command context plan"""
)
#: Fields of a plan's step.
_NUMBERS = word_set("number index order position id step")
_ACTIONS = _TEXTS | word_set("action step title")
_TOOLS = word_set("tool function")
#: Flags that are set unless the prompt says otherwise.
_GOOD = word_set("ready success successful successfully valid")
_EXPRESSIONS = word_set("expression equation formula calculation")
_TOPICS = word_set("topic subject theme")
_NO = re.compile(r"\b(?:not|no|without|never|isn't|don't|false|disable|exclude)\W+(?:\w+\W+){0,2}$", re.IGNORECASE)


def instance(schema: object, prompt: str, tools: Sequence[str] = ()) -> object:
    """Return a value that fits a JSON schema and says what the prompt says, as far as the schema has room for it.

    Numbers, quoted texts, names, dates and enum members of the prompt go to the fields they stand next to, else to the
    fields in order. What the prompt does not say is the schema's default, else the smallest value that fits.
    Optional fields that the prompt does not mention are left out. No text or list is longer than 10,000.
    The same arguments give the same value.

    Args:
        schema: A JSON schema; `$ref` is followed within it.
        prompt: The text to fill it from.
        tools: The names of the tools that the steps of a plan may use.
    """
    root = cast("Schema", schema) if isinstance(schema, Mapping) else {}
    if len(prompt) > _MOST_CHARACTERS:
        # A prompt's matter is at its ends; the middle of a book is not worth the time.
        half = _MOST_CHARACTERS // 2
        prompt = f"{prompt[:half]}\n{prompt[-half:]}"
    return _Filler(root, Facts(prompt), tools).fill(root, "", 0)


class _Filler:
    def __init__(self, root: Schema, facts: Facts, tools: Sequence[str] = ()) -> None:
        self._root = root
        self._facts = facts
        self._tools = tools
        self._phrases: set[str] = set()

    def fill(self, schema: object, name: str, depth: int) -> object:
        """Return a value for a schema, in any case."""
        if depth > _DEEPEST:  # a schema that requires itself has no instance
            return None
        value = self._find(schema, name, depth)
        return self._plain(self._resolved(schema), name, depth) if value is _MISSING else value

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

    def _find(self, schema: object, name: str, depth: int) -> object:
        """Return what the prompt says for a schema, or `_MISSING`."""
        flat = self._resolved(schema)
        if depth > _DEEPEST:
            return _MISSING
        if "const" in flat:
            return flat["const"]
        if isinstance(flat.get("enum"), list):
            return self._find_member(cast("list[object]", flat["enum"]), name)
        if options := _options(flat):
            return self._find_option(options, name, depth)
        kind = _kind(flat)
        if kind in {"integer", "number"}:
            return self._find_number(flat, name, kind)
        if kind == "boolean":
            return self._find_flag(name)
        if kind == "string":
            return self._find_string(flat, name)
        if kind == "array":
            return self._find_array(flat, name, depth)
        return _MISSING

    def _find_option(self, options: list[Schema], name: str, depth: int) -> object:
        for option in self._ranked(options):
            if _kind(self._resolved(option)) == "null":
                continue
            value = self._find(option, name, depth + 1)
            if value is not _MISSING:
                return value
        return _MISSING

    def _find_member(self, members: list[object], name: str) -> object:
        spots: list[tuple[int, int, object]] = []
        for member in members:
            words = name_words(member) if isinstance(member, str) else [str(member)]
            pattern = r"[\W_]*".join(map(re.escape, words))
            if words and (match := re.search(rf"(?<!\w){pattern}", self._facts.prompt, re.IGNORECASE)):
                spots.append((match.start(), -len(match[0]), member))
        anchor = next(iter(self._facts.anchors(name)), (0, 0))[1]
        if not spots:
            return _MISSING
        start, length, member = min(spots, key=lambda spot: (spot[0] < anchor, *spot[:2]))
        if isinstance(member, str):
            self._facts.claim(start, start - length)
        return member

    def _find_number(self, schema: Schema, name: str, kind: str) -> object:
        low, high = _bounds(schema, kind)
        fitting = [
            found
            for found in self._facts.numbers
            if low <= number(found.text) <= high
            and (kind == "number" or number(found.text).is_integer())
            and _is_multiple(number(found.text), schema.get("multipleOf"))
        ]
        found = self._facts.take(fitting, name)
        if found is None:
            return _MISSING
        value = number(found.text)
        return int(value) if kind == "integer" or (value.is_integer() and "." not in found.text) else value

    def _find_flag(self, name: str) -> object:
        for start, _ in self._facts.anchors(name):
            return _NO.search(self._facts.prompt[:start]) is None
        return _MISSING

    def _find_string(self, schema: Schema, name: str) -> object:
        kind = schema.get("format")
        if not isinstance(kind, str) or kind not in _FORMAT_DEFAULTS:
            word = (name_words(name) or [""])[-1]
            kind = word if word in {"email", "date", "url", "uuid", "link", "website", "time"} else None
        if kind is not None:
            found = self._facts.take(self._facts.formats.get(_ALIASES.get(kind, kind), []), name)
            if found is not None:
                return found.text
            if schema.get("format") is not None:
                return _MISSING
        value = self._say(name)
        return value if value is not None and _fits_text(value, schema) else self._by_pattern(schema)

    def _by_pattern(self, schema: Schema) -> object:
        """Return the first word or quoted text of the prompt that fits a pattern and the lengths."""
        if "pattern" not in schema:
            return _MISSING
        texts = [found.text for found in self._facts.quoted]
        texts += re.findall(r"[^\s,;?!\"'()]+", self._facts.prompt)
        return next((text for text in texts if _fits_text(text, schema)), _MISSING)

    def _say(self, name: str) -> str | None:
        """Return the text of the prompt that a field of this name asks for."""
        facts, words = self._facts, set(name_words(name))
        if assigned := facts.assigned(name):
            return assigned
        if found := facts.take(facts.quoted, name, anchored_only=True):
            return found.text
        if words & _EXPRESSIONS and (expression := facts.expression()):
            return expression
        if words & _TEXTS and (said := facts.saying()):
            return said
        if words & _TOPICS and (topic := facts.topic()):
            return topic
        if not words & _TEXTS and (found := self._name(name, words)):
            return found.text
        if found := facts.take(facts.quoted, name):
            return found.text
        return facts.place() if words & _PLACES else None

    def _name(self, name: str, words: set[str]) -> Found | None:
        facts = self._facts
        for wanted, preposition in ((_FROM, "from"), (_TO, "to")):
            if words & wanted:
                named = [found for found in facts.names if found.before == preposition]
                if found := facts.take(named, name):
                    return found
        if words & _FROM:
            return facts.take([found for found in facts.names if found.before != "to"], name)
        if words & _PLACES:
            placed = [found for found in facts.names if found.before]
            return facts.take(placed, name) or facts.take(facts.names, name)
        # A quoted text is a surer sign than a capital letter.
        free = facts.unused(facts.quoted)
        return None if free else facts.take(sorted(facts.names, key=lambda n: n.first), name)

    def _find_array(self, schema: Schema, name: str, depth: int) -> object:
        if "prefixItems" in schema:
            return _MISSING
        low, high = _lengths(schema, "Items")
        item = self._resolved(schema.get("items", {}))
        kind = _kind(item)
        values: list[object] = []
        if members := self._members(item, depth):
            values = [member for member in members if self._find_member([member], name) is not _MISSING]
        elif kind in {"integer", "number"}:
            values = self._all_numbers(item, name, kind, high)
        elif kind == "string" and "format" not in item:
            if not low and re.search(rf"{re.escape(name)}\s*[:=]\s*\[\s*\]", self._facts.prompt, re.IGNORECASE):
                return []
            values = [text for text in self._all_texts(name) if _fits_text(text, item)]
        elif kind == "object" and depth < _DEPTH and is_plan(name):
            texts = actions(self._facts.prompt)[:high]
            values = [self._step(item, text, number, name) for number, text in enumerate(texts, 1)]
        elif kind == "object" and depth < _DEPTH:
            values = self._all_objects(item, name, depth, high)
        if schema.get("uniqueItems"):
            values = [value for i, value in enumerate(values) if value not in values[:i]]
        return values[:high] if len(values[:high]) >= max(low, 1) else _MISSING

    def _members(self, schema: Schema, depth: int) -> list[object]:
        """Return all values that a schema allows, where it lists them; [] where it does not."""
        if "const" in schema:
            return [schema["const"]]
        if isinstance(schema.get("enum"), list):
            return cast("list[object]", schema["enum"])
        options = _options(schema) if depth < _DEPTH else []
        listed = [self._members(self._resolved(option), depth + 1) for option in options]
        return [member for members in listed for member in members] if all(listed) else []

    def _all_numbers(self, item: Schema, name: str, kind: str, high: int) -> list[object]:
        values: list[object] = []
        while len(values) < min(high, _MOST_ITEMS) and (value := self._find_number(item, name, kind)) is not _MISSING:
            values.append(value)
        return values

    def _all_texts(self, name: str) -> list[str]:
        if assigned := re.search(rf"{re.escape(name)}\s*[:=]\s*(\[.*\]|[^\n.;]+)", self._facts.prompt, re.IGNORECASE):
            return _listed(assigned[1])
        if quoted := self._facts.rest(self._facts.quoted):
            return [found.text for found in quoted]
        listed = re.search(r"(?<![\w' -])[\w' -]+(?:,[\w' -]+)+(?:,? (?:and|or) [\w' -]+)?", self._facts.prompt)
        if names := sorted(self._facts.rest(self._facts.names), key=lambda found: found.start):
            return [found.text for found in names]
        return _listed(listed[0]) if listed else []

    def _all_objects(self, item: Schema, name: str, depth: int, high: int) -> list[object]:
        """Return objects as long as the prompt still has names, quoted texts or numbers for a further one."""
        values: list[object] = []
        while len(values) < min(high, 20):
            facts = self._facts
            before = (facts.unused(facts.names), facts.unused(facts.numbers), facts.unused(facts.quoted))
            if not any(before):
                break
            value = self.fill(item, name, depth + 1)
            after = (facts.unused(facts.names), facts.unused(facts.numbers), facts.unused(facts.quoted))
            if before == after and values:
                break
            values.append(value)
        return values

    def _step(self, item: Schema, action: str, number: int, name: str) -> object:
        """Return a step of a plan: its number, what is done and with which tool; it waits for no other."""
        filled = _Filler(self._root, Facts(action)).fill(item, name, 1)
        value = dict(filled) if isinstance(filled, dict) else {}
        fields = item.get("properties")
        for key, schema in fields.items() if isinstance(fields, dict) else ():
            flat, words = self._resolved(schema), set(name_words(key))
            options = [self._resolved(option) for option in _options(flat)] or [flat]
            kinds = {_kind(option) for option in options if "enum" not in option and "const" not in option}
            if "integer" in kinds and words & _NUMBERS:
                value[key] = number
            elif "array" in kinds and waits(key):
                value[key] = []
            elif "string" in kinds and words & _TOOLS:
                value[key] = fitting_tool(action, self._tools) or (None if "null" in kinds else "")
            elif "string" in kinds and words & _ACTIONS and _fits_text(action, flat):
                value[key] = action
        return value

    def _plain(self, schema: Schema, name: str, depth: int) -> object:
        """Return a value that fits a schema of which the prompt says nothing."""
        if "default" in schema:
            return schema["default"]
        if isinstance(schema.get("enum"), list):
            members = cast("list[object]", schema["enum"])
            return next((member for member in members if member is not None), None)
        if options := _options(schema):
            return self._plain_option(options, name, depth)
        kind = _kind(schema)
        if kind in {"integer", "number"}:
            return _plain_number(schema, kind)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._plain_array(schema, name, depth)
        if kind == "string":
            return self._plain_text(schema, name)
        return bool(_GOOD & set(name_words(name))) if kind == "boolean" else None

    def _plain_option(self, options: list[Schema], name: str, depth: int) -> object:
        flat = [self._resolved(option) for option in options]
        # A nullable scalar that the prompt does not mention is null; an object is worth building.
        nullable = any(_kind(option) == "null" for option in flat)
        objects = [o for o in options if _kind(self._resolved(o)) in {"object", "array"} and depth < _DEPTH]
        if nullable and not objects:
            return None
        rest = [option for option in options if _kind(self._resolved(option)) != "null"]
        return self.fill(self._ranked(objects or rest)[0], name, depth + 1)

    def _ranked(self, options: list[Schema]) -> list[Schema]:
        """Return alternatives, those first of whose fields (or fixed values) the prompt speaks."""

        def points(option: Schema) -> int:
            flat = self._resolved(option)
            properties = flat.get("properties")
            rows = properties if isinstance(properties, dict) else {}
            fixed = [self._resolved(row).get("const") for row in (*rows.values(), flat)]
            named = [value for value in (*fixed, *rows) if isinstance(value, str)]
            return sum(bool(self._facts.anchors(value)) for value in named)

        return sorted(options, key=points, reverse=True)

    def _object(self, schema: Schema, depth: int) -> dict[str, object]:
        fields = schema.get("properties")
        properties: dict[str, object] = fields if isinstance(fields, dict) else {}
        required = schema.get("required")
        wanted = {name for name in required if isinstance(name, str)} if isinstance(required, list) else None
        values: dict[str, object] = {}
        # Choices come first, then fields that the prompt names, before the others use up what is theirs.
        for key in sorted(properties, key=lambda key: self._rank(properties[key], key)):
            value = self._property(properties[key], key, wanted, depth)
            if value is not _MISSING:
                values[key] = value
        ordered = {key: values[key] for key in properties if key in values}
        for key in sorted(wanted or ()):
            ordered.setdefault(key, None)
        least, _ = _lengths(schema, "Properties")
        extra = schema.get("additionalProperties")
        while len(ordered) < least:
            found = self._facts.take(self._facts.names, "")
            key = found.text if found else f"key{len(ordered) + 1}"
            ordered[key] = self.fill(extra if isinstance(extra, Mapping) else {}, key, depth + 1)
        return ordered

    def _rank(self, schema: object, key: str) -> int:
        flat = self._resolved(schema)
        if any("enum" in self._resolved(option) for option in (flat, *_options(flat))):
            return 0
        return 2 - bool(self._facts.anchors(key))

    def _property(self, schema: object, key: str, wanted: set[str] | None, depth: int) -> object:
        flat = self._resolved(schema)
        needed = key in wanted if wanted is not None else "default" not in flat
        if needed:
            return self.fill(flat, key, depth + 1)
        # An optional field is filled only if the prompt speaks of it, or names a member of its enum.
        if "const" in flat or depth >= _DEPTH:
            return _MISSING
        # One word of three says nothing of `goal_already_achieved`, one of two nothing of a list of objects.
        lists = any(_kind(self._resolved(o)) in {"array", "object"} for o in _options(flat) or [flat])
        share = self._facts.spoken(key)
        spoken = bool(self._facts.anchors(key)) and (share == 0 or share > 0.5 or (share == 0.5 and not lists))
        scalar = next((o for o in (flat, *_options(flat)) if "enum" in self._resolved(o)), None)
        return self._find(flat, key, depth + 1) if spoken or scalar is not None else _MISSING

    def _plain_array(self, schema: Schema, name: str, depth: int) -> list[object]:
        low, high = _lengths(schema, "Items")
        prefix = schema.get("prefixItems")
        values = [self.fill(item, name, depth + 1) for item in prefix] if isinstance(prefix, list) else []
        item = self._resolved(schema.get("items", {}))
        # One item says more than none, unless it would be empty words again or nest for ever.
        one = _kind(item) in {"object", "string"} and depth < _DEPTH and not values
        while len(values) < min(max(low, int(one)), high):
            value = self.fill(item, name, depth + 1)
            if schema.get("uniqueItems") and value in values:
                value = _other(value, len(values))
            values.append(value)
        return values

    def _plain_text(self, schema: Schema, name: str) -> str:
        kind = schema.get("format")
        if isinstance(kind, str) and kind in _FORMAT_DEFAULTS:
            return _FORMAT_DEFAULTS[kind]
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and (text := example(pattern)) is not None:
            return text
        phrase = self._facts.phrase()
        if phrase in self._phrases or not phrase:
            label = " ".join(name_words(name)) or "text"
            phrase = f"{label}: {phrase}" if phrase else label
        self._phrases.add(phrase)
        low, high = _lengths(schema, "Length")
        filler = phrase or "text"
        while len(phrase) < low:
            phrase = f"{phrase} {filler}".strip()
        return phrase[:high].strip().ljust(low, ".") if len(phrase) > high else phrase


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
        if isinstance(schema.get(name), list):
            return cast("list[Schema]", schema[name])
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return [{**schema, "type": kind} for kind in kinds]
    return []


def _kind(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    if any(name in schema for name in ("minimum", "maximum", "multipleOf", "exclusiveMinimum")):
        return "number"
    # Anything goes: a text is the most useful thing.
    return "string"


def _bounds(schema: Schema, kind: str) -> tuple[float, float]:
    step = 1.0 if kind == "integer" else 1e-6
    low = [-math.inf]
    high = [math.inf]
    for name, values, shift in (
        ("minimum", low, 0.0),
        ("exclusiveMinimum", low, step),
        ("maximum", high, 0.0),
        ("exclusiveMaximum", high, -step),
    ):
        bound = _finite(schema.get(name))
        if bound is not None:
            values.append(bound + shift)
    return max(low), min(high)


def _finite(value: object) -> float | None:
    """Return a number of a schema, None for what is none that can be reckoned with."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return value


def _is_multiple(value: float, multiple_of: object) -> bool:
    step = _finite(multiple_of)
    if not step:
        return True
    return math.isclose(value / step, round(value / step), abs_tol=1e-9)


def _plain_number(schema: Schema, kind: str) -> float:
    low, high = _bounds(schema, kind)
    value = min(max(1.0, low), high)
    if step := _finite(schema.get("multipleOf")):
        value = math.ceil(value / step) * step
        value = value if value <= high else math.floor(high / step) * step
    if kind == "integer":
        value = math.ceil(value)
    return int(value) if float(value).is_integer() else value


def _lengths(schema: Schema, of: str) -> tuple[int, int]:
    low, high = schema.get(f"min{of}", 0), schema.get(f"max{of}")
    return (min(low, _LONGEST) if isinstance(low, int) else 0), (high if isinstance(high, int) else 1_000_000)


def _fits_text(text: str, schema: Schema) -> bool:
    low, high = _lengths(schema, "Length")
    pattern = schema.get("pattern")
    try:
        matches = not isinstance(pattern, str) or re.search(pattern, text) is not None
    except re.error:
        matches = True
    return low <= len(text) <= high and matches


def _listed(text: str) -> list[str]:
    if text.startswith("["):  # a list as JSON or Python writes it, which frameworks put into their prompts
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return [str(part) for part in ast.literal_eval(text)]
    parts = re.split(r",\s*(?:and |or )?|\s+(?:and|or)\s+", text)
    return [part.strip(" \"'`.") for part in parts if part.strip(" \"'`.")]


def _other(value: object, index: int) -> object:
    if isinstance(value, str):
        return f"{value} {index + 1}"
    return value + index if isinstance(value, int | float) else value
