"""`kluster models`: what each model can do, how much it takes and what it costs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec, Plan
from kluster_integrations.cli._errors import NO_API, connect
from kluster_integrations.cli._models import complete_model, default_model, to_keep
from kluster_integrations.cli._terminal import console
from kluster_integrations.errors import NotFoundError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["app"]

app = typer.Typer()

_TABLE_WIDTH = 126


@app.callback(invoke_without_command=True)
def _list(
    context: typer.Context,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the server, and list what it has.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    plan: Annotated[Plan | None, typer.Option(help="Show the windows of this plan.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="The server for --refresh.")] = None,
) -> None:
    """List the models. Prices are US$ per million tokens; '-' means unknown."""
    if context.invoked_subcommand is not None:
        return
    config = connect(plan=plan, base_url=base_url)
    try:
        specs = catalog.refresh(config) if refresh else catalog.all_models(config)
    except NotFoundError as err:
        err.hint = NO_API
        raise
    specs = [spec.for_plan(config.plan) for spec in specs]
    if as_json:
        print(json.dumps([dataclasses.asdict(spec) for spec in specs], default=sorted, ensure_ascii=False, indent=2))
        return
    out = console()
    if out.width >= _TABLE_WIDTH:
        out.print(_table(specs))
        return
    from rich.padding import Padding
    from rich.text import Text

    for spec in specs:
        # Ids are there to be copied: never cut.
        out.print(spec.id, style="bold", soft_wrap=True)
        out.print(Padding(Text(_facts(spec), style="dim"), (0, 0, 0, 2)))


app.command("list")(_list)  # as `llm` has it


@app.command()
def default(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="An id or an alias.", autocompletion=complete_model, show_default=False),
    ] = None,
) -> None:
    """Show or set the model that `kluster chat` uses by default."""
    if model is not None:
        from kluster_integrations.config import change_settings

        to_keep(model)  # warns of what is probably a misspelling
        change_settings(default_model=model)
    print(default_model())


def _table(specs: Sequence[ModelSpec]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", no_wrap=True)
    for name in ("context", "output"):
        table.add_column(name, justify="right")
    for name in ("tools", "vision", "reasoning"):
        table.add_column(name)
    for name in ("$ in", "$ out"):
        table.add_column(name, justify="right")
    table.add_column("status")
    for spec in specs:
        flags = (spec.supports_tools, spec.supports_vision, spec.reasoning)
        row = (spec.id, *_windows(spec), *("yes" if flag else "-" for flag in flags), *_prices(spec), _status(spec))
        table.add_row(*(Text(cell) for cell in row), style="dim" if spec.status == "retired" else None)
    return table


def _facts(spec: ModelSpec) -> str:
    context, output = _windows(spec)
    flags = {"tools": spec.supports_tools, "vision": spec.supports_vision, "reasoning": spec.reasoning}
    facts = [f"context {context}", f"output {output}", *(name for name, flag in flags.items() if flag)]
    if spec.prices:
        facts.append("${} in, ${} out".format(*_prices(spec)))
    return "; ".join([*facts, _status(spec)])


def _windows(spec: ModelSpec) -> tuple[str, str]:
    return f"{spec.context_window:,}", f"{spec.max_output_tokens:,}" if spec.max_output_tokens else "-"


def _prices(spec: ModelSpec) -> tuple[str, str]:
    return (f"{spec.prices.input:.2f}", f"{spec.prices.output:.2f}") if spec.prices else ("-", "-")


def _status(spec: ModelSpec) -> str:
    purpose = "" if spec.purpose == "chat" else f", {spec.purpose}"
    return f"{spec.status}{purpose}"
