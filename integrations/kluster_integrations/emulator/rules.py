"""The rules for a chat request: the service's documented fields and ranges, and the model's capabilities and windows.

The docs do not say what the service does with an unsupported field. The emulator answers 400 (strict), so that you
notice it, or ignores the field (lenient).
"""

from __future__ import annotations

import json
import math
from typing import cast

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.emulator import tokens
from kluster_integrations.emulator.engine import ChatRequest, Message
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.message_rules import check_messages
from kluster_integrations.emulator.settings import Settings

__all__ = ["bad_request", "check_chat", "find_model", "find_spec", "parse_json", "reject_unknown"]

# [ref]: the fields of a chat request, and those that the reference calls "... or null".
_TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
_SUPPORTED = frozenset(
    {
        *("model", "messages", "metadata", "frequency_penalty", "presence_penalty", "logit_bias"),
        *("logprobs", "top_logprobs", "max_completion_tokens", "seed", "stop", "stream"),
        *("temperature", "top_p", *_TOOL_FIELDS),
    }
)
_NULLABLE = frozenset(
    {
        *("frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "seed", "stop"),
        *("max_completion_tokens", "stream", "temperature", "top_p"),
    }
)
_RANGES = {"temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2)}
_MESSAGE_TOKENS = 4
_IMAGE_TOKENS = 256

Body = dict[str, object]


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return a 400 that names its field."""
    return ApiError(400, message, param=param, code=code or "invalid_value")


def parse_json(raw: bytes) -> Body:
    """Return the JSON object of a request.

    Raises:
        ApiError: 400, if it is not one.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise bad_request(f"The request body is not valid JSON: {exc}", code="invalid_json") from exc
    if not isinstance(body, dict):
        raise bad_request("The request body must be a JSON object.", code="invalid_json")
    return body


def find_model(body: Body, settings: Settings) -> ModelSpec:
    """Return the spec of the model that a request names.

    Raises:
        ApiError: 400 without one, 404 if it is not served.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_request("Missing or invalid parameter: 'model'", "model", "missing_required_parameter")
    return find_spec(model, settings)


def find_spec(model: str, settings: Settings) -> ModelSpec:
    """Return the spec of a served model.

    Raises:
        ApiError: 404, if no such model is served.
    """
    spec = settings.spec(model)
    if spec is None:
        raise ApiError(404, f"The model '{model}' does not exist", param="model", code="model_not_found")
    return spec


def reject_unknown(body: Body, supported: frozenset[str]) -> None:
    """Raise a 400 that names the first field that is not supported."""
    for name in body:
        if name not in supported:
            raise bad_request(f"Unsupported parameter: '{name}'", name, "unsupported_parameter")


def check_chat(body: Body, settings: Settings) -> ChatRequest:
    """Return a chat request that keeps the rules.

    Raises:
        ApiError: 400, with the name of the wrong field; 404 for an unknown model.
    """
    spec = find_model(body, settings)
    if spec.purpose == "embeddings":
        raise bad_request(f"The model '{spec.id}' does not support chat completions", "model")
    if settings.strict:
        reject_unknown(body, _SUPPORTED)
    elif body.get("max_completion_tokens") is None and body.get("max_tokens") is not None:
        body = {**body, "max_completion_tokens": body["max_tokens"]}
    body = _without_nulls(body, strict=settings.strict)
    _check_tools(body, spec)
    _check_sampling(body)
    messages = check_messages(body.get("messages"), spec, strict=settings.strict)
    if spec.purpose == "verification":
        _check_answer(messages, strict=settings.strict)
    prompt_tokens = _count_prompt(messages, body.get("tools"))
    return ChatRequest(
        spec=spec,
        messages=messages,
        body=body,
        stream=_flag(body, "stream", default=False),
        tools=cast("list[dict[str, object]]", body.get("tools", [])),
        tool_choice=_choice(body),
        stop=_stop(body),
        max_tokens=_max_tokens(body, spec, prompt_tokens, settings),
        top_logprobs=_top_logprobs(body),
        prompt_tokens=prompt_tokens,
    )


def _check_answer(messages: list[Message], *, strict: bool) -> None:
    """Refuse a conversation that does not end with an answer to verify, as in the docs' example."""
    last = messages[-1]
    if strict and (last["role"] != "assistant" or not last.get("content")):
        raise bad_request("The last message must be the assistant's, with the answer to verify", "messages")
    if not any(message["role"] == "assistant" for message in messages):
        raise bad_request("The messages hold no answer of the assistant to verify", "messages")


def _without_nulls(body: Body, *, strict: bool) -> Body:
    if strict:
        for name, value in body.items():
            if value is None and name not in _NULLABLE:
                raise bad_request(f"'{name}' must not be null", name)
    return {name: value for name, value in body.items() if value is not None}


def _check_tools(body: Body, spec: ModelSpec) -> None:
    for name in _TOOL_FIELDS:
        if name in body and not spec.supports_tools:
            message = f"'{name}' is not supported by the model '{spec.id}'"
            raise bad_request(message, name, "unsupported_parameter")
    _flag(body, "parallel_tool_calls", default=True)
    tools = body.get("tools")
    if tools is None:
        # vLLM's rule and words.
        if body.get("tool_choice", "none") != "none":
            raise bad_request("When using `tool_choice`, `tools` must be set.", "tool_choice")
        return
    if not isinstance(tools, list) or not tools:
        raise bad_request("'tools' must be a non-empty array", "tools")
    for index, tool in enumerate(tools):
        _check_tool(tool, f"tools[{index}]")


def _check_tool(tool: object, where: str) -> None:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise bad_request(f"{where}.type must be 'function'", f"{where}.type")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise bad_request(f"{where}.function must be an object", f"{where}.function")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise bad_request(f"{where}.function.name must be a string", f"{where}.function.name")
    if not isinstance(function.get("parameters", {}), dict):
        name = f"{where}.function.parameters"
        raise bad_request(f"{name} must be a JSON schema", name)


def _choice(body: Body) -> str:
    choice = body.get("tool_choice", "auto")
    if "tools" not in body:
        return "auto"
    if isinstance(choice, str) and choice in {"auto", "none", "required"}:
        return choice
    named = isinstance(choice, dict) and choice.get("type") == "function" and choice.get("function")
    name = named.get("name") if isinstance(named, dict) else None
    if not isinstance(name, str):
        allowed = "'auto', 'none', 'required' or {'type': 'function', 'function': {'name': ...}}"
        raise bad_request(f"'tool_choice' must be {allowed}", "tool_choice")
    tools = cast("list[dict[str, dict[str, object]]]", body["tools"])
    if all(tool["function"]["name"] != name for tool in tools):
        raise bad_request(f"'tool_choice' names '{name}', which is not in 'tools'", "tool_choice")
    return name


def _check_sampling(body: Body) -> None:
    for name, (low, high) in _RANGES.items():
        value = body.get(name, low)
        if not _number(value) or not low <= cast("float", value) <= high:
            raise bad_request(f"'{name}' must be a number from {low} to {high}", name)
    if not _integer(body.get("seed", 0)):
        raise bad_request("'seed' must be an integer", "seed")
    for name in ("metadata", "logit_bias"):
        if not isinstance(body.get(name, {}), dict):
            raise bad_request(f"'{name}' must be an object", name)
    bias = cast("dict[str, object]", body.get("logit_bias", {}))
    if not all(_number(value) for value in bias.values()):
        raise bad_request("'logit_bias' must map token ids to numbers", "logit_bias")


def _top_logprobs(body: Body) -> int | None:
    wanted = _flag(body, "logprobs", default=False)
    top = body.get("top_logprobs", 0)
    if not _integer(top) or not 0 <= cast("int", top) <= 20:
        raise bad_request("'top_logprobs' must be an integer from 0 to 20", "top_logprobs")
    if "top_logprobs" in body and not wanted:
        raise bad_request("'top_logprobs' needs 'logprobs' to be true", "top_logprobs")
    return cast("int", top) if wanted else None


def _stop(body: Body) -> tuple[str, ...]:
    stop = body.get("stop", [])
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise bad_request("'stop' must be a string or an array of non-empty strings", "stop")
    if len(texts) > 4:
        raise bad_request(f"'stop' must have at most 4 entries, it has {len(texts)}", "stop")
    return tuple(texts)


def _max_tokens(body: Body, spec: ModelSpec, prompt_tokens: int, settings: Settings) -> int:
    window, name = spec.context_window, "max_completion_tokens"
    wanted = body.get(name, 0)
    if name in body and (not _integer(wanted) or cast("int", wanted) < 1):
        raise bad_request(f"'{name}' must be an integer, 1 or more", name)
    most = cast("int", wanted)
    # The docs give 0 for the model that judges, which answers all the same: no limit of its own.
    longest = spec.max_output_tokens or window
    if most > longest:
        limit = f"the model's {longest} output tokens"
        raise bad_request(f"'{name}' must be at most {limit}, it is {most}", name)
    if prompt_tokens + max(most, 1) > window:
        raise _past_window(settings, window, prompt_tokens, most)
    return most or min(longest, window - prompt_tokens)


def _past_window(settings: Settings, window: int, prompt: int, wanted: int) -> ApiError:
    if settings.shape == "sglang":
        message = f"The input ({prompt + wanted} tokens) is longer than the model's context length ({window} tokens)."
    else:
        message = (
            f"This model's maximum context length is {window} tokens. However, you requested "
            f"{prompt + wanted} tokens ({prompt} in the messages, {wanted} in the completion). "
            "Please reduce the length of the messages or completion."
        )
    return bad_request(message, "messages", "context_length_exceeded")


def _count_prompt(messages: list[Message], tools: object) -> int:
    total = tokens.count(json.dumps(tools)) if tools else 0
    for message in messages:
        total += _MESSAGE_TOKENS
        content = message.get("content")
        if isinstance(content, list):
            texts = [part["text"] for part in content if part["type"] == "text"]
            total += _IMAGE_TOKENS * (len(content) - len(texts))
        else:
            texts = [str(content or "")]
        total += sum(map(tokens.count, texts))
        if calls := message.get("tool_calls"):
            total += tokens.count(json.dumps(calls))
    return total


def _flag(body: Body, name: str, *, default: bool) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise bad_request(f"'{name}' must be true or false", name)
    return value


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return _integer(value) or (isinstance(value, float) and math.isfinite(value))
