"""The only place where the body of a request is built.

It is a whitelist (reference/kluster-api.md, Chat completions). Parameters that kluster.ai documents are sent. Others
are imitated by this package if possible, else refused (or dropped). Nothing else is ever sent.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kluster_integrations.core import own_models, prompting, specs, tokens
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import (
    BadRequestError,
    ContextWindowExceededError,
    UnsupportedParameterError,
    shortened,
)
from kluster_integrations.core.messages import check_list, to_wire
from kluster_integrations.core.notices import warn
from kluster_integrations.core.plans import PLANS
from kluster_integrations.core.schemas import check_schema
from kluster_integrations.core.specs import ModelSpec
from kluster_integrations.core.types import ChatRequest, ToolCalling

__all__ = ["asks_nothing", "build"]

_logger = logging.getLogger(__name__)

MAX_SERVER_STOPS = 4

# Frameworks send these default values by habit; leaving them out changes nothing.
_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "store": (False,),
    "service_tier": ("auto",),
    "modalities": (["text"],),
    "function_call": ("none",),
    "functions": ([],),
    "stream_usage": (True, False),  # ChatOpenAI's; usage of a stream is read or estimated anyway
}
_INSTEAD: Mapping[str, str] = {
    "n": "send the request n times",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "max_tokens": "use max_completion_tokens",
    "logprobs": 'if the server gives them, add "logprobs" to the model\'s `native`',
}


def build(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    *,
    config: KlusterConfig,
    stream: bool = False,
    tool_calling: ToolCalling = "auto",
    extra_body: Mapping[str, Any] | None = None,
    several: bool = False,
) -> ChatRequest:
    """Build a chat request from OpenAI-shaped messages and parameters.

    Args:
        model: The model's id.
        messages: OpenAI's message objects; attributes that kluster.ai does not take are left out.
        params: OpenAI's parameters by name; None values are left out.
        config: Gives the plan, the catalog and `unsupported`.
        stream: Whether to stream.
        tool_calling: How `tools` are handled: `native` sends them, `prompted` describes them in the prompt, `auto`
            prefers native where the model has it.
        extra_body: Sent as it is, for fields that OpenAI's API does not know (a dedicated deployment's `top_k`, say);
            and `response_format`, in place of the prompt. OpenAI's other fields in it are treated like `params`.
        several: Whether the caller takes more than one answer (`n`). Only for servers that have `n`.

    Raises:
        UnsupportedParameterError: kluster.ai does not take a parameter, and `config.unsupported` is `error`.
        ContextWindowExceededError: The messages cannot fit the model's window.
        BadRequestError: Any other input that the server would refuse.
    """
    if not isinstance(model, str) or not model.strip():
        raise BadRequestError(f"model={shortened(model)} must be a model id.", hint="`kluster models` lists them.")
    spec = own_models.for_request(model, config)
    if spec.purpose == "embeddings":
        hint = "use KlusterEmbeddings, or a chat model."
        raise BadRequestError(f"model={model!r} makes embeddings, not chat.", hint=hint)
    sent, extra = _split_extra(params, extra_body)
    values = _known_values(sent, config, spec, several=several and not stream)
    stops = _stops(values.pop("stop", None))
    wire = to_wire(messages, spec)
    request = ChatRequest({"model": spec.id, "messages": wire}, spec)
    _add_tools(request, values, tool_calling)
    # The chat template of an unknown model is unknown. Without native tools it is likely to demand alternating roles.
    is_rendered = not spec.known and request.body["messages"] != wire
    in_extra = extra_body is not None and extra_body.get("response_format") is not None
    _add_schema(request, values.pop("response_format", None), is_sent=in_extra)
    body = request.body
    if spec.strict_roles or is_rendered:
        body["messages"] = prompting.alternate(body["messages"])
    body.update(values)
    is_capped = spec.known or (config.plan is not None and PLANS[config.plan].max_output_tokens is not None)
    if (most := body.get("max_completion_tokens")) and is_capped and most > spec.max_output_tokens:
        body["max_completion_tokens"] = spec.max_output_tokens
        _log_lowered(spec.id, spec.max_output_tokens)
    # A server would also stop at a stop sequence inside the reasoning, so for reasoning models we apply all stops here.
    most_stops = 0 if spec.reasoning else MAX_SERVER_STOPS
    if stops[:most_stops]:
        body["stop"] = list(stops[:most_stops])
    request.client_stops = stops[most_stops:]
    if "max_tokens" in spec.native and most:
        body["max_tokens"] = body.pop("max_completion_tokens")
    if stream:
        body["stream"] = True
        if "stream_usage" in spec.native:
            body["stream_options"] = {"include_usage": True}
    body.update(extra)
    _check_window(request)
    return request


@functools.lru_cache(maxsize=1_000)  # once per model and limit
def _log_lowered(model: str, most: int) -> None:
    _logger.warning("max_completion_tokens is lowered to %d, the most that %r writes.", most, model)


def _split_extra(
    params: Mapping[str, Any], extra_body: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if extra_body is None:
        return params, {}
    if not isinstance(extra_body, Mapping):
        raise BadRequestError(
            f"extra_body={shortened(extra_body)} must be a mapping of names to values.",
            hint='write it as {"top_k": 5}.',
        )
    ours = {k: v for k, v in extra_body.items() if k in _OPENAI}
    return {**params, **ours}, {k: v for k, v in extra_body.items() if k not in _OPENAI}


def _known_values(
    params: Mapping[str, Any], config: KlusterConfig, spec: ModelSpec, *, several: bool
) -> dict[str, Any]:
    """Return the parameters that are sent or handled here, checked and under their current names."""
    values: dict[str, Any] = {}
    refused: dict[str, Any] = {}
    for name, value in params.items():
        if value is None or name in _HANDLED_ELSEWHERE:
            continue
        if name == "max_tokens":
            if params.get("max_completion_tokens") is None:
                values["max_completion_tokens"] = _check(name, value, "max_completion_tokens")
        elif name == "logprobs" and value and name not in spec.native:
            refused[name] = value
        elif name == "n" and name in spec.native:
            if not asks_nothing(name, value):
                (values if several else refused)[name] = _check(name, value, name)
        elif name in _CHECKS:
            values[name] = _check(name, value, name)
        elif name in _DONE_HERE or name in spec.native:
            values[name] = value
        elif not asks_nothing(name, value):
            refused[name] = value
    _refuse_async(values.get("metadata"))
    if "logprobs" in refused:
        values.pop("top_logprobs", None)
    elif not values.get("logprobs") and (top := values.pop("top_logprobs", None)):
        raise BadRequestError(f"top_logprobs={top!r} needs logprobs=True.", hint="set logprobs=True.")
    if refused:
        _refuse(refused, config, spec)
    return values


def asks_nothing(name: str, value: object) -> bool:
    """Whether leaving out a parameter of OpenAI's API changes nothing."""
    return value is None or any(value == h and type(value) is type(h) for h in _HARMLESS.get(name, ()))


