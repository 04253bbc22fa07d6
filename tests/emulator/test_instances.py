from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from kluster_integrations.emulator import instance
from kluster_integrations.emulator.instances import example

STR: dict[str, Any] = {"type": "string"}
INT: dict[str, Any] = {"type": "integer"}
NUM: dict[str, Any] = {"type": "number"}


def obj(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def optional(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


PERSON = obj(name=STR, age=INT)
NODE = obj(value=INT, next=optional({"$ref": "#/$defs/N"}))
TREE = obj(v=INT, kids={"type": "array", "items": {"$ref": "#/$defs/T"}})

FILLED = [
    (obj(city=STR, daysAhead=INT, hot={"type": "boolean"}), {"city": "city", "daysAhead": 1, "hot": True}),
    (obj(unit={"enum": ["celsius", "fahrenheit"]}, kind={"const": "x"}), {"unit": "celsius", "kind": "x"}),
    (obj(when={"type": "string", "format": "date"}), {"when": "2025-01-01"}),
    (obj(code={"type": "string", "pattern": r"^[A-Z]{3}-\d{4}$"}), {"code": "AAA-0000"}),
    (obj(numbers={"type": "array", "items": INT}), {"numbers": [1]}),
    (
        obj(tools={"type": "array", "items": {"anyOf": [{"const": "weather"}, {"const": "clock"}]}}),
        {"tools": ["weather"]},
    ),
    (
        obj(people={"type": "array", "items": {"$ref": "#/$defs/P"}}) | {"$defs": {"P": PERSON}},
        {"people": [{"name": "name", "age": 1}]},
    ),
    (
        obj(shape={"oneOf": [obj(kind={"const": "circle"}, r=NUM), obj(kind={"const": "square"}, side=NUM)]}),
        {"shape": {"kind": "circle", "r": 1}},
    ),
    (obj(q=STR) | {"properties": {"q": STR, "limit": INT | {"default": 10}}, "required": ["q"]}, {"q": "q"}),
    ({"type": "object", "properties": {"n": INT}, "required": []}, {}),
    ({"type": "object", "properties": {"n": INT, "m": INT | {"default": 3}}}, {"n": 1}),
    ({"type": "object", "properties": {}}, {}),
    (obj(a=optional(STR), b=optional(INT)), {"a": None, "b": None}),
    (obj(level=INT | {"default": 3}, size=INT | {"examples": [7]}), {"level": 3, "size": 7}),
]


@pytest.mark.parametrize(("schema", "wanted"), FILLED)
def test_a_small_value_that_fits(schema: dict[str, Any], wanted: object) -> None:
    value = instance(schema)
    assert value == wanted
    jsonschema.validate(value, schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        STR,
        {"enum": [1, "b", None]},
        {"const": {"x": 1}},
        {"type": ["string", "null"]},
        obj(x=INT | {"minimum": 10, "maximum": 20}, y=NUM | {"exclusiveMinimum": 0, "maximum": 0.5}),
        obj(x=INT | {"exclusiveMinimum": 3, "exclusiveMaximum": 5}, z=INT | {"multipleOf": 7, "minimum": 8}),
        obj(s=STR | {"minLength": 30}, t=STR | {"maxLength": 5}, u=STR | {"minLength": 3, "maxLength": 3}),
        obj(p=STR | {"pattern": r"^\d{5}(-\d{4})?$"}, q=STR | {"pattern": "^(foo|bar)$"}),
        obj(**{f: STR | {"format": f} for f in ("date", "date-time", "time", "email", "uri", "uuid", "ipv4")}),
        obj(node={"$ref": "#/$defs/N"}) | {"$defs": {"N": NODE}},
        obj(tree={"$ref": "#/$defs/T"}) | {"$defs": {"T": TREE}},
        obj(a={"type": "array", "items": INT, "minItems": 3, "maxItems": 3}),
        obj(a={"type": "array", "items": STR, "minItems": 4, "uniqueItems": True}),
        obj(a={"type": "array", "items": {"enum": ["x", "y"]}}, b={"type": "array"}),
        {"type": "array", "prefixItems": [STR, INT], "minItems": 2, "maxItems": 2},
        {"type": "object", "minProperties": 2, "additionalProperties": INT},
        {"allOf": [obj(x=INT), obj(y=STR)]},
        obj(o=optional(PERSON), i=optional({"type": "array", "items": PERSON})),
        obj(amount={"anyOf": [NUM, STR | {"pattern": r"^\d+$"}]}),
        {"type": "object", "required": ["free"]},
    ],
)
def test_fits_every_kind_of_schema(schema: dict[str, Any]) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(instance(schema), schema, format_checker=checker)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}]},
        {"allOf": [{"$ref": "#"}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"properties": [1], "required": {}, "enum": "x", "items": True, "minItems": "3"},
        {"type": "string", "pattern": "(", "minLength": -1},
        {"$ref": "https://example.com/other.json"},
        True,
        None,
    ],
)
def test_broken_schemas_do_not_break_it(schema: object) -> None:
    json.dumps(instance(schema))


def test_a_schema_that_requires_itself_twice_is_not_followed_for_ever() -> None:
    both = {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcd"}, "required": list("abcd")}
    assert len(json.dumps(instance(both))) < 1_000_000  # 4 ** 16 without a bound


@pytest.mark.parametrize(
    "pattern", [r"^#[0-9a-f]{6}$", r"\w+@\w+\.com", r"[^a]b?c*", r"(?:x|y){2}", r"^\+?[1-9]\d{1,14}$"]
)
def test_example_matches(pattern: str) -> None:
    assert example(pattern) is not None


@pytest.mark.parametrize("pattern", ["(?!a)b", "(unclosed", r"(a)\1"])
def test_example_gives_up(pattern: str) -> None:
    assert example(pattern) is None


@pytest.mark.parametrize(
    "field",
    [
        {"type": "string", "minLength": 10**12},
        {"type": "array", "items": INT, "minItems": 10**12},
        {"type": "object", "minProperties": 10**12},
        {"type": "string", "pattern": "^a{1000000000}$"},
        {"type": "integer", "minimum": float("inf")},
        {"type": "number", "maximum": -(10**400)},
        {"type": "integer", "multipleOf": float("inf")},
        {"type": "number", "multipleOf": 10**400},
    ],
    ids=str,
)
def test_what_no_value_can_fit_gets_one_all_the_same(field: dict[str, Any]) -> None:
    made = instance(obj(a=field))
    assert isinstance(made, dict)
    assert len(json.dumps(made)) < 1_000_000
