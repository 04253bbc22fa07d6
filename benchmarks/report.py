"""Medians, ratios, targets: the table and the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CONCURRENT, REQUESTS, Case, Sample
from benchmarks.clients import CANDIDATES, ChatOpenAI, Kluster, Sdk
from benchmarks.wire import LATENCY

IDEAL = REQUESTS / CONCURRENT * LATENCY


@dataclass
class Results:
    """Every sample of a run.

    Attributes:
        samples: By case, then by candidate, one a round.
        imports: By module, one a round (milliseconds).
        constructions: By candidate, one a round (milliseconds).
    """

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    imports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    constructions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def cpu(self, case: str, candidate: str) -> float | None:
        """Return the median CPU of a unit, in microseconds."""
        samples = self.samples.get(case, {}).get(candidate)
        return median(s.cpu for s in samples) if samples else None

    def wall(self, case: str, candidate: str) -> float | None:
        """Return the median wall time of a unit, in microseconds."""
        samples = self.samples.get(case, {}).get(candidate)
        return median(s.wall for s in samples) if samples else None

    def ratio(self, case: str, other: str) -> float | None:
        """Return ChatKluster's CPU over another's: the median of the rounds' ratios, for noise comes in spells."""
        rows = self.samples.get(case, {})
        ours, theirs = rows.get(Kluster.name), rows.get(other)
        if not ours or not theirs:
            return None
        return median(a.cpu / b.cpu for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True)
class Target:
    """A promise, and what was measured; `value` is None where a candidate was missing."""

    label: str
    value: float | None
    limit: float
    unit: str

    @property
    def verdict(self) -> str:
        """Return `PASS`, `FAIL` or `SKIP`."""
        if self.value is None:
            return "SKIP"
        return "PASS" if self.value <= self.limit else "FAIL"

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.3g}{self.unit}"
        return f"{self.verdict}  {self.label}: {value} (at most {self.limit:g}{self.unit})"


def targets(results: Results) -> list[Target]:
    """Return the targets of the project (reference/performance.md has the peers' figures)."""
    rows = [
        Target(f"CPU a streamed chunk, {mode}, over {peer}", results.ratio(f"chunk_{mode}", peer), limit, " x")
        for mode in ("sync", "async")
        for peer, limit in ((ChatOpenAI.name, 0.20 if mode == "sync" else 0.12), (Sdk.name, 0.5))
    ]
    rows += [
        Target(
            f"CPU a call, {mode}, over {ChatOpenAI.name}", results.ratio(f"call_{mode}", ChatOpenAI.name), limit, " x"
        )
        for mode, limit in (("sync", 0.50), ("async", 0.42))
    ]
    seconds = results.wall("many", Kluster.name)
    rows.append(
        Target(
            f"{REQUESTS} calls, {CONCURRENT} at once, over the ideal {IDEAL:g} s",
            None if seconds is None else seconds * REQUESTS / 1e6 / IDEAL,
            1.4,
            " x",
        )
    )
    made = results.constructions.get(Kluster.name)
    rows.append(Target("second construction", median(m["second"] for m in made) if made else None, 1.0, " ms"))
    imports = results.imports["kluster_integrations"]
    rows.append(Target("import kluster_integrations", median(i["wall"] for i in imports), 60.0, " ms"))
    loaded = {name for i in imports for name in i["frameworks"]}
    rows.append(Target(f"frameworks it loads ({', '.join(sorted(loaded)) or 'none'})", len(loaded), 0, ""))
    return rows


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cell(results: Results, case: Case, candidate: str) -> str:
    cpu, wall = results.cpu(case.key, candidate), results.wall(case.key, candidate)
    if cpu is None or wall is None:
        return "-"
    if case.kind == "many":
        return f"{cpu:.0f} / {wall * REQUESTS / 1e6:.2f} s"
    return f"{cpu:.0f} / {wall:.0f}"


def show(console: Console, results: Results, cases: Sequence[Case], names: Sequence[str]) -> None:
    """Print the tables."""
    table = Table(title="CPU / wall, microseconds a unit (medians)", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for name in (ChatOpenAI.name, Sdk.name):
        table.add_column(f"x {name}", justify="right", style="bold")
    for case in cases:
        ratios = [_ratio(results.ratio(case.key, peer)) for peer in (ChatOpenAI.name, Sdk.name)]
        table.add_row(case.label, *[_cell(results, case, name) for name in names], *ratios)
    console.print(table)

    table = Table(title="A fresh process, ms (medians)", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("", "first construction", "second", "first call"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, made in results.constructions.items():
        table.add_row(name, *[_number(median(m[k] for m in made), 2) for k in ("first", "second", "call")])
    console.print(table)

    table = Table(title="Imports (medians)", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("", "CPU ms", "wall ms", "modules", "of them frameworks"):
        table.add_column(heading, justify="right" if heading.endswith(("ms", "modules")) else "left")
    for module, rows in results.imports.items():
        figures = [_number(median(r[k] for r in rows)) for k in ("cpu", "wall", "modules")]
        table.add_row(module, *figures, ", ".join(rows[0]["frameworks"]))
    console.print(table)


def as_json(results: Results, cases: Sequence[Case], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole run."""
    names = [c.name for c in CANDIDATES]
    return {
        "facts": dict(facts),
        "unit": "microseconds of CPU and wall a unit; fresh processes: milliseconds",
        "cases": {
            case.key: {
                name: {
                    "cpu": results.cpu(case.key, name),
                    "wall": results.wall(case.key, name),
                    "samples": [s._asdict() for s in results.samples[case.key][name]],
                }
                for name in names
                if name in results.samples.get(case.key, {})
            }
            for case in cases
        },
        "ratios": {c.key: {peer: results.ratio(c.key, peer) for peer in (ChatOpenAI.name, Sdk.name)} for c in cases},
        "constructions": results.constructions,
        "imports": results.imports,
        "targets": [
            {"label": t.label, "value": t.value, "limit": t.limit, "verdict": t.verdict} for t in targets(results)
        ],
    }