def _refuse_async(metadata: Mapping[str, Any] | None) -> None:
    """Refuse an asynchronous request: the server answers "queued", which looks like the model's answer."""
    ours = (metadata or {}).get("@kluster.ai")
    if isinstance(ours, Mapping) and ours.get("async"):
        raise UnsupportedParameterError(
            "metadata['@kluster.ai']['async']=True makes an asynchronous request: its answer is only a notice.",
            hint="leave it out here; to get the answer later, use batch.submit_async(…).",
        )


def _refuse(refused: Mapping[str, Any], config: KlusterConfig, spec: ModelSpec) -> None:
    names = ", ".join(f"{name}={shortened(value)}" for name, value in refused.items())
    instead = "; ".join(_INSTEAD[name] for name in refused if name in _INSTEAD)
    if unknown := {name: value for name, value in refused.items() if name not in _OPENAI}:
        instead = f"{instead}; " * bool(instead) + f"a dedicated deployment takes it in extra_body={shortened(unknown)}"
    who = f"The server of {spec.id!r}" if "file" in spec.sources else "kluster.ai"
    if is_one := refused.keys() == {"n"} <= spec.native:
        who = "A request with one answer (a stream, a batch job, CrewAI)"
        instead = "send the request n times, or once without a stream, with LangChain or LiteLLM"
    if config.unsupported == "drop":
        warn(f"{who} does not take {names}: left out.", stacklevel=5)
        return
    allowed = sorted({*_CHECKS, *_DONE_HERE, *(spec.native & _OPENAI)} - refused.keys())
    raise UnsupportedParameterError(
        f"{who} does not take {names}; allowed {'is n=1' if is_one else 'are ' + ', '.join(allowed)}.",
        hint=(f"{instead}; or " if instead else "") + 'leave it out, or set unsupported="drop".',
    )


