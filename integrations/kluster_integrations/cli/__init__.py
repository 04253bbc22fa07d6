"""The command line: `kluster chat`, `batch`, `models`, `emulator`, `doctor` and the others that `--help` lists.

One module a command. Each imports what is heavy inside its function, so that `kluster --help` costs little more than
typer, and works on the bare install; what needs an extra says which.
"""

from __future__ import annotations

from typing import Annotated

import typer

from kluster_integrations._version import __version__
from kluster_integrations.cli import (
    aliases,
    batch,
    chat,
    demo,
    doctor,
    embed,
    emulator,
    export,
    gateway,
    keys,
    logs,
    models,
    probe,
    verify,
)
from kluster_integrations.cli._errors import Group

__all__ = ["app", "main"]

# No markup mode: plain help needs no rich, and fits narrow terminals. No pretty tracebacks: they would show locals.
app = typer.Typer(
    name="kluster",
    cls=Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kluster-integrations {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """kluster.ai on the command line.

    The key comes from KLUSTER_API_KEY or `kluster keys set`, the address from KLUSTER_BASE_URL.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("demo")(demo.run)
app.command("chat")(chat.run)
app.add_typer(batch.app, name="batch")
app.command("verify")(verify.run)
app.command("embed")(embed.run)
app.add_typer(models.app, name="models")
app.add_typer(aliases.app, name="aliases")
app.add_typer(logs.app, name="logs")
app.add_typer(keys.app, name="keys")
app.command("emulator")(emulator.run)
app.command("gateway")(gateway.run)
app.command("doctor")(doctor.run)
app.command("probe")(probe.run)
app.command("export")(export.run)


def main() -> None:
    """Run the command line: the entry point of `kluster`. Exits; see `Group` for the exit codes."""
    app(prog_name="kluster")
