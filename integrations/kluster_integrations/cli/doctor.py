"""`kluster doctor`: is all there that is needed, what is found where, and does the server answer."""

from __future__ import annotations

import difflib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kluster_integrations._extras import install_command
from kluster_integrations._version import __version__
from kluster_integrations.cli._errors import NO_API, message_of, shell_hint
from kluster_integrations.cli._models import complete_model, resolve
from kluster_integrations.cli._terminal import console
from kluster_integrations.errors import KlusterError
from kluster_integrations.litellm import _versions

if TYPE_CHECKING:
    from rich.console import Console

    from kluster_integrations.config import KlusterConfig
    from kluster_integrations.core.client import Client

__all__ = ["choose", "list_models", "run"]

Status = Literal["ok", "warn", "fail", "skip"]

# As in pyproject.toml: from this version on, and below that one.
SUPPORTED = {
    "httpx": ((0, 28), (1,)),
    "aiohttp": ((3, 11), (4,)),
    "langchain-core": ((1, 2), (2,)),
    "openai": ((2, 30), (4,)),
    "litellm": _versions.SUPPORTED,
    "crewai": ((1, 14, 7), (2,)),
}
_EXTRAS = {"langchain-core": "langchain", "openai": "langchain", "litellm": "litellm", "crewai": "crewai"}
_SMALL_MODEL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
_SECONDS = 15.0
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


@dataclass(frozen=True)
class Check:
    """What one look has found. Never a key."""

    name: str
    status: Status
    found: str
    hint: str | None = None


