"""`kluster gateway`: an OpenAI-compatible server in front of kluster.ai, in the foreground."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from kluster_integrations.catalog import Plan
from kluster_integrations.cli._errors import UsageError, connect, listen_error
from kluster_integrations.cli._terminal import need

if TYPE_CHECKING:
    from kluster_integrations.gateway import Gateway

__all__ = ["run"]


def run(
    host: Annotated[
        str, typer.Option(help="The address to listen on; on any but a loopback address clients need a key.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 is any free one.")] = 8091,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="The key that clients must send. Safer: KLUSTER_GATEWAY_KEY, which `ps` does not show. "
            "Default: any key on a loopback address, else a random one.",
        ),
    ] = None,
    plan: Annotated[Plan | None, typer.Option(help="The account's plan; the gateway stays within its limits.")] = None,
    max_wait: Annotated[
        float | None, typer.Option(min=0, help="Seconds a request waits for the limits before 429. Default: no end.")
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A Redis through which several gateways share the limits: redis://host:6379/0."
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="Refuse requests once this many US$ are spent.")
    ] = None,
    unsupported: Annotated[
        str | None,
        typer.Option(
            metavar="error|drop",
            help="What to do with a parameter that kluster.ai does not take: refuse the request, or leave it out.",
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ID", help="A name for a model, such as 'claude-*=ID'; may be repeated."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Let web pages of https://HOST send requests ('*': any); may be repeated."),
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, metavar="MB", help="The largest body of a request.")] = 64,
    grace: Annotated[float, typer.Option(min=0, help="Seconds to wait for running requests when it stops.")] = 10.0,
    log: Annotated[bool, typer.Option(help="Print one JSON object per request, without prompt and answer.")] = True,
) -> None:
    """Serve an OpenAI-compatible API until Ctrl-C, for programs that send what kluster.ai does not take.

    The log is on standard output, all else on standard error.
    """
    need("kluster gateway", "gateway")
    from kluster_integrations import Budget
    from kluster_integrations.config import env_value
    from kluster_integrations.gateway import Gateway
    from kluster_integrations.limits import Limits

    if redis is not None and not redis.startswith(("redis://", "rediss://", "unix://")):
        raise UsageError("--redis must be an address such as redis://127.0.0.1:6379/0.")
    config = connect(plan=plan, unsupported=unsupported)
    try:
        server = Gateway(
            config,
            host=host,
            port=port,
            key=key or env_value("gateway_key"),
            limits=Limits.of(config.plan, max_wait=max_wait, redis_url=redis),
            budget=None if budget is None else Budget(budget),
            origins=allow_origin or (),
            aliases=_aliases(alias or []),
            max_body=max_body * 2**20,
            grace=grace,
        )
    except ValueError as err:
        raise UsageError(str(err)) from None
    try:
        server.start()
    except OSError as err:
        raise listen_error(err, host) from None
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    try:
        if log:
            _log()
        _announce(server, config.base_url, is_given=bool(key or env_value("gateway_key")), has_key=bool(config.api_key))
        if server.key is None and "*" in (allow_origin or ()):
            _say("Warning: every web page that a browser here opens can spend your key. Set KLUSTER_GATEWAY_KEY.")
        stopping.wait()
    finally:
        server.stop()


def _aliases(given: list[str]) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in given]
    for name, _, id_ in pairs:
        if not name.strip() or not id_.strip():
            raise UsageError(f"--alias {name!r} must be NAME=ID, such as gpt-4o=klusterai/….")
    return {name.strip(): id_.strip() for name, _, id_ in pairs}


class _Lines(logging.Handler):
    """Prints a JSON object per request."""

    def emit(self, record: logging.LogRecord) -> None:
        row = record.__dict__.get("request") or {"level": record.levelname, "message": record.getMessage()}
        print(json.dumps(row), flush=True)


def _log() -> None:
    from kluster_integrations.gateway import LOGGER

    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.addHandler(_Lines())
    logger.propagate = False


def _announce(server: Gateway, upstream: str, *, is_given: bool, has_key: bool) -> None:
    """Print the address, and a generated key once: it is shown nowhere else."""
    address = server.base_url
    lines = [
        f"The gateway to {upstream} is at {address} (OpenAI's API), {address.removesuffix('/v1')} (Anthropic's).",
        "Any key will do."
        if server.key is None
        else "The key is the one that it was given."
        if is_given
        else f"Its key, shown only here: {server.key}",
    ]
    if not has_key:
        lines.append("Warning: there is no KLUSTER_API_KEY; only a server that needs none will answer.")
    _say("\n".join(lines))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
