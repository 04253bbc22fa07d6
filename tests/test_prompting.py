from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.core import repair
from kluster_integrations.core.json_text import find_json
from kluster_integrations.core.prompting import PromptedCall, ToolCallSplitter, render
from kluster_integrations.core.schemas import schema_error
from kluster_integrations.core.types import ChatRequest, Completion, ToolCall, Usage
from kluster_integrations.errors import KlusterError, OutputValidationError

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
USER = {"role": "user", "content": "Weather in Oslo?"}


def calling(*calls: tuple[str, str], content: str = "") -> dict[str, Any]:
    made = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": content, "tool_calls": made}


def result(content: str, number: int = 0) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"c{number}", "content": content}


class TestRender:
    def test_nothing_to_render_changes_nothing(self) -> None:
        messages = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Cold."}]
        assert render(messages, [], None) == messages

    def test_the_input_stays(self) -> None:
        messages = [{"role": "system", "content": "s"}, USER, calling(("get_weather", "{}")), result("3"), result("4")]
        before = copy.deepcopy((messages, [WEATHER]))
        render(messages, [WEATHER], "required")
        assert (messages, [WEATHER]) == before

    def test_tools_are_one_json_object_per_line(self) -> None:
        system = render([USER], [WEATHER, CLOCK], None)[0]["content"]
        lines = system.split("<tools>\n")[1].split("\n</tools>")[0].split("\n")
        assert [json.loads(line) for line in lines] == [WEATHER, CLOCK]

    @pytest.mark.parametrize("text", ["{x}", "{", "}}", "%s", "\u00e4 \u4e16", '"quoted"', "two\nlines", "\\"])
    def test_any_description_is_rendered(self, text: str) -> None:
        tool = {"type": "function", "function": {"name": "f", "description": text, "parameters": {}}}
        system = render([USER], [tool], None)[0]["content"]
        (line,) = system.split("<tools>\n")[1].split("\n</tools>")[0].split("\n")
        assert json.loads(line)["function"]["description"] == text

    @pytest.mark.parametrize("content", ["", "Be brief."])
    def test_only_one_system_message_and_that_first(self, content: str) -> None:
        rendered = render([{"role": "system", "content": content}, USER], [WEATHER], None)
        assert [m["role"] for m in rendered] == ["system", "user"]
        assert rendered[0]["content"].startswith(content or "You can call tools")

    def test_earlier_calls_read_back_as_calls(self) -> None:
        message = calling(("get_weather", '{"city": "Oslo"}'), ("get_time", ""), content="Let me see.")
        (_, rendered) = render([USER, message], [], None)
        splitter = ToolCallSplitter()
        text, calls = splitter.feed(rendered["content"] + "\n")
        assert text.strip() == "Let me see."
        assert [(c.name, json.loads(c.arguments)) for c in calls] == [
            ("get_weather", {"city": "Oslo"}),
            ("get_time", {}),
        ]
        assert set(rendered) == {"role", "content"}

    def test_results_of_parallel_calls_share_a_message(self) -> None:
        rendered = render([USER, calling(("a", "{}"), ("b", "{}")), result("1"), result("2", 1)], [], None)
        assert [m["role"] for m in rendered] == ["user", "assistant", "user"]
        assert rendered[2]["content"] == ("<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>")

    def test_results_of_later_rounds_do_not(self) -> None:
        one, two = calling(("a", "{}")), calling(("b", "{}"))
        rendered = render([USER, one, result("1"), two, result("2")], [], None)
        assert [m["role"] for m in rendered] == ["user", "assistant", "user", "assistant", "user"]

    def test_a_result_after_an_image_keeps_the_image(self) -> None:
        picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://host/a.png"}}]}
        rendered = render([picture, result("1")], [], None)
        assert rendered[0] == picture


def split(text: str, size: int | None = None) -> tuple[str, list[PromptedCall]]:
    """Feed a text in pieces of a size (None: whole) and close."""
    splitter = ToolCallSplitter()
    texts: list[str] = []
    calls: list[PromptedCall] = []
    step = size or max(len(text), 1)
    for at in range(0, len(text), step):
        out, made = splitter.feed(text[at : at + step])
        texts.append(out)
        calls += made
    out, made = splitter.close()
    assert splitter.found is bool(calls + made)
    return "".join([*texts, out]), calls + made


def block(name: str = "get_weather", arguments: object = None) -> str:
    value = {"name": name, "arguments": {"city": "Oslo"} if arguments is None else arguments}
    return f"<tool_call>\n{json.dumps(value)}\n</tool_call>"


OSLO = ("get_weather", {"city": "Oslo"})

