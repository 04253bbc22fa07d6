"""What an engine is: it gets a checked request and yields deltas, whose last one says why it finished."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kluster_integrations.catalog import ModelSpec

__all__ = ["CallDelta", "ChatRequest", "Delta", "Engine", "Finish", "Message", "Tool"]

Message = dict[str, object]
Schema = dict[str, object]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client offers."""

    name: str
    description: str = ""
    parameters: Schema = field(default_factory=dict)

    @classmethod
    def parse(cls, value: object) -> Tool | None:
        """Return the tool of an OpenAI tool object (or of its bare function), None if it is none."""
        inner = value.get("function", value) if isinstance(value, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            return None
        parameters = inner.get("parameters")
        return cls(
            inner["name"],
            str(inner.get("description") or ""),
            parameters if isinstance(parameters, dict) else {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A chat request that has passed the rules.

    Args:
        spec: The model, with the windows of the plan.
        messages: Checked messages; unknown keys are gone.
        stream: Whether the answer is streamed.
        tools: The tools as they were sent, [] without.
        tool_choice: `auto`, `none`, `required`, or the name of the one tool to call.
        parallel: Whether several tools may be called at once.
        stop: Up to four strings that end the answer.
        max_tokens: Tokens that the answer may have, from the request or what the window leaves.
        sampling: `temperature`, `top_p` and `seed`, where given.
        top_logprobs: Alternatives for each token; None if no log probabilities are asked for.
        prompt_tokens: Tokens of the prompt, as the emulator counts.
    """

    spec: ModelSpec
    messages: list[Message]
    stream: bool = False
    tools: list[dict[str, object]] = field(default_factory=list)
    tool_choice: str = "auto"
    parallel: bool = True
    stop: tuple[str, ...] = ()
    max_tokens: int
    sampling: dict[str, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a tool call: the first of an index has id and name, the others more of the arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """Why an answer ended, and what it took.

    Args:
        reason: OpenAI's finish reason.
        stop: The stop string that was met, if one was.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of the answer, thoughts and tool calls included.
    """

    reason: Literal["stop", "length", "tool_calls"]
    stop: str | None
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer; exactly one field is set."""

    reasoning: str = ""
    content: str = ""
    call: CallDelta | None = None
    finish: Finish | None = None


class Engine(Protocol):
    """Writes answers."""

    def run(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Yield the answer's deltas, the finish last.

        Raises:
            ApiError: If there is no answer (only the upstream engine).
        """
        ...

    async def close(self) -> None:
        """Let go of connections; the engine works again afterwards."""
        ...
