from __future__ import annotations

import json
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.core.request import build
from kluster_integrations.errors import (
    BadRequestError,
)

from .asked import (
    CALL,
    CLOCK,
    ERROR,
    GEMMA,
    HELLO,
    LLAMA,
    NEMO,
    ROUND_TRIP,
    TOOL_FIELDS,
    UNKNOWN,
    WEATHER,
    make,
    refusal,
    silent,
)


class TestTools:
    def test_native(self) -> None:
        request = silent(params={"tools": [WEATHER], "tool_choice": "auto", "parallel_tool_calls": False})
        assert request.body["tools"] == [WEATHER]
        assert (request.body["tool_choice"], request.body["parallel_tool_calls"]) == ("auto", False)
        assert request.tools == ()
        assert request.tool_names == {"get_weather"}

    @pytest.mark.parametrize(
        ("choice", "sent"),
        [
            ("auto", "auto"),
            ("none", "none"),
            ("required", "required"),
            ("any", "required"),
            ("get_time", {"type": "function", "function": {"name": "get_time"}}),
            (
                {"type": "function", "function": {"name": "get_time"}},
                {"type": "function", "function": {"name": "get_time"}},
            ),
            ({"type": "function", "name": "get_time"}, {"type": "function", "function": {"name": "get_time"}}),
        ],
    )
    def test_choice(self, choice: object, sent: object) -> None:
        assert silent(params={"tools": [WEATHER, CLOCK], "tool_choice": choice}).body["tool_choice"] == sent

    def test_without_a_choice_none_is_sent(self) -> None:
        assert "tool_choice" not in make(params={"tools": [WEATHER]}).body

    @pytest.mark.parametrize(
        "choice", ["get_wether", "", 3, True, [], ["auto"], {"type": "auto"}, {}, {"type": "function", "function": {}}]
    )
    @pytest.mark.parametrize("model", [LLAMA, NEMO])
    def test_what_is_not_a_choice_is_refused(self, choice: object, model: str) -> None:
        text = refusal(params={"tools": [WEATHER, CLOCK], "tool_choice": choice}, model=model)
        assert "tool_choice=" in text
        assert "auto, none, required" in text
        assert "get_weather, get_time" in text

    @pytest.mark.parametrize("choice", ["required", "any", "get_time", {"type": "function", "function": {"name": "x"}}])
    @pytest.mark.parametrize("model", [LLAMA, NEMO])
    def test_a_choice_without_tools_is_refused(self, choice: object, model: str) -> None:
        assert "tool_choice=" in refusal(params={"tool_choice": choice}, model=model)

    def test_other_keys_of_a_tool_stay_here(self) -> None:
        tool = {
            **WEATHER,
            "cache_control": {"type": "ephemeral"},
            "function": {**WEATHER["function"], "strict": True, "x": 1},  # type: ignore[dict-item]
        }
        assert make(params={"tools": [tool]}).body["tools"] == [WEATHER]

    @pytest.mark.parametrize("empty", [{}, {"parameters": None}, {"parameters": {}}, {"description": None}])
    def test_a_tool_without_parameters_gets_an_empty_object(self, empty: dict[str, Any]) -> None:
        tool = {"type": "function", "function": {"name": "ping", **empty}}
        (sent,) = make(params={"tools": [tool]}).body["tools"]
        assert sent["function"] == {"name": "ping", "parameters": {"type": "object", "properties": {}}}

    @pytest.mark.parametrize(
        "tool",
        [
            *(
                None,
                "get_weather",
                3,
                {},
                {"type": "function"},
                {"type": "web_search"},
                {"function": WEATHER["function"]},
            ),
            *({"type": "function", "function": {}}, {"type": "function", "function": {"name": ""}}),
            *({"type": "function", "function": {"name": 3}}, {"type": "function", "function": "get_weather"}),
            {"type": "function", "function": {"name": "f", "parameters": "a string"}},
        ],
    )
    @pytest.mark.parametrize("model", [LLAMA, NEMO])
    def test_what_is_not_a_tool_is_named(self, tool: object, model: str) -> None:
        assert "tools[1]" in refusal(params={"tools": [WEATHER, tool]}, model=model)

    @pytest.mark.parametrize("tools", [WEATHER, "get_weather", 3, True])
    def test_what_is_not_a_list_of_tools_is_refused(self, tools: object) -> None:
        assert "tools" in refusal(params={"tools": tools})

    @pytest.mark.parametrize(
        "spec", [spec for spec in catalog.all_models() if spec.purpose == "chat"], ids=lambda s: s.id
    )
    def test_every_known_model(self, spec: ModelSpec) -> None:
        request = make(params={"tools": [WEATHER], "tool_choice": "required"}, model=spec.id)
        assert ("tools" in request.body) is spec.supports_tools
        assert bool(request.tools) is not spec.supports_tools
        assert request.must_call is True


