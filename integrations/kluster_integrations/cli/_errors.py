"""Show every error of a command in two lines on stderr: `Error: …` and `Hint: …`."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from kluster_integrations import errors
from kluster_integrations.cli._text import plain
from kluster_integrations.errors import KlusterError

__all__ = [
    "NO_API",
    "Group",
    "UsageError",
    "connect",
    "listen_error",
    "message_of",
    "report",
    "shell_hint",
    "without_keys",
]

# typer has click's exceptions, of its own copy or of click itself, by version; it exports only the leaf.
UsageError: Any = typer.BadParameter.__base__

NO_API = "there is no such API at this address: check KLUSTER_BASE_URL."
"""The hint where even the list of models is not found."""

_INTERRUPTED = 130
# Hints for a shell; the errors' default hints name Python arguments.
_HINTS: Mapping[type[KlusterError], str] = {
    errors.NotFoundError: "`kluster models --refresh` lists what the server has; check KLUSTER_BASE_URL too.",
    errors.ContextWindowExceededError: "shorten the prompt, lower --max-tokens, or use a model with a longer window.",
    errors.RateLimitError: "wait, raise KLUSTER_MAX_RETRIES, or set KLUSTER_PLAN so that requests wait their turn.",
    errors.APIConnectionError: "check KLUSTER_BASE_URL and the network.",
    errors.APITimeoutError: "set KLUSTER_TIMEOUT to more seconds.",
    errors.TruncatedStreamError: "ask again.",
}


class Group(TyperGroup):
    """The commands, with one way to fail.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a part of it failed, 130 interrupted. `KLUSTER_DEBUG=1` shows the
    traceback of a failure.
    """

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run a command and exit."""
        options["standalone_mode"] = False
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # closed by whoever started us (`>&-`): as good as /dev/null
                setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
        completion = os.environ.get(f"_{options['prog_name']}_complete".upper(), "")
        if completion.startswith("complete"):  # the shell would put an error into the typed line
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        with _own_words():
            sys.exit(_exit_code(lambda: super(Group, self).main(*args, **options)))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of a line; a question alone is an error that names `kluster chat`."""
        if " " in args[0].strip():
            raise UsageError(
                f"{args[0]!r} is not a command; a question needs one: kluster chat {shlex.quote(args[0])}", ctx
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C ends it without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except UsageError as err:
            if err.ctx is None and ctx.invoked_subcommand:  # click's parser does not say in which command it was
                err.command = f"{ctx.command_path} {ctx.invoked_subcommand}"
            raise


@contextmanager
def _own_words() -> Iterator[None]:
    """Show warnings like errors, once. Hide the core's log of cut answers, which the commands report themselves."""
    log = logging.getLogger("kluster_integrations.core.client")
    # Without a handler Python prints the warnings that the core logs beside the ones that are shown.
    quiet = logging.NullHandler()
    logging.getLogger("kluster_integrations").addHandler(quiet)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        log.disabled = True
        try:
            yield
        finally:
            log.disabled = False
            logging.getLogger("kluster_integrations").removeHandler(quiet)


def _exit_code(run: Callable[[], object]) -> int:
    try:
        result = run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone (`| head`)
        code = 1
    except typer.Abort:
        code = _INTERRUPTED
    except Exception as err:
        code = report(err)
    else:
        return result if isinstance(result, int) else 0
    try:
        sys.stdout.flush()
    except OSError:  # else Python tries at exit to write what is still in the buffer, and ends with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def report(err: Exception) -> int:
    """Write an error to stderr, with `KLUSTER_DEBUG=1` also its traceback, and return its exit code."""
    from kluster_integrations.config import env_value

    if env_value("debug"):
        traceback.print_exception(err)
    message, hint, code = _describe(err)
    _write("Error", message)
    if hint:
        _write("Hint", hint)
    return code


