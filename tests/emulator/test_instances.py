from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest

from kluster_integrations.emulator import instance
from kluster_integrations.emulator.patterns import example

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
    (obj(input=INT), "What is the value of (3)?", {"input": 3}),
    (obj(a=INT, b=INT), "add 3 and 5", {"a": 3, "b": 5}),
    (obj(a=NUM, b=NUM), "What is -2.5 times 1,000?", {"a": -2.5, "b": 1000}),
    (obj(days=INT), "three days", {"days": 3}),
    (obj(height=NUM, radius=NUM), "cylinder with radius 5 and height 10", {"height": 10, "radius": 5}),
    (obj(origin=STR, destination=STR), "fly from Paris to New York", {"origin": "Paris", "destination": "New York"}),
    (obj(location=STR), "weather in San Francisco, CA", {"location": "San Francisco, CA"}),
    (obj(location=STR), "What's the weather in Paris, France?", {"location": "Paris, France"}),
    (obj(city=STR), "Wie ist das Wetter in Zürich?", {"city": "Zürich"}),
    (obj(customer_name=STR), "Create a customer for '你好啊集团'", {"customer_name": "你好啊集团"}),
    (obj(city=STR, unit={"enum": ["celsius", "fahrenheit"]}), "Oslo in Celsius", {"city": "Oslo", "unit": "celsius"}),
    (PERSON, "Ada Lovelace is 36 years old.", {"name": "Ada Lovelace", "age": 36}),
    (obj(when={"type": "string", "format": "date"}), "on March 5, 2026", {"when": "2026-03-05"}),
    (obj(mail={"type": "string", "format": "email"}), "write to bob@x.org.", {"mail": "bob@x.org"}),
    (obj(url={"type": "string", "format": "uri"}), "see https://x.org/a?b=1.", {"url": "https://x.org/a?b=1"}),
    (obj(code={"type": "string", "pattern": r"^[A-Z]{3}-\d{4}$"}), "order ABC-1234 now", {"code": "ABC-1234"}),
    (obj(numbers={"type": "array", "items": INT}), "Sum 1, 2, 3 and 10", {"numbers": [1, 2, 3, 10]}),
    (
        obj(tools={"type": "array", "items": {"anyOf": [{"const": "weather"}, {"const": "clock"}]}}),
        "Ask the clock in Paris.",
        {"tools": ["clock"]},
    ),
    (obj(tools={"type": "array", "items": {"const": "weather"}}), "Is it sunny in Paris?", {"tools": ["weather"]}),
    (obj(tags={"type": "array", "items": STR}), "tags: red, green and blue", {"tags": ["red", "green", "blue"]}),
    (obj(tags={"type": "array", "items": STR}), "Known tags: ['a.b', \"c's\"]\nName one.", {"tags": ["a.b", "c's"]}),
    (obj(tags={"type": "array", "items": STR}), "Known tags: []", {"tags": []}),
    (
        obj(people={"type": "array", "items": {"$ref": "#/$defs/P"}}) | {"$defs": {"P": PERSON}},
        "John is 30 and Mary is 25.",
        {"people": [{"name": "John", "age": 30}, {"name": "Mary", "age": 25}]},
    ),
    (
        obj(shape={"oneOf": [obj(kind={"const": "circle"}, r=NUM), obj(kind={"const": "square"}, side=NUM)]}),
        "a square with side 4",
        {"shape": {"kind": "square", "side": 4}},
    ),
    (
        obj(verbose={"type": "boolean"}, color={"type": "boolean"}),
        "verbose, no color",
        {"verbose": True, "color": False},
    ),
    (obj(expression=STR), "What is 12*(3+4)?", {"expression": "12*(3+4)"}),
    (obj(query=STR), "Search the web for the tallest mountain", {"query": "the tallest mountain"}),
    (obj(query=STR), 'Look for "green tea" shops', {"query": "green tea"}),
    (obj(q=STR) | {"properties": {"q": STR, "limit": INT | {"default": 10}}, "required": ["q"]}, "cats", {"q": "cats"}),
    ({"type": "object", "properties": {"n": INT}, "required": []}, "hello", {}),
    ({"type": "object", "properties": {}}, "hello 3", {}),
    (obj(a=optional(STR), b=optional(INT)), "nothing", {"a": None, "b": None}),
    (obj(level=INT | {"default": 3}), "go", {"level": 3}),
]


@pytest.mark.parametrize(("schema", "prompt", "wanted"), FILLED)
def test_says_what_the_prompt_says(schema: dict[str, Any], prompt: str, wanted: object) -> None:
    value = instance(schema, prompt)
    assert value == wanted
    jsonschema.validate(value, schema)
    assert instance(schema, prompt) == value


@pytest.mark.parametrize("prompt", ["", "hello", "Bob has 7 apples and 250 pears, 'so there'.", "-1 0.5 1e400"])
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
def test_fits_whatever_the_prompt(schema: dict[str, Any], prompt: str) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(instance(schema, prompt), schema, format_checker=checker)


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
    json.dumps(instance(schema, "Bob has 3 apples in Paris"))


@pytest.mark.parametrize("text", ["'a", "1 ", "(1 ", "a, ", "in ", "A "])
def test_long_prompts_are_no_trap(text: str) -> None:
    fields = obj(
        city=STR, expression=STR, names={"type": "array", "items": STR}, rows={"type": "array", "items": PERSON}
    )
    started = time.perf_counter()
    instance(fields, text * 100_000)
    assert time.perf_counter() - started < 2


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
    made = instance(obj(a=field), "three words 7")
    assert isinstance(made, dict)
    assert len(json.dumps(made)) < 1_000_000
