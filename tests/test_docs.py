"""Every Python block of the pages runs and prints what is written down, and every block of data can be read.

Blocks of one page are pasted into one prompt of Python, one after the other; each of the README is for itself. A block
that cannot run says why, in the line before it: `<!-- no-run: it needs a deployment -->`. `make outputs` writes down
what they print. The emulator answers as a reader's does, who starts it with `--replies examples/replies.yaml`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from kluster_integrations.emulator import Emulator
from kluster_integrations.litellm import _versions

from . import outputs
from .pages import PAGES, ROOT, Block, blocks
from .prompt import paste

README = ROOT / "README.md"
FRAMEWORKS = ("langchain", "langchain_core", "langchain_openai", "langgraph", "litellm", "crewai", "redis")
FRAMEWORKS += ("google.adk", "agents", "strands", "smolagents", "agno", "instructor", "dspy")  # on LiteLLM
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


def run(groups: list[list[Block]]) -> list[dict[str, str]]:
    """Paste the blocks that can run here; return for each group what its blocks print, by their code."""
    able = [
        [one for one in group if not (one.reason or one.file or missing_framework(ast.parse(one.code)))]
        for group in groups
    ]
    printed: list[dict[str, str]] = []
    for group, texts in zip(able, paste(able, folder=Path.cwd()), strict=True):
        printed.append({})
        for block, text in zip(group, texts, strict=True):
            output = outputs.stable(text, Path.cwd())
            assert printed[-1].setdefault(block.code, output) == output, (
                f"the block of line {block.line} is on the page twice, and prints something else"
            )
    return printed


@pytest.fixture(autouse=True)
def _as_a_reader(
    request: pytest.FixtureRequest, replying_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request.getfixturevalue("own_catalog")
    monkeypatch.setenv("KLUSTER_API_KEY", "docs")
    monkeypatch.setenv("KLUSTER_BASE_URL", replying_emulator.base_url)
    monkeypatch.setenv("KLUSTER_BATCH_POLL", "0.01")
    monkeypatch.setenv("KLUSTER_BATCH_QUIET", "1")
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))  # where CrewAI keeps memory and knowledge
    monkeypatch.chdir(tmp_path)


# The blocks of a page go together; each of the README is for itself.
PYTHON = {
    page: [[block] for block in found] if page == README else [found]
    for page in PAGES
    if (found := blocks(page.read_text("utf-8"), "python"))
}
# Many share an interpreter, for the import of a framework takes longer than most pages. The concepts add models to the
# catalog, the page of batches mostly waits, and that of LiteLLM lists all batch jobs.
CONCEPTS = [page for page in PYTHON if page.parent.name == "concepts"]
ALONE = [page for page in PYTHON if page.name in ("batch.md", "litellm.md", "litellm-frameworks.md")]
BATCH = ROOT / "docs" / "batch.md"  # its folders remember, and it says that a program may run again
OTHERS = [README, *(page for page in PYTHON if page not in (*CONCEPTS, *ALONE, README))]


@pytest.mark.parametrize(
    "pages",
    [CONCEPTS, OTHERS, *([page] for page in ALONE)],
    ids=["concepts", "others", *(page.name for page in ALONE)],
)
def test_blocks_can_be_pasted(pages: list[Path]) -> None:
    pages = [page for page in pages if page.stem not in FRAMEWORKS or _works(page.stem)]
    if not pages:
        pytest.skip("the page's framework is not installed, or not in a version that works")
    groups = [group for page in pages for group in PYTHON[page]]
    again = groups if pages == [BATCH] else []
    texts = run([*groups, *again])
    assert texts[len(groups) :] == texts[: len(again)], "pasted again, it prints something else"
    printed = iter(texts)
    for page in pages:
        of_page = [next(printed) for _ in PYTHON[page]]
        assert page != README or all(text for each in of_page for text in each.values())
        outputs.check(page, "python", {code: text for each in of_page for code, text in each.items()})


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("for n in range(3):\n    print(n)\nprint()\n", "SyntaxError"),
        ("class A:\n    x = 1\n\n    y = 2\n", "IndentationError"),
        ("print(1 / 0)\n", "ZeroDivisionError"),
        ("raise SystemExit\n", "left early"),
        (
            "import threading\nthread = threading.Thread(target=int, args=[None])\nthread.start(); thread.join()\n",
            "TypeError",
        ),
    ],
)
def test_what_fails_in_the_prompt_is_seen(code: str, problem: str, tmp_path: Path) -> None:
    fine = Block(1, "python", "n = 1\nfor _ in range(2):\n    print(n)\n\nprint('é')\n")
    assert paste([[fine]], folder=tmp_path) == [["1\n1\né\n"]]

    with pytest.raises(AssertionError, match=problem):
        paste([[fine, Block(9, "python", code), fine]], folder=tmp_path)


def test_a_group_has_no_names_of_the_one_before(tmp_path: Path) -> None:
    first, second = Block(1, "python", "n = 1\n"), Block(5, "python", "print(n)\n")
    assert paste([[first, second]], folder=tmp_path) == [["", "1\n"]]

    with pytest.raises(AssertionError, match=r"(?s)line 5\n.*NameError"):
        paste([[first], [second]], folder=tmp_path)


# What an import needs: one of these extras of ours, or of these packages.
_NEEDS = {
    "crewai": {"[crewai]"},
    "kluster_integrations.emulator": {"[emulator]"},
    "kluster_integrations.gateway": {"[gateway]"},
    "kluster_integrations.ray": {"[ray]"},
    "kluster_integrations.recording": {"[recording]"},
    "langchain": {"langchain"},
    "langchain_core": {"[langchain]"},
    "langgraph": {"langchain", "langgraph"},
    "litellm": {"[litellm]"},
    "openai": {"[langchain]", "[litellm]", "openai"},
    "pytest": {"[recording]", "pytest"},
}


def not_installed(text: str) -> set[str]:
    """Return what a page's blocks import or start, and neither a `pip install` nor "extra `NAME`" on the page names."""
    commands = re.findall(r"pip install ([^`\n#]+)", text)
    named = {f"[{extra}]" for extra in re.findall(r"extra `(\w+)`", text)}
    named |= {
        f"[{extra}]"
        for command in commands
        for extras in re.findall(r"\[(.+?)\]", command)
        for extra in extras.split(",")
    }
    named |= {word.strip('"') for command in commands for word in command.split()}
    trees = [ast.parse(block.code) for block in blocks(text, "python") if not block.reason]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    imported |= {"pytest" for block in blocks(text, "console") if "$ pytest" in block.code}
    return {
        module
        for module, ways in _NEEDS.items()
        if not ways & named and any(f"{i}.".startswith(f"{module}.") for i in imported)
    }