def _describe(err: Exception) -> tuple[str, str | None, int]:
    if isinstance(err, UsageError):
        command = getattr(err, "command", None) or (err.ctx.command_path if err.ctx else "kluster")
        message, allowed = (
            err.format_message().replace("Value error, ", ""),
            f"`{command} --help` shows what is allowed.",
        )
        unquoted = "unexpected extra argument" in message
        return message, f"a text of several words needs quotes; {allowed}" if unquoted else allowed, 2
    if isinstance(err, KlusterError):
        hint = shell_hint(err)
        if type(err) in (errors.AuthenticationError, errors.APIConnectionError) and hint:
            hint += " `kluster doctor` shows what is found."
        return message_of(err), hint, 1
    if isinstance(err, OSError) and err.strerror:
        where = f"{err.filename}: " if err.filename else ""
        return f"{where}{err.strerror}.", "KLUSTER_DEBUG=1 shows where.", 1
    return f"{type(err).__name__}: {err}", "KLUSTER_DEBUG=1 shows where.", 1


def message_of(err: KlusterError) -> str:
    """Return the message of an error, with its HTTP status and without its hint."""
    status = f"HTTP {err.status_code}"
    return err.message if err.status_code is None or err.message.startswith(status) else f"{err.message} ({status})"


def listen_error(err: OSError, host: str) -> KlusterError:
    """Return the error of a server that cannot listen on `host`, with a hint about the option that is wrong."""
    if isinstance(err, socket.gaierror) or err.errno == errno.EADDRNOTAVAIL:
        hint = f"--host {host} is not an address of this machine: leave it out, or take 127.0.0.1 or 0.0.0.0 (all)."
    elif err.errno == errno.EACCES:
        hint = "take a --port above 1023; --port 0 takes any free one."
    else:
        hint = "--port 0 takes any free port."
    # Python's advice on its argument `port` stands behind the semicolon.
    return KlusterError(f"{(err.strerror or str(err)).partition(';')[0]}.", hint=hint)


def shell_hint(err: KlusterError) -> str | None:
    """Return the hint of an error in words for a shell."""
    if isinstance(err, errors.AuthenticationError):
        from kluster_integrations.config import KEYRING, key_source

        if (source := key_source()) is None:
            return "set KLUSTER_API_KEY; to try without a key, start `kluster emulator`."
        change = "`kluster keys set` replaces it" if source == KEYRING else "set another one there"
        return f"the key is that of {source}; {change}."
    return _HINTS.get(type(err), err.hint) if err.hint == err.default_hint else err.hint


def _write(label: str, text: str) -> None:
    print(f"{label}: {plain(without_keys(' '.join(text.split())), sys.stderr)}", file=sys.stderr)


def without_keys(text: str) -> str:
    """Mask every key of the environment and the keyring: in an error of somebody else's, in what is kept on disk.

    The keyring is read only where its key is the one that is used: it may ask the user for a password.
    """
    from kluster_integrations.config import env_value, stored_key

    if not env_value("api_key") and (key := stored_key()):
        text = text.replace(key, "***")
    for name, value in os.environ.items():
        if name.upper().endswith("API_KEY") and len(value.strip()) >= 8:
            text = text.replace(value.strip(), "***")
    return text


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if not issubclass(category, (DeprecationWarning, PendingDeprecationWarning)):
        _write("Warning", str(message))


def connect(**options: Any) -> Any:
    """Return a `KlusterConfig` from a command's options and the environment; None is not given.

    Raises:
        typer.BadParameter: If an option is not acceptable.
        KlusterError: If an environment variable is not.
    """
    from pydantic import ValidationError

    from kluster_integrations.config import KlusterConfig, env_source

    try:
        return KlusterConfig.merged(**options)
    except ValidationError as err:
        problem = err.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if options.get(name) is not None:
            raise typer.BadParameter(message, param_hint=f"--{name.replace('_', '-')}") from None
        source = env_source(name) or name
        raise KlusterError(message, hint=f"set {source} to an allowed value, or unset it.") from None
