"""`kluster chat`: a question to a model, the answer as it comes; on a terminal also a conversation."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kluster_integrations.catalog import ModelSpec, Plan
from kluster_integrations.cli._errors import UsageError, connect, report
from kluster_integrations.cli._images import image_url
from kluster_integrations.cli._terminal import AnswerPrinter, console, is_interactive
from kluster_integrations.errors import AuthenticationError, KlusterError

if TYPE_CHECKING:
    from kluster_integrations.config import KlusterConfig
    from kluster_integrations.core.types import Completion, Delta

__all__ = ["run"]


def run(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model's id; `kluster models` lists them.", show_default=False)
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="The question; what a pipe brings goes before it, and '-' is that alone. "
            "Without a question a terminal starts a conversation.",
        ),
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="FILE|URL", help="An image to ask about; may be repeated.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system prompt.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with all of the answer.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="Most tokens of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, metavar="0..2", help="Randomness.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Where the API is.")] = None,
    plan: Annotated[Plan | None, typer.Option(help="The account's plan; decides windows.")] = None,
) -> None:
    """Ask a model. The answer streams to stdout, thoughts of reasoning models, dimmed, to stderr."""
    params = {"max_completion_tokens": max_tokens, "temperature": temperature}
    chat = Chat(model, connect(base_url=base_url, plan=plan), params)
    if system:
        chat.messages.append({"role": "system", "content": system})
    images = [image_url(source) for source in image or []]
    if prompt is None and is_interactive():
        if as_json:
            raise UsageError("--json needs a PROMPT, or one on stdin.")
        _converse(chat, images)
        return
    if prompt is None or prompt == "-":
        text = _from_stdin()
    else:
        piped = _piped()
        text = f"{piped}\n\n{prompt}" if piped else prompt
    if not text.strip():
        raise UsageError("PROMPT is empty.")
    chat.add_question(text, images)
    if as_json:
        from kluster_integrations.core.types import collect

        print(json.dumps(_as_dict(collect(chat.deltas()), chat.spec), ensure_ascii=False))
    else:
        _note_cut(_show(chat))


@dataclass
class Chat:
    """A conversation with a model.

    Attributes:
        messages: The conversation so far, in OpenAI's shape.
    """

    model: str
    config: KlusterConfig
    params: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def spec(self) -> ModelSpec:
        """What the catalog knows of the model."""
        from kluster_integrations import catalog

        return catalog.get(self.model, config=self.config)

    def add_question(self, text: str, images: Iterable[str] = ()) -> None:
        """Add a message of the user's."""
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        content = [*parts, {"type": "text", "text": text}] if parts else text
        self.messages.append({"role": "user", "content": content})

    def deltas(self) -> Iterator[Delta]:
        """Send the conversation, and yield the answer as it comes."""
        from kluster_integrations.core.client import Client

        client = Client(self.config)
        return client.stream(client.build(self.model, self.messages, self.params, stream=True))


def _piped() -> str:
    """Return what a pipe or a file brings on stdin; elsewhere nothing, for reading could wait for ever."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError):  # there is no stdin
        return ""
    return _from_stdin() if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else ""


def _from_stdin() -> str:
    try:
        return sys.stdin.read().rstrip("\n")
    except UnicodeDecodeError:
        raise UsageError("stdin is not text; pass images with --image FILE.") from None


def _show(chat: Chat) -> Completion:
    """Print the answer as it comes, and return it."""
    from kluster_integrations.core.types import collect

    printer = AnswerPrinter(console(), console(stderr=True))

    def shown() -> Iterator[Delta]:
        for delta in chat.deltas():
            printer.add(delta.content, delta.reasoning)
            yield delta

    try:
        return collect(shown())
    finally:
        printer.end()


def _note_cut(answer: Completion) -> None:
    if answer.finish_reason == "length":
        print("Note: the answer was cut at its limit of tokens; --max-tokens raises it.", file=sys.stderr)


def _converse(chat: Chat, images: list[str]) -> None:
    with suppress(ImportError):  # where there is one, `input` edits lines and remembers them
        import readline  # noqa: F401
    print(f"{chat.model}; /exit or Ctrl-D ends.", file=sys.stderr)
    while (text := _ask_user()) is not None:
        if not text.strip():
            continue
        chat.add_question(text, images)
        try:
            answer = _show(chat)
        except AuthenticationError:
            raise
        except KlusterError as err:
            report(err)
            chat.messages.pop()  # the question may be asked again, with its images
            continue
        _note_cut(answer)
        images = []
        chat.messages.append({"role": "assistant", "content": answer.text})


def _ask_user() -> str | None:
    """Return the next line, None at the end."""
    if not sys.stdout.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        text = input("> " if sys.stdout.isatty() else "")
    except EOFError:
        print(file=sys.stderr)
        return None
    return None if text.strip() == "/exit" else text


def _as_dict(answer: Completion, spec: ModelSpec) -> dict[str, Any]:
    usage = answer.usage
    cost = spec.cost(usage.prompt_tokens, usage.completion_tokens)
    return {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "tool_calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in answer.tool_calls],
        "usage": usage._asdict(),
        "finish_reason": answer.finish_reason,
        "model": answer.model,
        "id": answer.id,
        "cost": None if cost is None else float(f"{cost:.12g}"),  # 0.000232, and not 0.00023200000000000003
    }
