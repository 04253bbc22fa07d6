"""Tool calls, native and read from text, however their fragments come."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from kluster_integrations.core.response import read

from .answers import (
    LLAMA,
    NEMO,
    OSLO,
    PARIS,
    QWEN,
    WEATHER,
    asked,
    body_of,
    call,
    cuts,
    every_way,
    same,
    streamed,
)
from .raw_server import one_by_one, sse


def calls_of(*fragments: Sequence[Mapping[str, Any]], model: str = LLAMA) -> list[tuple[str, str]]:
    """Return names and arguments of streamed calls; each argument is the fragments of one event."""
    sent = asked(model, tools=[WEATHER])
    events = b"".join(sse(*({"tool_calls": list(f)} for f in fragments), finish="tool_calls"))
    answer = same([streamed([events], sent), streamed(one_by_one(events), sent)])
    assert answer.finish_reason == "tool_calls"
    ids = [c.id for c in answer.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    return [(c.name, c.arguments) for c in answer.tool_calls]


STREAMED_CALLS: dict[str, tuple[list[list[dict[str, Any]]], list[tuple[str, str]]]] = {
    "openai": (
        [
            [call("weather", index=0, id="a")],
            [call(arguments='{"city": ', index=0)],
            [call(arguments='"Paris"}', index=0)],
        ],
        [("weather", PARIS)],
    ),
    "one-fragment": ([[call("weather", PARIS, index=0, id="a")]], [("weather", PARIS)]),
    "no-index": (
        [
            [call("weather", id="a")],
            [call(arguments=PARIS[:5])],
            [call(arguments=PARIS[5:])],
            [call("time", OSLO, id="b")],
        ],
        [("weather", PARIS), ("time", OSLO)],
    ),
    "no-index-no-id": (
        [[call("weather", PARIS[:5])], [call(arguments=PARIS[5:])], [call("time", OSLO)]],
        [("weather", PARIS), ("time", OSLO)],
    ),
    "index-null-id-null": (
        [[call("weather", PARIS[:5], index=None, id=None)], [call(arguments=PARIS[5:], index=None, id=None)]],
        [("weather", PARIS)],
    ),
    "id-empty": (
        [[call("weather", PARIS, index=0, id="")], [call("time", OSLO, index=1, id="")]],
        [("weather", PARIS), ("time", OSLO)],
    ),
    "id-repeated-on-each-fragment": (
        [[call("weather", PARIS[:5], index=0, id="a")], [call("weather", PARIS[5:], index=0, id="a")]],
        [("weather", PARIS)],
    ),
    "id-repeated-no-index": (
        [[call("weather", PARIS[:5], id="a")], [call("weather", PARIS[5:], id="a")]],
        [("weather", PARIS)],
    ),
    "index-always-0": (
        [[call("weather", PARIS, index=0, id="a")], [call("time", OSLO, index=0, id="b")]],
        [("weather", PARIS), ("time", OSLO)],
    ),
    "two-in-one-event": (
        [[call("weather", PARIS, index=0, id="a"), call("time", OSLO, index=1, id="b")]],
        [("weather", PARIS), ("time", OSLO)],
    ),
    "interleaved": (
        [
            [call("weather", index=0, id="a"), call("time", index=1, id="b")],
            [call(arguments=PARIS[:4], index=0)],
            [call(arguments=OSLO[:6], index=1)],
            [call(arguments=PARIS[4:], index=0), call(arguments=OSLO[6:], index=1)],
        ],
        [("weather", PARIS), ("time", OSLO)],
    ),
    "interleaved-by-id": (
        [
            [call("weather", PARIS[:4], id="a")],
            [call("time", OSLO[:6], id="b")],
            [call(arguments=PARIS[4:], id="a")],
            [call(arguments=OSLO[6:], id="b")],
        ],
        [("weather", PARIS), ("time", OSLO)],
    ),
    "indexes-from-1-with-gaps": (
        [[call("weather", PARIS, index=1, id="a")], [call("time", OSLO, index=5, id="b")]],
        [("weather", PARIS), ("time", OSLO)],
    ),
    "name-in-a-later-fragment": (
        [[{"index": 0, "id": "a", "type": "function"}], [call("weather", index=0)], [call(arguments=PARIS, index=0)]],
        [("weather", PARIS)],
    ),
    "arguments-null": ([[call("weather", None, index=0, id="a")]], [("weather", "{}")]),
    "arguments-null-text": ([[call("weather", "null", index=0, id="a")]], [("weather", "{}")]),
    "arguments-empty": ([[call("weather", "", index=0, id="a")]], [("weather", "{}")]),
    "arguments-missing": ([[{"index": 0, "id": "a", "function": {"name": "weather"}}]], [("weather", "{}")]),
    "arguments-object": ([[call("weather", {"city": "Paris"}, index=0, id="a")]], [("weather", PARIS)]),
    "fragment-that-reads-null": (
        [
            [call("weather", '{"city":', index=0, id="a")],
            [call(arguments="null", index=0)],
            [call(arguments="}", index=0)],
        ],
        [("weather", '{"city":null}')],
    ),
    "unicode": (
        [
            [call("weather", '{"city": "', index=0, id="a")],
            [call(arguments="東", index=0)],
            [call(arguments='京👋"}', index=0)],
        ],
        [("weather", '{"city": "東京👋"}')],
    ),
}


@pytest.mark.parametrize("name", STREAMED_CALLS)
def test_streamed_tool_calls(name: str) -> None:
    fragments, expected = STREAMED_CALLS[name]
    assert calls_of(*fragments) == expected


def test_arguments_may_be_split_anywhere() -> None:
    arguments = '{"a": null, "b": "x\\"y", "c": [true, null]}'
    for first, second in itertools.combinations(range(len(arguments) + 1), 2):
        parts = [arguments[:first], arguments[first:second], arguments[second:]]
        fragments = [[call("weather", index=0, id="a")], *([call(arguments=p, index=0)] for p in parts)]
        events = b"".join(sse(*({"tool_calls": f} for f in fragments), finish="tool_calls"))
        answer = streamed([events], asked(tools=[WEATHER]))
        assert answer.tool_calls[0].arguments == arguments, parts


WHOLE_CALLS: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "one": ([call("weather", PARIS, id="a")], [("weather", PARIS)]),
    "two": ([call("weather", PARIS, id="a"), call("time", OSLO, id="b")], [("weather", PARIS), ("time", OSLO)]),
    "ids-missing": ([call("weather", PARIS), call("weather", OSLO)], [("weather", PARIS), ("weather", OSLO)]),
    "ids-null": ([call("weather", PARIS, id=None), call("time", OSLO, id=None)], [("weather", PARIS), ("time", OSLO)]),
    "ids-the-same": (
        [call("weather", PARIS, id="a"), call("time", OSLO, id="a")],
        [("weather", PARIS), ("time", OSLO)],
    ),
    "arguments-null": ([call("weather", None, id="a")], [("weather", "{}")]),
    "arguments-null-text": ([call("weather", "null", id="a")], [("weather", "{}")]),
    "arguments-object": ([call("weather", {"city": "Paris"}, id="a")], [("weather", PARIS)]),
    "none": (None, []),
    "empty": ([], []),
}


@pytest.mark.parametrize("name", WHOLE_CALLS)
def test_whole_tool_calls(name: str) -> None:
    given, expected = WHOLE_CALLS[name]
    answer = read(body_of({"content": None, "tool_calls": given}, "tool_calls"), asked(tools=[WEATHER]))
    assert [(c.name, c.arguments) for c in answer.tool_calls] == expected
    assert answer.text == ""
    assert all(c.id for c in answer.tool_calls)


def test_the_servers_call_ids_are_kept() -> None:
    given = [call("weather", PARIS, id="chatcmpl-tool-1"), call("time", OSLO, id="chatcmpl-tool-2")]
    fragments = [{**c, "index": i} for i, c in enumerate(given)]
    for answer in every_way({"tool_calls": given}, [{"tool_calls": fragments}], asked(tools=[WEATHER]), "tool_calls"):
        assert [c.id for c in answer.tool_calls] == ["chatcmpl-tool-1", "chatcmpl-tool-2"]


def test_thoughts_text_and_calls_in_one_answer() -> None:
    content = "<think>plan</think>Let me look."
    sent = asked(QWEN, tools=[WEATHER])
    found = []
    for pieces in cuts(content):
        deltas = [*({"content": p} for p in pieces), {"tool_calls": [call("weather", PARIS, index=0, id="a")]}]
        message = {"content": content, "tool_calls": [call("weather", PARIS, id="a")]}
        found += every_way(message, deltas, sent, "tool_calls")
    answer = same(found)
    assert (answer.reasoning, answer.text, len(answer.tool_calls)) == ("plan", "Let me look.", 1)


def test_calls_that_end_with_stop_end_with_tool_calls() -> None:
    sent = asked(LLAMA, tools=[WEATHER])
    called = {"content": None, "tool_calls": [call("weather", PARIS, index=0, id="a")]}
    assert same(every_way(called, [called], sent, "stop")).finish_reason == "tool_calls"


def prompted(name: object = "weather", arguments: object = None) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments or {}})}\n</tool_call>"


@pytest.mark.parametrize(
    ("content", "text", "names"),
    [
        (prompted(), "", ["weather"]),
        (f"Let me look.\n{prompted()}", "Let me look.", ["weather"]),
        (f"{prompted()}\n{prompted()}", "", ["weather", "weather"]),
        (f"{prompted()}\n", "", ["weather"]),
        (prompted().removesuffix("</tool_call>"), "", ["weather"]),
        (prompted("unheard_of"), "", ["unheard_of"]),
        ("a <tool and <b> <tool_", "a <tool and <b> <tool_", []),
        ("<tool_call>no JSON</tool_call>", "<tool_call>no JSON</tool_call>", []),
        (prompted(["weather"]), prompted(["weather"]), []),
    ],
)
def test_prompted_tool_calls(content: str, text: str, names: list[str]) -> None:
    sent = asked(NEMO, tools=[WEATHER])
    found = []
    for pieces in cuts(content):
        found += every_way({"content": content}, [{"content": p} for p in pieces], sent)
    answer = same(found)
    assert answer.text.rstrip() == text  # white space between text and call may go, but the same every way
    assert [c.name for c in answer.tool_calls] == names
    assert answer.finish_reason == ("tool_calls" if names else "stop")


@pytest.mark.parametrize("between", ["\n", "", "\n\nThen:\n"])
def test_text_around_prompted_calls_does_not_depend_on_the_pieces(between: str) -> None:
    content = f"First:\n{prompted()}{between}{prompted()}\n"
    sent = asked(NEMO, tools=[WEATHER])
    found = []
    for pieces in cuts(content):
        found += every_way({"content": content}, [{"content": p} for p in pieces], sent)
    assert len(same(found).tool_calls) == 2
