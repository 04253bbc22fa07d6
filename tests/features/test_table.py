"""The README's table says what `test_features.py` proves: the same rows, the same adapters."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ..pages import ROOT, tables

COLUMNS = {"LangChain": "langchain", "LiteLLM": "litellm", "CrewAI": "crewai"}


@pytest.fixture(scope="module")
def collected() -> dict[str, set[str]]:
    """Return the adapters that each feature's test is collected for."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--color=no", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/features/test_features.py"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    found: dict[str, set[str]] = {}
    for name, params in re.findall(r"::(\w+)\[(.*)\]$", done.stdout, re.MULTILINE):
        found.setdefault(name, set()).update(set(params.split("-")) & set(COLUMNS.values()))
    assert found, done.stdout + done.stderr
    return found


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    (table,) = [t for t in tables((ROOT / "README.md").read_text("utf-8")) if set(COLUMNS) <= t[0].keys()]
    return table


def test_each_row_is_a_test_and_each_test_is_a_row(rows: list[dict[str, str]], collected: dict[str, set[str]]) -> None:
    assert [row["test"].strip("`") for row in rows] == list(collected)


def test_yes_is_where_the_test_runs(rows: list[dict[str, str]], collected: dict[str, set[str]]) -> None:
    for row in rows:
        said = {adapter for column, adapter in COLUMNS.items() if row[column] == "yes"}
        assert said == collected[row["test"].strip("`")], row
        others = {row[column] for column, adapter in COLUMNS.items() if adapter not in said}
        assert all(re.fullmatch(r"no: \S.*", cell) for cell in others), row  # and a no says why, or what instead