def _number(low: float, high: float) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        ok = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        return None if ok else f"a number from {low:g} to {high:g}"

    return check


def _integer(low: float, high: float = math.inf) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        span = f"from {low:g} to {high:g}" if high < math.inf else f"of {low:g} or more" if low > -math.inf else ""
        return None if ok else f"a whole number {span}".rstrip()

    return check


def _of_type(kind: type | tuple[type, ...], name: str) -> Callable[[object], str | None]:
    return lambda value: None if isinstance(value, kind) else name


# The documented parameters and their documented ranges.
_CHECKS: Mapping[str, Callable[[object], str | None]] = {
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "logit_bias": _of_type(Mapping, "a mapping of token ids to numbers"),
    "logprobs": _of_type(bool, "True or False"),
    "top_logprobs": _integer(0, 20),
    "max_completion_tokens": _integer(1),
    "seed": _integer(-math.inf),
    "metadata": _of_type(Mapping, "a mapping"),
    "parallel_tool_calls": _of_type(bool, "True or False"),
}
_NATIVE_CHECKS: Mapping[str, Callable[[object], str | None]] = {"n": _integer(1)}
_DONE_HERE = frozenset({"stop", "tools", "tool_choice", "response_format"})
# build() sets these itself. stream_options is ignored: the usage of a stream is read or estimated anyway.
_HANDLED_ELSEWHERE = frozenset({"model", "messages", "stream", "stream_options"})
# The other parameters of OpenAI's API (openai 2.54 and 3.54), to tell them from a deployment's own in `extra_body`.
_OPENAI_ONLY = (
    *("audio", "max_tokens", "moderation", "prediction", "prompt_cache_key", "prompt_cache_options"),
    *("prompt_cache_retention", "reasoning_effort", "safety_identifier", "user", "verbosity", "web_search_options"),
)
_OPENAI = frozenset({*_CHECKS, *_DONE_HERE, *_HANDLED_ELSEWHERE, *_HARMLESS, *_OPENAI_ONLY})


def _check(name: str, value: Any, rule: str) -> Any:
    allowed = (_NATIVE_CHECKS.get(rule) or _CHECKS[rule])(value)
    if allowed is not None:
        hint = f"set {name} to {allowed}, or leave it out for the default."
        raise BadRequestError(f"{name}={shortened(value)} must be {allowed}.", hint=hint)
    return value


def _stops(stop: object) -> tuple[str, ...]:
    given = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(given, Sequence) or not all(isinstance(s, str) for s in given):
        raise BadRequestError(f"stop={shortened(stop)} must be a text or a list of texts.", hint='such as stop="END".')
    return tuple(dict.fromkeys(s for s in given if s))


def _add_tools(request: ChatRequest, values: dict[str, Any], tool_calling: ToolCalling) -> None:
    given = values.pop("tools", [])
    check_list(given, "tools", "tools")
    tools = [_tool(t, f"tools[{i}]") for i, t in enumerate(given)]
    choice = _tool_choice(values.pop("tool_choice", None), tools)
    parallel = values.pop("parallel_tool_calls", None)
    spec, body = request.spec, request.body
    if tool_calling not in ("auto", "native", "prompted"):
        raise BadRequestError(
            f"tool_calling={tool_calling!r} must be auto, native or prompted.",
            hint="leave it out: auto is the default.",
        )
    if tool_calling == "native" and tools and spec.known and not spec.supports_tools:
        able = ", ".join(s.id for s in specs.all_models() if s.supports_tools)
        raise BadRequestError(
            f"tool_calling='native': model={spec.id!r} takes no tools.",
            hint=f"use tool_calling='auto', or one of {able}.",
        )
    if choice != "none":
        request.tool_names = frozenset(tool["function"]["name"] for tool in tools)
        request.must_call = choice["function"]["name"] if isinstance(choice, dict) else choice == "required"
    native = tool_calling == "native" or (tool_calling == "auto" and spec.supports_tools)
    if not native:
        body["messages"] = prompting.render(body["messages"], tools, choice, parallel=parallel is not False)
        request.tools = tools if choice != "none" else []
    elif tools:
        body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = choice
        if parallel is not None:
            body["parallel_tool_calls"] = parallel


