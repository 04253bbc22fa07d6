"""`kluster aliases`: short names of models."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from kluster_integrations.cli._errors import UsageError
from kluster_integrations.cli._models import ALIASES, aliases, complete_model, own_aliases, to_keep

__all__ = ["app"]

app = typer.Typer(help="Short names of models, such as `llama`.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The alias.", show_default=False)]


@app.callback(invoke_without_command=True)
def _list(context: typer.Context) -> None:
    """List the aliases, those that came with the package and your own."""
    if context.invoked_subcommand is None:
        found = aliases()
        width = max(map(len, found))
        print("\n".join(f"{name:<{width}}  {model}" for name, model in found.items()))


app.command("list")(_list)  # as `llm` has it


@app.command("set")
def set_(
    name: Name,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An id.", autocompletion=complete_model, show_default=False)
    ],
) -> None:
    """Give a model a short name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise UsageError(f"NAME {name!r} must be lower case letters, digits, '.', '_' and '-'.")
    _change({**own_aliases(), name: to_keep(model)})


@app.command()
def remove(name: Name) -> None:
    """Remove an alias of your own."""
    own = own_aliases()
    if name not in own:
        why = "came with the package" if name in ALIASES else "is not there"
        raise UsageError(f"NAME {name!r} {why}; your own are: {', '.join(own) or 'none'}.")
    del own[name]
    _change(own)


@app.command()
def path() -> None:
    """Print the path of the settings: aliases and the default model."""
    from kluster_integrations.config import settings_file

    print(settings_file())


def _change(own: dict[str, str]) -> None:
    from kluster_integrations.config import change_settings

    change_settings(aliases=own or None)
