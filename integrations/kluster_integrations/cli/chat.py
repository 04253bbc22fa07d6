"""`kluster chat`: a question to a model, the answer as it comes; on a terminal also a conversation."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kluster_integrations.catalog import Plan
from kluster_integrations.cli import _log
from kluster_integrations.cli._conversation import Conversation
from kluster_integrations.cli._errors import UsageError, connect
from kluster_integrations.cli._images import image_url
from kluster_integrations.cli._models import complete_model, default_model, is_model, near_model, resolve
from kluster_integrations.cli._terminal import is_interactive, read_stdin
from kluster_integrations.cli._text import extract, plain
from kluster_integrations.errors import KlusterError, NotFoundError

if TYPE_CHECKING:
    from kluster_integrations.cli._tools import Tool
    from kluster_integrations.core.types import Completion

__all__ = ["run"]

_OWN_OPTIONS = {
    "model": "--model",
    "messages": "PROMPT, --system and --image",
    "tools": "--tool",
    "response_format": "--schema",
    "stream": "a pipe or --json for an answer that is whole",
}


def run(
    first: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="An id or an alias. Default: the model of `kluster models default`.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="The question. Text from a pipe is put before it; '-' means that text alone. "
            "Without a question, a terminal starts a conversation.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="The model, as an option.", autocompletion=complete_model),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", metavar="TEXT", help="The system prompt.")] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image", "-i", "-a", metavar="FILE|URL", help="An image to ask about, '-' is stdin; may be repeated."
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")] = False,
    conversation: Annotated[
        int | None,
        typer.Option("--conversation", min=1, metavar="N", help="Go on with conversation N of `kluster logs`."),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(metavar="SCHEMA", help="Answer with JSON: a JSON schema's file, or name:type,… (str, int, …)."),
    ] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option("--tool", "-T", metavar="MODULE:FUNCTION", help="A function it may call; may be repeated."),
    ] = None,
    usage: Annotated[bool, typer.Option("--usage", "-u", help="Print tokens, cost and time, on stderr.")] = False,
    hide_reasoning: Annotated[
        bool, typer.Option("--hide-reasoning", "-R", help="Do not print the model's reasoning.")
    ] = False,
    extracted: Annotated[
        bool, typer.Option("--extract", "-x", help="Print only the first fenced code block of the answer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as one JSON object.")] = False,
    no_log: Annotated[bool, typer.Option("--no-log", "-n", help="Do not keep this conversation on disk.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The largest number of tokens in the answer.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-t", min=0, max=2, metavar="0..2", help="Randomness.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="NAME=VALUE", help="Another parameter, such as top_p=0.9; may be repeated."
        ),
    ] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Where the API is.")] = None,
    plan: Annotated[
        Plan | None, typer.Option(help="The account's plan; it decides how long prompts and answers may be.")
    ] = None,
) -> None:
    """Ask a model. The answer goes to stdout as it comes, the reasoning of the model, dimmed, to stderr."""
    named, prompt = _model_and_prompt(first, second, model)
    number = _log.last_conversation() if again and conversation is None else conversation
    if again and number is None:
        raise KlusterError("There is no conversation to continue.", hint="start one without -c: kluster chat.")
    params: dict[str, Any] = dict(map(_parameter, option or []))
    params |= {"max_completion_tokens": max_tokens} if max_tokens is not None else {}
    params |= {"temperature": temperature} if temperature is not None else {}
    if schema is not None:
        from kluster_integrations.cli._schema import read_schema

        form = {"name": "answer", "schema": read_schema(schema)}
        params["response_format"] = {"type": "json_schema", "json_schema": form}
    if extracted and as_json:
        raise UsageError("--extract and --json exclude each other.")
    tools: Sequence[Tool] = ()
    if tool:
        from kluster_integrations.cli._tools import load_tools

        tools = load_tools(tool)
    config = connect(base_url=base_url, plan=plan)
    chat = Conversation(named or "", config, params, tools, keeps_log=not no_log and _log.is_on())
    chat.shows_reasoning = not hide_reasoning
    if number is not None:
        last = _log.read_turns(conversation=number)
        if not last:
            raise KlusterError(f"There is no conversation {number}.", hint="`kluster logs` lists them.")
        chat.resume(number)
        chat.model = named or last[-1].model
    chat.model = chat.model or default_model()
    if system:
        chat.system = system
    images = [image_url(source) for source in image or []]
    if images:
        chat.check_vision()

    def after(answer: Completion) -> None:
        if answer.finish_reason == "length":
            print("Note: the answer was cut at its limit of tokens; --max-tokens raises it.", file=sys.stderr)
        if usage:
            print(chat.usage_line(answer), file=sys.stderr)

    if prompt is None and is_interactive():
        if as_json or extracted:
            raise UsageError(f"--{'json' if as_json else 'extract'} needs a PROMPT, or one on stdin.")
        from kluster_integrations.cli._repl import Repl

        Repl(chat, images, after).run()
        return
    if prompt is None or prompt == "-":
        text = read_stdin()
    else:
        piped = _piped()
        text = f"{piped}\n\n{prompt}" if piped else prompt
    if not text.strip():
        raise UsageError("PROMPT is empty.")
    try:
        answer = chat.ask(text, images, quiet=as_json or extracted)
    except NotFoundError as err:
        if first is not None and second is not None and not is_model(first):
            near = near_model(first)
            err.hint = f"did you mean {near!r}? " if near else ""
            err.hint += f"{first!r} was taken for the model: a question of several words needs quotes."
        raise
    if as_json:
        print(json.dumps(_as_dict(answer, chat.cost(answer)), ensure_ascii=False))
    else:
        if extracted:
            print(plain(extract(answer.text)))
        after(answer)


def _model_and_prompt(first: str | None, second: str | None, option: str | None) -> tuple[str | None, str | None]:
    """Return the id of the model that is named, and the prompt; None is what is not there."""
    if option and second is not None:
        raise UsageError("with --model there is one PROMPT: put it in quotes.")
    if option:
        return resolve(option), first
    if first is None or second is not None:
        return first and resolve(first), second
    if is_model(first):
        return resolve(first), None
    if " " not in first and (near := near_model(first)):
        raise UsageError(f"{first!r} is not a model; did you mean {near!r}? As a question it needs --model.")
    return None, first


def _parameter(text: str) -> tuple[str, Any]:
    """Return the name and the value of `--option`; a value that is not JSON is a text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--option {text!r} must be NAME=VALUE, such as top_p=0.9.")
    if name in _OWN_OPTIONS:
        raise UsageError(f"--option {name} cannot be set: use {_OWN_OPTIONS[name]}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _piped() -> str:
    """Return what a pipe or a file brings on stdin; elsewhere nothing, for reading could wait for ever."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError):  # there is no stdin
        return ""
    return read_stdin() if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else ""


def _as_dict(answer: Completion, cost: float | None) -> dict[str, Any]:
    return {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "tool_calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in answer.tool_calls],
        "usage": answer.usage._asdict(),
        "finish_reason": answer.finish_reason,
        "model": answer.model,
        "id": answer.id,
        "cost": None if cost is None else float(f"{cost:.12g}"),  # 0.000232, and not 0.00023200000000000003
    }
