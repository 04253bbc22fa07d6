"""`kluster logs`: the conversations that `kluster chat` has kept."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from kluster_integrations.cli import _log
from kluster_integrations.cli._models import complete_model, resolve
from kluster_integrations.cli._terminal import money
from kluster_integrations.cli._text import extract, plain
from kluster_integrations.errors import KlusterError

__all__ = ["app"]

app = typer.Typer(help="Show the conversations of `kluster chat`. They are kept on this machine only.")


@app.callback(invoke_without_command=True)
def _list(
    context: typer.Context,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            min=0,
            metavar="N",
            help="How many turns (questions with their answers); 0 means all. Default: 3, or all of a conversation.",
        ),
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", "-q", metavar="TEXT", help="Only turns that contain this text.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="Only turns with this model.", autocompletion=complete_model
        ),
    ] = None,
    current: Annotated[
        bool, typer.Option("--current", "-c", help="Only the last conversation, with which `chat -c` goes on.")
    ] = False,
    conversation: Annotated[
        int | None, typer.Option("--conversation", min=1, metavar="N", help="Only the turns of this conversation.")
    ] = None,
    response: Annotated[bool, typer.Option("--response", "-r", help="Print the last answer alone.")] = False,
    extracted: Annotated[
        bool, typer.Option("--extract", "-x", help="Print the first fenced code block of the last answer alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")] = False,
) -> None:
    """Show the last questions and answers."""
    if context.invoked_subcommand is not None:
        return
    if current and conversation is None:
        conversation = _log.last_conversation()
    alone = response or extracted
    if count is None:
        count = 0 if conversation is not None else 3
    last = 1 if alone else count or None
    if query is None and model is None:
        turns = _log.read_turns(last=last, conversation=conversation)
    else:
        id_, text = model and resolve(model), (query or "").casefold()
        found = _log.read_turns(conversation=conversation)
        turns = [turn for turn in found if id_ in (None, turn.model) and text in _as_markdown(turn).casefold()]
        turns = turns[-last:] if last else turns
    for turn in turns:
        if as_json:
            print(json.dumps(turn._asdict(), ensure_ascii=False))
        elif alone:
            print(plain(extract(turn.answer) if extracted else turn.answer))
        else:
            print(plain(_as_markdown(turn)))
    if not turns and (query is not None or model is not None):
        print("No turn matches.", file=sys.stderr)
        return
    if not turns and conversation is not None:
        raise KlusterError(f"There is no conversation {conversation}.", hint="`kluster logs` lists them.")
    if not turns:
        print("Nothing is kept.", file=sys.stderr)
    elif sys.stdout.isatty() and not alone and not as_json:
        print(f"Kept in {_log.log_file()}; `kluster chat -c` goes on.", file=sys.stderr)


app.command("list")(_list)  # as `llm` has it


@app.command()
def path() -> None:
    """Print where the log is."""
    print(_log.log_file())


@app.command()
def on() -> None:
    """Keep conversations. This is the default."""
    _switch(None)


@app.command()
def off() -> None:
    """Keep no new conversations. `kluster logs clear` removes the old ones."""
    _switch(False)


@app.command()
def clear() -> None:
    """Remove all conversations, and the history of typed lines."""
    count = _log.clear()
    _log.log_file().with_name("history").unlink(missing_ok=True)
    print(f"Removed: {count} turns and the history.", file=sys.stderr)


def _switch(setting: bool | None) -> None:
    from kluster_integrations.config import change_settings

    change_settings(log=setting)
    print(f"Conversations are {'not ' if setting is False else ''}kept.", file=sys.stderr)


def _as_markdown(turn: _log.Turn) -> str:
    mark = "~" if turn.estimated else ""
    tokens = f"{mark}{turn.prompt_tokens} + {mark}{turn.completion_tokens} tokens"
    head = f"# {turn.at}, conversation {turn.conversation}, {turn.model}"
    question = next((_text(m["content"]) for m in turn.messages if m["role"] == "user"), "")
    return f"{head}\n\n## Question\n\n{question}\n\n## Answer\n\n{turn.answer}\n\n{tokens}, {money(turn.cost)}\n"


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] if part["type"] == "text" else "(an image)" for part in content)
