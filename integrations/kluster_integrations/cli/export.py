"""`kluster export TARGET`: the configuration of another program, made from the catalog."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kluster_integrations import catalog
from kluster_integrations.catalog import Plan
from kluster_integrations.cli._errors import UsageError, connect
from kluster_integrations.cli._models import complete_model, resolve
from kluster_integrations.errors import KlusterError

if TYPE_CHECKING:
    from kluster_integrations.cli.clients import Choice, Target

__all__ = ["run"]

Between = Literal["gateway", "proxy"] | None
_LITELLM = "litellm"
# Every exported file contains this mark.
_MARK = "written by `kluster export"
# None of these is in an id of kluster.ai, and each would end a text or a line in one of the formats.
_UNFIT = frozenset("\"'`\\$#{}")


def run(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="The program; --list names them.",
            autocompletion=lambda incomplete: [name for name in _names() if name.startswith(incomplete)],
            show_default=False,
        ),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the programs, one per line.")] = False,
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Only these models; repeat the option, or separate them by commas. Default: all in service.",
            autocompletion=complete_model,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; default: standard output.")] = None,
    plan: Annotated[
        Plan | None, typer.Option(help="The account's plan; it decides lengths and limits. Default: KLUSTER_PLAN.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The address that the program uses. Default: KLUSTER_BASE_URL.")
    ] = None,
    proxy: Annotated[
        bool, typer.Option("--proxy", help="Let the program use LiteLLM's proxy, on port 4000 or at --base-url.")
    ] = False,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="Let the program use `kluster gateway`, on port 8091 or at --base-url.")
    ] = False,
    steps: Annotated[
        bool,
        typer.Option(
            "--steps", help="Show the steps to do by hand, and the plan's limits, instead of a configuration."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Overwrite the file even if this command did not write it, or if it may contain keys."
        ),
    ] = False,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="litellm: a Redis through which several proxies share the limits: redis://host:6379/0."
        ),
    ] = None,
    max_wait: Annotated[
        float | None,
        typer.Option(min=0, help="litellm: seconds a request waits for the limits before 429. Default: no end."),
    ] = None,
) -> None:
    """Write a configuration with which another program uses kluster.ai. It never contains a key."""
    if show_list:
        _list()
        return
    ids = [resolve(name.strip()) for names in models or [] for name in names.split(",") if name.strip()]
    if target == _LITELLM:
        if base_url is not None or proxy or gateway or steps:
            raise UsageError(
                "--base-url, --proxy, --gateway and --steps are not for litellm: the proxy reads KLUSTER_BASE_URL when "
                "it starts."
            )
        _write_litellm(output, ids, plan, redis, max_wait, force=force)
        return
    if redis is not None or max_wait is not None:
        raise UsageError("--redis and --max-wait are for litellm alone.")
    from kluster_integrations.cli.clients import TARGETS

    found = _find(target)
    if proxy and gateway:
        raise UsageError("--proxy and --gateway exclude each other.")
    between: Between = "proxy" if proxy else "gateway" if gateway else None
    choice = _choice(found, ids, plan, base_url, between)
    if steps and found.steps is None:
        able = ", ".join(name for name, target in TARGETS.items() if target.steps)
        raise UsageError(f"--steps is for {able}; the file for {found.name} says it itself.")
    text = "\n".join(found.steps(choice)) + "\n" if steps and found.steps else found.render(choice)
    _write(text, output, private=found.private, force=force)


def _find(name: str | None) -> Target:
    from kluster_integrations.cli.clients import TARGETS

    if name is None or name not in TARGETS:
        problem = "TARGET is missing" if name is None else f"TARGET={name!r} is not known"
        near = difflib.get_close_matches(name or "", _names(), n=1)
        meant = f"did you mean {near[0]!r}? It" if near else "it"
        raise UsageError(f"{problem}; {meant} is one of {', '.join(_names())}.")
    return TARGETS[name]


def _names() -> list[str]:
    from kluster_integrations.cli.clients import TARGETS

    return [_LITELLM, *TARGETS]


def _list() -> None:
    from kluster_integrations.cli.clients import TARGETS

    width = max(map(len, TARGETS))
    typer.echo(f"{_LITELLM:{width}}  config.yaml for LiteLLM's proxy; fits, and so do all others through it")
    for name, target in TARGETS.items():
        untried = f"; not tried: {target.untried}" if target.untried else ""
        tried = f"; tried with {target.tried}" if target.tried else ""
        seen = f"; page used with {target.seen}" if target.seen else ""
        typer.echo(f"{name:{width}}  {target.file}; {target.fit}{tried}{seen}{untried}")


def _choice(target: Target, ids: list[str], plan: Plan | None, base_url: str | None, between: Between) -> Choice:
    from kluster_integrations.cli.clients import GATEWAY_URL, PROXY_URL, Choice
    from kluster_integrations.config import env_source

    config = connect(plan=plan, base_url=base_url)
    # An address that somebody chose may be a server that has what kluster.ai lacks.
    if between is None and target.needs_gateway and base_url is None and env_source("base_url") is None:
        between = "gateway"
    default = {"gateway": GATEWAY_URL, "proxy": PROXY_URL, None: config.base_url}[between]
    specs = catalog.select(ids or None, config.plan, config)
    chat = [spec for spec in specs if spec.purpose == "chat"]
    for what, text in (("--base-url", config.base_url), *(("--models", spec.id) for spec in specs)):
        if not text.isprintable() or " " in text or _UNFIT & set(text):
            raise UsageError(f"{what}={text!r} holds white space or one of {' '.join(sorted(_UNFIT))}; not in a file.")
    if not chat:
        raise UsageError(f"--models must name a chat model, not only {', '.join(ids)}; `kluster models` lists them.")
    return Choice(
        specs=chat,
        embeddings=[spec for spec in specs if spec.purpose == "embeddings"],
        base_url=default if base_url is None else config.base_url,
        between=between,
        picked=bool(ids),
        limits=catalog.PLANS[config.plan] if config.plan else None,
    )


def _write_litellm(
    output: Path | None, ids: list[str], plan: Plan | None, redis: str | None, max_wait: float | None, *, force: bool
) -> None:
    from kluster_integrations.litellm import _versions
    from kluster_integrations.litellm.config_file import HANDLER_FILE, HANDLER_SOURCE, config_yaml

    version = _versions.installed()
    handler_file = output is not None and version is not None and _versions.handler_from_file(version)
    if redis is not None and not redis.startswith(("redis://", "rediss://", "unix://")):
        raise UsageError("--redis must be an address such as redis://127.0.0.1:6379/0.")
    try:
        text = config_yaml(ids or None, plan=plan, redis_url=redis, max_wait=max_wait, handler_file=handler_file)
    except ValueError as err:
        raise UsageError(str(err)) from None
    _write(text, output, force=force)
    if output is not None and handler_file:
        _write(HANDLER_SOURCE, output.with_name(HANDLER_FILE), force=force)


def _write(text: str, output: Path | None, *, private: bool = False, force: bool = False) -> None:
    """Write to a file, or show. A private file is its owner's alone, for keys are put into it."""
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        if not force and output.is_file():
            _check_overwrite(output, private)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(output, flags, 0o600 if private else 0o666), "w", encoding="utf-8") as file:
            if private and output.is_file():
                output.chmod(0o600)  # also where it was there before
            file.write(text)
    except OSError as err:
        raise KlusterError(f"{output} cannot be written: {err.strerror}.", hint="choose another --output.") from None


def _check_overwrite(output: Path, private: bool) -> None:
    """Raise if a file holds the user's own text: a whole configuration, or a key that was put in."""
    before = output.read_text("utf-8", "replace")
    if before.strip() and (private or _MARK not in before):
        what = "may hold keys" if private else "was not written by `kluster export`"
        raise KlusterError(f"{output} exists, and {what}.", hint="choose another --output, or --force to overwrite it.")
