from __future__ import annotations

import json
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.request import build
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import (
    BadRequestError,
)

from .asked import (
    CALL,
    CLOCK,
    DROP,
    FORMAT,
    GEMMA,
    GOOD,
    HELLO,
    LLAMA,
    NEMO,
    PNG,
    QWEN,
    ROUND_TRIP,
    SCHEMA,
    UNKNOWN,
    WEATHER,
    check_body,
    image,
    make,
    picture,
    refusal,
    silent,
)


class TestMessages:
    @pytest.mark.parametrize(
        "key",
        [
            *("name", "refusal", "audio", "function_call", "cache_breakpoint", "annotations", "reasoning_content"),
            *("id", "cache_control", "prefix", "tool_call_id", "weight"),
        ],
    )
    @pytest.mark.parametrize("role", ["system", "user", "assistant"])
    @pytest.mark.parametrize("value", [None, "x", {"a": 1}, []])
    def test_other_keys_never_leave(self, role: str, key: str, value: object) -> None:
        message = {"role": role, "content": "hi", key: value}
        assert silent([message]).body["messages"] == [{"role": role, "content": "hi"}]

    @pytest.mark.parametrize(
        ("role", "value"), [("user", [CALL]), ("system", [CALL]), ("assistant", None), ("user", [])]
    )
    def test_tool_calls_are_the_assistants(self, role: str, value: object) -> None:
        message = {"role": role, "content": "hi", "tool_calls": value}
        assert silent([message]).body["messages"] == [{"role": role, "content": "hi"}]

    @pytest.mark.parametrize(("role", "sent"), [("system", "system"), ("developer", "system"), ("user", "user")])
    def test_roles(self, role: str, sent: str) -> None:
        assert make([{"role": role, "content": "hi"}]).body["messages"] == [{"role": sent, "content": "hi"}]

    @pytest.mark.parametrize("role", ["function", "Human", "ai", "", "USER", None, 3, ["user"], {"user": 1}])
    def test_unknown_roles_are_refused(self, role: object) -> None:
        text = refusal([{"role": "user", "content": "a"}, {"role": role, "content": "hi"}])
        assert f"messages[1].role={role!r}" in text
        assert "system, user, assistant, tool" in text

    def test_a_missing_role_is_refused(self) -> None:
        assert "messages[0].role" in refusal([{"content": "hi"}])

    @pytest.mark.parametrize("messages", [[], ()])
    def test_none_at_all(self, messages: Any) -> None:
        assert "messages" in refusal(messages)

    @pytest.mark.parametrize(
        "messages", ["hello", {"role": "user", "content": "hi"}, [None], ["hello"], [3], [["role", "user"]], None, 3]
    )
    def test_what_is_not_a_list_of_messages_is_refused(self, messages: Any) -> None:
        assert "messages" in refusal(messages)

    def test_the_order_stays(self) -> None:
        roles = ["system", "user", "assistant", "user", "assistant", "user"]
        sent = make([{"role": role, "content": str(i)} for i, role in enumerate(roles)]).body["messages"]
        assert [(m["role"], m["content"]) for m in sent] == [(role, str(i)) for i, role in enumerate(roles)]

    @pytest.mark.parametrize("text", ["", " ", "\n", "\u00e4\u4e16\U0001f600", "x" * 10_000, "\x00", "<think>"])
    def test_text_is_sent_as_it_is(self, text: str) -> None:
        assert make([{"role": "user", "content": text}]).body["messages"][0]["content"] == text

    @pytest.mark.parametrize("role", ["system", "user"])
    @pytest.mark.parametrize("extra", [{}, {"content": None}])
    def test_missing_content_is_refused(self, role: str, extra: dict[str, Any]) -> None:
        assert "messages[0].content" in refusal([{"role": role, **extra}])

    def test_an_assistant_may_have_said_nothing(self) -> None:
        assert make([*HELLO, {"role": "assistant", "content": None}]).body["messages"][1]["content"] == ""

    @pytest.mark.parametrize("content", [3, True, {"type": "text", "text": "hi"}, b"hi", [3], [None], [["a"]]])
    def test_odd_content_is_refused(self, content: object) -> None:
        assert "messages[0].content" in refusal([{"role": "user", "content": content}])


