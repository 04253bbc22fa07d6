"""Converts messages, in OpenAI's form or with parts of other APIs and frameworks, into the form of kluster.ai."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kluster_integrations.core import prompting, specs
from kluster_integrations.core.errors import BadRequestError, shortened
from kluster_integrations.core.specs import ModelSpec
from kluster_integrations.core.types import Message

__all__ = ["check_list", "to_wire"]

_ROLES = ("system", "user", "assistant", "tool")
_RENAMED_ROLES = {"developer": "system"}


def to_wire(messages: Sequence[Mapping[str, Any]], spec: ModelSpec) -> list[Message]:
    """Return the messages as they are sent. Images in tool results move to a user message after the results."""
    check_list(messages, "messages", "message objects")
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


def check_list(value: object, name: str, what: str) -> None:
    """Raise `BadRequestError` if a value is not a list; `name` is the parameter, `what` its elements."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        form = '[{"role": "user", "content": "…"}]' if name == "messages" else f"a list of {what}"
        raise BadRequestError(f"{name}={shortened(value)} must be a list of {what}.", hint=f"write {name} as {form}.")


def _message(message: object, where: str, spec: ModelSpec, images: list[dict[str, Any]]) -> Message:
    if not isinstance(message, Mapping):
        raise BadRequestError(
            f"{where}={shortened(message)} must be a message object.", hint="give it role and content."
        )
    role = message.get("role")
    role = _RENAMED_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in _ROLES:
        raise BadRequestError(
            f"{where}.role={shortened(role)} must be one of {', '.join(_ROLES)}.",
            hint='for the result of a function, use role "tool" with the tool_call_id of its call.'
            if role == "function"
            else 'use role "user" for what a person says, and "assistant" for what the model answered.',
        )
    content = message.get("content")
    made = _past_content(content, spec, images if role == "tool" else None) if role in _PAST else None
    wire: Message = {"role": role, "content": _content(content, role, where, spec) if made is None else made}
    if role == "assistant" and (calls := message.get("tool_calls")):
        check_list(calls, f"{where}.tool_calls", "calls")
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
_DEEPEST = 20  # parts within parts


def _past_content(content: object, spec: ModelSpec, images: list[dict[str, Any]] | None) -> str:
    """Return the text of an answer or a tool result. Parts without text become a note, since no user can correct them.

    Args:
        content: A text, a list of parts, or any other value that a tool returned.
        spec: The model's spec.
        images: The list to add a tool result's images to; None for an answer.
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


def _text_or_note(part: Mapping[str, Any], depth: int = 0) -> str:
    """Return the text of a part, or a note about it: MCP's links and resources, files, tool references."""
    if depth == _DEEPEST:
        return "[nested too deeply]"
    kind = part.get("type")
    inner = next((v for key in ("resource", "file", "source") if isinstance(v := part.get(key), Mapping)), {})
    nested = part.get("content")
    if isinstance(nested, list | tuple):
        nested = "\n".join(_text_or_note(p if isinstance(p, Mapping) else {"text": str(p)}, depth + 1) for p in nested)
    data = inner.get("data") if inner.get("type") == "text" else None  # Anthropic's document
    for text in (part.get("text"), part.get("refusal"), inner.get("text"), data, nested):
        if isinstance(text, str):
            return text
    if kind in _IMAGES:
        return _note(kind, part) or "[image: the model takes no images]"
    return "" if kind == "text" else _note(kind, {**inner, **part}) or f"[{kind or 'part'}]"


def _note(kind: object, named: Mapping[str, Any]) -> str:
    """Return a note with the names of a part; "" if it has none."""
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
            f"{where}.content={shortened(content)} must be a text or a list of parts.", hint='such as "Hello!".'
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
            f"{where}.image_url={shortened(image)} must be an http(s) address or a data URL of an image.",
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
            f"{where}.id={shortened(id_)} must be the id of the call.",
            hint="set it to any text, and repeat that text as tool_call_id in the tool's result.",
        )
    arguments = prompting.wire_arguments(function.get("arguments"))
    return {"id": id_, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