class TestPromptedTools:
    @pytest.mark.parametrize("model", [NEMO, GEMMA, UNKNOWN])
    def test_are_described_in_the_system_message(self, model: str) -> None:
        request = silent(params={"tools": [WEATHER, CLOCK]}, model=model)
        system, user = request.body["messages"]
        assert system["role"] == "system"
        block = system["content"].split("<tools>\n")[1].split("\n</tools>")[0]
        assert [json.loads(line) for line in block.split("\n")] == [WEATHER, CLOCK]
        assert user == HELLO[0]
        assert list(request.tools) == [WEATHER, CLOCK]
        assert request.tool_names == {"get_weather", "get_time"}
        assert not request.must_call
        assert not TOOL_FIELDS & set(request.body)

    def test_join_the_system_message_that_is_there(self) -> None:
        messages = [{"role": "system", "content": "Be brief."}, *HELLO]
        sent = make(messages, {"tools": [WEATHER]}, model=NEMO).body["messages"]
        assert [m["role"] for m in sent] == ["system", "user"]
        assert sent[0]["content"].startswith("Be brief.\n\n")

    @pytest.mark.parametrize(
        ("choice", "words"),
        [
            ("required", "must call at least one tool"),
            ("any", "must call at least one tool"),
            ("get_time", "must call the tool `get_time`"),
            ({"type": "function", "function": {"name": "get_time"}}, "must call the tool `get_time`"),
        ],
    )
    def test_the_prompt_names_a_forced_choice(self, choice: object, words: str) -> None:
        request = make(params={"tools": [WEATHER, CLOCK], "tool_choice": choice}, model=NEMO)
        assert words in request.body["messages"][0]["content"]
        assert request.must_call

    @pytest.mark.parametrize("choice", ["auto", None])
    def test_a_free_choice_is_not_forced(self, choice: object) -> None:
        request = make(params={"tools": [WEATHER], "tool_choice": choice}, model=NEMO)
        assert "must call" not in request.body["messages"][0]["content"]
        assert not request.must_call

    def test_choice_none_describes_no_tools(self) -> None:
        request = make(params={"tools": [WEATHER], "tool_choice": "none"}, model=NEMO)
        assert request.body["messages"] == HELLO
        assert (list(request.tools), request.must_call) == ([], False)

    def test_parallel(self) -> None:
        many = make(params={"tools": [WEATHER]}, model=NEMO).body["messages"][0]["content"]
        one = make(params={"tools": [WEATHER], "parallel_tool_calls": False}, model=NEMO).body["messages"][0]["content"]
        assert "one call at a time" in one
        assert "one call at a time" not in many

    def test_a_round_trip_becomes_text(self) -> None:
        sent = make(ROUND_TRIP, {"tools": [WEATHER]}, model=NEMO).body["messages"][1:]
        assert [m["role"] for m in sent] == ["user", "assistant", "user"]
        call = sent[1]["content"].removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
        assert json.loads(call) == {"name": "get_weather", "arguments": {"city": "Oslo"}}
        assert sent[2]["content"] == "<tool_response>\n3 degrees\n</tool_response>"

    def test_a_round_trip_becomes_text_also_without_tools(self) -> None:
        sent = make(ROUND_TRIP, model=NEMO).body["messages"]
        assert [m["role"] for m in sent] == ["user", "assistant", "user"]

    def test_prompted_can_be_chosen_on_any_model(self) -> None:
        request = make(params={"tools": [WEATHER]}, tool_calling="prompted")
        assert "tools" not in request.body
        assert list(request.tools) == [WEATHER]

    @pytest.mark.parametrize("model", [NEMO, GEMMA])
    def test_native_on_a_model_without_tools_is_refused(self, model: str) -> None:
        text = refusal(params={"tools": [WEATHER]}, model=model, tool_calling="native")
        assert "tool_calling='native'" in text
        assert LLAMA in text

    def test_native_on_an_unknown_model_is_the_callers_word(self) -> None:
        request = build(UNKNOWN, HELLO, {"tools": [WEATHER]}, config=ERROR, tool_calling="native")
        assert request.body["tools"] == [WEATHER]

    @pytest.mark.parametrize("value", ["hermes", None, "", 3])
    def test_an_unknown_way_is_named(self, value: Any) -> None:
        text = refusal(params={"tools": [WEATHER]}, tool_calling=value)
        assert f"tool_calling={value!r}" in text
        assert "auto, native" in text


