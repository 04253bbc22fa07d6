"""Calls that a model with native tools writes as text, in the form of its training."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kluster_integrations.core.prompting import ToolCallSplitter

from .answers import LLAMA, WEATHER, asked, cuts, every_way, same

OSLO = {"city": "Oslo"}
NAMES = frozenset({"weather", "time"})

FORMS: dict[str, tuple[str, str, list[tuple[str, Any]]]] = {
    "hermes": (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
        "",
        [("weather", OSLO)],
    ),
    "hermes-behind-text": (
        'Let me look.\n<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>',
        "Let me look.",
        [("weather", OSLO)],
    ),
    "llama": ('{"name": "weather", "parameters": {"city": "Oslo"}}', "", [("weather", OSLO)]),
    "llama-type": (
        '{"type": "function", "name": "weather", "parameters": {"city": "Oslo"}}',
        "",
        [("weather", OSLO)],
    ),
    "openai-object": (
        '{"type": "function", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}}',
        "",
        [("weather", OSLO)],
    ),
    "llama-two": (
        '{"name": "weather", "parameters": {"city": "Oslo"}}; {"name": "time", "parameters": {}}',
        "",
        [("weather", OSLO), ("time", {})],
    ),
    "python-tag": ('<|python_tag|>{"name": "weather", "parameters": {"city": "Oslo"}}', "", [("weather", OSLO)]),
    "python-tag-behind-text": (
        'Let me look. <|python_tag|>{"type": "function", "name": "weather", "parameters": {"city": "Oslo"}}',
        "Let me look.",
        [("weather", OSLO)],
    ),
    "mistral-list": (
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "time", "arguments": {}}]',
        "",
        [("weather", OSLO), ("time", {})],
    ),
    "mistral-space": ('[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}]', "", [("weather", OSLO)]),
    "mistral-args": (
        '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]time[ARGS]{}',
        "",
        [("weather", OSLO), ("time", {})],
    ),
    "mistral-name": ('[TOOL_CALLS]weather{"city": "Oslo"}', "", [("weather", OSLO)]),
    "bare-list": ('[{"name": "weather", "arguments": {"city": "Oslo"}}]', "", [("weather", OSLO)]),
}
TEXTS = (
    "Just an answer.",
    '{"city": "Oslo"}',
    '{"name": "unheard_of", "parameters": {}}',
    '{"name": "weather", "size": 3',
    '{"name": "Oslo", "size": 3}',
    "{not JSON at all}",
    "[see the list] of tools",
    "[TOOL_CALLS] is Mistral's mark.",
    "<|python_tag|>print('weather')",
    '<tool_call>{"name": "unheard_of", "arguments": {}}</tool_call>',
    'The call is {"name": "weather", "parameters": {}}',
    '```json\n{"name": "weather", "parameters": {}}\n```',
    '{"name": "weather", "parameters": {}} is what I would call.',
    "a < b [c] d <|py",
    "{",
    "[",
    '{"na',
    " ",
)


@pytest.mark.parametrize("name", FORMS)
def test_calls_of_offered_tools_are_read_in_every_form(name: str) -> None:
    content, text, calls = FORMS[name]
    sent = asked(LLAMA, tools=[WEATHER, {**WEATHER, "function": {**WEATHER["function"], "name": "time"}}])
    found = []
    for pieces in cuts(content):
        found += every_way({"content": content}, [{"content": p} for p in pieces], sent)
    answer = same(found)
    assert answer.text.strip() == text
    assert [(c.name, json.loads(c.arguments)) for c in answer.tool_calls] == calls
    assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize("content", TEXTS)
def test_everything_else_stays_text(content: str) -> None:
    sent = asked(LLAMA, tools=[WEATHER])
    found = []
    for pieces in cuts(content):
        found += every_way({"content": content}, [{"content": p} for p in pieces], sent)
    answer = same(found)
    assert (answer.text, answer.tool_calls) == (content, [])


@pytest.mark.parametrize("form", [content for content, _, _ in FORMS.values()])
def test_without_tools_nothing_is_a_call(form: str) -> None:
    answer = same(every_way({"content": form}, [{"content": form}], asked(LLAMA)))
    assert (answer.text, answer.tool_calls) == (form, [])


@pytest.mark.parametrize("text", ['{"city": "Oslo", "text": "', "An answer", "[see", "{x"])
def test_an_answer_is_not_held_back_longer_than_it_may_be_a_call(text: str) -> None:
    splitter = ToolCallSplitter(NAMES, prompted=False)
    out = "".join(splitter.feed(letter)[0] for letter in text)
    assert out == text
