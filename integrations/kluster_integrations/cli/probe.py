"""`kluster probe`: find a server's undocumented features, and write them as a table and a catalog of your own."""

from __future__ import annotations

import itertools
import json
import os
import re
import tomllib
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kluster_integrations.cli._errors import UsageError, connect
from kluster_integrations.cli._models import complete_model, resolve
from kluster_integrations.cli._terminal import console, is_interactive, money
from kluster_integrations.errors import BadRequestError

if TYPE_CHECKING:
    from kluster_integrations.cli._probing import Finding, Probe

__all__ = ["run"]

_HEADER = re.compile(r"[ \t]*\[\[[ \t]*models[ \t]*\]\]")


def run(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="An id or an alias; default: the first that the server lists.",
            autocompletion=complete_model,
        ),
    ] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="The server; default: KLUSTER_BASE_URL.")] = None,
    output: Annotated[Path, typer.Option(help="The catalog file to write. Other models in it stay.")] = Path(
        "models.toml"
    ),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send the requests without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find out what a server does with a model: some 13 requests, a few hundred tokens. It asks before it sends."""
    from kluster_integrations.cli import _probing

    config = connect(base_url=base_url)
    if not os.access(output.parent, os.W_OK):  # the file is written beside, and then takes its place
        raise UsageError(f"--output {output} cannot be written: name a file in a folder that is yours.")
    model = resolve(model) if model else _first_model(config)
    _merged(output, model, _as_toml({"id": model}))  # what cannot be written is said before anything is spent
    probe = _probing.Probe(config, model)
    _ask(probe, model, config.base_url, yes=yes)
    found: list[Finding] = []
    out = console()
    for finding in probe.run():
        found.append(finding)
        if not as_json:
            out.print(f"{finding.name:<22} {finding.found:<18} {finding.detail}".rstrip(), soft_wrap=True)
    probe.row["sources"] = {"probed": f"{config.base_url}, {date.today().isoformat()}"}
    new = output.with_name(f"{output.name}.partial")
    new.write_text(_merged(output, model, _as_toml(probe.row)), "utf-8")
    new.replace(output)
    if silent := sum(finding.found == "unknown" for finding in found):
        what = f"{silent} of {len(found)} findings are unknown: the file does not say them."
        console(stderr=True).print(what, soft_wrap=True)
    if as_json:
        findings = {finding.name: asdict(finding) for finding in found}
        summary = {"model": model, "base_url": config.base_url, "requests": probe.requests, "findings": findings}
        print(json.dumps({**summary, "row": probe.row, "output": str(output)}, ensure_ascii=False, indent=2))
    else:
        console(stderr=True).print(f"Written to {output}. To use it: export KLUSTER_CATALOG={output}", soft_wrap=True)


def _first_model(config: Any) -> str:
    from kluster_integrations.cli import doctor
    from kluster_integrations.core.client import Client

    ids, _ = doctor.list_models(Client(config))
    if not ids:
        raise UsageError(f"{config.base_url} lists no models; name the one to ask: kluster probe MODEL.")
    return doctor.choose(ids)


def _ask(probe: Probe, model: str, base_url: str, *, yes: bool) -> None:
    """Say what it costs, and ask.

    Raises:
        UsageError: If nobody is there to ask.
        typer.Abort: If the answer is no.
    """
    requests, prompt, most, cost = probe.estimate()
    about = (
        f"{requests} requests to {base_url} for {model}: about {prompt} tokens of prompts and at most {most} of answers"
    )
    price = "; its price is unknown" if cost is None else f", at most {money(cost)}"
    console(stderr=True).print(f"{about}{price}.", soft_wrap=True)
    if yes:
        return
    if not is_interactive():
        raise UsageError("Nobody is there to ask; pass --yes.")
    typer.confirm("Send them?", abort=True, err=True)


def _merged(path: Path, model: str, row: str) -> str:
    """Return the text of a catalog with a row for that model, in the place of an older one: others may name it as base.

    Raises:
        BadRequestError: If the file is not a catalog, or of a form in which no row can be exchanged.
        UsageError: If its folder does not exist.
    """
    if not path.exists():
        if not path.parent.is_dir():
            raise UsageError(f"--output {path}: the folder {path.parent} does not exist.")
        return row
    from kluster_integrations import catalog

    catalog.read(path)
    text = path.read_text("utf-8-sig")
    wanted = [str(known["id"]) for known in tomllib.loads(text)["models"]]
    try:
        pieces = [piece.rstrip() + "\n" for piece in _pieces(text) if piece.strip()]
        at = next((i for i, piece in enumerate(pieces) if _id(piece) == model), len(pieces))
        comments = "".join(itertools.takewhile(lambda line: line.startswith("#"), [*pieces, ""][at].splitlines(True)))
        pieces[at : at + 1] = [comments + row]
        merged = "\n".join(pieces)
        found = [str(known["id"]) for known in tomllib.loads(merged)["models"]]
    except ValueError:
        found = []
    if found != (wanted if model in wanted else [*wanted, model]):
        raise BadRequestError(
            f"The catalog {str(path)!r} has a form in which no row can be exchanged.", hint="write to another --output."
        )
    return merged


def _pieces(text: str) -> list[str]:
    """Return the text of a catalog, a piece per row, which begins with the comment lines right above its header."""
    pieces, comments = [""], ""
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            comments += line
            continue
        if _HEADER.match(line):
            pieces.append("")
        pieces[-1] += comments + line
        comments = ""
    return [*pieces, comments]


def _id(piece: str) -> str | None:
    rows = tomllib.loads(piece).get("models")
    return str(rows[0].get("id")) if rows else None


def _as_toml(row: dict[str, Any]) -> str:
    def value(of: Any) -> str:
        if isinstance(of, dict):
            return "{ " + ", ".join(f"{key} = {value(inner)}" for key, inner in of.items()) + " }"
        return json.dumps(of, ensure_ascii=False)  # of texts, numbers, lists and booleans TOML's form is JSON's

    return "[[models]]\n" + "".join(f"{name} = {value(of)}\n" for name, of in row.items())
