"""`kluster emulator`: a local look-alike of the kluster.ai API, in the foreground."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from kluster_integrations.catalog import Plan
from kluster_integrations.cli._errors import UsageError
from kluster_integrations.cli._terminal import need
from kluster_integrations.emulator.settings import EngineName, ReasoningStyle, ShapeName
from kluster_integrations.errors import KlusterError

__all__ = ["run"]

_FORGET_SECONDS = 60.0


def run(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 is any free one.")] = 8090,
    plan: Annotated[Plan | None, typer.Option(help="Impose this plan's limits and windows.")] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict/--lenient", help="Answer 400 to what the docs do not support, or ignore it."),
    ] = True,
    engine: Annotated[EngineName | None, typer.Option(help="Who writes; default: upstream with --upstream.")] = None,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server that writes the text.")
    ] = None,
    upstream_model: Annotated[str | None, typer.Option(metavar="ID", help="Its model; default: its first.")] = None,
    shape: Annotated[ShapeName, typer.Option(help="The server whose answers are imitated.")] = "vllm",
    reasoning: Annotated[ReasoningStyle, typer.Option(help="Where thoughts go.")] = "reasoning_content",
    usage_in_stream: Annotated[bool, typer.Option("--usage-in-stream", help="End streams with usage.")] = False,
    delay: Annotated[float, typer.Option(min=0, help="Seconds between the chunks of a stream.")] = 0.0,
    api_key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Let only this key in; may be repeated. Default: any key.")
    ] = None,
) -> None:
    """Serve a local look-alike of the kluster.ai API until Ctrl-C. No model answers unless --upstream names one."""
    need("kluster emulator", "emulator")
    from kluster_integrations.emulator import Emulator

    if engine == "scripted" and upstream:
        raise UsageError("--engine scripted and --upstream exclude each other.")
    try:
        server = Emulator(
            host=host,
            port=port,
            plan=plan,
            strict=strict,
            engine=engine or "scripted",
            upstream=upstream,
            upstream_model=upstream_model,
            shape=shape,
            reasoning=reasoning,
            usage_in_stream=usage_in_stream,
            delay=delay,
            api_keys=api_key or None,
        )
    except ValueError as err:
        raise UsageError(str(err)) from None
    try:
        server.start()
    except OSError as err:
        raise KlusterError(f"{err.strerror or err}.", hint="--port 0 takes any free port.") from None
    try:
        _announce(server.base_url, upstream, any_key=not api_key)
        while not threading.Event().wait(_FORGET_SECONDS):
            server.clear()  # it keeps every request for tests to look at; a server that runs for days must not
    finally:
        server.stop()


def _announce(base_url: str, upstream: str | None, *, any_key: bool) -> None:
    """Say where it is; what is no export line is a comment, so that a shell can read all of it."""
    writer = f"text from {upstream}" if upstream else "scripted text, no model"
    key = "emulator" if any_key else "'one of those given with --api-key'"
    lines = (
        f"# A local emulator, not kluster.ai, at {base_url} ({writer}). Ctrl-C stops it.",
        f"export KLUSTER_BASE_URL={base_url}",
        f"export KLUSTER_API_KEY={key}",
    )
    print("\n".join(lines), flush=True)
