"""Prompted tools and prompted JSON: asked for in the prompt, and read from the text of the answer.

The form is that of Hermes, which many open-weight models were trained on: a `<tools>` block in the system message,
calls as `<tool_call>{"name": …, "arguments": …}</tool_call>`, results as `<tool_response>…</tool_response>`. A model
with native tools may also write a call as text, in the form of its training, if its server does not recognize it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kluster_integrations.core.json_text import (
    compact,
    find_json,
    is_json_object,
    read_arguments,
    read_values,
    skip_between,
    value_at,
)
from kluster_integrations.core.types import Message

__all__ = [
    "CALL_OPEN",
    "RESULT_OPEN",
    "Lines",
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
    """Add text to the system message. Templates accept only one, at the beginning, so one is added if necessary."""
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
        messages: OpenAI's message objects. Without calls, results and `tools` they are returned unchanged.
        tools: OpenAI's tool objects.
        choice: `auto`, `none`, `required`, OpenAI's object for a named function, or None for `auto`.
        parallel: Whether an answer may have several calls.
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
    lines = "\n".join(_TAG.sub(r"\\u003c", compact(tool)) for tool in tools)
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
        arguments = _TAG.sub(r"\\u003c", function["arguments"] or "{}")
        parts.append(f'{CALL_OPEN}\n{{"name": {compact(function["name"])}, "arguments": {arguments}}}\n{_CLOSE}')
    return "\n".join(parts)


def _append_result(rendered: list[Message], message: Message) -> None:
    """Put a result into a user message. Parallel results share one, because templates require alternating roles."""
    text = f"{RESULT_OPEN}\n{_escaped(message['content'])}\n</tool_response>"
    last = rendered[-1] if rendered else None
    if last is not None and last["role"] == "user" and str(last["content"]).endswith("</tool_response>"):
        rendered[-1] = {"role": "user", "content": f"{last['content']}\n{text}"}
    else:
        rendered.append({"role": "user", "content": text})


# What a tool's result must not hold: the tags of this form, and the tokens of chat templates.
_TAG = re.compile(r"<(?=\s*/?\s*(?:tool_call|tool_response|tools)\b|\|\w+\|>)", re.IGNORECASE)
_TAG_OR_ESCAPED = re.compile(rf"{_TAG.pattern}|&(?=(?:amp;)*lt;)", re.IGNORECASE)


def _escaped(text: str) -> str:
    """Return a result with escaped tags, so that it cannot end itself or begin a call: `&lt;tool_call>`.

    An existing `&lt;` becomes `&amp;lt;`, so that the two remain different.
    """
    return _TAG_OR_ESCAPED.sub(lambda found: "&lt;" if found[0] == "<" else "&amp;", text)


def ask_for_json(messages: Sequence[Message], schema: Mapping[str, Any]) -> list[Message]:
    """Return the messages with a request for JSON in the system message; an empty schema is any object."""
    text = _JSON_SCHEMA.format(schema=compact(schema)) if schema else _JSON_OBJECT
    return _with_system(messages, text)


def alternate(messages: Sequence[Message]) -> list[Message]:
    """Return the messages in the order that a strict chat template accepts (`ModelSpec.strict_roles`).

    It accepts one system message at the beginning, then user and assistant in turn, the user first. Neighbors with the
    same role become one message. A later system message becomes a user message. No text is lost.
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

    Servers decode it for the chat template, and answer 400 if they cannot.
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
_END_TOKENS = ("<|eom_id|>", "<|eot_id|>", "</s>", "<|im_end|>")  # where a server does not skip them
# Allowed after a call on its line: nothing, more calls, results that the model invents, and end-of-answer tokens.
_BEHIND_CALL = (CALL_OPEN, _CLOSE, RESULT_OPEN, *_END_TOKENS)
_BLANK = re.compile(r"[^\S\n]*")
_FENCE = re.compile(r"^[^\S\n]*(`{3,}|~{3,})([^\n]*)", re.MULTILINE)
# What can only be meant as a call: a mark and the beginning of one, and a block that ends its line, or with the text.
_INSIDE = r"(?:(?!</?tool_call>).)*+"
_ENDED = r"</tool_call>(?=[^\S\n]*(?:$|<))"
_OTHER_CALLISH = r"<\|python_tag\|>\s*\{|\[TOOL_CALLS\]\s*(?:[{\[]|[\w.-]+\s*[{\[])"
_FLAGS = re.DOTALL | re.MULTILINE
_CALLISH = re.compile(rf"<tool_call>\s*[{{\[]{_INSIDE}(?:{_ENDED}|\Z)|{_OTHER_CALLISH}", _FLAGS)
_PROMPTED_CALLISH = re.compile(
    rf"<tool_call>(?:{_INSIDE}{_ENDED}|\s*[{{\[]{_INSIDE}\Z)|{_OTHER_CALLISH}|{RESULT_OPEN}", _FLAGS
)
_BARE_CALL = re.compile(
    r'\[?\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"]{1,200})"\s*,\s*"(?:parameters|arguments)"\s*:'
)
_NEW_CALL = re.compile(rf"^[^\S\n]*{CALL_OPEN}", re.MULTILINE)
_LONGEST_MARK = 15
_MAX_CLOSES = 8  # closing tags that are tried one by one; each costs a pass over the block


