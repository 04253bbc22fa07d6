"""`kluster emulator`: a local look-alike of the kluster.ai API, in the foreground."""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from kluster_integrations.catalog import Plan
from kluster_integrations.cli._errors import UsageError, listen_error
from kluster_integrations.cli._functions import load_function
from kluster_integrations.cli._terminal import need
from kluster_integrations.emulator.settings import EngineName, ReasoningStyle, ShapeName, without_credentials

if TYPE_CHECKING:
    from kluster_integrations.emulator.engine import Engine

__all__ = ["run"]


def run(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 is any free one.")] = 8090,
    plan: Annotated[Plan | None, typer.Option(help="Enforce the limits of this plan. Default: none.")] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--lenient", help="Refuse parameters that kluster.ai does not support (HTTP 400), or ignore them."
        ),
    ] = True,
    engine: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="A function that gets the request and returns the answer."),
    ] = None,
    replies: Annotated[
        str | None, typer.Option(metavar="FILE", help="A YAML file of answers, each with text, tool_calls, when, …")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server that writes the text.")
    ] = None,
    upstream_model: Annotated[str | None, typer.Option(metavar="ID", help="Its model; default: its first.")] = None,
    shape: Annotated[ShapeName, typer.Option(help="The server whose answers are imitated.")] = "vllm",
    reasoning: Annotated[
        ReasoningStyle, typer.Option(help="Where the reasoning is in an answer.")
    ] = "reasoning_content",
    usage_in_stream: Annotated[
        bool, typer.Option("--usage-in-stream", help="Send the usage at the end of each stream.")
    ] = False,
    delay: Annotated[float, typer.Option(min=0, help="Seconds between the chunks of a stream.")] = 0.0,
    api_key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Let only this key in; may be repeated. Default: any key.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Accept requests to this public host name; may be repeated."),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Print a line per request; --log json for machines.")] = False,
    log_format: Annotated[
        str | None,
        typer.Argument(metavar="[json]", help="The word `json` behind --log: each line is JSON.", show_default=False),
    ] = None,
) -> None:
    """Serve a local look-alike of the kluster.ai API until Ctrl-C; a page at / shows its requests.

    Its answers come from --replies, --engine or --upstream; every other question is echoed.
    """
    need("kluster emulator", "emulator")
    from kluster_integrations.emulator import Emulator

    if engine is not None and engine != "upstream" and upstream:
        raise UsageError(f"--engine {engine} and --upstream exclude each other.")
    if log_format is not None and (not log or log_format != "json"):
        raise UsageError(f"{log_format!r} is not understood here: only --log json takes a word behind it.")
    try:
        server = Emulator(
            host=host,
            port=port,
            plan=plan,
            strict=strict,
            engine=_engine(engine),
            upstream=upstream,
            upstream_model=upstream_model,
            shape=shape,
            reasoning=reasoning,
            usage_in_stream=usage_in_stream,
            delay=delay,
            api_keys=api_key or None,
            hosts=allow_host or (),
            replies=_replies(replies) if replies else (),
        )
    except ValueError as err:
        raise UsageError(str(err)) from None
    try:
        server.start()
    except OSError as err:
        raise listen_error(err, host) from None
    try:
        writer = (
            f"text from {without_credentials(upstream)}"
            if upstream
            else f"answers of {replies or engine or 'no model'}"
        )
        # With --log json each line of stdout is JSON.
        _announce(server.base_url, writer, any_key=not api_key, file=sys.stderr if log_format else sys.stdout)
        if log:
            _log(as_json=log_format == "json")
        threading.Event().wait()
    finally:
        server.stop()


def _engine(name: str | None) -> EngineName | Engine:
    """Return the engine of a name, or the function `module:function`; modules of the current folder count."""
    if name is None or name in get_args(EngineName):
        return name or "scripted"  # type: ignore[return-value]
    return load_function("--engine", name, "answers:reply")  # type: ignore[no-any-return]


def _replies(path: str) -> list[dict[str, object]]:
    from kluster_integrations.emulator.replies import load

    try:
        return load(path)
    except FileNotFoundError:
        raise UsageError(f"--replies {path}: there is no file {Path(path).absolute()}.") from None
    except OSError as err:
        raise UsageError(f"--replies {path} cannot be read: {err.strerror}.") from None
    except (ModuleNotFoundError, ValueError) as err:
        raise UsageError(f"--replies {path}: {err}") from None


class _Lines(logging.Handler):
    """Prints a request per line."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        request: Any = record.__dict__["request"]
        print(json.dumps(request.row()) if self._as_json else request.line(), flush=True)


def _log(*, as_json: bool) -> None:
    from kluster_integrations.emulator.records import LOGGER

    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.addHandler(_Lines(as_json=as_json))
    logger.propagate = False


def _announce(base_url: str, writer: str, *, any_key: bool, file: Any) -> None:
    """Say where it is; a line that is not an export is a comment, so that a shell can read all of it."""
    # Not the key: what is printed may end up in a log. Pasted as it is, `...` is refused as a placeholder, with a hint.
    key = "any-key" if any_key else "...    # a key that you gave with --api-key"
    lines = (
        f"# A local emulator, not kluster.ai, at {base_url} ({writer}), with a page at {base_url.removesuffix('v1')}",
        f"export KLUSTER_BASE_URL={base_url}",
        f"export KLUSTER_API_KEY={key}",
    )
    print("\n".join(lines), file=file, flush=True)
