"""Tools and JSON answers for models and servers that have neither: asked for in the prompt, read from the text.

The wording of tools is Hermes', which many open-weight models were trained on: a `<tools>` block in the system message,
calls as `<tool_call>{"name": …, "arguments": …}</tool_call>`, results as `<tool_response>…</tool_response>`. A model
with native tools may write a call as text, too, in the form of its training, where its server does not read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kluster_integrations.core.json_text import compact, find_json, is_json_object, read_arguments, read_values
from kluster_integrations.core.types import Message

__all__ = [
    "CALL_OPEN",
    "RESULT_OPEN",
    "PromptedCall",
    "ToolCallSplitter",
    "alternate",
    "ask_for_json",
    "doubtful_from",
    "find_calls",
    "render",
    "wire_arguments",
]

CALL_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
RESULT_OPEN = "<tool_response>"

_TOOLS = """You can call tools. These are the tools, one JSON object a line:
<tools>
{tools}
</tools>
To call a tool, write exactly this, with arguments that follow the tool's parameters:
<tool_call>
{{"name": "the tool's name", "arguments": {{"parameter": "value"}}}}
</tool_call>
Write nothing after a call: the result comes in the next message, as <tool_response>. Never write one yourself.
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
_ASSISTANT_BEGINS = "(The conversation begins with the assistant.)"


class PromptedCall(NamedTuple):
    """A tool call that was read from text; `arguments` is JSON, usually of an object."""

    name: str
    arguments: str


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
    lines = "\n".join(compact(tool) for tool in tools)
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
        parts.append(f'{CALL_OPEN}\n{{"name": {compact(function["name"])}, "arguments": {arguments}}}\n{_CLOSE}')
    return "\n".join(parts)


def _append_result(rendered: list[Message], message: Message) -> None:
    """Put a result into a user message; parallel ones share it, since templates want roles to alternate."""
    text = f"{RESULT_OPEN}\n{message['content']}\n</tool_response>"
    last = rendered[-1] if rendered else None
    if last is not None and last["role"] == "user" and str(last["content"]).endswith("</tool_response>"):
        rendered[-1] = {"role": "user", "content": f"{last['content']}\n{text}"}
    else:
        rendered.append({"role": "user", "content": text})


def ask_for_json(messages: Sequence[Message], schema: Mapping[str, Any]) -> list[Message]:
    """Return the messages with the wish for JSON in the system message; an empty schema is any object."""
    text = _JSON_SCHEMA.format(schema=compact(schema)) if schema else _JSON_OBJECT
    return _with_system(messages, text)


def alternate(messages: Sequence[Message]) -> list[Message]:
    """Return the messages as a strict chat template takes them (`ModelSpec.strict_roles`), with all of their text.

    One system message at the beginning, then user and assistant in turn, the user first. Neighbors of one role become
    one message; a system message further down stays in its place, as the user's.
    """
    merged: list[Message] = []
    for message in messages:
        if message["role"] == "system" and any(m["role"] != "system" for m in merged):
            message = {**message, "role": "user"}
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**merged[-1], "content": _joined(merged[-1]["content"], message["content"])}
            continue
        if message["role"] == "assistant" and (not merged or merged[-1]["role"] == "system"):
            merged.append({"role": "user", "content": _ASSISTANT_BEGINS})
        merged.append(message)
    if len(merged) == 1 and merged[0]["role"] == "system":
        return [{**merged[0], "role": "user"}]
    return merged


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}" if first and second else first or second
    parts = [[{"type": "text", "text": c}] if isinstance(c, str) else c for c in (first, second) if c]
    return [part for content in parts for part in content]


def wire_arguments(arguments: object) -> str:
    """Return the arguments of an earlier call as the text of a JSON object.

    Servers decode it for the chat template, and answer 400 where they cannot.
    """
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    text = text.strip() or "{}"
    return text if is_json_object(text) else json.dumps({"invalid_arguments": text}, ensure_ascii=False)