class TestParts:
    @pytest.mark.parametrize(
        "part",
        [
            *(
                {"type": "text", "text": "hi"},
                {"type": "input_text", "text": "hi"},
                {"type": "output_text", "text": "hi"},
            ),
            *({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}, "hi"),
            {"type": "text", "text": "hi", "annotations": []},
        ],
    )
    @pytest.mark.parametrize("role", ["system", "user", "assistant"])
    def test_texts(self, part: Any, role: str) -> None:
        assert make([{"role": role, "content": [part]}]).body["messages"][0]["content"] == "hi"

    @pytest.mark.parametrize("kind", ["reasoning", "thinking", "redacted_thinking"])
    def test_thoughts_are_never_sent_back(self, kind: str) -> None:
        content = [{"type": kind, kind: "secret thought", "text": "secret thought"}, {"type": "text", "text": "hi"}]
        sent = make([*HELLO, {"role": "assistant", "content": content}]).body["messages"][1]
        assert sent == {"role": "assistant", "content": "hi"}

    @pytest.mark.parametrize(
        "part",
        [
            {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
            {"type": "file", "file": {"file_id": "f"}},
            {"type": "video_url", "video_url": {"url": "https://host/v.mp4"}},
            {"type": "image", "source": {}},
            {"type": None},
            {},
            {"type": "tool_use", "name": "f"},
        ],
    )
    def test_other_parts_are_refused(self, part: dict[str, Any]) -> None:
        text = refusal([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}], model=GEMMA)
        assert "messages[0].content[1]" in text
        assert "image_url" in text

    def test_an_empty_list_is_an_empty_text(self) -> None:
        assert make([{"role": "user", "content": []}]).body["messages"][0]["content"] == ""


class TestImages:
    @pytest.mark.parametrize("url", [PNG, "https://host/a.png", "http://host/a.png", "HTTPS://host/a.png"])
    @pytest.mark.parametrize("model", [GEMMA, UNKNOWN])
    def test_are_sent_to_models_that_may_see(self, model: str, url: str) -> None:
        sent = make(picture(image(url)), model=model).body["messages"][0]["content"]
        assert sent == [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]

    def test_detail_stays_here(self) -> None:
        sent = make(picture(image(PNG, detail="high")), model=GEMMA).body["messages"][0]["content"]
        assert sent[1]["image_url"] == {"url": PNG}

    def test_a_bare_address_is_taken(self) -> None:
        part = {"type": "image_url", "image_url": PNG}
        assert make(picture(part), model=GEMMA).body["messages"][0]["content"][1] == image(PNG)

    @pytest.mark.parametrize(
        "spec", [spec for spec in catalog.all_models() if spec.purpose == "chat"], ids=lambda s: s.id
    )
    def test_every_known_model(self, spec: ModelSpec) -> None:
        if spec.supports_vision:
            make(picture(image()), model=spec.id)
        else:
            text = refusal(picture(image()), model=spec.id)
            assert "messages[0].content[1]" in text
            assert spec.id in text
            assert GEMMA in text  # what to take instead

    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_only_users_show_images(self, role: str) -> None:
        assert "messages[0]" in refusal(picture(image(), role), model=GEMMA)

    def test_an_image_in_an_earlier_answer_becomes_a_note(self) -> None:
        sent = make([*HELLO, *picture(image(), "assistant")], model=GEMMA).body["messages"]
        assert sent[1] == {"role": "assistant", "content": "What is it?[image: the model takes no images]"}

    @pytest.mark.parametrize(
        "url",
        ["", None, 3, "file:///etc/passwd", "/a.png", "data:text/html,x", "ftp://h/a.png", "javascript:x", b"x"],
    )
    def test_other_addresses_are_refused(self, url: object) -> None:
        assert "messages[0].content[1].image_url" in refusal(picture(image(url)), model=GEMMA)

    @pytest.mark.parametrize("part", [{"type": "image_url"}, {"type": "image_url", "image_url": {}}])
    def test_no_address_is_refused(self, part: dict[str, Any]) -> None:
        assert "image_url" in refusal(picture(part), model=GEMMA)

    def test_a_large_image_does_not_count_as_text(self) -> None:
        make(picture(image("data:image/png;base64," + "A" * 3_000_000)), model="Qwen/Qwen2.5-VL-7B-Instruct")


def results(*contents: Any) -> list[dict[str, Any]]:
    """Return a history whose last messages are the results of parallel calls."""
    calls = [{**CALL, "id": f"c{i}"} for i in range(len(contents))]
    tools = [{"role": "tool", "tool_call_id": f"c{i}", "content": content} for i, content in enumerate(contents)]
    return [*HELLO, {"role": "assistant", "content": None, "tool_calls": calls}, *tools]


NATIVE_SEEING = "acme/sees"
TEXT = {"type": "text", "text": "a chart"}