def run(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The model for that request. Default: a small one.", autocompletion=complete_model
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Send nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check versions, key, address and server. If there is a key, it sends one request, for one token."""
    checks = []
    out = console()
    for check in _checks(model and resolve(model), offline=offline):
        checks.append(check)
        if not as_json:
            _show(out, check)
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, ensure_ascii=False))
    if failed:
        raise typer.Exit(1)


def _show(out: Console, check: Check) -> None:
    """Print one line of the table as soon as it is known: the network may take its time.

    A pipe gets plain lines, which nothing wraps; `COLUMNS` asks for the table there, too.
    """
    if not out.is_terminal and "COLUMNS" not in os.environ:
        print(f"{check.status:<4} {check.name:<15} {check.found}")
        if check.hint:
            print(f"Hint: {check.hint}")
        return
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1, 0, 0), expand=False)
    row.add_column(width=4)
    row.add_column(width=15)
    row.add_column(overflow="fold")
    found = Text(check.found)
    if check.hint:
        found.append(f"\nHint: {check.hint}", style="italic")
    row.add_row(Text(check.status, style=_STYLES[check.status]), check.name, found)
    out.print(row)


def _checks(model: str | None, *, offline: bool) -> Iterator[Check]:
    yield Check("Python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Check("this package", "ok", __version__)
    for package in SUPPORTED:
        yield _version(package)
    yield from _variables()
    config, problems = _configuration()
    yield from problems
    if config is None:
        return
    yield _key(config)
    yield _address(config)
    if offline:
        yield Check("server", "skip", "not asked: --offline")
        return
    yield from _server(config, model)


def _version(package: str) -> Check:
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        if (extra := _EXTRAS.get(package)) is None:
            return Check(package, "fail", "not installed", "pip install kluster-integrations")
        return Check(package, "skip", "not installed", f"{install_command(extra)}, if you need it")
    if package == "litellm" and (why := _versions.broken(version)):
        return Check(package, "fail", f"{version} {why}", f'pip install "{_versions.RECOMMENDED}"')
    low, high = SUPPORTED[package]
    if low <= _numbers(version) < high:
        return Check(package, "ok", version, _versions.missing_proxy(version) if package == "litellm" else None)
    wanted = f"{package}>={_dotted(low)},<{_dotted(high)}"
    status: Status = "warn" if package in _EXTRAS else "fail"  # a framework may not even be used
    return Check(package, status, f"{version}, not {wanted}", f'pip install "{wanted}"')


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _variables() -> Iterator[Check]:
    """Report what is in the environment and may confuse; names only, for values may be secret."""
    from kluster_integrations.config import ENVIRONMENT

    others = sorted(name for name in os.environ if name.startswith("OPENAI_"))
    if others:
        yield Check("other variables", "ok", f"{', '.join(others)}: not used, never sent")
    known = [name for names in ENVIRONMENT.values() for name in names]
    for name in sorted(os.environ):
        if name.startswith("KLUSTER") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            yield Check("other variables", "warn", f"{name} is not read", f"did you mean {near[0]}?" if near else None)
    proxies = sorted(name for name in os.environ if name.lower() in ("https_proxy", "all_proxy") and os.environ[name])
    if proxies:
        yield Check("proxy", "ok", f"{', '.join(proxies)}: used for https")


def _configuration() -> tuple[KlusterConfig | None, list[Check]]:
    from pydantic import ValidationError

    from kluster_integrations.config import KlusterConfig

    try:
        return KlusterConfig(), []
    except ValidationError as err:
        return None, [_problem(problem) for problem in err.errors()]


def _problem(problem: Any) -> Check:
    from kluster_integrations.config import env_source

    place = str(problem["loc"][0]) if problem["loc"] else "configuration"
    name = env_source(place) or place
    return Check(
        place, "fail", problem["msg"].removeprefix("Value error, "), f"set {name} to an allowed value, or unset it."
    )


def _key(config: KlusterConfig) -> Check:
    from kluster_integrations.config import env_values, key_source

    keys = env_values("api_key")
    source = key_source()
    instead = " (OPENAI_API_KEY is another company's, and not used)" if os.environ.get("OPENAI_API_KEY") else ""
    if config.api_key is None and not config.needs_key:
        return Check(
            "key", "skip", f"none{instead}; a server of your own may need none", "export KLUSTER_API_KEY=…, if it does"
        )
    if config.api_key is None or source is None:
        return Check("key", "fail", f"none{instead}", "export KLUSTER_API_KEY=…, or start `kluster emulator`")
    if config.api_key.get_secret_value() == os.environ.get("OPENAI_API_KEY", "").strip():
        return Check("key", "warn", f"found in {source}", "it is the same as OPENAI_API_KEY: is it kluster.ai's?")
    unused = [name for name, key in keys.items() if key != keys[source]]
    if unused:
        return Check("key", "warn", f"found in {source}; another one in {', '.join(unused)}", "keep one of them")
    return Check("key", "ok", f"found in {source}")


def _address(config: KlusterConfig) -> Check:
    from kluster_integrations.config import env_source

    return Check("base URL", "ok", f"{config.base_url} (from {env_source('base_url') or 'the default'})")


def _server(config: KlusterConfig, model: str | None) -> Iterator[Check]:
    from kluster_integrations.core.client import Client
    from kluster_integrations.limits import Limits

    quick = config.model_copy(update={"timeout": min(config.timeout, _SECONDS), "max_retries": 0})
    client = Client(quick, limits=Limits())  # a check waits for nobody's turn
    try:
        ids, seconds = list_models(client)
    except KlusterError as err:
        yield Check("server", "fail", message_of(err), shell_hint(err))
        return
    yield Check("server", "ok", f"GET /models lists {len(ids)} models, in {seconds:.2f} s")
    if quick.api_key is None and quick.needs_key:
        yield Check("one token", "skip", "not asked: no key")
        return
    yield _one_token(client, model or choose(ids))


def list_models(client: Client) -> tuple[list[str], float]:
    """Return the ids that the server lists, and the seconds that it took."""
    from kluster_integrations.errors import InternalServerError, NotFoundError

    began = time.perf_counter()
    # The extended list needs no key, the plain one tries it.
    query = {"extended": "true"} if client.config.api_key is None else None
    try:
        answer = client.get("/models", query=query).data
    except NotFoundError as err:
        err.hint = NO_API
        raise
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise InternalServerError("GET /models did not answer with a list of models.", hint="check the base URL.")
    return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row], time.perf_counter() - began


def choose(ids: list[str]) -> str:
    """Return a small model, or of a server that has other ones the first that chats."""
    from kluster_integrations import catalog

    if _SMALL_MODEL in ids or not ids:
        return _SMALL_MODEL
    return next((id_ for id_ in ids if catalog.get(id_).purpose == "chat"), ids[0])


def _one_token(client: Client, model: str) -> Check:
    began = time.perf_counter()
    try:
        messages = [{"role": "user", "content": "Say yes."}]
        client.complete(client.build(model, messages, {"max_completion_tokens": 1}))
    except KlusterError as err:
        return Check("one token", "fail", f"{model}: {message_of(err)}", shell_hint(err))
    return Check("one token", "ok", f"{model} answers, in {time.perf_counter() - began:.2f} s")
