"""Recording: an emulator for each scenario, a cassette of its calls, and what the adapter makes of the replay."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from kluster_integrations.emulator import Emulator, chat, shapes
from kluster_integrations.recording import cassette
from kluster_integrations.recording._text import readable

from ..tree import ROOT
from . import wire
from .drivers import DRIVERS, Outcome
from .scenarios import SCENARIOS, Scenario, answered

__all__ = ["OUTCOMES", "SUMS", "against_emulator", "as_json", "outcomes", "record", "seal", "settings"]

OUTCOMES = Path("tests") / "recorded" / "outcomes"
SUMS = Path("cassettes") / "SHA256SUMS"
_OWN_ID = re.compile(r"call_[0-9a-f]{32}")  # of a call that was found in the text


def settings(scenario: Scenario) -> dict[str, Any]:
    """Return the emulator's settings."""
    return {**scenario.server, "faults": [scenario.fault] if scenario.fault else []}


@contextmanager
def against_emulator(scenario: Scenario, upstream: str | None = None) -> Iterator[str]:
    """Serve what a scenario needs, and give the base URL; ids and times are the same each time."""
    numbers = iter(range(1_000))

    def uuid4() -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_URL, f"{scenario.id}/{next(numbers)}")

    more: dict[str, Any] = {"upstream": upstream} if upstream and scenario.real else {"engine": answered}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(shapes, "uuid", mock.Mock(spec=["uuid4"], uuid4=uuid4)))
        clock = mock.Mock(spec=["time"], time=lambda: wire.TIME)
        for module in (shapes, chat):
            stack.enter_context(mock.patch.object(module, "time", clock))
        yield stack.enter_context(Emulator(**settings(scenario), **more)).base_url


def record(
    scenario: Scenario, base_url: str | None, about: Mapping[str, str], root: Path = ROOT, key: str | None = None
) -> bool:
    """Write a scenario's cassette, and return whether it says anything new; its date alone is not news."""
    path = root / scenario.path
    old = path.read_text("utf-8") if path.exists() else ""
    with cassette(path, "rewrite", about=about):
        scenario.outcome("sync", key=key, base_url=base_url)
    if _without_date(path.read_text("utf-8")) == _without_date(old):
        path.write_text(old, "utf-8", newline="\n")
        return False
    return True


def _without_date(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("  date: "))


def replay(scenario: Scenario, way: str, root: Path = ROOT) -> Outcome:
    """Return the outcome from the cassette, as JSON has it."""
    with cassette(root / scenario.path, "none"):
        text = json.dumps(scenario.outcome(way))
    outcome: Outcome = json.loads(_OWN_ID.sub("call_with-an-id-made-here", text))
    return outcome


def as_json(value: object) -> str:
    """Return JSON laid out for reviewers."""
    return readable(json.dumps(value).encode()).decode() + "\n"


def write_outcomes(root: Path = ROOT) -> None:
    """Note what each adapter makes of its cassettes, for the tests to compare with, and for reviewers to read."""
    for adapter in DRIVERS:
        found = {one.name: replay(one, "sync", root) for one in SCENARIOS if one.adapter == adapter}
        file = root / OUTCOMES / f"{adapter}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(as_json(found), "utf-8", newline="\n")


@functools.cache
def outcomes(adapter: str, root: Path = ROOT) -> dict[str, Outcome]:
    """Return what has been noted."""
    noted: dict[str, Outcome] = json.loads((root / OUTCOMES / f"{adapter}.json").read_text("utf-8"))
    return noted


def seal(root: Path = ROOT) -> str:
    """Return a line a cassette, as sha256sum writes them."""
    files = sorted((root / SUMS).parent.glob("*/*.yaml"))
    names = [(hashlib.sha256(file.read_bytes()).hexdigest(), file.relative_to((root / SUMS).parent)) for file in files]
    return "".join(f"{digest}  {name.as_posix()}\n" for digest, name in names)


def write_seal(root: Path = ROOT) -> None:
    """Note the sums: a recording that somebody has edited is none."""
    (root / SUMS).write_text(seal(root), "utf-8", newline="\n")