@pytest.mark.usefixtures("own_catalog")
class TestToolResults:
    """Nobody can correct what a tool returns: it is never an error."""

    def sent(self, messages: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
        catalog.add(ModelSpec(id=NATIVE_SEEING, supports_tools=True, supports_vision=True))
        sent: list[dict[str, Any]] = make(messages, {"tools": [WEATHER]}, model=model).body["messages"]
        return sent

    def test_images_follow_the_results_where_the_model_sees(self) -> None:
        sent = self.sent([*results([TEXT, image()], "3", [image(), image()]), *HELLO], NATIVE_SEEING)
        assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool", "tool", "user", "user"]
        assert [m["content"] for m in sent[2:5]] == ["a chart", "3", "The image follows."]
        assert sent[5]["content"] == [image()] * 3

    def test_images_at_the_end(self) -> None:
        sent = self.sent(results([image()]), NATIVE_SEEING)
        assert sent[-1] == {"role": "user", "content": [image()]}

    def test_images_of_prompted_tools_share_the_message_of_the_results(self) -> None:
        sent = self.sent(results([TEXT, image()]), GEMMA)
        assert [m["role"] for m in sent] == ["system", "user", "assistant", "user"]
        assert [part["type"] for part in sent[-1]["content"]] == ["text", "image_url"]
        assert "a chart" in sent[-1]["content"][0]["text"]

    @pytest.mark.parametrize("model", [LLAMA, NEMO])
    def test_a_note_stands_in_their_place_where_it_does_not(self, model: str) -> None:
        last = self.sent(results([TEXT, image()]), model)[-1]
        assert "a chart\n[image: the model takes no images]" in last["content"]
        assert "base64" not in str(last)

    @pytest.mark.parametrize(
        ("part", "text"),
        [
            (
                {"type": "resource_link", "uri": "file:///a.csv", "name": "a.csv"},
                "[resource_link: a.csv file:///a.csv]",
            ),
            ({"type": "resource", "resource": {"uri": "x://a", "text": "inside"}}, "inside"),
            ({"type": "resource", "resource": {"uri": "x://a", "blob": "AAAA"}}, "[resource: x://a]"),
            ({"type": "file", "file": {"file_id": "file-1"}}, "[file: file-1]"),
            ({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:x"}}, "[file: a.pdf]"),
            ({"type": "tool_reference", "tool_name": "read_file"}, "[tool_reference: read_file]"),
            ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, "[input_audio]"),
            ({"type": "image_url", "image_url": {"url": "file:///a.png"}}, "[image: its address is not usable]"),
            ({"no": "type"}, "[part]"),
            ({"type": "text"}, ""),
            ("bare", "bare"),
            (7, "7"),
        ],
    )
    def test_other_parts_become_notes(self, part: Any, text: str) -> None:
        assert self.sent(results([part]), NATIVE_SEEING)[-1]["content"] == text

    @pytest.mark.parametrize(("content", "text"), [({"a": 1}, '{"a": 1}'), (3, "3"), (None, ""), ([], "")])
    def test_what_is_not_text_becomes_text(self, content: Any, text: str) -> None:
        assert self.sent(results(content), LLAMA)[-1]["content"] == text


MISTRAL = "mistralai/Mistral-Small-24B-Instruct-2501"


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


class TestStrictRoles:
    """The chat templates of Gemma and the Mistrals raise unless roles alternate, with one system message first."""

    @pytest.mark.parametrize("model", [GEMMA, NEMO, MISTRAL, "mistralai/Magistral-Small-2506"])
    @pytest.mark.parametrize(
        ("messages", "sent"),
        [
            ([said("user", "a")], [said("user", "a")]),
            (  # Codex
                [said("system", "s"), said("developer", "t"), said("user", "a"), said("user", "b")],
                [said("system", "s\n\nt"), said("user", "a\n\nb")],
            ),
            (  # Claude Code
                [said("system", "s"), said("user", "a"), said("user", "b")],
                [said("system", "s"), said("user", "a\n\nb")],
            ),
            (
                [said(role, role[0]) for role in ("user", "assistant", "assistant", "system", "user")],
                [said("user", "u"), said("assistant", "a\n\na"), said("user", "s\n\nu")],
            ),
            (
                [said("system", "s"), said("assistant", "a"), said("user", "b")],
                [
                    said("system", "s"),
                    said("user", "(The conversation begins with the assistant.)"),
                    said("assistant", "a"),
                    said("user", "b"),
                ],
            ),
            ([said("user", ""), said("user", "b")], [said("user", "b")]),
        ],
        ids=["one", "codex", "claude-code", "late-system", "assistant-first", "empty"],
    )
    def test_neighbors_of_one_role_become_one_message(
        self, messages: list[dict[str, Any]], sent: list[dict[str, Any]], model: str
    ) -> None:
        assert make(messages, model=model).body["messages"] == sent

    @pytest.mark.parametrize("model", [NEMO, UNKNOWN])
    def test_a_user_behind_prompted_results(self, model: str) -> None:
        sent = make([*results("3"), said("user", "And?")], {"tools": [WEATHER]}, model=model).body["messages"]
        assert [m["role"] for m in sent] == ["system", "user", "assistant", "user"]
        assert sent[-1]["content"].endswith("</tool_response>\n\nAnd?")

    def test_images_stay(self) -> None:
        sent = make([*HELLO, *picture(image())], model=GEMMA).body["messages"]
        assert sent == [said("user", [{"type": "text", "text": "hello"}, *picture(image())[0]["content"]])]

    @pytest.mark.parametrize("model", [LLAMA, UNKNOWN])
    def test_other_models_get_what_was_given(self, model: str) -> None:
        messages = [said("system", "s"), said("system", "t"), said("user", "a"), said("user", "b")]
        assert make(messages, model=model).body["messages"] == messages


class TestResponseFormat:
    @pytest.mark.parametrize("model", [LLAMA, NEMO, UNKNOWN])
    def test_a_schema_is_asked_for_in_the_prompt(self, model: str) -> None:
        request = silent(params={"response_format": FORMAT}, model=model)
        system = request.body["messages"][0]
        assert system["role"] == "system"
        assert json.loads(system["content"].split("<schema>")[1].split("</schema>")[0]) == SCHEMA
        assert request.schema == SCHEMA
        assert "response_format" not in request.body

    def test_any_object(self) -> None:
        request = silent(params={"response_format": {"type": "json_object"}})
        assert request.schema == {}
        assert "JSON object" in request.body["messages"][0]["content"]

    @pytest.mark.parametrize("given", [None, {"type": "text"}])
    def test_format_text_asks_for_nothing(self, given: object) -> None:
        request = silent(params={"response_format": given})
        assert (request.schema, request.body["messages"]) == (None, HELLO)

    @pytest.mark.parametrize(
        "given",
        [
            *(
                "json_object",
                3,
                {},
                {"type": "xml"},
                {"type": "json_schema"},
                {"type": "json_schema", "json_schema": {}},
            ),
            *({"type": "json_schema", "json_schema": {"schema": "x"}}, {"type": "json_schema", "json_schema": 3}, [1]),
        ],
    )
    def test_what_is_not_a_format_is_refused(self, given: object) -> None:
        assert "response_format" in refusal(params={"response_format": given})

    def test_what_is_not_a_schema_is_refused_before_any_request(self) -> None:
        given = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}
        assert "objekt" in refusal(params={"response_format": given})

    def test_with_tools(self) -> None:
        request = make(params={"response_format": FORMAT, "tools": [WEATHER]}, model=NEMO)
        (system, _) = request.body["messages"]
        assert "<tools>" in system["content"]
        assert "<schema>" in system["content"]

    def test_in_extra_body_it_is_the_callers_word(self) -> None:
        request = make(extra_body={"response_format": FORMAT})
        assert request.schema == SCHEMA
        assert request.body["response_format"] == FORMAT
        assert request.body["messages"] == HELLO


class TestFuzz:
    """Many parameters and message shapes at once: whatever comes out keeps to the documented lists."""

    PARAMS: Mapping[str, Sequence[Any]] = {
        **GOOD,
        "top_logprobs": (3, None),
        "max_tokens": (5, None),
        "n": (1, 2, None),
        "stop": ("a", list("abcdef"), [], None),
        "store": (False, True),
        "user": ("ada",),
        "functions": ([], [{"name": "f"}]),
        "function_call": ("none", "auto"),
        "modalities": (["text"], ["audio"]),
        "audio": (None, {"voice": "x"}),
        "service_tier": ("auto", "flex"),
        "stream_options": ({"include_usage": True},),
        "response_format": ({"type": "text"}, {"type": "json_object"}, FORMAT),
        "tools": ([WEATHER], [WEATHER, {**CLOCK, "extra": 1}], [], None),
        "tool_choice": ("auto", "none", "required", "any", "get_weather", None),
        "parallel_tool_calls": (True, False, None),
        "reasoning_effort": ("low", None),
        "prompt_cache_key": ("k",),
        "web_search_options": ({},),
        "verbosity": ("low",),
        "top_k": (1,),
    }
    CONTENTS: Sequence[Any] = (
        *("hi", "", [], ["hi"], [{"type": "text", "text": "a", "cache_control": {}}, {"type": "text", "text": None}]),
        *(
            [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "b"}],
            [{"type": "refusal", "refusal": "no"}],
        ),
        *([{"type": "text", "text": "a"}, image(PNG, detail="low")], [image("https://host/a.png")]),
    )
    KEYS: Mapping[str, Sequence[Any]] = {
        "name": ("ada", None),
        "refusal": (None, "no"),
        "audio": (None, {"id": "a"}),
        "function_call": (None, {"name": "f", "arguments": ""}),
        "annotations": ([],),
        "reasoning_content": ("hm",),
        "tool_calls": (None, [], [{**CALL, "index": 0}]),
        "tool_call_id": ("chatcmpl-tool-1",),
        "cache_breakpoint": (True,),
    }

    def _message(self, rng: random.Random) -> dict[str, Any]:
        role = rng.choice(["system", "developer", "user", "user", "assistant", "tool"])
        message = {"role": role, "content": rng.choice(self.CONTENTS)}
        for key in rng.sample(sorted(self.KEYS), rng.randint(0, 4)):
            message[key] = rng.choice(self.KEYS[key])
        if role == "tool":
            message["tool_call_id"] = "chatcmpl-tool-1"
        return message

    @pytest.mark.parametrize("seed", range(20))
    def test_only_documented_keys_leave(self, seed: int) -> None:
        rng = random.Random(seed)
        built = 0
        for _ in range(60):
            names = rng.sample(sorted(self.PARAMS), rng.randint(0, 6))
            params = {name: rng.choice(self.PARAMS[name]) for name in names}
            split = rng.randint(0, len(names))
            extra = {name: params.pop(name) for name in names[split:]}
            messages = [self._message(rng) for _ in range(rng.randint(1, 4))]
            model = rng.choice([LLAMA, NEMO, GEMMA, QWEN, UNKNOWN])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    make(messages, params, model=model, config=DROP, extra_body=extra, stream=rng.random() < 0.5)
                except BadRequestError:
                    continue
            built += 1
        assert built >= 15  # else the fuzz shows nothing

    def test_the_checker_can_fail(self) -> None:
        spec = catalog.get(LLAMA)
        for body in (
            {"model": LLAMA, "messages": HELLO, "n": 1},
            {"model": LLAMA, "messages": HELLO, "seed": None},
            {"model": LLAMA, "messages": [{"role": "user", "content": "hi", "name": "ada"}]},
            {"model": LLAMA, "messages": picture(image())},
            {"model": LLAMA, "messages": HELLO, "tools": [{**WEATHER, "strict": True}]},
            {"model": LLAMA, "messages": HELLO, "stop": list("abcde")},
        ):
            with pytest.raises(AssertionError):
                check_body(body, spec)
        with pytest.raises(AssertionError):
            check_body({"model": NEMO, "messages": HELLO, "tools": [WEATHER]}, catalog.get(NEMO))


