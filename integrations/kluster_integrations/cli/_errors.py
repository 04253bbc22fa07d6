"""Show every error of a command in two lines on stderr: `Error: …` and `Hint: …`."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from kluster_integrations import errors
from kluster_integrations.errors import KlusterError

__all__ = ["Group", "UsageError", "connect", "report", "shell_hint", "without_keys"]

# typer has click's exceptions, of its own copy or of click itself, by version; it exports only the leaf.
UsageError: Any = typer.BadParameter.__base__

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
        with _own_words():
            sys.exit(_exit_code(lambda: super(Group, self).main(*args, **options)))

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C ends it without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None


@contextmanager
def _own_words() -> Iterator[None]:
    """Show warnings like errors. Hide the core's log of cut answers, which the commands report themselves."""
    log = logging.getLogger("kluster_integrations.core.client")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        log.disabled = True
        try:
            yield
        finally:
            log.disabled = False


def _exit_code(run: Callable[[], object]) -> int:
    try:
        result = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (`| head`). What is still in the buffer must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except typer.Abort:
        return _INTERRUPTED
    except Exception as err:
        return report(err)
    return result if isinstance(result, int) else 0


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
        context = getattr(err, "ctx", None)
        command = context.command_path if context else "kluster"
        message, allowed = (
            err.format_message().replace("Value error, ", ""),
            f"`{command} --help` shows what is allowed.",
        )
        unquoted = "unexpected extra argument" in message
        return message, f"a text of several words needs quotes; {allowed}" if unquoted else allowed, 2
    if isinstance(err, KlusterError):
        status = f" (HTTP {err.status_code})" if err.status_code else ""
        hint = shell_hint(err)
        if type(err) in (errors.AuthenticationError, errors.APIConnectionError) and hint:
            hint += " `kluster doctor` shows what is found."
        return f"{err.message}{status}", hint, 1
    return f"{type(err).__name__}: {err}", "KLUSTER_DEBUG=1 shows where.", 1


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
    print(f"{label}: {without_keys(' '.join(text.split()))}", file=sys.stderr)


def without_keys(text: str) -> str:
    """Mask every key of the environment and the keyring: in an error of somebody else's, in what is kept on disk."""
    from kluster_integrations.config import stored_key

    if key := stored_key():
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
