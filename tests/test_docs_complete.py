"""What the package has, the pages tell of: variables, errors, commands, faults, extras, public names."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from kluster_integrations import errors
from kluster_integrations.cli import app
from kluster_integrations.config import ENVIRONMENT, KlusterConfig
from kluster_integrations.emulator.faults import Kind

from .pages import PAGES, ROOT, tables

DOCS = ROOT / "docs"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def text(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def first_column(page: str) -> set[str]:
    """Return the code that the first cells of a page's tables begin with."""
    cells = [next(iter(row.values())) for table in tables(text(page)) for row in table]
    return {match[1] for cell in cells if (match := re.match(r"`([^`]+)`", cell))}


def test_every_setting_and_every_variable() -> None:
    page = text("concepts/configuration.md")
    assert set(KlusterConfig.model_fields) <= first_column("concepts/configuration.md")
    variables = [name for names in ENVIRONMENT.values() for name in names]
    assert [name for name in variables if f"`{name}`" not in page] == []


def test_every_error() -> None:
    classes = {name for name in errors.__all__ if isinstance(getattr(errors, name), type) and name.endswith("Error")}
    assert first_column("concepts/errors.md") == classes - {"KlusterError"}


def test_every_command() -> None:
    commands = {str(command.name) for command in (*app.registered_commands, *app.registered_groups)}
    assert {name.split()[1] for name in first_column("command-line.md") if name.startswith("kluster ")} == commands


def test_every_kind_of_fault() -> None:
    assert set(get_args(Kind)) <= first_column("emulator.md")


def test_every_extra() -> None:
    assert first_column("getting-started.md") == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("kluster_integrations", None),
        ("kluster_integrations.langchain", "langchain_core"),
        ("kluster_integrations.litellm", None),
        ("kluster_integrations.crewai", "crewai"),
        ("kluster_integrations.batch", None),
        ("kluster_integrations.verify", None),
        ("kluster_integrations.ray", None),
        ("kluster_integrations.emulator", None),
        ("kluster_integrations.recording", None),
    ],
)
def test_every_public_name(module: str, needs: str | None) -> None:
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    every = "\n".join(page.read_text("utf-8") for page in PAGES)
    public = importlib.import_module(module).__all__
    names = [
        name for name in public if not name.startswith("__") and not name.isupper()
    ]  # constants explain themselves
    assert [name for name in names if not re.search(rf"\b{name}\b", every)] == []


def test_every_page_has_one_title() -> None:
    def titles(page: Path) -> int:
        return len(re.findall(r"^# ", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S), re.M))

    assert {page.name: n for page in PAGES if (n := titles(page)) != 1 and page.name != "changelog.md"} == {}