class Lines:
    """Tracks the text so far, to decide whether the next tag stands alone or is quoted.

    A tag stands alone at the beginning of a line or after a whole sentence (`Let me look. <tool_call>`), but not in a
    code block.
    """

    __slots__ = ("_fence", "_last", "_line", "_new")

    def __init__(self) -> None:
        self._new: list[str] = []
        self._line = ""  # the beginning of the incomplete line
        self._last = ""  # the last character of that line, without white space
        self._fence = ""  # the mark of the open code block

    def add(self, text: str) -> None:
        """Append text. It is parsed when a property is read."""
        self._new.append(text)

    @property
    def in_fence(self) -> bool:
        """True if the next text is inside a code block."""
        self._read()
        return bool(self._fence)

    @property
    def is_new(self) -> bool:
        """True if the next text stands alone and is not quoted."""
        self._read()
        return not self._fence and self._last in ("", ".", "!")

    def _read(self) -> None:
        if not self._new:
            return
        new, self._new = "".join(self._new), []
        complete, end, line = (self._line + new).rpartition("\n")
        self._last = line.rstrip()[-1:] if end or new.strip() else self._last
        self._line = line.lstrip()[:_MOST_UNCERTAIN]
        for mark, behind in _FENCE.findall(complete) if end else ():
            if not self._fence:
                self._fence = "" if mark[0] == "`" in behind else mark  # with a backtick behind it is code in a line
            elif mark.startswith(self._fence) and not behind.strip():
                self._fence = ""


def doubtful_from(text: str, names: frozenset[str], *, prompted: bool, lines: Lines | None = None) -> int:
    """Return where text begins that must not be shown: an unreadable call, or a tool result that the model invented.

    Without such text, return the length. Only a tag that stands alone counts (see `Lines`), because a model may mention
    `<tool_call>` in a sentence or a code block.

    Args:
        text: The answer without its calls.
        names: The tools that the model may call.
        prompted: Whether `<tool_call>` was asked for.
        lines: The text before this one. The text that may be shown is added to it.
    """
    lines = lines or Lines()
    if names and (bare := _BARE_CALL.match(text.lstrip()[:500])) and bare[1] in names and lines.is_new:
        return 0
    seen = 0
    for callish in (_PROMPTED_CALLISH if prompted else _CALLISH).finditer(text) if prompted or names else ():
        lines.add(text[seen : callish.start()])
        seen = callish.start()
        if lines.is_new or (text.endswith("<think>", 0, seen) and not lines.in_fence):  # a draft, which is not quoted
            return seen
    lines.add(text[seen:])
    return len(text)


