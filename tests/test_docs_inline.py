"""What the pages say within a sentence or a table is there: commands, options and their defaults, variables, targets.

Blocks run (test_docs.py, test_docs_console.py); nobody runs what stands between backticks.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kluster_integrations import ModelSpec, errors
from kluster_integrations.batch import BatchJob
from kluster_integrations.cli import app
from kluster_integrations.cli._repl import COMMANDS
from kluster_integrations.cli.clients import TARGETS
from kluster_integrations.config import ENVIRONMENT, KlusterConfig
from kluster_integrations.emulator import Emulator
from kluster_integrations.gateway import app as gateway_app
from kluster_integrations.limits import Limits

from .pages import PAGES, ROOT, blocks, tables

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


# `max_tokens`, `ModelSpec`, `modelProvider`: names, of which a plain word cannot be told.
_NAME = re.compile(r"\b(?:[A-Za-z]+_\w+|[A-Z][a-z]+[A-Z]\w*|[a-z]+[A-Z]\w+)\b")
_FOREIGN = {  # names of other projects that nothing here uses
    "AnthropicChatCompletionClient",
    "ChatAdapter",
    "ReActV2",
    "disable_stop_sequence_limit",
    "modelProvider",
    "use_native_function_calling",
}
_FOLDERS = ("integrations", "tests", "examples", "benchmarks", "release", "cassettes", "docs")


@pytest.fixture(scope="module")
def known_names() -> set[str]:
    """Names in this repository's code and settings, of its files, and in the pages' blocks."""
    files = [
        file
        for name in _FOLDERS
        for file in (ROOT / name).rglob("*")
        if file.suffix in (".py", ".toml", ".yaml", ".mjs")
    ]
    files += [*ROOT.glob("constraints*.txt"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    texts = [file.read_text("utf-8") for file in files]
    texts += [block.code for page in PAGES for block in blocks(page.read_text("utf-8"))]
    return {file.stem for file in files} | set(re.findall(r"\w+", "\n".join(texts))) | _FOREIGN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_within_a_sentence(page: Path, known_names: set[str]) -> None:
    """A name that is written wrongly, or was renamed, is nowhere in the code."""
    named = {name: span for span in spans(page) for name in _NAME.findall(span)}
    assert {name: span for name, span in named.items() if name not in known_names} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_within_a_sentence(page: Path) -> None:
    named = [span for span in spans(page) if re.match(rf"(?:{'|'.join(_FOLDERS)})/[\w./-]*$", span)]
    assert [span for span in named if not (ROOT / span).exists()] == []


_CLASSES: dict[str, type] = {
    **{name: cls for name, cls in vars(errors).items() if isinstance(cls, type)},
    **{cls.__name__: cls for cls in (BatchJob, Emulator, KlusterConfig, Limits, ModelSpec)},
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_attributes_within_a_sentence(page: Path) -> None:
    named = {pair for span in spans(page) for pair in re.findall(r"\b([A-Z]\w+)\.([a-z]\w*)", span)}
    ours = [(_CLASSES[name], attribute) for name, attribute in named if name in _CLASSES]
    missing = [
        f"{cls.__name__}.{attribute}"
        for cls, attribute in ours
        if attribute not in {*dir(cls), *cls.__annotations__, *getattr(cls, "model_fields", ())}
    ]
    assert missing == []


def test_the_arguments_of_a_reply() -> None:
    section = (ROOT / "docs" / "emulator.md").read_text("utf-8").partition("The arguments of `reply`:\n\n")[2]
    rows = re.findall(r"^\| (`.*?) \|", section.partition("\n\n")[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {*inspect.signature(Emulator.reply).parameters} - {"self"}


def test_targets_of_the_exports() -> None:
    page = (ROOT / "docs" / "clients.md").read_text("utf-8")
    rows = [row["target"] for table in tables(page) for row in table if "target" in row]
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert named == {*TARGETS}


def test_paths_of_the_gateway() -> None:
    rows = [row["path"] for table in tables(GATEWAY.read_text("utf-8")) for row in table if "path" in row]
    named = {path for row in rows for path in re.findall(r"`/v1(/[^`]*)`", row)}
    routes = [route for group in gateway_app._GROUPS for route in group]
    assert named
    assert {path for path in named if not any(route.path_regex.match(path) for route in routes)} == set()


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
