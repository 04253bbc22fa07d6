"""Every Python block of the pages runs and prints what is written down, and every block of data can be read.

Blocks of one page share their names, as a reader types them one after the other; each of the README runs alone. A block
that cannot run says why, in the line before it: `<!-- no-run: it needs a deployment -->`. `make outputs` writes down
what they print. The emulator answers as a reader's does, who starts it with `--replies examples/replies.yaml`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import random
import re
import tomllib
from codeop import CommandCompiler
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kluster_integrations.emulator import Emulator
from kluster_integrations.emulator.replies import load
from kluster_integrations.litellm import _versions

from . import outputs
from .pages import PAGES, ROOT, Block, blocks

README = ROOT / "README.md"
FRAMEWORKS = ("langchain", "langchain_core", "langchain_openai", "langgraph", "litellm", "crewai", "redis")
FRAMEWORKS += ("google.adk", "agents", "strands", "smolagents", "agno", "instructor", "dspy")  # on LiteLLM
REPLIES = ROOT / "examples" / "replies.yaml"
WRITE = bool(os.environ.get("WRITE_OUTPUTS"))
RUN = ("python", "console")  # console blocks: test_docs_console.py
READ = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load, "text": str}


def missing_framework(tree: ast.Module) -> str | None:
    """Return a framework that the block needs and that is not installed here."""
    names = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    wanted = [f"{name.removeprefix('kluster_integrations.')}." for name in names]
    used = (name for name in FRAMEWORKS if any(one.startswith(f"{name}.") for one in wanted))
    return next((name for name in used if not _works(name)), None)


def _works(framework: str) -> bool:
    """Whether it is installed here, LiteLLM in a version that works."""
    try:
        if importlib.util.find_spec(framework) is None:
            return False
    except ModuleNotFoundError:  # of `google.adk` even `google`
        return False
    return framework != "litellm" or not _versions.problem(_versions.installed() or "")


@contextlib.contextmanager
def _own_handlers(found: list[Block]) -> Iterator[None]:
    """Take away what a page adds to CrewAI's one event bus."""
    if importlib.util.find_spec("crewai") and any("crewai" in block.code for block in found):
        from crewai.events.event_bus import crewai_event_bus

        with crewai_event_bus.scoped_handlers():
            yield
    else:
        yield


def run(page: Path, found: list[Block], names: dict[str, Any]) -> dict[str, str]:
    """Run the blocks that can run here; return what each of them prints."""
    printed: dict[str, str] = {}
    random.seed(0)  # LiteLLM's router takes one of its deployments by chance
    for block in found:
        tree = ast.parse(block.code, str(page))
        if block.reason or block.file or missing_framework(tree):
            continue
        ast.increment_lineno(tree, block.line)  # so that a traceback names the line of the page
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            exec(compile(tree, str(page), "exec", dont_inherit=True), names)
        output = outputs.stable(stdout.getvalue(), Path.cwd())
        assert printed.get(block.code, output) == output, (
            f"line {block.line} is on the page twice, and prints something else"
        )
        printed[block.code] = output
    return printed


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Answer as `kluster emulator --replies examples/replies.yaml` does."""
    with Emulator() as server:
        for reply in load(str(REPLIES)):
            server.reply(**reply)
        yield server


@pytest.fixture(autouse=True)
def _as_a_reader(
    request: pytest.FixtureRequest, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request.getfixturevalue("own_catalog")
    monkeypatch.setenv("KLUSTER_API_KEY", "docs")
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
    monkeypatch.setenv("KLUSTER_BATCH_POLL", "0.01")
    monkeypatch.setenv("KLUSTER_BATCH_QUIET", "1")
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))  # where CrewAI keeps memory and knowledge
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.chdir(tmp_path)


PYTHON = {page: found for page in PAGES if (found := blocks(page.read_text("utf-8"), "python"))}
README_BLOCKS = PYTHON.pop(README)


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_blocks_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if page.stem in FRAMEWORKS and not _works(page.stem):
        pytest.skip(f"{page.stem} is not installed, or not in a version that works")
    with _own_handlers(PYTHON[page]):
        printed = run(page, PYTHON[page], {"__name__": "docs"})
    if WRITE:
        outputs.write(page, printed)
    elif outputs.pinned():
        wanted = outputs.read(page)
        assert {outputs.digest(code): text for code, text in printed.items() if text} == wanted, "run `make outputs`"


@pytest.mark.parametrize("block", README_BLOCKS, ids=lambda block: f"line {block.line}")
def test_each_block_of_the_readme_runs_alone(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    if missing := missing_framework(ast.parse(block.code)):
        pytest.skip(f"{missing} is not installed")
    with _own_handlers([block]):
        (printed,) = run(README, [block], {"__name__": "readme"}).values()
    assert printed
    if WRITE:
        outputs.write_readme(block.code, printed)
    elif outputs.pinned():
        assert printed == outputs.read_readme(block.code), "run `make outputs`"


@pytest.mark.parametrize(
    ("page", "block"),
    [(page, block) for page in PAGES for block in blocks(page.read_text("utf-8"), "python") if not block.reason],
    ids=lambda value: value.name if isinstance(value, Path) else f"line {value.line}",
)
def test_each_block_can_be_pasted(page: Path, block: Block) -> None:
    """Into the prompt of Python 3.11 and 3.12, where an empty line, and nothing else, ends a compound statement."""
    assert not_pasted(block.code) is None


def not_pasted(code: str) -> str | None:
    """Return the line at which Python's prompt stops, if it does."""
    compiler, typed = CommandCompiler(), list[str]()
    for line in [*code.splitlines(), ""]:
        typed.append(line)
        try:
            if compiler("\n".join(typed), symbol="single"):
                typed.clear()
        except SyntaxError:
            return line
    return "\n".join(typed) if typed else None


@pytest.mark.parametrize(
    ("code", "stops"),
    [
        ("for n in range(3):\n    print(n)\nprint()\n", "print()"),
        ("class A:\n    x = 1\n\n    y = 2\n", "    y = 2"),
        ("for n in range(3):\n    print(n)\n\nprint()\n", None),
    ],
)
def test_what_the_prompt_refuses_is_seen(code: str, stops: str | None) -> None:
    assert not_pasted(code) == stops


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_escapes(page: Path) -> None:
    text = page.read_text("utf-8")
    known = (*RUN, *READ)
    wrong = [block.line for block in blocks(text) if block.language not in known and not block.reason]
    assert wrong == [], f"the language is to be one of {', '.join(known)}, or a reason given"
    fences = len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE))
    assert fences == 2 * len(blocks(text)), "each fence is to begin its line, and to be closed"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_data_can_be_read(page: Path) -> None:
    for block in blocks(page.read_text("utf-8"), *READ):
        assert READ[block.language](block.code) is not None, f"{page.name}, line {block.line}"


def test_a_block_that_is_marked_does_not_run() -> None:
    text = "<!-- no-run: it needs a deployment -->\n```python\n1 / 0\n```\n\n```python\nprint(1)\n```\n"

    first, second = blocks(text)
    assert (first.reason, second) == ("it needs a deployment", Block(6, "python", "print(1)\n"))


def test_a_mark_without_a_reason_does_not_count() -> None:
    (block,) = blocks("<!-- no-run: -->\n```python\n1 / 0\n```\n")

    assert block.reason is None
