"""What the tests of request have in common."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from openai.types.chat import completion_create_params

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.request import build
from kluster_integrations.core.types import ChatRequest
from kluster_integrations.errors import (
    BadRequestError,
    KlusterError,
)

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
    extra = frozenset(options.get("extra_body") or {})
    extra -= (DOCUMENTED | OPENAI) - {"response_format"}
    check_body(request.body, request.spec, extra=extra)
    return request


def silent(*args: Any, **options: Any) -> ChatRequest:
    """As `make`; a warning is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
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
    "metadata": ({}, {"a": "b"}, {"@kluster.ai": {"async": False, "completion_window": "24h"}}),
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


def image(url: object = PNG, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def picture(part: object, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": "What is it?"}, part]}]


FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}


def words(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "a " * count}]
