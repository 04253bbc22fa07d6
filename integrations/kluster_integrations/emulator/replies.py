"""Stated replies: what a reply contains, and which request gets it."""

from __future__ import annotations

import json as jsonlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import EllipsisType
from typing import Any

from kluster_integrations._extras import needs
from kluster_integrations.emulator.engine import ChatRequest
from kluster_integrations.emulator.faults import is_count

__all__ = ["Call", "Replies", "Reply", "When", "load"]

When = str | Callable[[ChatRequest], object]

_REASONS = ("stop", "length", "tool_calls", "content_filter", "abort", "error")
_CALL_KEYS = frozenset({"name", "arguments", "id", "type", "function", "index"})
#: The names that OpenAI's messages have for fields of a reply.
_ALIASES = {"content": "text", "reasoning_content": "reasoning"}


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; `arguments` is the text that is sent, usually JSON."""

    name: str
    arguments: str = "{}"
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that a test sets.

    Args:
        text: The text of the answer; with an error status, the error's message.
        reasoning: The model's reasoning before the answer.
        tool_calls: Tool calls, each `{"name": …, "arguments": {…}}` (`id` is optional) or in the form of OpenAI's
            messages. Arguments that are a string are sent as they are, even if they are not JSON. The tool need not be
            offered. If the model has only prompted tools, calls are written as `<tool_call>` text.
        json: A value that is sent as JSON text; with an error status, the whole body.
        finish_reason: Default: `tool_calls` with calls, else `stop`. A stop string or the limit of tokens still ends
            the reply.
        usage: Numbers that replace the emulator's, such as `prompt_tokens` and `completion_tokens`. A stream then ends
            with usage.
        status: 200, or the status of an error, 400 to 599.
        headers: Further headers of the answer.

    Raises:
        ValueError: If a value is not allowed, or nothing is stated.
    """

    text: str | None = None
    reasoning: str = ""
    tool_calls: Sequence[Mapping[str, object] | Call] = ()
    json: object = None
    finish_reason: str | None = None
    usage: Mapping[str, object] | None = None
    status: int = 200
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name, given in (("text", self.text or ""), ("reasoning", self.reasoning)):
            if not isinstance(given, str):
                raise _bad(name, given, "a string; an object goes into json=")
        if self.text is not None and self.json is not None:
            raise _bad("json", self.json, "left out beside text=, for it becomes the text")
        if self.json is not None and self.text is None:
            object.__setattr__(self, "text", _dump("json", self.json))
        if self.finish_reason not in (None, *_REASONS):
            raise _bad("finish_reason", self.finish_reason, f"one of {', '.join(map(repr, _REASONS))}")
        if not is_count(self.status) or not (self.status == 200 or 400 <= self.status <= 599):
            raise _bad("status", self.status, "200, or an error's from 400 to 599")
        object.__setattr__(self, "tool_calls", tuple(self.calls))
        self._check_mappings()
        more = [name for name in ("reasoning", "tool_calls", "finish_reason", "usage") if getattr(self, name)]
        if self.status >= 400 and more:
            raise _bad(more[0], getattr(self, more[0]), f"left out with status={self.status}: an error holds no answer")
        if self.status < 400 and self.text is None and not (self.reasoning or self.tool_calls):
            raise ValueError(
                'Reply: nothing is stated; give text, reasoning, tool_calls or json (text="" says nothing).'
            )

    @classmethod
    def of(cls, value: object) -> Reply:
        """Return a value as a `Reply`. It may be a `Reply`, a text, or a dict of a reply's or a message's fields.

        Raises:
            ValueError: If it is anything else.
        """
        if isinstance(value, Reply):
            return value
        if isinstance(value, str):
            return cls(value)
        names = [one.name for one in fields(cls)]
        if not isinstance(value, Mapping):
            raise ValueError(
                f"A reply is a string, a Reply or a dict of {', '.join(names)}; not {type(value).__name__}."
            )
        given: dict[str, Any] = {_ALIASES.get(str(name), str(name)): value[name] for name in value if name != "role"}
        if unknown := next((name for name in given if name not in names), None):
            hint = "An object as the answer is json={…}."
            raise ValueError(f"Reply: unknown field {unknown!r}; the fields are {', '.join(names)}. {hint}")
        return cls(**given)

    @property
    def calls(self) -> list[Call]:
        """The tool calls, checked."""
        if isinstance(self.tool_calls, str | Mapping) or not isinstance(self.tool_calls, Iterable):
            raise _bad("tool_calls", self.tool_calls, 'a list of {"name": …, "arguments": {…}}')
        return [_call(call, f"tool_calls[{index}]") for index, call in enumerate(self.tool_calls)]

    def _check_mappings(self) -> None:
        usage, headers = self.usage, self.headers
        if usage is not None and not (isinstance(usage, Mapping) and all(isinstance(name, str) for name in usage)):
            raise _bad("usage", usage, 'a dict of counts, such as {"prompt_tokens": 3, "completion_tokens": 5}')
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            if not is_count((usage or {}).get(name, 0)):
                raise _bad(f"usage[{name!r}]", (usage or {})[name], "a number of tokens, 0 or more")
        texts = [*headers.items()] if isinstance(headers, Mapping) else [] if headers is None else [(headers,)]
        if not all(isinstance(part, str) and part.isascii() and part.isprintable() for row in texts for part in row):
            raise _bad("headers", headers, "a dict of names and values, both printable ASCII")