class TestAgainstTheStrictEmulator:
    CASES: Mapping[str, tuple[str, Sequence[Any], Mapping[str, Any]]] = {
        "plain": (LLAMA, HELLO, {}),
        "all-parameters": (
            LLAMA,
            [{"role": "developer", "content": "Be brief.", "name": "dev"}, {**HELLO[0], "refusal": None}],
            {
                **{name: values[1] for name, values in GOOD.items() if name != "logit_bias"},
                "logprobs": True,
                "top_logprobs": 2,
                "n": 1,
                "stop": list("ABCDEF"),
                "stream_options": {"include_usage": True},
                "max_completion_tokens": 50,
            },
        ),
        "native-round-trip": (LLAMA, ROUND_TRIP, {"tools": [WEATHER], "tool_choice": "any"}),
        "prompted-round-trip": (NEMO, ROUND_TRIP, {"tools": [WEATHER], "tool_choice": "get_weather"}),
        "image": (GEMMA, picture(image(PNG, detail="low")), {"tools": [WEATHER], "max_tokens": 9}),
        "schema": (QWEN, HELLO, {"response_format": FORMAT, "parallel_tool_calls": True}),
        "no-arguments": (
            LLAMA,
            [
                *HELLO,
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": None}}],
                },
                {"role": "tool", "tool_call_id": "c", "content": None},
            ],
            {"tools": [WEATHER], "tool_choice": "none"},
        ),
    }

    @pytest.mark.parametrize("case", CASES)
    def test_every_built_body_is_taken(self, emulator: Emulator, case: str) -> None:
        model, messages, params = self.CASES[case]
        config = KlusterConfig(api_key="kk-test", base_url=emulator.base_url)
        request = build(model, messages, params, config=config)
        answer = Transport(config).post(CHAT_PATH, request.body)
        assert answer.data["choices"]
        assert emulator.requests[-1].body == json.loads(json.dumps(request.body))