class ToolCallSplitter:
    """Takes tool calls out of a text that comes in pieces. Everything else, also a quoted call, stays text.

    A `<tool_call>` is a call if it stands alone (see `Lines`) and ends its line.

    Args:
        names: The tools that may be called. In the forms other than `<tool_call>`, only their calls are taken out.
        prompted: Whether `<tool_call>` was asked for. Then a call of an unknown tool is also a call: the code that runs
            tools refuses it.

    Attributes:
        found: Whether there was a call. White space after a call is removed.
        lines: The text that came out. A caller that skips `feed` while the splitter is `idle` must add its text here.
    """

    __slots__ = (
        "_begun",
        "_behind_call",
        "_held",
        "_mark",
        "_marks",
        "_names",
        "_next_try",
        "_prompted",
        "_searched",
        "_size",
        "_tail",
        "_tries",
        "_waits_for_line",
        "found",
        "lines",
    )

    def __init__(self, names: frozenset[str] = frozenset(), *, prompted: bool = True) -> None:
        self._names = names
        self._prompted = prompted
        self._marks = (CALL_OPEN, *((RESULT_OPEN,) if prompted else ()), *((_PYTHON_TAG, _MISTRAL) if names else ()))
        self._mark = _any_of(self._marks)
        self._held: list[str] = []
        self._searched = 0  # of an open block, up to where no closing tag ends it
        self._size = 0  # of the block
        self._tries = self._next_try = 0  # how often it was read, and its size before it is read again
        self._waits_for_line = False  # what follows its closing tag decides
        self._tail: list[str] | None = None  # from a mark on whose end only the end of the answer tells
        self._begun = False
        self._behind_call = False
        self.found = False
        self.lines = Lines()

    @property
    def idle(self) -> bool:
        """Whether text without `<` and `[` passes unchanged."""
        return self._begun and not self._held and self._tail is None and not self._behind_call

    def feed(self, text: str) -> tuple[str, list[PromptedCall]]:
        """Return the text that is certainly not a call, and the calls that this piece completes."""
        if self._tail is not None:
            self._tail.append(text)
            return "", []
        if self._held and self._cannot_end(text):
            self._held.append(text)
            return "", []
        if self._held:
            text = "".join([*self._held, text])
            self._held = []
        if not self._begun and self._names and self._may_be_bare(text):
            return "", []
        return self._split(text, is_last=False)

    def close(self) -> tuple[str, list[PromptedCall]]:
        """Return what was held: calls without their end (the model or a stop sequence left it out), or text."""
        text, self._held = "".join(self._held), []
        shown, calls = self._split(text, is_last=True)
        if self._tail is not None:
            held, self._tail = "".join(self._tail), None
            found = self._read_tail(held)
            self.found = self.found or bool(found)
            calls += found
            shown += "" if found else self._text(held)
        return shown, calls

    def _cannot_end(self, text: str) -> bool:
        """Whether a piece cannot end the held block. Blocks may be long, so they are seldom joined."""
        if not self._held[0].startswith(CALL_OPEN):
            return False
        self._size += len(text)
        if self._waits_for_line:
            return not text.strip() and "\n" not in text
        if ">" not in text or (self._tries >= _MAX_CLOSES and self._size < self._next_try):
            return True
        seam = "".join(self._held[-len(_CLOSE) :])[-len(_CLOSE) :] + text
        return _CLOSE not in seam and not (self._tries and CALL_OPEN in seam)

    def _split(self, text: str, *, is_last: bool) -> tuple[str, list[PromptedCall]]:
        out: list[str] = []
        calls: list[PromptedCall] = []
        at, last_close = 0, None
        while at < len(text):
            found = self._mark.search(text, at)
            begin = found.start() if found else len(text) - (0 if is_last else _begun(text[at:], self._marks))
            out.append(self._text(text[at:begin]))
            at, mark = begin, found[0] if found else ""
            if mark == CALL_OPEN and self.lines.is_new:
                last_close = text.rfind(_CLOSE) if last_close is None else last_close
                size = self._block(text, at, last_close, calls, is_last=is_last)
                if not size:
                    self._held, self._size = [text[at:]], len(text) - at
                    break
                self._searched = self._tries = self._next_try = 0
                self._waits_for_line = False
                out.append(self._text(text[at : at - size]) if size < 0 else "")
                at += abs(size)
            elif not mark or (
                self.lines.is_new if mark == RESULT_OPEN else mark != CALL_OPEN and not self.lines.in_fence
            ):
                if mark:
                    self._tail = [text[at:]]
                else:
                    self._held = [text[at:]] if at < len(text) else []
                break
            else:
                out.append(self._text(mark))
                at += len(mark)
        return "".join(out), calls

    def _may_be_bare(self, text: str) -> bool:
        """Hold an answer that begins like a bare call, until it is clear what it is."""
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

    def _block(self, text: str, at: int, last_close: int, calls: list[PromptedCall], *, is_last: bool) -> int:
        """Take the calls of the block at index `at`.

        Returns:
            The length of the block; below 0 if it is text, and 0 if that is not clear yet.
        """
        body = at + len(CALL_OPEN)
        first = text.find(_CLOSE, body) if last_close >= body else -1
        close = text.find(_CLOSE, at + self._searched) if self._searched else first
        is_in_string = False
        while close >= 0:
            if self._tries < _MAX_CLOSES or close - at >= self._next_try:
                self._tries, self._next_try = self._tries + 1, 2 * (close - at)
                found, end = self._read_json(text, body)
                is_in_string = not found and _is_in_string(text[body:first])
                if not found and not is_in_string:
                    found, end = self._read(text[body:close]), close + len(_CLOSE)
                if found:
                    ends_line = _ends_line(text, end, is_last=is_last)
                    if ends_line is None:
                        self._waits_for_line, self._tries = True, 0
                        return 0
                    if not ends_line:
                        return at - end
                    calls += found
                    self.found = self._behind_call = True
                    return end - at
                if not is_in_string:
                    ends_line = _ends_line(text, first + len(_CLOSE), is_last=is_last)
                    self._waits_for_line = ends_line is None
                    if ends_line:
                        return at - first - len(_CLOSE)
                    if again := _NEW_CALL.search(text, first):
                        return at - again.start()
                    if ends_line is None:
                        return 0
            self._searched = close + 1 - at
            close = text.find(_CLOSE, close + 1)
        if not is_last:
            self._searched = max(self._searched, len(text) - at - len(_CLOSE))
            return 0
        if again := _NEW_CALL.search(text, body):
            is_in_string = is_in_string or _is_in_string(text[body : again.start()])
            return at - (len(text) if is_in_string else again.start())
        found, end = self._read_json(text, body)
        if found or (first < 0 and (found := self._read(text[body:]))):
            calls += found
            self.found = self._behind_call = True
            return len(text) - at
        return at - len(text)

    def _read_json(self, text: str, at: int) -> tuple[list[PromptedCall], int]:
        """Return the calls of a block that is valid JSON, and its end."""
        values: list[Any] = []
        while (at := skip_between(text, at)) < len(text) and text[at] in "{[":
            try:
                value, at = value_at(text, at)
            except (ValueError, RecursionError):
                return [], 0
            values.append(value)
        if at < len(text) and not text.startswith(_CLOSE, at):
            return [], 0
        return self._calls(values), min(at + len(_CLOSE), len(text))

    def _text(self, text: str) -> str:
        if self._behind_call and text:
            text = text.lstrip()
            self._behind_call = not text
        self._begun = self._begun or bool(text.strip())
        self.lines.add(text)
        return text

    def _read(self, block: str) -> list[PromptedCall]:
        """Return the calls in a `<tool_call>` block, also in a fence or with words around it."""
        values = read_values(block, 0)
        if values is None and CALL_OPEN not in block:
            values = [find_json(block)]
        return self._calls(values or [])

    def _calls(self, values: list[Any]) -> list[PromptedCall]:
        calls = [_call_from(value) for value in values]
        found = [call for call in calls if call and (self._prompted or call.name in self._names)]
        return found if len(found) == len(calls) else []

    def _read_tail(self, text: str) -> list[PromptedCall]:
        """Return the calls in the text after a mark; none unless all of it is calls of known tools."""
        text = _without_end_tokens(text)
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


