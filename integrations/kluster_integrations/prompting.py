"""Tool calls and JSON answers from models and servers that have neither: asked for in the prompt, read from the text.

The wording of tools is Hermes', which many open-weight models were trained on: a `<tools>` block in the system message,
calls as `<tool_call>{"name": …, "arguments": …}</tool_call>`, results as `<tool_response>…</tool_response>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["PromptedCall", "ToolCallSplitter", "ask_for_json", "find_json", "render"]

Message = dict[str, Any]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"

_TOOLS = """You can call tools. These are the tools, one JSON object a line:
<tools>
{tools}
</tools>
To call a tool, write exactly this, with arguments that follow the tool's parameters:
<tool_call>
{{"name": "the tool's name", "arguments": {{"parameter": "value"}}}}
</tool_call>
Write nothing after a call: the result comes in the next message, as <tool_response>. Never write a <tool_response> yourself.
{parallel}
If no tool is needed, answer in plain text."""
_PARALLEL = "Several independent calls may follow one another, each in a <tool_call> of its own."
_SINGLE = "Make one call at a time."
_REQUIRED = "In this answer you must call at least one tool."
_NAMED = "In this answer you must call the tool `{name}`."

_JSON_SCHEMA = """Answer with one JSON value that is valid against this JSON schema, and with nothing else:
<schema>
{schema}
</schema>"""
_JSON_OBJECT = "Answer with one JSON object and with nothing else."


class PromptedCall(NamedTuple):
    """A tool call that was read from text; `arguments` is JSON."""

    name: str
    arguments: str


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """Add to the system message, or begin with one: templates take only one, and only at the beginning."""
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{text}".lstrip()}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def render(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    choice: str | Mapping[str, Any] | None,
    *,
    parallel: bool = True,
) -> list[Message]:
    """Return the messages with tools, earlier calls and their results as text.

    Args:
        messages: Wire-shaped messages; without calls, results and `tools` they come back as they are.
        tools: OpenAI's tool objects.
        choice: `auto`, `none`, `required`, a named function as OpenAI has it, or None for `auto`.
        parallel: Whether several calls in one answer are welcome.
    """
    rendered: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            _append_result(rendered, message)
        elif message.get("tool_calls"):
            rendered.append({"role": "assistant", "content": _calls_as_text(message)})
        else:
            rendered.append(message)
    if not tools or choice == "none":
        return rendered
    lines = "\n".join(_compact(tool) for tool in tools)
    text = _TOOLS.format(tools=lines, parallel=_PARALLEL if parallel else _SINGLE)
    if choice == "required":
        text += f"\n{_REQUIRED}"
    elif isinstance(choice, Mapping):
        text += "\n" + _NAMED.format(name=choice["function"]["name"])
    return _with_system(rendered, text)


def _calls_as_text(message: Message) -> str:
    parts = [message["content"]] if message["content"] else []
    for call in message["tool_calls"]:
        function = call["function"]
        arguments = function["arguments"] or "{}"
        parts.append(f'{_OPEN}\n{{"name": {_compact(function["name"])}, "arguments": {arguments}}}\n{_CLOSE}')
    return "\n".join(parts)


def _append_result(rendered: list[Message], message: Message) -> None:
    """Put a result into a user message; results of parallel calls share one, since templates want roles to alternate."""
    text = f"<tool_response>\n{message['content']}\n</tool_response>"
    last = rendered[-1] if rendered else None
    if last is not None and last["role"] == "user" and str(last["content"]).endswith("</tool_response>"):
        rendered[-1] = {"role": "user", "content": f"{last['content']}\n{text}"}
    else:
        rendered.append({"role": "user", "content": text})


class ToolCallSplitter:
    """Takes `<tool_call>` blocks out of a text that comes in pieces. What is not a call of a known tool stays text.

    Attributes:
        found: Whether there was a call.
    """

    __slots__ = ("_held", "_names", "found")

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self._names = frozenset(tool["function"]["name"] for tool in tools)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> tuple[str, list[PromptedCall]]:
        """Return text that is certain, and the calls that this piece completes."""
        text = self._held + text
        self._held = ""
        out: list[str] = []
        calls: list[PromptedCall] = []
        while text:
            at = _find_open(text)
            out.append(text[:at])
            text = text[at:]
            if not text.startswith(_OPEN):
                self._held = text
                break
            end = text.find(_CLOSE)
            if end < 0:
                self._held = text
                break
            inner, whole, text = (
                text[len(_OPEN) : end],
                text[: end + len(_CLOSE)],
                text[end + len(_CLOSE) :],
            )
            self._take(inner, whole, out, calls)
        return self._trim("".join(out)), calls

    def close(self) -> tuple[str, list[PromptedCall]]:
        """Return what was held: a call whose closing tag the model left out (or a stop cut off), or text."""
        held, self._held = self._held, ""
        out: list[str] = []
        calls: list[PromptedCall] = []
        if held.startswith(_OPEN):
            self._take(held[len(_OPEN) :], held, out, calls)
        elif held:
            out.append(held)
        return self._trim("".join(out)), calls

    def _take(self, inner: str, whole: str, out: list[str], calls: list[PromptedCall]) -> None:
        value = find_json(inner)
        if not isinstance(value, dict) or value.get("name") not in self._names:
            out.append(whole)
            return
        arguments = value.get("arguments", value.get("parameters"))
        if isinstance(arguments, str):
            arguments = find_json(arguments)
        calls.append(PromptedCall(value["name"], _compact(arguments if isinstance(arguments, dict) else {})))
        self.found = True

    def _trim(self, text: str) -> str:
        """Drop white space between and after calls."""
        return text if not self.found or text.strip() else ""


def _find_open(text: str) -> int:
    """Return where `<tool_call>` begins, or may be beginning at the end; else the length."""
    at = text.find(_OPEN)
    if at >= 0:
        return at
    for size in range(min(len(text), len(_OPEN) - 1), 0, -1):
        if _OPEN.startswith(text[-size:]):
            return len(text) - size
    return len(text)


def ask_for_json(messages: Sequence[Message], schema: Mapping[str, Any]) -> list[Message]:
    """Return the messages with the wish for JSON in the system message; an empty schema is any object."""
    text = _JSON_SCHEMA.format(schema=_compact(schema)) if schema else _JSON_OBJECT
    return _with_system(messages, text)


_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)


def find_json(text: str) -> Any:
    """Return the JSON value in a text: the text itself, in a fence, or the longest object or array in prose.

    Returns:
        The decoded value, or None where there is none (`null` counts as none).
    """
    for candidate in (text, *_FENCE.findall(text)):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    best: tuple[int, Any] = (0, None)
    decoder = json.JSONDecoder()
    at = 0
    while found := re.compile(r"[{\[]").search(text, at):
        try:
            value, end = decoder.raw_decode(text, found.start())
        except ValueError:
            at = found.end()
            continue
        best = max(best, (end - found.start(), value), key=lambda pair: pair[0])
        at = end
    return best[1]
