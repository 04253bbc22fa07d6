"""`kluster verify`: is an answer reliable?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kluster_integrations.cli._errors import UsageError, connect
from kluster_integrations.cli._terminal import console, read_file, read_stdin

__all__ = ["run"]

_NOT_RELIABLE = 3


def run(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The question.", show_default=False)],
    output: Annotated[str, typer.Argument(metavar="ANSWER", help="The answer; '-' is stdin.", show_default=False)],
    context: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The text that the answer must agree with.")
    ] = None,
    context_file: Annotated[Path | None, typer.Option(metavar="FILE", help="The same, from a file.")] = None,
    search: Annotated[bool, typer.Option("--search", help="Show the search results of the service.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Where the API is.")] = None,
) -> None:
    """Check an answer against a context, or against general knowledge. Exits with 3 if the answer is not reliable."""
    from kluster_integrations.verify import Verifier

    if context is not None and context_file is not None:
        raise UsageError("--context and --context-file exclude each other.")
    if context_file is not None:
        context = read_file("--context-file", context_file)
    verdict = Verifier(connect(base_url=base_url)).check(
        prompt, read_stdin() if output == "-" else output, context, search=search
    )
    if as_json:
        found = {"search_results": list(verdict.search_results)} if search else {}
        fields = {"reliable": verdict.reliable, "explanation": verdict.explanation, "usage": verdict.usage._asdict()}
        print(json.dumps({**fields, **found}, ensure_ascii=False))
    else:
        out = console()
        out.print("reliable" if verdict.reliable else "not reliable", style="green" if verdict.reliable else "red")
        out.print(verdict.explanation, soft_wrap=True)
        for result in verdict.search_results:
            out.print(f"- {result.get('title', '')}: {result.get('link', '')}", soft_wrap=True)
    if not verdict.reliable:
        raise typer.Exit(_NOT_RELIABLE)
