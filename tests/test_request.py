from __future__ import annotations

import copy
import json
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import completion_create_params

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import (
    BadRequestError,
    ContextWindowExceededError,
    KlusterError,
    UnsupportedParameterError,
)
from kluster_integrations.request import ChatRequest, build, estimate_prompt
from kluster_integrations.transport import CHAT_PATH, Transport

LLAMA = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"  # tools, no vision
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"  # neither
GEMMA = "google/gemma-3-27b-it"  # vision, no tools
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
UNKNOWN = "acme/ft-7f3a"

ERROR = KlusterConfig(api_key="kk-test", unsupported="error")
DROP = KlusterConfig(api_key="kk-test", unsupported="drop")

HELLO = [{"role": "user", "content": "hello"}]
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "get_time", "description": "Time", "parameters": SCHEMA}}
CALL = {
    "id": "chatcmpl-tool-1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
}
ROUND_TRIP = [
    {"role": "user", "content": "Weather in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "chatcmpl-tool-1", "content": "3 degrees"},
]

# The documented lists of reference/kluster-api.md, typed out here once more.
DOCUMENTED = frozenset(
    {
        *("model", "messages", "metadata", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs"),
        *("top_logprobs", "max_completion_tokens", "seed", "stop", "stream", "temperature", "top_p"),
    }
)
TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
MESSAGE_KEYS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}


def check_body(body: Mapping[str, Any], spec: ModelSpec, *, extra: frozenset[str] = frozenset()) -> None:
    """Fail on whatever is in no documented list."""
    allowed = DOCUMENTED | extra | (TOOL_FIELDS if spec.supports_tools else frozenset())
    assert set(body) <= allowed, f"undocumented: {set(body) - allowed}"
    assert all(value is not None for name, value in body.items() if name not in extra)
    json.dumps(body, allow_nan=False).encode("utf-8")
    assert isinstance(body["model"], str)
    assert body["messages"]
    for message in body["messages"]:
        _check_message(message, spec)
    for tool in body.get("tools", []):
        assert set(tool) == {"type", "function"}
        assert tool["type"] == "function"
        assert {"name", "parameters"} <= set(tool["function"]) <= {"name", "description", "parameters"}
        assert all(value is not None for value in tool["function"].values())
    if "tool_choice" in body:
        assert body["tools"]
        _check_choice(body["tool_choice"], [tool["function"]["name"] for tool in body["tools"]])
    if "stop" in body:
        assert 1 <= len(body["stop"]) <= 4
        assert all(isinstance(s, str) and s for s in body["stop"])
    if "top_logprobs" in body:
        assert body["logprobs"] is True


def _check_choice(choice: object, names: list[str]) -> None:
    if isinstance(choice, str):
        assert choice in ("auto", "none", "required")
    else:
        assert choice in [{"type": "function", "function": {"name": name}} for name in names]


def _check_message(message: Mapping[str, Any], spec: ModelSpec) -> None:
    assert set(message) <= MESSAGE_KEYS[message["role"]]
    assert all(value is not None for value in message.values())
    if not spec.supports_tools and spec.known:
        assert message["role"] != "tool"
        assert "tool_calls" not in message
    if message["role"] == "tool":
        assert isinstance(message["tool_call_id"], str)
    for call in message.get("tool_calls", []):
        assert set(call) == {"id", "type", "function"}
        assert set(call["function"]) == {"name", "arguments"}
        assert call["type"] == "function"
        assert isinstance(call["id"], str)
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
    if isinstance(message["content"], str):
        return
    assert message["content"]
    for part in message["content"]:
        assert set(part) == {"type", part["type"]}
        assert part["type"] in ("text", "image_url")
        if part["type"] == "text":
            assert isinstance(part["text"], str)
        else:
            assert message["role"] == "user"
            assert spec.supports_vision or not spec.known
            assert set(part["image_url"]) == {"url"}
            assert part["image_url"]["url"].lower().startswith(("http://", "https://", "data:image/"))


def make(
    messages: Sequence[Any] = HELLO, params: Mapping[str, Any] | None = None, *, model: str = LLAMA, **options: Any
) -> ChatRequest:
    """Build, check the whole body, and check that the input is as it was."""
    options.setdefault("config", ERROR)
    given = (messages, params or {}, options.get("extra_body"))
    before = copy.deepcopy(given)
    request = build(model, messages, params or {}, **options)
    assert given == before, "the input was changed"
    extra = frozenset(options.get("extra_body") or {}) - DOCUMENTED - OPENAI
    check_body(request.body, request.spec, extra=extra)
    return request


def silent(*args: Any, **options: Any) -> ChatRequest:
    """As `make`; a warning is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return make(*args, **options)


def refusal(
    messages: Sequence[Any] = HELLO,
    params: Mapping[str, Any] | None = None,
    kind: type[KlusterError] = BadRequestError,
    **options: Any,
) -> str:
    with pytest.raises(kind) as caught:
        make(messages, params, **options)
    assert type(caught.value) is kind
    assert caught.value.hint
    return str(caught.value)


# What the installed SDK knows of chat completions: whatever it can send must be dealt with here.
OPENAI = frozenset(completion_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"}

# The parameters that are sent: in range, and just out of it.
GOOD = {
    "temperature": (0, 0.0, 1, 2, 2.0),
    "top_p": (0, 0.5, 1),
    "frequency_penalty": (-2, 0, 2.0),
    "presence_penalty": (-2, 0, 2.0),
    "logit_bias": ({}, {"50256": -100}),
    "logprobs": (True, False),
    "max_completion_tokens": (1, 100_000),
    "seed": (0, -1, 42, 2**40),
    "metadata": ({}, {"a": "b"}, {"@kluster.ai": {"async": True, "completion_window": "24h"}}),
}
NAN = float("nan")
BAD = {
    "temperature": (-0.01, 2.01, "hot", True, NAN, float("inf"), [1]),
    "top_p": (-0.1, 1.1, "x", False, NAN),
    "frequency_penalty": (-2.1, 2.1, "x", True),
    "presence_penalty": (-2.1, 2.1, "x", True),
    "logit_bias": ([1], "x", 3),
    "logprobs": (1, "true", 0),
    "max_completion_tokens": (0, -1, 1.5, "10", True),
    "seed": (1.5, "1", True),
    "metadata": ("x", [1], 3),
}


class TestSent:
    def test_the_least(self) -> None:
        assert make().body == {"model": LLAMA, "messages": HELLO}

    @pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in GOOD.items() for v in values])
    def test_in_range(self, name: str, value: object) -> None:
        assert silent(params={name: value}).body[name] == value

    @pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in BAD.items() for v in values])
    @pytest.mark.parametrize("config", [ERROR, DROP], ids=["error", "drop"])
    def test_out_of_range_names_parameter_and_value(self, name: str, value: object, config: KlusterConfig) -> None:
        text = refusal(params={name: value}, config=config)
        assert f"{name}={value!r}" in text

    @pytest.mark.parametrize(
        ("name", "allowed"),
        [
            ("temperature", "from 0 to 2"),
            ("top_p", "from 0 to 1"),
            ("frequency_penalty", "from -2 to 2"),
            ("max_completion_tokens", "1 or more"),
            ("logprobs", "True or False"),
        ],
    )
    def test_out_of_range_says_what_is_allowed(self, name: str, allowed: str) -> None:
        assert allowed in refusal(params={name: "bad"})

    @pytest.mark.parametrize("top", [0, 1, 20])
    def test_top_logprobs(self, top: int) -> None:
        assert make(params={"logprobs": True, "top_logprobs": top}).body["top_logprobs"] == top

    @pytest.mark.parametrize("top", [-1, 21, 1.5, "3", True])
    def test_top_logprobs_out_of_range(self, top: object) -> None:
        assert f"top_logprobs={top!r}" in refusal(params={"logprobs": True, "top_logprobs": top})

    @pytest.mark.parametrize("logprobs", [{}, {"logprobs": False}, {"logprobs": None}])
    def test_top_logprobs_needs_logprobs(self, logprobs: dict[str, Any]) -> None:
        assert "logprobs=True" in refusal(params={"top_logprobs": 3, **logprobs})

    def test_stream(self) -> None:
        assert make(stream=True).body["stream"] is True
        assert "stream" not in make(stream=False).body

    @pytest.mark.parametrize("params", [{"stream": True}, {"stream": False}, {"stream": None}])
    def test_stream_is_the_callers_of_build(self, params: dict[str, Any]) -> None:
        assert "stream" not in make(params=params).body
        assert make(params=params, stream=True).body["stream"] is True

    @pytest.mark.parametrize("name", ["model", "messages"])
    def test_model_and_messages_are_not_parameters(self, name: str) -> None:
        assert make(params={name: "other"}).body == {"model": LLAMA, "messages": HELLO}

    @pytest.mark.parametrize("model", [LLAMA, "kluster/x", "acme/Ünïcode", "a", "endpoint-01/b/c"])
    def test_the_model_is_sent_verbatim(self, model: str) -> None:
        assert make(model=model).body["model"] == model

    @pytest.mark.parametrize("model", ["", "  ", None, 3])
    def test_what_is_no_model_is_refused(self, model: Any) -> None:
        with pytest.raises(BadRequestError, match="model"):
            build(model, HELLO, {}, config=ERROR)


class TestMaxTokens:
    def test_becomes_max_completion_tokens(self) -> None:
        assert silent(params={"max_tokens": 7}).body["max_completion_tokens"] == 7

    @pytest.mark.parametrize(
        "order", [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
    )
    def test_the_present_name_wins(self, order: tuple[str, str]) -> None:
        values = {"max_tokens": 7, "max_completion_tokens": 9}
        assert make(params={name: values[name] for name in order}).body["max_completion_tokens"] == 9

    @pytest.mark.parametrize(
        "order", [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
    )
    def test_a_null_of_the_present_name_does_not_win(self, order: tuple[str, str]) -> None:
        values = {"max_tokens": 7, "max_completion_tokens": None}
        assert make(params={name: values[name] for name in order}).body["max_completion_tokens"] == 7

    @pytest.mark.parametrize("value", [0, -1, 1.5, "10", True])
    def test_out_of_range_is_named_as_given(self, value: object) -> None:
        assert f"max_tokens={value!r}" in refusal(params={"max_tokens": value})

    def test_in_extra_body(self) -> None:
        assert make(extra_body={"max_tokens": 7}).body["max_completion_tokens"] == 7


class TestNothingAskedFor:
    @pytest.mark.parametrize("name", [*sorted(OPENAI - {"model", "messages"}), "top_k", "anything"])
    def test_null_is_dropped_in_silence(self, name: str) -> None:
        assert silent(params={name: None}).body == {"model": LLAMA, "messages": HELLO}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("n", 1),
            ("store", False),
            ("service_tier", "auto"),
            ("modalities", ["text"]),
            ("stop", []),
            ("stop", ""),
            ("stop", [""]),
            ("stop", ()),
            ("tools", []),
            ("functions", []),
            ("function_call", "none"),
            ("response_format", {"type": "text"}),
            ("stream_options", {"include_usage": True}),
            ("stream_options", {}),
            ("tool_choice", "auto"),
            ("tool_choice", "none"),
            ("parallel_tool_calls", True),
            ("parallel_tool_calls", False),
        ],
    )
    @pytest.mark.parametrize("config", [ERROR, DROP], ids=["error", "drop"])
    def test_harmless_defaults_are_dropped_in_silence(self, name: str, value: object, config: KlusterConfig) -> None:
        assert silent(params={name: value}, config=config).body == {"model": LLAMA, "messages": HELLO}


UNSUPPORTED = [
    ("n", 2),
    ("n", 0),
    ("n", "1"),
    ("n", True),
    ("store", True),
    ("store", 0),
    ("service_tier", "flex"),
    ("service_tier", "default"),
    ("modalities", ["text", "audio"]),
    ("audio", {"voice": "alloy", "format": "mp3"}),
    ("functions", [{"name": "f"}]),
    ("function_call", "auto"),
    ("function_call", {"name": "f"}),
    ("user", "ada"),
    ("reasoning_effort", "high"),
    ("prediction", {"type": "content", "content": "x"}),
    ("prompt_cache_key", "k"),
    ("safety_identifier", "s"),
    ("verbosity", "low"),
    ("web_search_options", {}),
    ("top_k", 5),
    ("min_p", 0.1),
    ("repetition_penalty", 1.1),
    ("best_of", 2),
    ("guided_json", {}),
    ("no_such_thing", 1),
]


class TestUnsupported:
    @pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
    def test_error_names_parameter_and_the_choice(self, name: str, value: object) -> None:
        text = refusal(params={name: value}, kind=UnsupportedParameterError)
        assert f"{name}={value!r}" in text
        assert 'unsupported="drop"' in text
        assert "temperature" in text  # what is allowed

    @pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
    def test_drop_leaves_it_out_with_one_warning(self, name: str, value: object) -> None:
        with pytest.warns(UserWarning, match=name) as caught:
            request = make(params={name: value, "temperature": 1}, config=DROP)
        assert len(caught) == 1
        assert request.body == {"model": LLAMA, "messages": HELLO, "temperature": 1}

    def test_several_are_named_at_once(self) -> None:
        text = refusal(params={"n": 2, "store": True, "user": "ada"}, kind=UnsupportedParameterError)
        assert all(part in text for part in ("n=2", "store=True", "user='ada'"))

    def test_several_are_dropped_with_one_warning(self) -> None:
        with pytest.warns(UserWarning, match="kluster") as caught:
            make(params={"n": 2, "store": True, "user": "ada"}, config=DROP)
        assert len(caught) == 1
        assert all(name in str(caught[0].message) for name in ("n=2", "store=True", "user='ada'"))

    @pytest.mark.parametrize(
        ("name", "value", "instead"),
        [("functions", [{"name": "f"}], "tools"), ("function_call", "auto", "tool_choice"), ("n", 2, "batch")],
    )
    def test_the_hint_says_what_to_use(self, name: str, value: object, instead: str) -> None:
        with pytest.raises(UnsupportedParameterError) as caught:
            make(params={name: value})
        assert instead in (caught.value.hint or "")

    def test_a_huge_value_is_not_shown_whole(self) -> None:
        assert len(refusal(params={"prediction": {"content": "x" * 100_000}}, kind=UnsupportedParameterError)) < 2_000

    def test_it_is_a_bad_request(self) -> None:
        with pytest.raises(BadRequestError):
            make(params={"n": 2})


class TestExtraBody:
    def test_unknown_fields_are_sent_as_they_are(self) -> None:
        extra = {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}}
        body = silent(extra_body=extra).body
        assert {name: body[name] for name in extra} == extra

    @pytest.mark.parametrize("name", sorted(OPENAI - DOCUMENTED - TOOL_FIELDS))
    def test_openais_own_fields_are_treated_like_parameters(self, name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                body = make(extra_body={name: {"type": "text"}}, config=DROP).body
            except BadRequestError:
                return
        assert name not in body

    @pytest.mark.parametrize(("name", "value"), [("n", 2), ("store", True), ("user", "ada"), ("service_tier", "flex")])
    def test_what_is_unsupported_is_refused_there_too(self, name: str, value: object) -> None:
        refusal(extra_body={name: value}, kind=UnsupportedParameterError)

    def test_ranges_hold_there_too(self) -> None:
        assert "temperature=9" in refusal(extra_body={"temperature": 9})

    def test_it_wins_over_a_parameter(self) -> None:
        assert make(params={"temperature": 1}, extra_body={"temperature": 0}).body["temperature"] == 0

    def test_model_and_messages_cannot_be_replaced(self) -> None:
        body = make(extra_body={"model": "other", "messages": [], "stream": True}).body
        assert body == {"model": LLAMA, "messages": HELLO}

    @pytest.mark.parametrize("extra", [None, {}])
    def test_none(self, extra: Any) -> None:
        assert make(extra_body=extra).body == {"model": LLAMA, "messages": HELLO}


class TestStop:
    @pytest.mark.parametrize(
        ("stop", "sent", "here"),
        [
            ("END", ["END"], ()),
            (["a"], ["a"], ()),
            (["a", "b", "c", "d"], ["a", "b", "c", "d"], ()),
            (["a", "b", "c", "d", "e"], ["a", "b", "c", "d"], ("e",)),
            (list("abcdefg"), list("abcd"), ("e", "f", "g")),
            (("a", "b"), ["a", "b"], ()),
            (["a", "a", "b", "a", "c", "d"], ["a", "b", "c", "d"], ()),
            (["a", "", "b"], ["a", "b"], ()),
            (["\n\n", " ", "\u00fc"], ["\n\n", " ", "\u00fc"], ()),
        ],
    )
    def test_four_are_sent_and_the_others_kept_here(self, stop: Any, sent: list[str], here: tuple[str, ...]) -> None:
        request = silent(params={"stop": stop})
        assert (request.body["stop"], request.client_stops) == (sent, here)

    @pytest.mark.parametrize("stop", [3, 0, True, False, [1], [None], ["a", None], {"a"}, {"a": 1}, b"a", [["a"]]])
    def test_what_is_no_text_is_refused(self, stop: object) -> None:
        assert "stop=" in refusal(params={"stop": stop})


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
    def test_what_is_no_list_of_messages_is_refused(self, messages: Any) -> None:
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


def image(url: object = PNG, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def picture(part: object, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": "What is it?"}, part]}]


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

    @pytest.mark.parametrize("role", ["system", "assistant", "developer"])
    def test_only_users_show_images(self, role: str) -> None:
        assert "messages[0]" in refusal(picture(image(), role), model=GEMMA)

    def test_tools_show_no_images(self) -> None:
        messages = [*ROUND_TRIP[:2], {"role": "tool", "tool_call_id": "chatcmpl-tool-1", "content": [image()]}]
        assert "messages[2]" in refusal(messages, model=UNKNOWN)

    @pytest.mark.parametrize(
        "url",
        ["", None, 3, "file:///etc/passwd", "/tmp/a.png", "data:text/html,x", "ftp://h/a.png", "javascript:x", b"x"],
    )
    def test_other_addresses_are_refused(self, url: object) -> None:
        assert "messages[0].content[1].image_url" in refusal(picture(image(url)), model=GEMMA)

    @pytest.mark.parametrize("part", [{"type": "image_url"}, {"type": "image_url", "image_url": {}}])
    def test_no_address_is_refused(self, part: dict[str, Any]) -> None:
        assert "image_url" in refusal(picture(part), model=GEMMA)

    def test_a_large_image_does_not_count_as_text(self) -> None:
        make(picture(image("data:image/png;base64," + "A" * 3_000_000)), model="Qwen/Qwen2.5-VL-7B-Instruct")


class TestTools:
    def test_native(self) -> None:
        request = silent(params={"tools": [WEATHER], "tool_choice": "auto", "parallel_tool_calls": False})
        assert request.body["tools"] == [WEATHER]
        assert (request.body["tool_choice"], request.body["parallel_tool_calls"]) == ("auto", False)
        assert request.tools == ()
        assert request.tool_splitter() is None

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
    def test_a_choice_that_is_none_is_refused(self, choice: object, model: str) -> None:
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
    def test_what_is_no_tool_is_named(self, tool: object, model: str) -> None:
        assert "tools[1]" in refusal(params={"tools": [WEATHER, tool]}, model=model)

    @pytest.mark.parametrize("tools", [WEATHER, "get_weather", 3, True])
    def test_what_is_no_list_of_tools_is_refused(self, tools: object) -> None:
        assert "tools" in refusal(params={"tools": tools})

    @pytest.mark.parametrize(
        "spec", [spec for spec in catalog.all_models() if spec.purpose == "chat"], ids=lambda s: s.id
    )
    def test_every_known_model(self, spec: ModelSpec) -> None:
        request = make(params={"tools": [WEATHER], "tool_choice": "required"}, model=spec.id)
        assert ("tools" in request.body) is spec.supports_tools
        assert bool(request.tools) is not spec.supports_tools
        assert request.must_call is not spec.supports_tools


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
        assert request.tool_splitter() is not None
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
    def test_a_forced_choice_is_said(self, choice: object, words: str) -> None:
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
    def test_what_is_no_call_is_named(self, call: object, model: str) -> None:
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


FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}


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
    def test_text_is_no_wish(self, given: object) -> None:
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
    def test_what_is_no_format_is_refused(self, given: object) -> None:
        assert "response_format" in refusal(params={"response_format": given})

    def test_with_tools(self) -> None:
        request = make(params={"response_format": FORMAT, "tools": [WEATHER]}, model=NEMO)
        (system, _) = request.body["messages"]
        assert "<tools>" in system["content"]
        assert "<schema>" in system["content"]

    def test_in_extra_body(self) -> None:
        request = make(extra_body={"response_format": FORMAT})
        assert request.schema == SCHEMA


def words(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "a " * count}]


class TestWindow:
    @pytest.mark.parametrize("model", [LLAMA, GEMMA, QWEN, "mistralai/Mistral-Small-24B-Instruct-2501"])
    def test_what_surely_overflows_is_refused(self, model: str) -> None:
        window = catalog.get(model).context_window
        with pytest.raises(ContextWindowExceededError) as caught:
            make(words(window + 1), model=model)
        err = caught.value
        assert all(part in str(err) for part in (model, str(window), str(window + 1)))
        assert (err.status_code, err.code) == (None, "context_length_exceeded")
        assert err.hint

    @pytest.mark.parametrize("model", [LLAMA, QWEN])
    def test_what_just_fits_is_sent(self, model: str) -> None:
        make(words(catalog.get(model).context_window), model=model)

    def test_all_messages_count(self) -> None:
        window = catalog.get(QWEN).context_window
        with pytest.raises(ContextWindowExceededError):
            make(words(window // 2 + 1) * 2, model=QWEN)

    def test_texts_in_parts_count(self) -> None:
        window = catalog.get(GEMMA).context_window
        content = [{"type": "text", "text": "a " * (window + 1)}, image()]
        with pytest.raises(ContextWindowExceededError):
            make([{"role": "user", "content": content}], model=GEMMA)

    @pytest.mark.parametrize("model", [LLAMA, UNKNOWN, QWEN])
    def test_long_words_that_are_one_token_fit(self, model: str) -> None:
        # Llama 3 and Qwen have words of 24 letters as one token.
        make([{"role": "user", "content": "IllegalArgumentException " * 35_000}], model=model)

    @pytest.mark.parametrize("char", ["=", "-", "*", "#", "/"])
    def test_rules_and_rows_fit(self, char: str) -> None:
        # Llama 3 has runs of 64 and more of one character as one token.
        make([{"role": "user", "content": (char * 64 + "\n") * 36_000}], model=LLAMA)

    @pytest.mark.parametrize("char", [" ", "\n", "\t", "\u3000"])
    def test_white_space_fits(self, char: str) -> None:
        make([{"role": "user", "content": char * 500_000}], model=LLAMA)

    def test_an_unknown_models_window_is_the_servers_to_judge(self) -> None:
        make(words(500_000), model=UNKNOWN)

    def test_an_added_models_window_counts(self, own_catalog: None) -> None:
        catalog.add(ModelSpec(id=UNKNOWN, context_window=10))
        with pytest.raises(ContextWindowExceededError):
            make(words(11), model=UNKNOWN)

    def test_trial_has_less(self) -> None:
        config = KlusterConfig(api_key="kk-test", plan="trial")
        with pytest.raises(ContextWindowExceededError, match="32768"):
            make(words(32_769), config=config)
        make(words(32_768), config=config)
        make(words(32_769), config=ERROR)


class TestRefreshedModels:
    """A model that the server lists without saying what it can do: not known, so not refused."""

    @pytest.fixture(autouse=True)
    def bare(self, own_catalog: None, tmp_path: Path) -> None:
        cache = tmp_path / "models.json"
        cache.write_text('[{"id": "acme/bare", "context_length": null, "tags": null}]')
        catalog.load(cache)

    def test_a_long_prompt_is_sent(self) -> None:
        make(words(40_000), model="acme/bare")

    def test_an_image_is_sent(self) -> None:
        sent = build("acme/bare", picture(image()), {}, config=ERROR).body["messages"][0]["content"]
        assert sent[1] == image()


class TestOtherModels:
    def test_an_embedding_model_does_not_chat(self) -> None:
        assert "BAAI/bge-m3" in refusal(model="BAAI/bge-m3")

    def test_the_verifier_chats(self) -> None:
        make([*HELLO, {"role": "assistant", "content": "hi"}], model="klusterai/verify-reliability")

    def test_the_plan_is_in_the_spec(self) -> None:
        assert make(config=KlusterConfig(plan="trial")).spec.max_output_tokens == 4096


class TestEstimate:
    def test_grows_with_messages_and_tools(self) -> None:
        one = make().estimate_prompt()
        assert one >= 2
        assert make([*HELLO, *HELLO]).estimate_prompt() > one
        assert make(params={"tools": [WEATHER]}).estimate_prompt() > one + 20
        assert make(params={"tools": [WEATHER]}, model=NEMO).estimate_prompt() > one + 20

    def test_can_be_counted_by_another_tokenizer(self) -> None:
        assert estimate_prompt([{"role": "user", "content": "hello"}], count=len) == len("hello") + 4


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
