"""The rules for the messages of a chat request."""

from __future__ import annotations

from typing import cast

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.emulator.engine import Message
from kluster_integrations.emulator.errors import ApiError

__all__ = ["check_messages"]

_OWN = {"system": (), "user": (), "assistant": ("tool_calls",), "tool": ("tool_call_id",)}
_KEYS = {role: frozenset({"role", "content", *own}) for role, own in _OWN.items()}
_CALL_KEYS = frozenset({"id", "type", "function", "index"})


def _bad(where: str, what: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"{where} {what}", param=where, code=code)


def _unsupported(name: str) -> ApiError:
    return ApiError(400, f"Unsupported parameter: '{name}'", param=name, code="unsupported_parameter")


def check_messages(value: object, spec: ModelSpec, *, strict: bool) -> list[Message]:
    """Return the messages without unknown keys.

    Raises:
        ApiError: 400, with the name of the wrong field, such as `messages[0].name`.
    """
    if not isinstance(value, list) or not value:
        raise _bad("messages", "must be a non-empty array")
    messages: list[Message] = []
    open_calls: set[str] = set()
    for index, item in enumerate(value):
        message = _check_message(item, f"messages[{index}]", spec, strict=strict)
        if message["role"] == "tool":
            _check_answers(message, open_calls, f"messages[{index}]")
        else:
            calls = cast("list[dict[str, str]]", message.get("tool_calls") or [])
            open_calls = {call["id"] for call in calls}
        messages.append(message)
    if strict and spec.strict_roles:
        _check_roles(messages, spec)
    return messages


def _check_roles(messages: list[Message], spec: ModelSpec) -> None:
    """Refuse what the chat templates of Gemma and the Mistrals refuse with `raise_exception`; vLLM answers 400."""
    behind = messages[1:] if messages[0]["role"] == "system" else messages
    for number, message in enumerate(behind):
        wanted = ("user", "assistant")[number % 2]
        if message["role"] != wanted:
            what = (
                f"is '{message['role']}' where the chat template of the model '{spec.id}' wants '{wanted}': a system "
                "message only at the beginning, then roles that alternate user/assistant/user/assistant/..."
            )
            raise _bad(f"messages[{len(messages) - len(behind) + number}].role", what)


def _check_answers(message: Message, open_calls: set[str], where: str) -> None:
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str):
        raise _bad(f"{where}.tool_call_id", "must be the id of a tool call")
    if call_id not in open_calls:
        raise _bad(f"{where}.tool_call_id", f"'{call_id}' answers no preceding tool call")


def _check_message(item: object, where: str, spec: ModelSpec, *, strict: bool) -> Message:
    if not isinstance(item, dict):
        raise _bad(where, "must be an object")
    role = item.get("role")
    if not isinstance(role, str) or role not in _KEYS:
        raise _bad(f"{where}.role", f"must be one of {', '.join(_KEYS)}; it is {role!r}")
    if unknown := next((name for name in item if name not in _KEYS[role]), None):
        if strict:
            raise _unsupported(f"{where}.{unknown}")
        item = {name: kept for name, kept in item.items() if name in _KEYS[role]}
    message = dict(item)
    if message.get("tool_calls") is None and "tool_calls" in message:
        if strict:
            raise _bad(f"{where}.tool_calls", "must not be null")
        del message["tool_calls"]
    for number, call in enumerate(_calls(message, where)):
        _check_call(call, f"{where}.tool_calls[{number}]")
    _check_content(message, f"{where}.content", spec)
    return message


def _calls(message: Message, where: str) -> list[object]:
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list) or ("tool_calls" in message and not calls):
        raise _bad(f"{where}.tool_calls", "must be a non-empty array")
    return calls


def _check_call(call: object, where: str) -> None:
    if not isinstance(call, dict):
        raise _bad(where, "must be an object")
    if unknown := next((name for name in call if name not in _CALL_KEYS), None):
        raise _bad(f"{where}.{unknown}", "is not supported", "unsupported_parameter")
    if not isinstance(call.get("id"), str):
        raise _bad(f"{where}.id", "must be a string")
    if call.get("type") != "function":
        raise _bad(f"{where}.type", "must be 'function'")
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _bad(f"{where}.function", "must have a name")
    if not isinstance(function.get("arguments"), str):
        raise _bad(f"{where}.function.arguments", "must be a JSON string")


def _check_content(message: Message, where: str, spec: ModelSpec) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        if message["role"] == "assistant" and message.get("tool_calls"):
            return
        raise _bad(where, "must be a string or an array of parts")
    if not isinstance(content, list) or not content:
        raise _bad(where, "must be a string or a non-empty array of parts")
    for index, part in enumerate(content):
        _check_part(part, f"{where}[{index}]", str(message["role"]), spec)


def _check_part(part: object, where: str, role: str, spec: ModelSpec) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in {"text", "image_url"}:
        raise _bad(f"{where}.type", f"must be 'text' or 'image_url'; it is {kind!r}")
    if unknown := next((name for name in part if name not in {"type", kind}), None):
        raise _unsupported(f"{where}.{unknown}")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise _bad(f"{where}.text", "must be a string")
        return
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or not url.startswith(("http://", "https://", "data:image/")):
        raise _bad(f"{where}.image_url.url", "must be an http, https or data:image/ URL")
    if role != "user":
        raise _bad(where, f"is an image, which a {role} message cannot hold")
    if not spec.supports_vision:
        raise _bad(where, f"is an image, which the model '{spec.id}' does not take")
