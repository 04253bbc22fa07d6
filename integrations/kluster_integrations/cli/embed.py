"""`kluster embed`: the vector of a text."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from kluster_integrations.cli._errors import UsageError, connect
from kluster_integrations.cli._models import complete_model, resolve
from kluster_integrations.cli._terminal import is_interactive, read_stdin

__all__ = ["run"]


def run(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT", help="The texts. Without one: the whole of stdin, as one text.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help="An id or an alias.", autocompletion=complete_model),
    ] = "bge",
    lines: Annotated[bool, typer.Option("--lines", "-l", help="Each line of stdin is a text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with usage.")] = False,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Where the API is.")] = None,
) -> None:
    """Print the vectors of texts: a JSON list per line."""
    from kluster_integrations.core.client import Client

    if lines and texts:
        raise UsageError("--lines and TEXT exclude each other.")
    if not texts:
        if is_interactive():
            raise UsageError("TEXT is missing.")
        piped = read_stdin()
        texts = piped.splitlines() if lines else [piped]
        if not piped.strip():
            raise UsageError("TEXT is missing, and stdin is empty.")
    id_ = resolve(model)
    found = Client(connect(base_url=base_url)).embed(id_, texts)
    if as_json:
        print(json.dumps({"model": id_, "vectors": found.rows, "usage": found.usage._asdict()}))
    else:
        print("\n".join(json.dumps(row) for row in found.rows))