class TestToolMessages:
    def test_a_round_trip_is_sent(self) -> None:
        sent = make(ROUND_TRIP, {"tools": [WEATHER]}).body["messages"]
        assert sent[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
        assert sent[2] == ROUND_TRIP[2]

    @pytest.mark.parametrize("extra", [{"index": 0}, {"index": None, "x": 1}])
    def test_other_keys_of_a_call_stay_here(self, extra: dict[str, Any]) -> None:
        call = {**CALL, **extra, "function": {**CALL["function"], "parsed_arguments": {}}}  # type: ignore[dict-item]
        sent = make([*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}]).body["messages"][1]
        assert sent["tool_calls"] == [CALL]

    @pytest.mark.parametrize("arguments", [{}, None, "", "{}"])
    def test_no_arguments_are_an_empty_object(self, arguments: object) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "ping", "arguments": arguments}}
        sent = make([*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}]).body["messages"][1]
        assert json.loads(sent["tool_calls"][0]["function"]["arguments"]) == {}

    def test_arguments_may_be_an_object(self) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"city": "Malm\u00f6"}}}
        sent = make([*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}]).body["messages"][1]
        assert json.loads(sent["tool_calls"][0]["function"]["arguments"]) == {"city": "Malm\u00f6"}

    @pytest.mark.parametrize(
        "call",
        [
            *(None, "c", 3, {}, {"id": "c"}, {"id": "c", "type": "function", "function": {}}),
            *({"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}, {"id": "c", "function": "f"}),
            {"id": "c", "function": {"name": None, "arguments": "{}"}},
        ],
    )
    @pytest.mark.parametrize("model", [LLAMA, NEMO])
    def test_what_is_not_a_call_is_named(self, call: object, model: str) -> None:
        messages = [*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}]
        assert "messages[1].tool_calls[0]" in refusal(messages, model=model)

    @pytest.mark.parametrize("call_id", [None, "", 5])
    def test_a_call_without_an_id_is_refused_or_gets_one(self, call_id: object) -> None:
        # A null must not leave; either way is fine.
        call = {**CALL, "id": call_id}
        try:
            sent = make([*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}]).body["messages"][1]
        except BadRequestError:
            return
        assert sent["tool_calls"][0]["id"]

    @pytest.mark.parametrize("extra", [{}, {"tool_call_id": None}, {"tool_call_id": ""}, {"tool_call_id": 5}])
    def test_a_result_without_its_calls_id_is_refused(self, extra: dict[str, Any]) -> None:
        messages = [*ROUND_TRIP[:2], {"role": "tool", "content": "3", **extra}]
        assert "messages[2].tool_call_id" in refusal(messages)

    @pytest.mark.parametrize(("content", "sent"), [(None, ""), ("", ""), ([{"type": "text", "text": "3"}], "3")])
    @pytest.mark.parametrize("model", [LLAMA, NEMO])
    def test_contents_of_results(self, content: object, sent: str, model: str) -> None:
        messages = [*ROUND_TRIP[:2], {"role": "tool", "tool_call_id": "chatcmpl-tool-1", "content": content}]
        got = make(messages, model=model).body["messages"][-1]["content"]
        assert got == (sent if model == LLAMA else f"<tool_response>\n{sent}\n</tool_response>")

    def test_name_of_a_result_stays_here(self) -> None:
        messages = [*ROUND_TRIP[:2], {**ROUND_TRIP[2], "name": "get_weather", "status": "success"}]
        assert make(messages).body["messages"][2] == ROUND_TRIP[2]
