"""A conversation as the scripted engine sees it, whether its tools are native or written into the prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from kluster_integrations.emulator import react
from kluster_integrations.emulator.engine import ChatRequest, Message, Tool
from kluster_integrations.emulator.schemas import ANY_OBJECT, find_schema, json_values
from kluster_integrations.emulator.sections import listed_tools, matter

__all__ = ["Call", "Conversation", "Turn", "read", "text_of"]

_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)
_FORCED = re.compile(r"must call the tool [`'\"]?([\w.-]+)", re.IGNORECASE)
_REQUIRED = re.compile(r"must call at least one", re.IGNORECASE)
_SINGLE = re.compile(r"one call at a time", re.IGNORECASE)
_PROTOCOL = re.compile(r"</?tool|tool_call|\btools?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call.

    Args:
        name: The tool.
        arguments: Its arguments.
    """

    name: str
    arguments: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: `system`, `user`, `assistant`, or `tool` for a tool's result."""

    role: str
    text: str
    images: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request asks.

    Args:
        turns: All messages; tool protocol and schema are cut out of their text.
        tools: The tools on offer.
        choice: `auto`, `none`, `required`, or a tool's name.
        parallel: Whether several may be called at once.
        prompted: Whether the tools are written into the prompt.
        schema: The JSON schema that the prompt asks the answer to fit, None without.
        react: Whether the prompt asks for actions and a final answer as lines of text.
    """

    turns: list[Turn]
    tools: list[Tool]
    choice: str
    parallel: bool
    prompted: bool
    schema: object | None
    react: bool = False

    @property
    def ask_index(self) -> int:
        """The index of the last user message, -1 without one."""
        return max((i for i, turn in enumerate(self.turns) if turn.role == "user"), default=-1)

    @property
    def ask(self) -> str:
        """What is asked: the last user message, without one the last message."""
        return self.turns[self.ask_index].text

    @property
    def matter(self) -> str:
        """What of it is to be done, where the message has parts."""
        return matter(self.ask)

    @property
    def listed(self) -> list[str]:
        """The tools that the prompts list by name, for a plan."""
        texts = [turn.text for turn in self.turns if turn.role in {"system", "user"}]
        return listed_tools("\n\n".join(texts))

    @property
    def since(self) -> list[Turn]:
        """What has come after it: calls and their results."""
        return self.turns[self.ask_index + 1 :] if self.ask_index >= 0 else []

    @property
    def results(self) -> list[tuple[str, str]]:
        """Tool results since the last user message, each with its tool's name."""
        names = [call.name for turn in self.since for call in turn.calls]
        texts = [turn.text for turn in self.since if turn.role == "tool"]
        return [(names[i] if i < len(names) else "the tool", text) for i, text in enumerate(texts)]


def read(request: ChatRequest) -> Conversation:
    """Return the conversation of a request."""
    native = [tool for tool in map(Tool.parse, request.tools) if tool]
    texts = [text_of(message) for message in request.messages]
    if native:
        tools, choice, prompted = native, request.tool_choice, False
    else:
        tools, choice = _prompted_tools(request.messages, texts)
        prompted = bool(tools)
    if not tools and (found_tools := _react_tools(request.messages, texts)):
        return _read_react(request, texts, found_tools)
    schema: object | None = None
    turns: list[Turn] = []
    for message, text in zip(request.messages, texts, strict=True):
        if message["role"] in {"system", "user"}:
            found, text = find_schema(_without_tools(text) if prompted else text)
            # "Any object" does not undo a schema: a repair repeats only the wish for JSON.
            if found is not None and (schema is None or found != ANY_OBJECT):
                schema = found
        turns += _turns(message, text, prompted=prompted)
    parallel = request.parallel and not (prompted and any(map(_SINGLE.search, texts)))
    return Conversation(turns, tools, choice, parallel, prompted, schema)


