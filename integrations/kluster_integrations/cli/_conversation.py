"""A conversation with a model: what was said, the tools it may call, and the log that keeps it."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.cli import _log
from kluster_integrations.cli._errors import UsageError, report
from kluster_integrations.cli._terminal import AnswerPrinter, console, money
from kluster_integrations.cli._tools import Tool
from kluster_integrations.cli._waiting import shown_waits
from kluster_integrations.errors import BadRequestError, KlusterError

if TYPE_CHECKING:
    from kluster_integrations.config import KlusterConfig
    from kluster_integrations.core.client import Client
    from kluster_integrations.core.types import ChatRequest, Completion, Delta

__all__ = ["STOPPED", "Conversation"]

STOPPED = "stopped"
"""The `finish_reason` of an answer that the user has ended."""
_MOST_ROUNDS = 10


@dataclass
class Conversation:
    """A conversation with a model.

    Attributes:
        model: The id of the model that is asked next.
        config: Where it is.
        params: OpenAI's parameters by name.
        tools: What the model may call.
        keeps_log: Whether each turn is kept; false after the log has failed once.
        stoppable: Whether Ctrl-C ends the answer alone.
        shows_reasoning: Whether the reasoning is printed.
        number: The conversation's number in the log, None before the first turn is kept.
        messages: The conversation so far, in OpenAI's shape.
        seconds: How long the last turn took.
    """

    model: str
    config: KlusterConfig
    params: dict[str, Any]
    tools: Sequence[Tool] = ()
    keeps_log: bool = True
    stoppable: bool = False
    shows_reasoning: bool = True
    number: int | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    _kept_system: str | None = None

    @property
    def spec(self) -> ModelSpec:
        """What the catalog knows of the model."""
        from kluster_integrations import catalog

        return catalog.get(self.model, config=self.config)

    def check(self) -> None:
        """Build a request and do not send it: a wrong parameter is an error before the first question.

        Raises:
            KlusterError: If the parameters, the tools or the schema cannot be sent.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first question says it
            self._build([{"role": "user", "content": "?"}])

    def _build(self, messages: list[dict[str, Any]]) -> ChatRequest:
        params = {**self.params, "tools": [tool.definition for tool in self.tools] or None}
        extra = params.pop("extra_body", None)
        return self._client.build(self.model, messages, params, stream=True, extra_body=extra)

    def check_vision(self) -> None:
        """Refuse an image that the model cannot see, before anything is asked.

        Raises:
            BadRequestError: If the model is known to take no images.
        """
        from kluster_integrations import catalog

        if not self._sees:
            able = ", ".join(spec.id for spec in catalog.all_models(self.config) if spec.supports_vision)
            raise BadRequestError(f"model={self.model!r} takes no images.", hint=f"use one of {able}.")

    @property
    def _sees(self) -> bool:
        return self.spec.supports_vision or not self.spec.known

    @property
    def system(self) -> str | None:
        """The system prompt."""
        return self.messages[0]["content"] if self.messages and self.messages[0]["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[1:] if self.system is not None else self.messages
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    @cached_property
    def _client(self) -> Client:
        from kluster_integrations.core.client import Client

        return Client(self.config)

    def resume(self, number: int) -> None:
        """Take over the messages of a conversation that the log has."""
        for turn in _log.read_turns(conversation=number):
            for message in turn.messages:
                if message["role"] == "system":
                    self.system = message["content"]
                else:
                    self.messages.append(message)
        self.number, self._kept_system = number, self.system

    def clear(self) -> None:
        """Begin a new conversation, with the same system prompt."""
        system = self.system
        self.messages, self.number, self._kept_system = [], None, None
        self.system = system

    def ask(self, text: str, images: Iterable[str] = (), *, quiet: bool = False) -> Completion:
        """Ask, run the tools that the model calls, and return the last answer, with the tokens of all.

        An error, and an answer that was stopped before its first word, leave the conversation as it was.

        Args:
            text: The question.
            images: URLs of images that belong to it.
            quiet: Whether nothing is printed.

        Raises:
            UsageError: If the question holds bytes that are not text.
            KlusterError: Whatever else goes wrong.
            KeyboardInterrupt: If the user ends the answer and the conversation is not `stoppable`.
        """
        from kluster_integrations.core.types import collect

        try:
            text.encode()
        except UnicodeError:  # Python reads bytes that are not UTF-8 as surrogates
            raise UsageError("PROMPT is not UTF-8 text; check what was pasted, and the terminal's encoding.") from None
        start, began = len(self.messages), time.perf_counter()
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        self.messages.append({"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text})
        received: list[Delta] = []
        usage = None
        try:
            for _ in range(_MOST_ROUNDS):
                self._receive(received, start, quiet=quiet)
                answer = collect(received)
                usage = usage.plus(answer.usage) if usage else answer.usage
                received.clear()
                calls = answer.tool_calls if self.tools else []
                self.messages.append(_message(answer, calls))
                if not calls:
                    break
                self._run_tools(answer, quiet=quiet)
            else:
                hint = "ask more simply, or offer fewer tools."
                raise KlusterError(f"The model called tools {_MOST_ROUNDS} times and did not answer.", hint=hint)
        except KeyboardInterrupt:
            answer = replace(collect(received), finish_reason=STOPPED, tool_calls=[])
            del self.messages[start + 1 :]  # calls without results would be refused
            self.messages.append(_message(answer, []))
            if not self.stoppable or not answer.text.strip():
                del self.messages[start:]
            if not self.stoppable:
                raise
        except BaseException:
            del self.messages[start:]
            raise
        answer = replace(answer, usage=usage or answer.usage)
        self.seconds = time.perf_counter() - began
        if self.keeps_log and len(self.messages) > start:
            self._keep(self.messages[start:], answer)
        return answer

    def cost(self, answer: Completion) -> float | None:
        """Return what an answer cost in US$, None where the price is unknown."""
        return self.spec.cost(answer.usage.prompt_tokens, answer.usage.completion_tokens)

    def usage_line(self, answer: Completion) -> str:
        """Return tokens, cost and time of the last turn."""
        usage, mark = answer.usage, "~" if answer.usage.estimated else ""
        tokens = f"{mark}{usage.prompt_tokens} + {mark}{usage.completion_tokens} tokens"
        return f"{tokens}, {money(self.cost(answer))}, {self.seconds:.1f} s" + (" (~ estimated)" if mark else "")

    def _receive(self, received: list[Delta], start: int, *, quiet: bool) -> None:
        """Send the conversation, print the answer as it comes, and add its deltas to `received`.

        Args:
            received: Gets the deltas.
            start: Where the turn begins: the images of earlier ones may have been for another model.
            quiet: Whether nothing is printed.
        """
        printer = None if quiet else AnswerPrinter(console(), console(stderr=True))
        try:
            with shown_waits():
                messages = self.messages
                if not self._sees:
                    messages = [*map(_without_images, messages[:start]), *messages[start:]]
                for delta in self._client.stream(self._build(messages)):
                    received.append(delta)
                    if printer is not None:
                        printer.add(delta.content, delta.reasoning if self.shows_reasoning else "")
        finally:
            if printer is not None:
                printer.end()

    def _run_tools(self, answer: Completion, *, quiet: bool) -> None:
        by_name = {tool.name: tool for tool in self.tools}
        for call in answer.tool_calls:
            result = by_name[call.name].run(call.arguments)
            if not quiet:
                shown = result if len(result) <= 200 else f"{result[:200]}…"
                console(stderr=True).print(f"-> {call.name}({call.arguments}) returns {shown}", style="dim")
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

    def _keep(self, added: list[dict[str, Any]], answer: Completion) -> None:
        if self.system != self._kept_system:
            added = [{"role": "system", "content": self.system or ""}, *added]
        usage = answer.usage
        numbers = (usage.prompt_tokens, usage.completion_tokens, usage.estimated, self.cost(answer), self.seconds)
        try:
            is_new = not _log.is_there()
            turn = _log.Turn(self.model, added, answer.text, answer.reasoning, *numbers, conversation=self.number)
            self.number = _log.add_turn(turn)
        except KlusterError as err:
            self.keeps_log = False
            report(err)  # the answer is there: no reason to fail
            return
        self._kept_system = self.system
        if is_new and sys.stderr.isatty() and not self.stoppable:  # a conversation has said so at its beginning
            print(f"Note: conversations are kept in {_log.log_file()}; --no-log keeps none.", file=sys.stderr)


def _without_images(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with a note in the place of each image."""
    if isinstance(message["content"], str):
        return message
    note = {"type": "text", "text": "[image: the model takes no images]"}
    return {**message, "content": [part if part["type"] == "text" else note for part in message["content"]]}


def _message(answer: Completion, calls: Sequence[Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message