ANSWERS: tuple[tuple[str, str, list[tuple[str, object]]], ...] = (
    ("plain text", "plain text", []),
    ("", "", []),
    ("a < b and b > c", "a < b and b > c", []),
    ("<tool> is a tag, <tool_cal too", "<tool> is a tag, <tool_cal too", []),
    ("ends in <", "ends in <", []),
    ("ends in <tool_call", "ends in <tool_call", []),
    (block(), "", [OSLO]),
    (f"Let me see.\n{block()}", "Let me see.\n", [OSLO]),
    (f"{block()}\n", "", [OSLO]),
    (f"{block()}\n{block('get_time', {})}", "", [OSLO, ("get_time", {})]),
    (f"{block()}{block()}", "", [OSLO, OSLO]),
    (block().replace("\n", ""), "", [OSLO]),
    (block("no_such_tool"), "", [("no_such_tool", {"city": "Oslo"})]),  # for whoever runs the tools to say
    (block().removesuffix("\n</tool_call>"), "", [OSLO]),  # the model left out the closing tag
    (
        f"<tool_call>\n```json\n{json.dumps({'name': 'get_time', 'arguments': {}})}\n```\n</tool_call>",
        "",
        [("get_time", {})],
    ),
    ('<tool_call>{"name": "get_time"}</tool_call>', "", [("get_time", {})]),
    ('<tool_call>{"name": "get_time", "parameters": {"a": 1}}</tool_call>', "", [("get_time", {"a": 1})]),
    ('<tool_call>{"name": "get_time", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("get_time", {"a": 1})]),
    ('<tool_call>{"name": "get_time", "arguments": null}</tool_call>', "", [("get_time", {})]),
    (block(arguments={"city": "Malm\u00f6 \U0001f600"}), "", [("get_weather", {"city": "Malm\u00f6 \U0001f600"})]),
    (block(arguments={"city": "a</b> <i> {x} [y]"}), "", [("get_weather", {"city": "a</b> <i> {x} [y]"})]),
    (block(arguments={"city": "see <tool_call> here"}), "", [("get_weather", {"city": "see <tool_call> here"})]),
    (block(arguments={"city": "see </tool_call> here"}), "", [("get_weather", {"city": "see </tool_call> here"})]),
)

NO_CALLS = (
    "<tool_call>not json</tool_call>",
    "<tool_call></tool_call>",
    "<tool_call>",
    '<tool_call>["get_weather"]</tool_call>',
    '<tool_call>{"name": null}</tool_call>',
    '<tool_call>{"name": ["get_weather"]}</tool_call>',
    '<tool_call>{"name": {"a": 1}}</tool_call>',
    '<tool_call>{"arguments": {}}</tool_call>',
    "<tool_call>42</tool_call>",
    "<tool_call>" + "[" * 50_000,
)


class TestToolCallSplitter:
    @pytest.mark.parametrize("size", [None, 1, 2, 3, 7], ids=lambda s: f"pieces-of-{s}")
    @pytest.mark.parametrize(("text", "left", "calls"), ANSWERS, ids=[repr(a[0])[:40] for a in ANSWERS])
    def test_calls_are_taken_out(self, text: str, left: str, calls: list[Any], size: int | None) -> None:
        got, made = split(text, size=size)
        assert [(call.name, json.loads(call.arguments)) for call in made] == calls
        assert got.rstrip("\n") == left.rstrip("\n") if calls else got == left

    @pytest.mark.parametrize("text", NO_CALLS, ids=lambda text: text[:40])
    def test_what_is_not_a_call_stays_text(self, text: str) -> None:
        assert split(text) == (text, [])

    @pytest.mark.parametrize("text", [text for text in NO_CALLS if len(text) < 1_000], ids=lambda text: text[:40])
    def test_what_is_not_a_call_stays_text_also_in_pieces(self, text: str) -> None:
        assert split(f"a {text} b", size=1) == (f"a {text} b", [])

    def test_text_is_not_held_back(self) -> None:
        splitter = ToolCallSplitter()
        assert splitter.feed("Let me see") == ("Let me see", [])
        assert splitter.feed(" < 5 ") == (" < 5 ", [])

    def test_only_what_may_become_a_tag_is_held_back(self) -> None:
        splitter = ToolCallSplitter()
        assert splitter.feed("see <tool") == ("see ", [])
        assert splitter.feed("box>") == ("<toolbox>", [])

    @pytest.mark.parametrize("end", ["\n", " \n", "<tool_call>", "<|im_end|>"])
    def test_a_call_comes_with_the_end_of_its_line(self, end: str) -> None:
        splitter = ToolCallSplitter()
        for letter in block() + end[:-1]:
            assert splitter.feed(letter) == ("", [])
        assert [call.name for call in splitter.feed(end[-1:])[1]] == ["get_weather"]

    def test_arguments_are_compact_json(self) -> None:
        (call,) = split(block(arguments={"city": "\u00c5rhus"}))[1]
        assert call.arguments == '{"city": "\u00c5rhus"}'


class TestFindJson:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ('{"a": 1}', {"a": 1}),
            ("  [1, 2]\n", [1, 2]),
            ("42", 42),
            ("true", True),
            ('"text"', "text"),
            ('Sure! Here it is: {"a": 1}. Anything else?', {"a": 1}),
            ('```json\n{"a": 1}\n```', {"a": 1}),
            ('Here:\n```\n{"a": 1}\n```\nDone.', {"a": 1}),
            ('```JSON \n{"a": {"b": [1]}}\n``` and {"c": 2}', {"a": {"b": [1]}}),
            ('```json\n{"a": 1}', {"a": 1}),
            ('{"a": 1}, that is {"a": 1}', {"a": 1}),
            ('As [1] and [2] say: {"a": 1}', {"a": 1}),
            ('[x] is not it, {"a": 1} is', {"a": 1}),
            ('{"a": "}"}', {"a": "}"}),
            ('{"a": "```"}', {"a": "```"}),
            ('x {"a": "\u00e4\U0001f600"} y', {"a": "\u00e4\U0001f600"}),
            ('{"a": "two\nlines"}', {"a": "two\nlines"}),
            ('{"a": {"b": {"c": 1}}} trailing', {"a": {"b": {"c": 1}}}),
            ('\ufeff{"a": 1}', {"a": 1}),
        ],
    )
    def test_found(self, text: str, value: object) -> None:
        assert find_json(text) == value

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "no json",
            "null",
            "{",
            "}",
            "[",
            "{]",
            "```json\n```",
            "{a: 1}",
            '{ {"a": 1}',
            '{"a": 1} {"b": 2, "c": 3}',
            "[1] or [2]",
        ],
    )
    def test_nothing_there(self, text: str) -> None:
        assert find_json(text) is None

    @pytest.mark.parametrize(
        "text", ["[" * 50_000, '{"a":' * 50_000, "so: " + "[" * 20_000 + "]" * 20_000], ids=range(3)
    )
    def test_a_model_that_repeats_itself_breaks_nothing(self, text: str) -> None:
        assert find_json(text) is None


