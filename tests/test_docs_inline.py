"""What the pages say within a sentence or a table is there: commands, options and their defaults, variables, targets.

Blocks run (test_docs.py, test_docs_console.py); nobody runs what stands between backticks.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kluster_integrations.cli import app
from kluster_integrations.cli._repl import COMMANDS
from kluster_integrations.config import ENVIRONMENT, KlusterConfig

from .pages import PAGES, ROOT, tables

COMMAND_LINE = ROOT / "docs" / "command-line.md"
GATEWAY = ROOT / "docs" / "gateway.md"
KLUSTER: Any = get_command(app)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"\bKLUSTER(?:_?AI)?_[A-Z_]*[A-Z]\b")


def spans(page: Path) -> list[str]:
    """Return what stands between backticks on a page, outside of its blocks."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", page.read_text("utf-8")))


def options(command: Any) -> set[str]:
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}


def all_commands(command: Any = KLUSTER) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from all_commands(inner)


def problem(text: str) -> str | None:
    """Return what a command that begins with `kluster` has and the program has not."""
    command, allowed = KLUSTER, options(KLUSTER)
    for word in shlex.split(text, comments=True)[1:]:
        if word == "--":
            return None  # what follows is another program's
        if word.startswith("-") and len(word) > 1:
            if word.partition("=")[0] not in allowed:
                return f"{command.name} has no option {word}"
        elif hasattr(command, "commands") and word.islower():
            if word not in command.commands:
                return f"{command.name} has no command {word}"
            command = command.commands[word]
            allowed = allowed | options(command)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_a_sentence(page: Path) -> None:
    named = [span for span in spans(page) if re.match(r"kluster [a-z-]", span)]
    assert {span: why for span in named if (why := problem(span))} == {}


@pytest.mark.parametrize("page", [COMMAND_LINE, GATEWAY], ids=lambda page: page.name)
def test_options_within_a_sentence(page: Path) -> None:
    known = set().union(*(options(command) for command in all_commands())) | {"-", "--", "--install-completion"}
    named = {word for span in spans(page) if span.startswith("-") for word in span.split() if word.startswith("-")}
    assert named - known == set()


def test_defaults_of_the_gateway() -> None:
    """A default that a table names is the command's."""
    defaults = {name: param.default for param in KLUSTER.commands["gateway"].params for name in param.opts}
    rows = [row for table in tables(GATEWAY.read_text("utf-8")) for row in table if "option" in row]
    said = {
        row["option"].strip("`").split()[0]: float(match[1])
        for row in rows
        if (match := re.search(r"\bdefault (\d+)$", row["what it does"]))
    }
    assert said == {name: defaults[name] for name in said}
    assert said


def test_the_commands_of_a_conversation() -> None:
    """The table may describe them in other words than /help."""
    rows = [row for table in tables(COMMAND_LINE.read_text("utf-8")) for row in table if "command" in row]
    named = [span for row in rows for span in re.findall(r"`(/[^`]+)`", row["command"])]
    assert {span.split()[0] for span in named} == set(COMMANDS)


def test_variables() -> None:
    folders = (ROOT / name for name in ("integrations", "tests", "benchmarks"))  # a few are the tests' own
    files = [ROOT / "Makefile", *(file for folder in folders for file in folder.rglob("*.py"))]
    known = {name for file in files for name in _VARIABLE.findall(file.read_text("utf-8"))}
    known |= {name for names in ENVIRONMENT.values() for name in names}
    named = {name: page.name for page in PAGES for name in _VARIABLE.findall(page.read_text("utf-8"))}
    assert {name: page for name, page in named.items() if name not in known} == {}


DEFAULTS: dict[str, Callable[[Any], str]] = {
    "base_url": "`{}`".format,
    "timeout": "{:g} seconds".format,
    "max_retries": "{}".format,
    "max_response_bytes": lambda count: f"{count >> 20} MiB",
    "unsupported": "`{}`".format,
}


def test_tables_of_settings() -> None:
    """A setting's row names its variable, and its default where there is such a column."""
    seen = set()
    for page in PAGES:
        for row in (row for table in tables(page.read_text("utf-8")) for row in table):
            cells = list(row.values())
            setting = cells[0].strip("`")
            if setting not in KlusterConfig.model_fields or not re.match(r"`KLUSTER_\w+`", cells[1]):
                continue
            assert cells[1].split("`")[1] in ENVIRONMENT[setting], f"{page.name}: {setting}"
            if "default" in row and setting in DEFAULTS:
                default = DEFAULTS[setting](KlusterConfig.model_fields[setting].default)
                assert re.search(rf"(^|\(){re.escape(default)}\b|^{re.escape(default)}", row["default"]), (
                    f"{page.name}: {setting}"
                )
                seen.add((page.name, setting))
    assert seen >= {("langchain.md", setting) for setting in DEFAULTS}


def test_modules_and_targets() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    found = [(page.name, span) for page in PAGES for span in spans(page)]
    module = re.compile(r"(?:python -m )?((?:examples|benchmarks)\.[\w.]+)")
    modules = {(page, m[1]) for page, span in found if (m := module.match(span))}
    assert {(page, name) for page, name in modules if not importlib.util.find_spec(name)} == set()
    made = {(page, m[1]) for page, span in found if (m := re.match(r"make ([a-z][\w-]*)", span))}
    assert {(page, name) for page, name in made if name not in targets} == set()
    assert modules
    assert made


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("kluster keys delete", "keys has no command delete"),
        ("kluster probe --url http://localhost:8080", "probe has no option --url"),
        ("kluster chta", "has no command chta"),
        ("kluster batch run a.py -- --any", None),
        ("kluster chat -c", None),
    ],
)
def test_a_wrong_command_is_noticed(command: str, why: str | None) -> None:
    found = problem(command)
    assert (found is None) if why is None else why in (found or "")
