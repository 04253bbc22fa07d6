"""The interface of an engine: it gets a checked request and yields deltas; the last has the finish reason."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from kluster_integrations.catalog import ModelSpec

__all__ = ["CallDelta", "ChatRequest", "Delta", "Engine", "Finish", "Message", "Stream", "text_of"]

Message = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A chat request that has passed the rules.

    Args:
        spec: The model, with the windows of the plan.
        messages: The checked messages, without unknown keys.
        body: The request's JSON as it came.
        stream: Whether the answer is streamed.
        tools: The tools as they were sent; [] without tools.
        tool_choice: `auto`, `none`, `required`, or the name of the one tool to call.
        stop: Up to four strings that end the answer.
        max_tokens: The most tokens of the answer: the request's limit, or the rest of the window.
        top_logprobs: The number of alternatives per token; None if the request asks for no log probabilities.
        prompt_tokens: The prompt's tokens, as the emulator counts them.
    """

    spec: ModelSpec
    messages: list[Message]
    body: Mapping[str, object] = field(default_factory=dict)
    stream: bool = False
    tools: list[dict[str, object]] = field(default_factory=list)
    tool_choice: str = "auto"
    stop: tuple[str, ...] = ()
    max_tokens: int
    top_logprobs: int | None = None
    prompt_tokens: int

    @property
    def model(self) -> str:
        """The model's id."""
        return self.spec.id

    @property
    def text(self) -> str:
        """The text of the last message, which may be a tool's result."""
        return text_of(self.messages[-1])


def text_of(message: Message) -> str:
    """Return the text of a message, without its images."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return str(content or "")


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of a tool call. The first part of an index has id and name; the others continue the arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """Why an answer ended (with the stop string, if it was one), and its tokens, including reasoning and calls.

    `in_thought` says whether it ended inside the reasoning. `usage` has the numbers that a reply states.
    """

    reason: str
    stop: str | None
    prompt_tokens: int
    completion_tokens: int
    in_thought: bool = False
    usage: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """What is added to an answer; exactly one field is set."""

    reasoning: str = ""
    content: str = ""
    call: CallDelta | None = None
    finish: Finish | None = None


Stream = AsyncGenerator[Delta, None]
Engine = Callable[[ChatRequest], object]
"""A user's engine: a function that gets a request and returns a reply (see `Settings`), or None for the generic one."""