class TestSchemaError:
    @pytest.mark.parametrize("value", [{"city": "Oslo"}, {"city": "", "more": 1}])
    def test_valid(self, value: object) -> None:
        assert schema_error(value, SCHEMA) is None

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ({}, "'city' is a required property"),
            ({"city": 3}, "$.city"),
            ([], "object"),
            (None, "object"),
            ("x", "object"),
        ],
    )
    def test_the_error_says_what_is_wrong(self, value: object, words: str) -> None:
        assert words in (schema_error(value, SCHEMA) or "")

    @pytest.mark.parametrize(
        ("value", "fine"), [({}, True), ({"a": 1}, True), ([], False), ("x", False), (None, False)]
    )
    def test_an_empty_schema_is_any_object(self, value: object, fine: bool) -> None:
        assert (schema_error(value, {}) is None) is fine

    def test_references_inside(self) -> None:
        schema = {"$ref": "#/$defs/P", "$defs": {"P": SCHEMA}}
        assert schema_error({"city": "Oslo"}, schema) is None
        assert schema_error({"city": 3}, schema)

    @pytest.mark.parametrize(
        "schema",
        [
            {"$ref": "https://example.com/schema.json"},
            {"$ref": "http://127.0.0.1:9/schema.json"},
            {"$ref": "file:///etc/passwd"},
            {"$ref": "#/$defs/Missing"},
            {"type": "no-such-type"},
            {"type": 3},
            {"properties": []},
            {"pattern": "("},
            {"$schema": "https://example.com/unknown", "type": "object"},
        ],
    )
    def test_a_schema_that_cannot_be_used_breaks_nothing(self, schema: dict[str, Any]) -> None:
        # Said as text or as this package's error, never as jsonschema's own exception; nothing is fetched.
        try:
            said = schema_error({"a": "b"}, schema)
        except KlusterError:
            return
        assert said is None or isinstance(said, str)

    def test_a_huge_value_is_not_said_whole(self) -> None:
        assert len(schema_error({"city": ["x" * 100_000]}, SCHEMA) or "") < 5_000


def asking(**values: Any) -> ChatRequest:
    spec = catalog.get("mistralai/Mistral-Nemo-Instruct-2407")
    return ChatRequest({"model": spec.id, "messages": [USER]}, spec, **values)


def saying(text: str, calls: Sequence[ToolCall] = (), usage: Usage = Usage(10, 5, 15)) -> Completion:  # noqa: B008
    return Completion(text, "", list(calls), usage, "stop")


