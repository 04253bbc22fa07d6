"""What the blocks of the pages print: written by a run (`make outputs`), compared with each later one.

A block of Python has one output, a block of commands one per command. A page's outputs are in `tests/outputs/`, by the
code above them; `release/outputs.py` shows them on the site. Those of the README are in the README, for no build adds
them there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from .pages import ROOT

__all__ = ["OUTPUTS", "check", "digest", "pinned", "prefixes", "stable"]

OUTPUTS = ROOT / "tests" / "outputs"
WRITE = bool(os.environ.get("WRITE_OUTPUTS"))

_MOST_LINES, _MOST_CHARACTERS = 12, 240  # of a command's output, per line; what is longer is cut

_ID = "0123456789abcdef"
_VOLATILE = [
    (r"( is at http://[\d.]+:)\d+(/v1 \(OpenAI's API\), http://[\d.]+:)\d+", r"\g<1>8091\g<2>8091"),  # the gateway
    (r"127\.0\.0\.1:(?!8091\b)\d+", "127.0.0.1:8090"),
    (r"\bkg-[\w-]{32}", f"kg-{_ID}{_ID}"),
    (r"(ok   Python +)\S+ \(.*\)", r"\g<1>3.11.9 (~/project/.venv/bin/python)"),
    (r"\b\d:\d\d:\d\d$", "0:00:00"),  # of a progress bar
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "00000000-0000-4000-8000-000000000000"),
    (r"\b((?:chatcmpl|call|chat|batch|file|run|lc_run-)[-_]+(?:tool-)?)[0-9a-f-]{8,}\b", rf"\g<1>{_ID}"),
    (r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{24,32}(?![0-9a-f])", _ID + _ID[:8]),
    (rf"({_ID}\d{{8}}_|\"created\": ?)1\d{{9,12}}\b", r"\g<1>1790000000"),
    (r"date: '[\d-]+'", "date: '2026-10-01'"),
    (r"(?<![\d:T ])\d\d:\d\d:\d\d(?=  )", "12:00:00"),
    (r"\b\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(?:\.\d+)?", r"2026-10-01\g<1>12:00:00"),
    (r"(Execution Time \(s\) │)[ \d.]+│[ \d.]+│", r"\g<1>   0   │     0      │"),
    (r"\b(?:\d+(?:\.\d+)? ms|\d+\.\d+ s)\b", "5 ms"),
]
_README = ROOT / "README.md"
_TEXT = r"```\n(?:\n```text\n(?P<output>.*?)```\n)?"


def digest(code: str) -> str:
    """Return what a block of code is known by: a page may change around it, but not within it."""
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def prefixes(language: str, code: str) -> list[str]:
    """Return the code up to each place where a block's output is shown: its end; of commands, the end of each."""
    if language != "console":
        return [code]
    starts = [match.start() for match in re.finditer(r"^\$ ", code, re.MULTILINE)]
    return [code[:end] for end in [*starts[1:], len(code)]]


def check(page: Path, language: str, printed: Mapping[str, str]) -> None:
    """Compare what a page's blocks in a language print, by their `prefixes`, with what is written down, or write it.

    Raises:
        AssertionError: If they print something else.
    """
    printed = {code: _cut(text) if language == "console" else text for code, text in printed.items()}
    if WRITE:
        _write(page, language, printed)
    elif pinned():
        wanted = _read(page, language, printed)
        assert {code: text for code, text in printed.items() if text} == wanted, "run `make outputs`"


def _cut(output: str) -> str:
    """Return the first lines of a long output, and the beginning of a long line, each with a mark."""
    lines = output.splitlines()
    if len(lines) > _MOST_LINES:
        kept = lines[: _MOST_LINES - 4]
        lines = [*kept, f"[… {len(lines) - len(kept)} more lines]"]
    limit = _MOST_CHARACTERS
    return "".join(f"{line[:limit]} […]\n" if len(line) > limit else f"{line}\n" for line in lines)


def stable(output: str, folder: Path) -> str:
    """Return an output without what differs from run to run: ports, ids, times, paths, trailing spaces."""
    output = output.replace(str(folder), "~/project")
    for pattern, same in _VOLATILE:
        output = re.sub(pattern, same, output, flags=re.MULTILINE)
    return "".join(f"{line.rstrip()}\n" for line in output.rstrip().splitlines())


def pinned() -> bool:
    """Return whether the frameworks are those of constraints.txt, whose outputs are written down."""
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    try:
        return all(
            version(name) == pins[name] for name in ("openai", "langchain-core", "langchain", "litellm", "crewai")
        )
    except PackageNotFoundError:
        return False


def _file(page: Path, language: str) -> Path:
    name = page.relative_to(ROOT / "docs").with_suffix("").as_posix().replace("/", "-")
    return OUTPUTS / (f"{name}.yaml" if language == "python" else f"{name}-{language}.yaml")


def _read(page: Path, language: str, printed: Mapping[str, str]) -> dict[str, str]:
    """Return what is written down for a page; code that is no longer there is known by its digest."""
    if page == _README:
        found = {code: re.search(re.escape(code) + _TEXT, page.read_text("utf-8"), re.DOTALL) for code in printed}
        return {code: match["output"] for code, match in found.items() if match and match["output"]}
    file, codes = _file(page, language), {digest(code): code for code in printed}
    entries = yaml.safe_load(file.read_text("utf-8")) if file.exists() else []
    return {codes.get(entry["code"], entry["code"]): entry["output"] for entry in entries}


def _write(page: Path, language: str, printed: Mapping[str, str]) -> None:
    """Write what a page prints; what prints nothing is left out."""
    if page == _README:
        for code, output in printed.items():
            block = f"{code}```\n" + (f"\n```text\n{output}```\n" if output else "")
            text = page.read_text("utf-8")
            page.write_text(re.sub(re.escape(code) + _TEXT, lambda _, new=block: new, text, flags=re.DOTALL), "utf-8")
        return
    entries = [
        {"code": digest(code), "ends": code.rstrip().splitlines()[-1], "output": output}
        for code, output in printed.items()
        if output
    ]
    file = _file(page, language)
    file.unlink(missing_ok=True)
    if entries:
        OUTPUTS.mkdir(exist_ok=True)
        text = yaml.dump(entries, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000)
        file.write_text(
            f"# What docs/{page.relative_to(ROOT / 'docs')} prints; `make outputs` writes it.\n{text}", "utf-8"
        )


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as one can read it."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
