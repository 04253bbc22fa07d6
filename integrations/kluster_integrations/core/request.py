"""The only place where the body of a request is built.

It is a whitelist (reference/kluster-api.md, Chat completions). Parameters that kluster.ai documents are sent. Others
are imitated by this package if possible, else refused (or dropped). Nothing else is ever sent.
"""

from __future__ import annotations

import functools
import json
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
)
from kluster_integrations.core.notices import warn
from kluster_integrations.core.plans import PLANS
from kluster_integrations.core.schemas import check_schema
from kluster_integrations.core.specs import ModelSpec
from kluster_integrations.core.types import ChatRequest, Message, ToolCalling

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
_ROLES = ("system", "user", "assistant", "tool")
_RENAMED_ROLES = {"developer": "system"}


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
        model: The id, sent as it is.
        messages: OpenAI's message objects; attributes that kluster.ai does not take are left out.
        params: OpenAI's parameters by name; None values are left out.
        config: Gives the plan and what `unsupported` parameters do.
        stream: Whether to stream.
        tool_calling: How `tools` are handled: `native` sends them, `prompted` describes them in the prompt, `auto`
            prefers native where the model has it.
        extra_body: Sent as it is, for fields that OpenAI's API does not know (a dedicated deployment's `top_k`, say);
            and `response_format`, in place of the prompt. OpenAI's other fields in it are treated like `params`.
        several: Whether the caller takes more answers than one (`n`), where they are native.

    Raises:
        UnsupportedParameterError: A parameter cannot be had here, and `config.unsupported` is `error`.
        ContextWindowExceededError: The messages cannot fit the model's window.
        BadRequestError: Any other input that the server would refuse.
    """
    if not isinstance(model, str) or not model.strip():
        raise BadRequestError(f"model={model!r} must be a model id.", hint="`kluster models` lists them.")
    spec = own_models.for_request(model, config)
    if spec.purpose == "embeddings":
        hint = "use KlusterEmbeddings, or a chat model."
        raise BadRequestError(f"model={model!r} makes embeddings, not chat.", hint=hint)
    sent, extra = _split_extra(params, extra_body)
    values = _known_values(sent, config, spec, several=several and not stream)
    stops = _stops(values.pop("stop", None))
    wire = _messages(messages, spec)
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
            f"extra_body={_short(extra_body)} must be a mapping of names to values.", hint='write it as {"top_k": 5}.'
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
    """Whether a parameter of OpenAI's API can be left out, and nothing changes."""
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
    names = ", ".join(f"{name}={_short(value)}" for name, value in refused.items())
    instead = "; ".join(_INSTEAD[name] for name in refused if name in _INSTEAD)
    if unknown := {name: value for name, value in refused.items() if name not in _OPENAI}:
        instead = f"{instead}; " * bool(instead) + f"a dedicated deployment takes it in extra_body={_short(unknown)}"
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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


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
        raise BadRequestError(f"{name}={_short(value)} must be {allowed}.", hint=hint)
    return value


def _stops(stop: object) -> tuple[str, ...]:
    given = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(given, Sequence) or not all(isinstance(s, str) for s in given):
        raise BadRequestError(f"stop={_short(stop)} must be a text or a list of texts.", hint='such as stop="END".')
    return tuple(dict.fromkeys(s for s in given if s))


def _messages(messages: Sequence[Mapping[str, Any]], spec: ModelSpec) -> list[Message]:
    """Return the messages as the wire has them, with the images of tool results in a user message behind them."""
    _check_list(messages, "messages", "message objects")
    if not messages:
        raise BadRequestError("messages=[] must hold at least one message.", hint="add a user message.")
    wire: list[Message] = []
    images: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        made = _message(message, f"messages[{i}]", spec, images)
        if images and made["role"] != "tool":
            wire.append({"role": "user", "content": images})
            images = []
        wire.append(made)
    return [*wire, {"role": "user", "content": images}] if images else wire


def _check_list(value: object, name: str, what: str) -> None:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        form = '[{"role": "user", "content": "…"}]' if name == "messages" else f"a list of {what}"
        raise BadRequestError(f"{name}={_short(value)} must be a list of {what}.", hint=f"write {name} as {form}.")


