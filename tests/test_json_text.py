"""The outermost JSON value of what a model wrote, and the arguments of its calls."""

from __future__ import annotations

import json

import pytest

from kluster_integrations.core.json_text import MISSING, compact, find_json, read_arguments

TWIN = '"twin": {"name": "Bergen", "size": 40}'

# A value that began and failed, with a value inside it that must not be taken for the answer.
FAILED = {
    "comment": f'{{"name": "Oslo", // the capital\n {TWIN}}}',
    "unquoted-key": f'{{name: "Oslo", {TWIN}}}',
    "unquoted-word": f'{{"name": Oslo, {TWIN}}}',
    "unescaped-quote": f'{{"name": "the "real" Oslo", {TWIN}}}',
    "unescaped-quotes-that-join": f'{{"name": "Oslo "" city", {TWIN}}}',
    "javascript": f'{{"name": "Oslo", "mayor": undefined, {TWIN}}}',
    "two-commas": f'{{"name": "Oslo",, {TWIN}}}',
    "cut": f'{{"name": "Oslo", {TWIN}, "size": 7',
    "cut-list": f'[{{"name": "Oslo"}}, {{{TWIN}}}, {{"na',
    "cut-string": f'{{{TWIN}, "name": "Os',
    "extra-bracket": f'{{"name": "Oslo", {TWIN}]}}',
    "double-braces": f'{{{{"name": "Oslo", {TWIN}}}}}',
    "fence-inside": '{"code": "```json\n{"name": "Bergen", "size": 40}\n```"}',
    "constructor": f'City(name="Oslo", twin = {{{TWIN}}})',
    "list-of-words": '[Oslo, {"name": "Bergen", "size": 40}]',
}
# What is plainly meant, and complete.
MEANT = {
    "python": '{"name": "Oslo", "mayor": None, "big": True, "twin": {"name": "Bergen", "size": 40}}',
    "single-quotes": "{'name': 'Oslo', 'mayor': None, 'big': True, 'twin': {'name': 'Bergen', 'size': 40}}",
    "trailing-commas": '{"name": "Oslo", "mayor": None, "big": True, "twin": {"name": "Bergen", "size": 40,},}',
}
MEANT_VALUE = {"name": "Oslo", "mayor": None, "big": True, "twin": {"name": "Bergen", "size": 40}}
FRAMES = ["{}", "Sure:\n{}", "```json\n{}\n```", "Here:\n```json\n{}\n```\nDone.", "{} That is all."]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", FAILED)
def test_no_value_is_found_inside_one_that_failed(name: str, frame: str) -> None:
    assert find_json(frame.replace("{}", FAILED[name])) is None


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", MEANT)
def test_what_is_plainly_meant_is_read(name: str, frame: str) -> None:
    assert find_json(frame.replace("{}", MEANT[name])) == MEANT_VALUE


@pytest.mark.parametrize("name", MEANT)
def test_not_where_the_answer_was_cut(name: str) -> None:
    assert find_json(MEANT[name], is_cut=True) is None


def test_every_cut_of_an_object_holds_nothing() -> None:
    text = json.dumps({**MEANT_VALUE, "list": [1, {"a": [2]}], "text": 'a } "b" ]'})
    for end in range(1, len(text)):
        for frame in ("", "Sure: ", "```json\n"):
            assert find_json(frame + text[:end]) is None, text[:end]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('I fill {name} and [a note] in: {"a": 1}', {"a": 1}),
        ('See [the docs](https://a.b): {"a": 1}', {"a": 1}),
        ('As of [1]: {"a": {"b": 2}}', {"a": {"b": 2}}),
        ('{"a": 1}\n```json\n{"b": 2, "c": 3}\n```', {"b": 2, "c": 3}),
        ('```json\n{"a": 1}\n```\nor\n```json\n{"b": 2, "c": 3}\n```', {"a": 1}),
        ("```json\n42\n```", 42),
        ("{'it\\'s': 'a } here'}", {"it's": "a } here"}),
    ],
)
def test_brackets_in_prose_are_not_values(text: str, value: object) -> None:
    assert find_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "{'a': {1, 2}}",
        "{'a': b'x'}",
        "{'a': 1j}",
        "{'a': ...}",
        "{'a': f'x'}",
        "{'a': open('x')}",
        "{'a': 1e999}",
        "{'a': '\\ud83d'}",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
    ],
)
def test_what_only_python_can_say_is_not_json(text: str) -> None:
    assert find_json(text) is None


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"city": "Oslo"}', '{"city": "Oslo"}'),
        (' {"city":"Oslo"}\n', ' {"city":"Oslo"}\n'),  # by the letter as the model wrote it
        ("", "{}"),
        (" ", "{}"),
        ("null", "{}"),
        ("{}", "{}"),
        ('"{\\"city\\": \\"Oslo\\"}"', '{"city": "Oslo"}'),
        ('{"city": "Os\nlo"}', '{"city": "Os\\nlo"}'),
        ("{'city': None,}", '{"city": null}'),
    ],
)
def test_arguments_are_the_text_of_one_object(text: str, arguments: str) -> None:
    assert read_arguments(text) == (arguments, None)
    assert isinstance(json.loads(arguments), dict)


@pytest.mark.parametrize(
    "text",
    [
        'Sure: {"city": "Oslo"}',
        '{"city": "Oslo"} {"city": "Bergen"}',
        '{"city": "Os',
        '[{"city": "Oslo"}]',
        '"Oslo"',
        "7",
        "true",
        "Oslo",
        '{"a": NaN}',
        '```json\n{"city": "Oslo"}\n```',
        "[" * 50_000,
        *(FAILED[name] for name in ("comment", "unescaped-quote", "cut")),
    ],
    ids=lambda text: text[:20],
)
def test_other_arguments_are_an_error_and_stay_as_they_are(text: str) -> None:
    same, error = read_arguments(text)
    assert same == text
    assert error


def test_cut_arguments_are_not_read_leniently() -> None:
    assert read_arguments("{'city': None}", is_cut=True)[1]


@pytest.mark.parametrize(
    "text",
    [
        "```json" + "\n" * 64_000,
        "{" * 30_000,
        "[x] " * 30_000,
        "[1] {x} " * 30_000 + "[2]",
        "{'a': " * 3_000,
        '{"a": "' + "\\" * 50_001,
    ],
    ids=range(6),
)
def test_no_text_takes_more_than_a_few_passes(text: str) -> None:
    assert find_json(text) is None  # a quadratic reader takes minutes


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert compact(["\ud83d", "\ud83d\ude00"]) == '["\ufffd", "\U0001f600"]'


def test_null_may_be_an_answer() -> None:
    assert find_json("null", default=MISSING) is None
    assert find_json("no", default=MISSING) is MISSING
