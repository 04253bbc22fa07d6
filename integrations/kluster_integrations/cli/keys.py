"""`kluster keys`: a key in the platform's keyring, for those who do not want it in a variable."""

from __future__ import annotations

import sys
from getpass import getpass

import typer

from kluster_integrations.cli._errors import UsageError
from kluster_integrations.cli._terminal import is_interactive

__all__ = ["app"]

app = typer.Typer(help="Keep the key in the keyring of your system. KLUSTER_API_KEY comes first if it is set.")


@app.callback(invoke_without_command=True)
def _show(context: typer.Context) -> None:
    """Say where the key comes from, and not what it is."""
    if context.invoked_subcommand is None:
        from kluster_integrations.config import key_source

        print(key_source() or "There is no key: set KLUSTER_API_KEY, or say `kluster keys set`.")


@app.command("set")
def set_() -> None:
    """Ask for the key, and put it in the keyring. It is not shown, and may also come from a pipe."""
    from pydantic import SecretStr, ValidationError

    from kluster_integrations.config import KlusterConfig, env_source, store_key

    try:
        typed = (getpass("Key: ") if is_interactive() else sys.stdin.read()).strip()
    except KeyboardInterrupt:
        print(file=sys.stderr)  # getpass leaves the cursor behind its prompt
        raise
    try:
        if not typed:
            raise UsageError("the key is empty.")
        KlusterConfig(api_key=SecretStr(typed))
    except ValidationError:
        raise UsageError("the key (not shown) holds white space or characters that no header can carry.") from None
    store_key(typed)
    print("The key is in the keyring.", file=sys.stderr)
    if variable := env_source("api_key"):
        print(f"Note: {variable} is set, and comes first.", file=sys.stderr)


@app.command()
def remove() -> None:
    """Remove the key from the keyring."""
    from kluster_integrations.config import forget_key

    forget_key()
    print("The key is no longer in the keyring.", file=sys.stderr)
