"""`kluster probe`: what a server does beyond what is documented, as a table and as a catalog of one's own."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kluster_integrations.cli._errors import UsageError, connect
from kluster_integrations.cli._terminal import console, is_interactive, money
from kluster_integrations.errors import BadRequestError

if TYPE_CHECKING:
    from kluster_integrations.cli._probing import Finding, Probe

__all__ = ["run"]

_NEXT_MODEL = re.compile(r"(?m)^(?=\[\[models\]\])")


def run(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The model's id; default: the first that the server lists.")
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
    kept = _other_models(output, "")  # what cannot be read is said before anything is spent
    model = model or _first_model(config)
    probe = _probing.Probe(config, model)
    _ask(probe, model, config.base_url, yes=yes)
    found: list[Finding] = []
    out = console()
    for finding in probe.run():
        found.append(finding)
        if not as_json:
            out.print(f"{finding.name:<22} {finding.found:<18} {finding.detail}".rstrip(), soft_wrap=True)
    probe.row["sources"] = {"probed": f"{config.base_url}, {date.today().isoformat()}"}
    kept = _other_models(output, model)
    output.write_text("".join([*kept, _as_toml(probe.row)]), "utf-8")
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


def _other_models(path: Path, model: str) -> list[str]:
    """Return the text of a catalog, piece by piece, without that model.

    Raises:
        BadRequestError: If it is not a catalog.
    """
    if not path.exists():
        return []
    from kluster_integrations import catalog

    catalog.read(path)
    pieces = _NEXT_MODEL.split(path.read_text("utf-8"))
    return [f"{piece.rstrip()}\n\n" for piece in pieces if piece.strip() and _id(piece) != model]


def _id(piece: str) -> str | None:
    try:
        rows = tomllib.loads(piece).get("models") or [{}]
    except ValueError as err:
        raise BadRequestError(f"The catalog cannot be taken apart: {err}.", hint="write to another --output.") from None
    return str(rows[0].get("id"))


def _as_toml(row: dict[str, Any]) -> str:
    def value(of: Any) -> str:
        if isinstance(of, dict):
            return "{ " + ", ".join(f"{key} = {value(inner)}" for key, inner in of.items()) + " }"
        return json.dumps(of, ensure_ascii=False)  # of texts, numbers, lists and booleans TOML's form is JSON's

    return "[[models]]\n" + "".join(f"{name} = {value(of)}\n" for name, of in row.items())