def _react_tools(messages: list[Message], texts: list[str]) -> list[Tool]:
    prompts = (text for message, text in zip(messages, texts, strict=True) if message["role"] in {"system", "user"})
    return next(filter(None, map(react.read_tools, prompts)), [])


def _read_react(request: ChatRequest, texts: list[str], tools: list[Tool]) -> Conversation:
    names = {tool.name for tool in tools}
    schema: object | None = None
    turns: list[Turn] = []
    for message, text in zip(request.messages, texts, strict=True):
        role, rows = str(message["role"]), react.taken(text, names)
        if role == "assistant":
            turns += _acted(rows) if rows else [Turn(role, text)]
            continue
        if (seen := react.observation(text)) is not None and role == "user":
            turns.append(Turn("tool", seen))
            continue
        rest = react.without_protocol(text) if react.read_tools(text) else text
        found, rest = find_schema(rest)
        schema = found if found is not None and (schema is None or found != ANY_OBJECT) else schema
        if role == "system":
            turns.append(Turn(role, rest))
        elif not any(turn.calls for turn in turns) or not _PROTOCOL.search(rest):
            # What comes after an action and speaks of tools is a word on the protocol.
            turns += [Turn(role, react.ask(rest), _images(message)), *_acted(rows)]
    return Conversation(turns, tools, "auto", False, False, schema, react=True)


def _acted(rows: list[react.Taken]) -> list[Turn]:
    turns: list[Turn] = []
    for name, given, seen in rows:
        turns.append(Turn("assistant", "", calls=(Call(name, _arguments(given)),)))
        turns += [Turn("tool", seen)] if seen is not None else []
    return turns


def text_of(message: Message) -> str:
    """Return the text of a message, without its images."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return str(content or "")


def _images(message: Message) -> tuple[str, ...]:
    content = message.get("content")
    if not isinstance(content, list):
        return ()
    return tuple(part["image_url"]["url"] for part in content if part["type"] == "image_url")


def _turns(message: Message, text: str, *, prompted: bool) -> Iterable[Turn]:
    role = str(message["role"])
    if prompted and role == "user" and (responses := _RESPONSE.findall(text)):
        rest = _RESPONSE.sub("", text).strip()
        asks = [Turn("user", rest)] if rest and not _PROTOCOL.search(rest) else []
        return [*(Turn("tool", response) for response in responses), *asks]
    if prompted and role == "assistant" and _CALL.search(text):
        calls = tuple(call for call in map(_call, _CALL.findall(text)) if call)
        return [Turn(role, _CALL.sub("", text).strip(), calls=calls)]
    native = cast("list[dict[str, dict[str, str]]]", message.get("tool_calls") or [])
    calls = tuple(Call(call["function"]["name"], _arguments(call["function"]["arguments"])) for call in native)
    return [Turn(role, text, _images(message), calls)]


def _call(text: str) -> Call | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments")
    return Call(value["name"], arguments if isinstance(arguments, dict) else {})


def _arguments(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _prompted_tools(messages: list[Message], texts: list[str]) -> tuple[list[Tool], str]:
    for message, text in zip(messages, texts, strict=True):
        for block in _TOOLS.findall(text) if message["role"] in {"system", "user"} else ():
            tools = [tool for *_, value in json_values(block) if (tool := Tool.parse(value))]
            if not tools:
                continue
            forced = _FORCED.search(text)
            if forced and any(tool.name == forced[1] for tool in tools):
                return tools, forced[1]
            return tools, "required" if _REQUIRED.search(text) else "auto"
    return [], "auto"


def _without_tools(text: str) -> str:
    """Return a prompt without the block of tools and the paragraphs that say how to call them."""
    if not _TOOLS.search(text):
        return text
    marked = _TOOLS.sub("<tools></tools>", text)
    paragraphs = re.split(r"\n\s*\n", marked)
    return "\n\n".join(part for part in paragraphs if not _PROTOCOL.search(part))
