"""Every line of every answer, once left out and once altered: and whether the checks of a replay see it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from kluster_integrations.recording import CassetteError

from ..tree import ROOT
from . import wire
from .recorder import outcomes, replay
from .scenarios import Scenario

__all__ = ["Mutation", "mutations", "survives"]

_RESPONSE = re.compile(r"^    response:\n(?:(?:      .*)?\n)*", re.MULTILINE)
_ALNUM = re.compile(r"[A-Za-z0-9]")


@dataclass(frozen=True)
class Mutation:
    """A cassette with one line of an answer changed."""

    line: int
    what: str
    text: str

    def __repr__(self) -> str:
        return f"line {self.line} {self.what}"


def mutations(text: str) -> Iterator[Mutation]:
    """Yield a cassette's text with each line of its answers left out, and with a letter or digit of it changed."""
    lines = text.splitlines(keepends=True)
    for found in _RESPONSE.finditer(text):
        first = text.count("\n", 0, found.start())
        for at in range(first, first + found[0].count("\n")):
            yield Mutation(at + 1, "left out", "".join(lines[:at] + lines[at + 1 :]))
            if altered := _altered(lines[at], at):
                yield Mutation(at + 1, "altered", "".join([*lines[:at], altered, *lines[at + 1 :]]))


def _altered(line: str, seed: int) -> str | None:
    places = [match.start() for match in _ALNUM.finditer(line)]
    if not places:
        return None
    at = random.Random(seed).choice(places)
    other = {"9": "8", "z": "y", "Z": "Y"}.get(line[at], chr(ord(line[at]) + 1))
    return line[:at] + other + line[at + 1 :]


def survives(scenario: Scenario, mutation: Mutation, folder: Path) -> bool:
    """Whether a replay and its checks are content with a changed cassette; the sums, which see all, are left aside."""
    path = folder / scenario.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(mutation.text, "utf-8")
    try:
        wire.check(yaml.load(mutation.text, yaml.CSafeLoader))
        return replay(scenario, "sync", folder) == outcomes(scenario.adapter, ROOT)[scenario.name]
    except (Exception, CassetteError):
        return False