@functools.cache
def _any_of(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, marks)))


def _begun(text: str, marks: tuple[str, ...]) -> int:
    """Return how many characters at the end of a text may be the beginning of a mark."""
    at = max(text.rfind("<", -_LONGEST_MARK), text.rfind("[", -_LONGEST_MARK))
    return len(text) - at if at >= 0 and any(mark.startswith(text[at:]) for mark in marks) else 0


def _is_in_string(text: str) -> bool:
    """Return whether a text ends inside a JSON string."""
    try:
        at = skip_between(text, 0)
        while text[at : at + 1] in ("{", "["):
            at = skip_between(text, value_at(text, at)[1])
    except (ValueError, RecursionError) as err:
        return str(err).startswith("Unterminated string")
    return False


def _ends_line(text: str, at: int, *, is_last: bool) -> bool | None:
    """Return whether only calls follow on a line; None if that is not clear yet."""
    at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
    rest = text[at : at + _LONGEST_MARK]
    if not rest:
        return True if is_last else None
    if rest[0] == "\n" or rest.startswith(_BEHIND_CALL):
        return True
    return None if not is_last and any(mark.startswith(rest) for mark in _BEHIND_CALL) else False


def _without_end_tokens(text: str) -> str:
    for token in _END_TOKENS * 2:
        text = text.rstrip().removesuffix(token)
    return text


def find_calls(text: str, names: frozenset[str] = frozenset()) -> list[PromptedCall]:
    """Return the calls in a text: of any tool in the form `<tool_call>`, and of these tools in any form."""
    splitter = ToolCallSplitter(names)
    return [*splitter.feed(text)[1], *splitter.close()[1]]


def _call_from(value: object) -> PromptedCall | None:
    """Return the call of a decoded value with `arguments` or `parameters`, also in a `function` object; or None."""
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