def _call(value: object, where: str) -> Call:
    if isinstance(value, Call):
        return value
    inner = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(value, Mapping):
        raise _bad(where, value, '{"name": …, "arguments": {…}}')
    if unknown := next((name for name in (*value, *inner) if name not in _CALL_KEYS), None):
        raise ValueError(f"Reply: {where} has the key {unknown!r}; allowed are name, arguments and id.")
    name, arguments, id_ = inner.get("name"), inner.get("arguments", {}), value.get("id")
    if not isinstance(name, str) or not name:
        raise _bad(f"{where}['name']", name, "a tool's name")
    if not isinstance(arguments, str | Mapping):
        raise _bad(f"{where}['arguments']", arguments, "a dict, or a string, which is sent as it is")
    if not isinstance(id_, str | None):
        raise _bad(f"{where}['id']", id_, "a string, or left out")
    text = arguments if isinstance(arguments, str) else _dump(f"{where}['arguments']", dict(arguments))
    return Call(name, text, id_)


def _dump(name: str, value: object) -> str:
    try:
        return jsonlib.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"Reply: {name} cannot be written as JSON: {exc}.") from None


def _bad(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"Reply: {name}={value!r} is not allowed; it must be {allowed}.")


@dataclass(slots=True, eq=False)
class _Stated:
    reply: Reply
    when: When | None
    left: int | None
    """How often the reply is still given; None is always."""
    steps_aside: bool
    """Whether the next reply for the same requests replaces this one."""
    was_given: bool = False

    def suits(self, request: ChatRequest) -> bool:
        if callable(self.when):
            return bool(self.when(request))
        return self.when is not None and (self.when == request.model or self.when in request.text)


@dataclass(slots=True)
class Replies:
    """The stated replies of one emulator. Thread-safe."""

    _stated: list[_Stated] = field(default_factory=list)
    # A predicate may state a further reply.
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, reply: Reply, *, when: When | None = None, times: int | EllipsisType | None = ...) -> None:
        """Add a reply; see `Emulator.reply`.

        Raises:
            ValueError: If `when` or `times` is not allowed.
        """
        if when == "" or not (isinstance(when, str | None) or callable(when)):
            raise _bad("when", when, "a model id, a text of the last message, or a function of the request")
        if not isinstance(times, EllipsisType | None) and not is_count(times, least=1):
            raise _bad("times", times, "1 or more, or None for always")
        left = times if not isinstance(times, EllipsisType) else 1 if when is None else None
        with self._lock:
            # One that has been given ends here; of several that are stated at once each is given.
            self._stated = [r for r in self._stated if not (r.steps_aside and r.was_given and r.when == when)]
            self._stated.append(_Stated(reply, when, left, steps_aside=times is ... and when is not None))

    def state(self, arguments: Mapping[str, object]) -> None:
        """Add a reply from a dict of arguments of `Emulator.reply`.

        Raises:
            ValueError: If an argument is not allowed.
        """
        fields: dict[str, Any] = dict(arguments)
        when, times = fields.pop("when", None), fields.pop("times", ...)
        self.add(Reply.of(fields), when=when, times=times)

    def clear(self) -> None:
        """Remove every reply."""
        with self._lock:
            self._stated.clear()

    def take(self, request: ChatRequest) -> Reply | None:
        """Return the reply to a request, or None. Replies with `when` come first, each kind in its order."""
        with self._lock:
            routed = [row for row in self._stated if row.when is not None and row.suits(request)]
            found = next(iter(routed), None) or next((row for row in self._stated if row.when is None), None)
            if found is None:
                return None
            found.was_given = True
            if found.left is not None:
                found.left -= 1
            if found.left == 0 or (found.steps_aside and len(routed) > 1):
                self._stated.remove(found)
            return found.reply


def load(path: str | Path) -> list[dict[str, object]]:
    """Return the replies of a YAML file: a list of dicts with arguments of `Emulator.reply`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not such a list.
        ModuleNotFoundError: If PyYAML is not installed.
    """
    with needs("emulator"):
        import yaml  # type: ignore[import-untyped]

    try:
        rows = yaml.safe_load(Path(path).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ValueError(f"{path} is not YAML: {exc}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must hold a list of replies, such as `- text: Hello`.")
    return rows