@pytest.mark.parametrize(
    "page",
    [page for page in PYTHON if page != README and "pip install" in page.read_text("utf-8")],
    ids=lambda p: p.name,
)
def test_a_page_installs_what_it_imports(page: Path) -> None:
    """Here all is installed. The concepts rely on "Getting started"; the README lists the extras in a comment."""
    assert not_installed(page.read_text("utf-8")) == set()


def test_a_missing_install_is_noticed() -> None:
    block = "```python\nfrom kluster_integrations.emulator import Emulator\nimport langchain_core\n```\n"
    assert not_installed(f'pip install ".[langchain]"\n{block}') == {"kluster_integrations.emulator"}
    assert not_installed(f'pip install ".[langchain,emulator]"\n{block}') == set()
    assert not_installed("```console\n$ pytest test_it.py\n```\n") == {"pytest"}
    assert not_installed(f'`pip install ".[langchain]"`, with the extra `emulator`\n{block}') == set()


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_this_package_is_imported_before_litellm(page: Path) -> None:
    """Else LiteLLM asks the network for its prices: without one that takes seconds, and prints warnings."""
    text = page.read_text("utf-8")
    lines = [line for block in blocks(text, "python") for line in block.code.splitlines()]
    theirs = next((number for number, line in enumerate(lines) if line.startswith("import litellm")), None)
    if theirs is not None and "export LITELLM_LOCAL_MODEL_COST_MAP" not in text.split("```python")[0]:
        assert any(line.startswith("from kluster_integrations.litellm import") for line in lines[:theirs])


def test_what_is_on_two_pages_prints_the_same() -> None:
    """The site finds an output by the code alone."""
    known: dict[str, str] = {}
    for file in sorted(outputs.OUTPUTS.glob("*.yaml")):
        for entry in yaml.safe_load(file.read_text("utf-8")):
            assert known.setdefault(entry["code"], entry["output"]) == entry["output"], f"{file.name}: {entry['ends']}"


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
