"""`kluster export litellm`: the configuration of another program, made from the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kluster_integrations.catalog import Plan
from kluster_integrations.cli._errors import UsageError
from kluster_integrations.errors import KlusterError

__all__ = ["run"]


def run(
    target: Annotated[  # noqa: ARG001 - there is one so far
        Literal["litellm"], typer.Argument(help="litellm: config.yaml for `litellm --config`.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only these models; repeated, or with commas. Default: all in service."),
    ] = None,
    plan: Annotated[
        Plan | None, typer.Option(help="The account's plan, whose limits are kept. Default: KLUSTER_PLAN.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="The Redis that several instances share, redis://host:6379/0.")
    ] = None,
    max_wait: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds that a request waits for the limits before it gets 429. Default: no end."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; default: standard output.")] = None,
) -> None:
    """Write a configuration that puts kluster.ai behind LiteLLM's proxy: models, prices, limits, groups, fallbacks."""
    from kluster_integrations.litellm.config_file import config_yaml

    if redis is not None and not redis.startswith(("redis://", "rediss://", "unix://")):
        raise UsageError("--redis must be an address such as redis://127.0.0.1:6379/0.")
    ids = [id_.strip() for given in models or [] for id_ in given.split(",") if id_.strip()]
    try:
        text = config_yaml(ids or None, plan=plan, redis_url=redis, max_wait=max_wait)
    except ValueError as err:
        raise UsageError(str(err)) from None
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as err:
        raise KlusterError(f"{output} cannot be written: {err.strerror}.", hint="choose another --output.") from None