# The forms in which models write calls as text (vLLM names its tool parsers after them: hermes, llama3_json, mistral):
#   <tool_call>{"name": …, "arguments": …}</tool_call>
#   <|python_tag|>{"name": …, "parameters": …}; {…}      and the same without the tag, at the beginning of an answer
#   [TOOL_CALLS][{"name": …, "arguments": …}, …]         [TOOL_CALLS]name{…}         [TOOL_CALLS]name[ARGS]{…}
_PYTHON_TAG, _MISTRAL = "<|python_tag|>", "[TOOL_CALLS]"
_BARE = re.compile(r'\[?\s*\{\s*"(\w*)(")?')
_MAYBE_BARE = re.compile(r"\[?\s*(?:\{\s*)?\Z")
_MOST_UNCERTAIN = 200  # characters before the end of the first key
_CALL_KEYS = frozenset({"name", "type", "function", "parameters", "arguments"})
_NAMED_CALL = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\][\w-]*)?(?:\[ARGS\])?\s*(?=\{)")
_END_TOKEN = re.compile(r"(?:\s|<\|(?:eom|eot)_id\|>|</s>|<\|im_end\|>)+\Z")  # where a server does not skip them
# What can only be meant as a call: the marks with the beginning of one, and a bare call with both of its keys.
_CALLISH = re.compile(r"<tool_call>\s*[{\[]|<\|python_tag\|>\s*\{|\[TOOL_CALLS\]\s*(?:[{\[]|[\w.-]+\s*[{\[])")
_BARE_CALL = re.compile(
    r'\[?\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"]{1,200})"\s*,\s*"(?:parameters|arguments)"\s*:'
)
_MAX_CLOSES = 32  # closing tags within one argument; each costs a pass over the block


def doubtful_from(text: str, names: frozenset[str], *, prompted: bool, in_line: bool = False) -> int:
    """Return where text begins that is not for anybody to see, but a call that could not be read, or a made-up result.

    The length, where there is no such text. A model that was not asked for `<tool_call>` may speak of it in a sentence:
    of its calls only those count that begin a line.

    Args:
        text: What is left of an answer when its calls are taken out.
        names: The tools that the model may call.
        prompted: Whether `<tool_call>` was asked for.
        in_line: Whether the text goes on with a line.
    """
    found = [at for mark in (CALL_OPEN, RESULT_OPEN) if (at := text.find(mark)) >= 0] if prompted else []
    for callish in _CALLISH.finditer(text) if names else ():
        at = callish.start()
        begin = text.rfind("\n", 0, at) + 1
        if not text[begin:at].strip() and (begin or not in_line):
            found.append(at)
            break
    if names and not in_line and (bare := _BARE_CALL.match(text.lstrip()[:500])) and bare[1] in names:
        found.append(0)
    return min(found, default=len(text))


class ToolCallSplitter:
    """Takes tool calls out of a text that comes in pieces. What is not a call stays text.

    Args:
        names: The tools that may be called. Only their calls are taken out of the forms that are not `<tool_call>`.
        prompted: Whether `<tool_call>` was asked for. Then a call of a tool that does not exist is a call, too: whoever
            runs the tools tells the model so.

    Attributes:
        found: Whether there was a call. White space behind a call goes with it.
    """

    __slots__ = (
        "_begun",
        "_behind_call",
        "_held",
        "_marks",
        "_names",
        "_prompted",
        "_searched",
        "_tail",
        "_tries",
        "found",
    )

    def __init__(self, names: frozenset[str] = frozenset(), *, prompted: bool = True) -> None:
        self._names = names
        self._prompted = prompted
        self._marks = (CALL_OPEN, *((RESULT_OPEN,) if prompted else ()), *((_PYTHON_TAG, _MISTRAL) if names else ()))
        self._held: list[str] = []
        self._searched = 0  # of an open block, up to where no closing tag ends it
        self._tries = 0
        self._tail: list[str] | None = None  # from a mark on whose end only the end of the answer tells
        self._begun = False
        self._behind_call = False
        self.found = False

    @property
    def idle(self) -> bool:
        """Whether text without `<` and `[` passes unchanged."""
        return self._begun and not self._held and self._tail is None and not self._behind_call

    def feed(self, text: str) -> tuple[str, list[PromptedCall]]:
        """Return text that is certain, and the calls that this piece completes."""
        if self._tail is not None:
            self._tail.append(text)
            return "", []
        self._held.append(text)
        if len(self._held) > 1 and self._held[0].startswith(CALL_OPEN) and ">" not in text:
            return "", []  # cannot end the block: joined once, however many pieces it takes
        text = "".join(self._held)
        self._held = []
        if not self._begun and self._names and self._may_be_bare(text):
            return "", []
        out: list[str] = []
        calls: list[PromptedCall] = []
        while text:
            at, mark = _next_mark(text, self._marks)
            out.append(self._text(text[:at]))
            text = text[at:]
            if mark and mark is not CALL_OPEN:
                self._tail = [text]
                break
            size = self._block(text, out, calls) if mark else 0
            if not size:
                self._held = [text] if text else []
                break
            text = text[size:]
        return "".join(out), calls

    def close(self) -> tuple[str, list[PromptedCall]]:
        """Return what was held: calls whose end the model (or a stop) left out, or text."""
        held = "".join(self._held if self._tail is None else self._tail)
        self._held, self._tail = [], None
        calls = self._read(held[len(CALL_OPEN) :]) if held.startswith(CALL_OPEN) else self._read_tail(held)
        if not calls:
            return self._text(held), []
        self.found = True
        return "", calls

    def _may_be_bare(self, text: str) -> bool:
        """Hold an answer that begins as a bare call does, until it is known."""
        head = text.lstrip()[:_MOST_UNCERTAIN]
        if head[:1] not in ("{", "["):
            return False
        found = _BARE.match(head)
        if found and found[2] and found[1] in _CALL_KEYS:
            self._tail = [text]
            return True
        open_ended = found is not None and not found[2] and found.end() == len(head)
        if len(head) < _MOST_UNCERTAIN and (open_ended or _MAYBE_BARE.match(head)):
            self._held = [text]
            return True
        return False

    def _block(self, text: str, out: list[str], calls: list[PromptedCall]) -> int:
        """Return the length of the block at the beginning of a text, 0 where more must come to know."""
        while (end := text.find(_CLOSE, self._searched)) >= 0 and self._tries < _MAX_CLOSES:
            if found := self._read(text[len(CALL_OPEN) : end]):
                calls += found
                self.found = self._behind_call = True
                self._searched = self._tries = 0
                return end + len(_CLOSE)
            self._searched, self._tries = end + 1, self._tries + 1  # the tag may stand in an argument
        again = text.find(CALL_OPEN, text.find(_CLOSE)) if self._tries else -1
        if again < 0 and self._tries == _MAX_CLOSES:
            again = self._searched
        if again < 0:
            self._searched = max(self._searched, len(text) - len(_CLOSE))
            return 0
        out.append(self._text(text[:again]))
        self._searched = self._tries = 0
        return again

    def _text(self, text: str) -> str:
        if self._behind_call and text:
            text = text.lstrip()
            self._behind_call = not text
        self._begun = self._begun or bool(text.strip())
        return text

    def _read(self, block: str) -> list[PromptedCall]:
        """Return the calls that stand in a `<tool_call>` block, also in a fence or with words around it."""
        values = read_values(block, 0)
        if values is None and CALL_OPEN not in block:
            values = [find_json(block)]
        calls = [_call_from(value) for value in values or ()]
        found = [call for call in calls if call and (self._prompted or call.name in self._names)]
        return found if len(found) == len(calls) else []

    def _read_tail(self, text: str) -> list[PromptedCall]:
        """Return the calls that a text is from its mark on; none unless all of it is calls of known tools."""
        text = _END_TOKEN.sub("", text)
        items: list[Any] = []
        for part in text.split(_MISTRAL)[1:] if text.startswith(_MISTRAL) else [text.removeprefix(_PYTHON_TAG)]:
            named = _NAMED_CALL.match(part) if text.startswith(_MISTRAL) else None
            values = read_values(part, named.end() if named else 0)
            if not values or (named and len(values) > 1):
                return []
            if named:
                values = [{"name": named[1], "arguments": values[0]}]
            items += values[0] if len(values) == 1 and isinstance(values[0], list) else values
        calls = [_call_from(item) for item in items if _has_arguments(item)]
        found = [call for call in calls if call and call.name in self._names]
        return found if len(found) == len(items) else []


def find_calls(text: str, names: frozenset[str] = frozenset()) -> list[PromptedCall]:
    """Return the calls in a whole text: of any tool as `<tool_call>`, of these tools in any form."""
    splitter = ToolCallSplitter(names)
    return [*splitter.feed(text)[1], *splitter.close()[1]]


def _call_from(value: object) -> PromptedCall | None:
    """Return the call that a decoded value is: with `arguments` or `parameters`, maybe in a `function` object."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not value.get("name") or not isinstance(value["name"], str):
        return None
    if not _has_arguments(value) and value.keys() - {"name", "type", "id"}:
        return None  # arguments under another name: they must not be lost
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        return PromptedCall(value["name"], read_arguments(arguments)[0])
    return PromptedCall(value["name"], compact({} if arguments is None else arguments))


def _has_arguments(value: object) -> bool:
    """Whether a value can only be a call: an object with nothing but a name may be an answer."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    return isinstance(value, dict) and ("arguments" in value or "parameters" in value)


def _next_mark(text: str, marks: tuple[str, ...]) -> tuple[int, str]:
    """Return where the next mark begins and the mark; with "" for the mark, where one may be beginning at the end."""
    if text.startswith(CALL_OPEN):
        return 0, CALL_OPEN
    found = [(at, mark) for mark in marks if (at := text.find(mark)) >= 0]
    if found:
        return min(found)
    longest = max(map(len, marks)) - 1
    for size in range(min(len(text), longest), 0, -1):
        if any(mark.startswith(text[-size:]) for mark in marks):
            return len(text) - size, ""
    return len(text), ""