def _message(message: object, where: str, spec: ModelSpec, images: list[dict[str, Any]]) -> Message:
    if not isinstance(message, Mapping):
        raise BadRequestError(f"{where}={_short(message)} must be a message object.", hint="give it role and content.")
    role = message.get("role")
    role = _RENAMED_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in _ROLES:
        raise BadRequestError(
            f"{where}.role={role!r} must be one of {', '.join(_ROLES)}.",
            hint='for the result of a function, use role "tool" with the tool_call_id of its call.'
            if role == "function"
            else 'use role "user" for what a person says, and "assistant" for what the model answered.',
        )
    content = message.get("content")
    made = _past_content(content, spec, images if role == "tool" else None) if role in _PAST else None
    wire: Message = {"role": role, "content": _content(content, role, where, spec) if made is None else made}
    if role == "assistant" and (calls := message.get("tool_calls")):
        _check_list(calls, f"{where}.tool_calls", "calls")
        wire["tool_calls"] = [_tool_call(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(calls)]
    if role == "tool":
        if not (id_ := message.get("tool_call_id")) or not isinstance(id_, str):
            raise BadRequestError(
                f"{where}.tool_call_id is missing; it must be the id of the call that this answers.",
                hint="copy the id of the call from tool_calls of the assistant message before it.",
            )
        wire["tool_call_id"] = id_
    return wire


_PAST = ("assistant", "tool")
_IMAGE_FOLLOWS = "The image follows."


def _past_content(content: object, spec: ModelSpec, images: list[dict[str, Any]] | None) -> str:
    """Return the text of an answer or a tool result. Parts without text become a note: no user can correct them.

    Args:
        content: A text, a list of parts, or what a tool returned in place of them.
        spec: The model's spec.
        images: Takes the images of a tool result, which go into a user message; None for an answer.
    """
    if not isinstance(content, list | tuple):
        return content if isinstance(content, str) else "" if content is None else _as_text(content)
    texts: list[str] = []
    seen = len(images or ())
    for part in content:
        if isinstance(part, str) or not isinstance(part, Mapping):
            texts.append(part if isinstance(part, str) else _as_text(part))
        elif (kind := part.get("type")) in _THOUGHTS:
            continue
        elif kind in _IMAGES and images is not None and (spec.supports_vision or not spec.known):
            if url := _image_url(_image_in(part)):
                images.append({"type": "image_url", "image_url": {"url": url}})
            else:
                texts.append(_note("image", part) or "[image: its address is not usable]")
        else:
            texts.append(_text_or_note(part))
    if images is not None and not texts and len(images) > seen:
        return _IMAGE_FOLLOWS
    return ("" if images is None else "\n").join(texts)


def _as_text(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that JSON cannot say, or a circle
        return str(value)


def _image_in(part: Mapping[str, Any]) -> object:
    """Return the address of an image: in OpenAI's form, or the data in MCP's, Anthropic's and LangChain's."""
    source = inner if isinstance(inner := part.get("source"), Mapping) else part
    data = source.get("data") or source.get("base64")
    media = next((m for key in ("media_type", "mimeType", "mime_type") if (m := source.get(key))), "image/png")
    return f"data:{media};base64,{data}" if isinstance(data, str) else part.get("image_url") or source.get("url")


def _text_or_note(part: Mapping[str, Any]) -> str:
    """Return the text of a part, or what stands in its place: MCP's links and resources, files, tool references."""
    kind = part.get("type")
    inner = next((v for key in ("resource", "file", "source") if isinstance(v := part.get(key), Mapping)), {})
    nested = part.get("content")
    if isinstance(nested, list | tuple):
        nested = "\n".join(_text_or_note(p if isinstance(p, Mapping) else {"text": str(p)}) for p in nested)
    data = inner.get("data") if inner.get("type") == "text" else None  # Anthropic's document
    for text in (part.get("text"), part.get("refusal"), inner.get("text"), data, nested):
        if isinstance(text, str):
            return text
    if kind in _IMAGES:
        return _note(kind, part) or "[image: the model takes no images]"
    return "" if kind == "text" else _note(kind, {**inner, **part}) or f"[{kind or 'part'}]"


def _note(kind: object, named: Mapping[str, Any]) -> str:
    """Return a note with the names that a part has, "" where it has none."""
    names = [named.get(key) for key in ("title", "name", "tool_name", "filename", "uri", "url", "file_id")]
    what = " ".join(dict.fromkeys(n for n in names if isinstance(n, str) and n and not n.startswith("data:")))
    return f"[{kind or 'part'}: {what[:500]}]" if what else ""


def _content(content: object, role: str, where: str, spec: ModelSpec) -> str | list[dict[str, Any]]:
    """Return the content of a user or system message. It raises errors, because the author can correct the message."""
    if isinstance(content, str):
        return content
    if content is None:
        raise BadRequestError(f"{where}.content is missing.", hint="give it a text.")
    if not isinstance(content, Sequence):
        raise BadRequestError(
            f"{where}.content={_short(content)} must be a text or a list of parts.", hint='such as "Hello!".'
        )
    parts = [p for i, part in enumerate(content) if (p := _part(part, f"{where}.content[{i}]", spec))]
    if role == "user" and any(p["type"] != "text" for p in parts):
        return parts
    if any(p["type"] != "text" for p in parts):
        raise BadRequestError(
            f"{where}: images are allowed in user messages only, not in role {role}.",
            hint="move the image to a user message.",
        )
    return "\n".join(p["text"] for p in parts)


_THOUGHTS = ("reasoning", "thinking", "redacted_thinking")  # never sent back
_IMAGES = ("image_url", "input_image", "image")  # the last is MCP's and Anthropic's


def _part(part: object, where: str, spec: ModelSpec) -> dict[str, Any] | None:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping):
        if kind in ("text", "input_text", "output_text"):
            return {"type": "text", "text": str(part.get("text") or "")}
        if kind == "refusal":
            return {"type": "text", "text": str(part.get("refusal") or "")}
        if kind in _THOUGHTS:
            return None
        if kind in _IMAGES:
            return _image(_image_in(part), where, spec)
    raise BadRequestError(
        f"{where}.type={kind!r} must be text or image_url.",
        hint="send texts and images only; put the text of other files into a text part.",
    )


def _image_url(image: object) -> str | None:
    url = image.get("url") if isinstance(image, Mapping) else image
    return url if isinstance(url, str) and url.lower().startswith(("https://", "http://", "data:image/")) else None


def _image(image: object, where: str, spec: ModelSpec) -> dict[str, Any]:
    url = _image_url(image)
    if url is None:
        raise BadRequestError(
            f"{where}.image_url={_short(image)} must be an http(s) address or a data URL of an image.",
            hint="encode a file as data:image/png;base64,…",
        )
    if spec.known and not spec.supports_vision:
        able = ", ".join(s.id for s in specs.all_models() if s.supports_vision)
        raise BadRequestError(f"{where}: model={spec.id!r} takes no images.", hint=f"use one of {able}.")
    return {"type": "image_url", "image_url": {"url": url}}


def _tool_call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not function.get("name"):
        raise BadRequestError(f"{where}.function.name is missing.", hint="send the model's message back unchanged.")
    if not (id_ := call.get("id")) or not isinstance(id_, str):
        raise BadRequestError(
            f"{where}.id={_short(id_)} must be the id of the call.",
            hint="set it to any text, and repeat that text as tool_call_id in the tool's result.",
        )
    arguments = prompting.wire_arguments(function.get("arguments"))
    return {"id": id_, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _add_tools(request: ChatRequest, values: dict[str, Any], tool_calling: ToolCalling) -> None:
    given = values.pop("tools", [])
    _check_list(given, "tools", "tools")
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
            f"{where}.function.parameters={_short(parameters)} must be a JSON schema.",
            hint='write {"type": "object", "properties": {…}}; without parameters, leave it out.',
        )
    wire["parameters"] = parameters
    return {"type": "function", "function": wire}


def _tool_choice(choice: object, tools: Sequence[Mapping[str, Any]]) -> str | dict[str, Any] | None:
    """Return OpenAI's form: `auto`, `none`, `required`, or one named function; None where it was not given."""
    names = [t["function"]["name"] for t in tools]
    if not tools and choice not in (None, "auto", "none"):
        raise BadRequestError(
            f"tool_choice={_short(choice)} needs tools.", hint="pass tools, or leave tool_choice out."
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
            f"tool_choice={_short(choice)} must be auto, none, required or one of the tools: {', '.join(names)}.",
            hint="name one of the tools in tools=…, or leave tool_choice out.",
        )
    return {"type": "function", "function": {"name": name}}


def _add_schema(request: ChatRequest, response_format: object, *, is_sent: bool) -> None:
    """Ask for JSON: in the prompt, for the service has no `response_format`, or by the field where it is native.

    With tools, JSON is always prompted: a server's grammar for JSON would make tool calls impossible.
    """
    if response_format is None:
        return
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if not isinstance(response_format, Mapping) or kind not in ("text", "json_object", "json_schema"):
        raise BadRequestError(
            f"response_format={_short(response_format)} must have type text, json_object or json_schema.",
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
    """Refuse messages that cannot fit: only for a known window, and only by a lower bound of the tokens."""
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
