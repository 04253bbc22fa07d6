"""docs/comparison.md claims what tests show: each row names one that is there. Its figures are those of a run."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from .pages import ROOT, tables

PAGE = ROOT / "docs" / "comparison.md"
RUNS = ROOT / "benchmarks" / "measured"
# What stands beside ours: the output of a run, and which of a line's ratios is the one.
MEASURED = {
    "ChatOpenAI": (RUNS / "langchain.txt", -2),
    "openai/…": (RUNS / "litellm.txt", -2),
    "crewai.LLM": (RUNS / "crewai.txt", -1),
}
TESTS = ROOT / "tests"


@cache
def collected(path: Path) -> frozenset[str]:
    """Return the tests of a module that pytest collects: functions, and methods of classes, that begin with `test`."""
    names = [node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    return frozenset(name for name in names if name.startswith("test"))


def claims() -> list[tuple[Path, str]]:
    """Return module and test of each row; the text before a table names a module, or the folder of several."""
    found = []
    for section in PAGE.read_text("utf-8").split("\n## ")[1:]:
        place = re.search(r"Tests of `(\S+)`", section)
        if place is None:
            continue
        for row in tables(section)[0]:
            module, _, test = row["test"].strip("`").rpartition("::")
            found.append((ROOT / place[1] / module if module else ROOT / place[1], test))
    return found


@pytest.mark.parametrize(("module", "test"), claims(), ids=lambda value: getattr(value, "name", value))
def test_the_test_is_there(module: Path, test: str) -> None:
    assert test in collected(module)


def test_every_comparison_is_told() -> None:
    """What tests/compared shows is on the page."""
    told = set(claims())
    for module in (TESTS / "compared").glob("test_*.py"):
        assert {(module, test) for test in collected(module)} <= told


def test_every_row_says_both_sides() -> None:
    sections = [table for table in tables(PAGE.read_text("utf-8")) if "test" in table[0]]
    assert len(sections) == 3
    assert all(cell for table in sections for row in table for name, cell in row.items())


def figures() -> list[dict[str, str]]:
    (table,) = [table for table in tables(PAGE.read_text("utf-8")) if "ratio" in table[0]]
    return table


@pytest.mark.parametrize("row", figures(), ids=lambda row: f"{row['compared with']}: {row['measured']}")
def test_figures_are_those_of_the_run(row: dict[str, str]) -> None:
    path, column = MEASURED[row["compared with"].strip("`")]
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    (line,) = [line for line in lines if re.match(rf"{re.escape(row['measured'])} {{2,}}", line)]
    assert row["ratio"] == re.findall(r"\d+\.\d\d\b(?! s)", line)[column]


@pytest.mark.parametrize("path", [path for path, _ in MEASURED.values()], ids=lambda path: path.stem)
def test_what_it_was_measured_on_is_said(path: Path) -> None:
    said = " ".join(PAGE.read_text("utf-8").split())
    versions = re.findall(
        r"\b(?:Python|openai|langchain-core|langchain-openai|litellm|crewai) \d[\d.]+", path.read_text("utf-8")
    )
    assert versions
    assert [version for version in versions if version not in said] == []