def run(request: ChatRequest, answers: Sequence[Completion], max_repairs: int = 2) -> tuple[Completion, list[Any]]:
    """Drive `attempts` with these answers; return the result and the messages of each request."""
    steps = repair.attempts(dataclasses.replace(request, max_repairs=max_repairs))
    sent = [next(steps).body["messages"]]
    for answer in answers:
        try:
            sent.append(steps.send(answer).body["messages"])
        except StopIteration as done:
            return done.value, sent
    raise AssertionError("another answer is asked for")


CALL = ToolCall("c0", "get_weather", '{"city": "Oslo"}')


def answers(*texts: str) -> list[Completion]:
    return [saying(text) for text in texts]


class TestAttempts:
    def test_what_is_right_at_once_is_asked_once(self) -> None:
        answer, sent = run(asking(schema=SCHEMA), answers('Sure: {"city": "Oslo"}'))
        assert len(sent) == 1
        assert json.loads(answer.text) == {"city": "Oslo"}
        assert answer.usage == Usage(10, 5, 15)

    def test_plain_text_is_left_alone(self) -> None:
        answer, sent = run(asking(), answers('Sure: {"city": "Oslo"}'))
        assert (answer.text, len(sent)) == ('Sure: {"city": "Oslo"}', 1)

    @pytest.mark.parametrize("wrong", ["It is Oslo.", '{"town": "Oslo"}', "[]", "null", ""])
    def test_what_is_wrong_is_asked_again_with_the_error(self, wrong: str) -> None:
        request = asking(schema=SCHEMA)
        answer, sent = run(request, answers(wrong, '{"city": "Oslo"}'))
        assert json.loads(answer.text) == {"city": "Oslo"}
        assert [m["role"] for m in sent[1]] == ["user", "assistant", "user"]
        assert sent[1][1]["content"] == wrong
        problem = repair.find_problem(request, saying(wrong))
        assert problem
        assert problem in sent[1][2]["content"]
        assert request.body["messages"] == [USER]  # the caller's request stays

    def test_tokens_of_all_attempts_count(self) -> None:
        tries = [
            saying("no", usage=Usage(10, 1, 11)),
            saying('{"city": "Oslo"}', usage=Usage(20, 2, 22, estimated=True)),
        ]
        answer, _ = run(asking(schema=SCHEMA), tries)
        assert answer.usage == Usage(30, 3, 33, estimated=True, requests=2)

    @pytest.mark.parametrize("empty", [saying(""), saying(" \n")], ids=["none", "blank"])
    def test_an_answer_that_must_not_be_empty(self, empty: Completion) -> None:
        assert run(asking(), [empty])[0] == empty

        answer, sent = run(asking(must_answer=True), [empty, saying("Oslo")])
        assert (answer.text, len(sent)) == ("Oslo", 2)
        assert "empty" in sent[1][2]["content"]

    def test_a_call_where_no_tool_was_offered_is_no_answer(self) -> None:
        answer, sent = run(asking(must_answer=True), [saying("", [CALL]), saying("Oslo")])
        assert (answer.text, len(sent)) == ("Oslo", 2)
        assert "offered" in sent[1][2]["content"]

    def test_a_call_of_an_offered_tool_is_an_answer(self) -> None:
        request = asking(tools=[WEATHER], tool_names=frozenset({"get_weather"}), must_answer=True)
        assert run(request, [saying("", [CALL])])[0].tool_calls == [CALL]

    @pytest.mark.parametrize("repairs", [0, 1, 2, 5])
    def test_no_more_than_max_repairs(self, repairs: int) -> None:
        tries = answers(*(f"no {number}" for number in range(repairs + 2)))
        with pytest.raises(OutputValidationError) as caught:
            run(asking(schema=SCHEMA), tries, repairs)
        assert caught.value.raw_text == f"no {repairs}"
        assert caught.value.hint

    def test_a_forced_call_that_is_missing_is_asked_for_again(self) -> None:
        request = asking(tools=[WEATHER], tool_names=frozenset({"get_weather"}), must_call=True)
        answer, sent = run(request, [saying("It is cold."), saying("", [CALL])])
        assert answer.tool_calls == [CALL]
        assert "tool" in sent[1][2]["content"]

    def test_a_free_choice_may_be_text(self) -> None:
        answer, sent = run(asking(tools=[WEATHER]), answers("It is cold."))
        assert (answer.text, len(sent)) == ("It is cold.", 1)

    def test_a_call_in_place_of_json_is_fine(self) -> None:
        answer, sent = run(
            asking(tools=[WEATHER], tool_names=frozenset({"get_weather"}), schema=SCHEMA), [saying("", [CALL])]
        )
        assert (answer.tool_calls, len(sent)) == ([CALL], 1)

    def test_json_that_is_null_is_not_an_object(self) -> None:
        with pytest.raises(OutputValidationError):
            run(asking(schema={}), answers("null"), max_repairs=0)