def _tool(tool: object, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or tool.get("type") != "function" or not isinstance(function, Mapping):
        kind = tool.get("type") if isinstance(tool, Mapping) else type(tool).__name__
        raise BadRequestError(
            f"{where}.type={kind!r} must be 'function', with a function object.",
            hint='kluster.ai has no built-in tools: offer {"type": "function", "function": {"name": …, …}}.',
        )
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise BadRequestError(f"{where}.function.name is missing.", hint='add the name, such as "get_weather".')
    wire = {k: function[k] for k in ("name", "description") if function.get(k)}
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise BadRequestError(
            f"{where}.function.parameters={shortened(parameters)} must be a JSON schema.",
            hint='write {"type": "object", "properties": {…}}; without parameters, leave it out.',
        )
    wire["parameters"] = parameters
    return {"type": "function", "function": wire}


def _tool_choice(choice: object, tools: Sequence[Mapping[str, Any]]) -> str | dict[str, Any] | None:
    """Return OpenAI's form: `auto`, `none`, `required`, or one named function; None if it is not set."""
    names = [t["function"]["name"] for t in tools]
    if not tools and choice not in (None, "auto", "none"):
        raise BadRequestError(
            f"tool_choice={shortened(choice)} needs tools.", hint="pass tools, or leave tool_choice out."
        )
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    elif choice in (None, "auto", "none", "required", "any"):
        return "required" if choice == "any" else choice if tools else None
    else:
        name = choice
    if name not in names:
        raise BadRequestError(
            f"tool_choice={shortened(choice)} must be auto, none, required or one of the tools: {', '.join(names)}.",
            hint="name one of the tools in tools=…, or leave tool_choice out.",
        )
    return {"type": "function", "function": {"name": name}}


def _add_schema(request: ChatRequest, response_format: object, *, is_sent: bool) -> None:
    """Ask for JSON in the prompt, because the service has no `response_format`, or by that field if it is native.

    With tools, JSON is always prompted: a server's grammar for JSON would make tool calls impossible.
    """
    if response_format is None:
        return
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if not isinstance(response_format, Mapping) or kind not in ("text", "json_object", "json_schema"):
        raise BadRequestError(
            f"response_format={shortened(response_format)} must have type text, json_object or json_schema.",
            hint='write {"type": "json_schema", "json_schema": {"schema": {…}}}, or leave it out.',
        )
    if kind == "text":
        return
    schema: Mapping[str, Any] = {}
    if kind == "json_schema":
        given = response_format.get("json_schema")
        found = given.get("schema") if isinstance(given, Mapping) else None
        if not isinstance(found, Mapping):
            raise BadRequestError(
                "response_format.json_schema.schema is missing; it must be a JSON schema.",
                hint='add "schema": {…}, or use {"type": "json_object"} for any JSON.',
            )
        check_schema(found)  # now, before the request costs money
        schema = found
    request.schema = schema
    if is_sent:
        request.body["response_format"] = response_format
    elif "response_format" in request.spec.native and not request.tool_names:
        named = {"json_schema": {"name": "answer", **response_format["json_schema"]}} if schema else {}
        request.body["response_format"] = {**response_format, **named}  # vLLM wants a name
    else:
        request.body["messages"] = prompting.ask_for_json(request.body["messages"], schema)


def _check_window(request: ChatRequest) -> None:
    """Refuse messages whose lower bound of tokens is above the model's window, if the window is known."""
    spec = request.spec
    if not spec.known:
        return
    texts = [tokens.text_of(m) for m in request.body["messages"]]
    if sum(map(len, texts)) <= spec.context_window:
        return  # no token is shorter than a character
    least = sum(map(tokens.at_least, texts))
    if least > spec.context_window:
        raise ContextWindowExceededError(
            f"messages have at least {least} tokens; allowed for model={spec.id!r} are {spec.context_window}.",
            code="context_length_exceeded",
        )
