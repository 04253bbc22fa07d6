"""Every Python block of the README and of docs/ runs, against the emulator.

Blocks of one page share their names, as a reader types them one after the other. A block that cannot run says why, in
the line before it: `<!-- no-run: it needs a deployment -->`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.emulator import Emulator

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FRAMEWORKS = ("langchain", "langchain_core", "langgraph", "litellm", "crewai")

_BLOCK = re.compile(
    r"^(?:<!-- no-run: *(?P<reason>\S[^\n]*?) *-->\n+)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def blocks(text: str) -> list[tuple[int, str]]:
    """Return the line before each block that is to run, and the block."""
    found = [(text.count("\n", 0, match.start("code")), match) for match in _BLOCK.finditer(text)]
    return [(line, match["code"]) for line, match in found if match["reason"] is None]


def missing_framework(tree: ast.Module) -> str | None:
    """Return a framework that the block needs and that is not installed here."""
    names = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    wanted = {name.removeprefix("kluster_integrations.").split(".")[0] for name in names}
    return next((name for name in FRAMEWORKS if name in wanted and importlib.util.find_spec(name) is None), None)


@pytest.mark.usefixtures("own_catalog")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(
    page: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if page.stem in FRAMEWORKS and importlib.util.find_spec(page.stem) is None:
        pytest.skip(f"{page.stem} is not installed")
    monkeypatch.setenv("KLUSTER_API_KEY", "docs")
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))  # where CrewAI keeps memory and knowledge
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs"}
    for line, code in blocks(page.read_text("utf-8")):
        tree = ast.parse(code, str(page))
        if missing_framework(tree):
            continue
        ast.increment_lineno(tree, line)  # so that a traceback names the line of the page
        exec(compile(tree, str(page), "exec", dont_inherit=True), names)


def test_every_page_has_a_block_that_runs() -> None:
    assert all(blocks(page.read_text("utf-8")) for page in PAGES)


def test_a_block_that_is_marked_does_not_run() -> None:
    text = "<!-- no-run: it needs a deployment -->\n```python\n1 / 0\n```\n\n```python\nprint(1)\n```\n"

    assert blocks(text) == [(6, "print(1)\n")]


def test_a_mark_without_a_reason_does_not_count() -> None:
    assert blocks("<!-- no-run: -->\n```python\n1 / 0\n```\n") == [(2, "1 / 0\n")]
