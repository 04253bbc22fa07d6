"""What the Python blocks of the pages print: written by a run (`make outputs`), compared with each later one.

A page's outputs are in `tests/outputs/`, by the block's code; `release/outputs.py` shows them on the site.
Those of the README are in the README, for no build adds them there.
"""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from .pages import ROOT

__all__ = ["OUTPUTS", "digest", "pinned", "read", "read_readme", "stable", "write", "write_readme"]

OUTPUTS = ROOT / "tests" / "outputs"

_ID = "0123456789abcdef"
_VOLATILE = [
    (r"127\.0\.0\.1:\d+", "127.0.0.1:8090"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "00000000-0000-4000-8000-000000000000"),
    (r"\b((?:chatcmpl|call|chat|batch|file|run|lc_run-)[-_]+(?:tool-)?)[0-9a-f-]{8,}\b", rf"\g<1>{_ID}"),
    (r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{24,32}(?![0-9a-f])", _ID + _ID[:8]),
    (rf"({_ID}\d{{8}}_|\"created\": )1\d{{9,12}}\b", r"\g<1>1790000000"),
    (r"date: '[\d-]+'", "date: '2026-10-01'"),
    (r"(?<![\d:T ])\d\d:\d\d:\d\d(?=  )", "12:00:00"),
    (r"\b\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(?:\.\d+)?", r"2026-10-01\g<1>12:00:00"),
    (r"(Execution Time \(s\) │)[ \d.]+│[ \d.]+│", r"\g<1>   0   │     0      │"),
    (r"\b(?:\d+(?:\.\d+)? ms|\d+\.\d+ s)\b", "5 ms"),
]
_TEXT = r"```\n(?:\n```text\n(?P<output>.*?)```\n)?"


def digest(code: str) -> str:
    """Return what a block of code is known by: a page may change around it, but not within it."""
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def stable(output: str, folder: Path) -> str:
    """Return an output without what differs from run to run: ports, ids, times, paths, trailing spaces."""
    output = output.replace(str(folder), "~/project")
    for pattern, same in _VOLATILE:
        output = re.sub(pattern, same, output)
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


def _file(page: Path) -> Path:
    return OUTPUTS / page.relative_to(ROOT / "docs").with_suffix(".yaml").as_posix().replace("/", "-")


def read(page: Path) -> dict[str, str]:
    """Return the outputs of a page's blocks, by the digest of the code."""
    file = _file(page)
    entries = yaml.safe_load(file.read_text("utf-8")) if file.exists() else []
    return {entry["code"]: entry["output"] for entry in entries}


def write(page: Path, outputs: dict[str, str]) -> None:
    """Write what a page's blocks print, by their code; blocks that print nothing are left out."""
    entries = [
        {"code": digest(code), "ends": code.rstrip().splitlines()[-1], "output": output}
        for code, output in outputs.items()
        if output
    ]
    _file(page).unlink(missing_ok=True)
    if entries:
        OUTPUTS.mkdir(exist_ok=True)
        text = yaml.dump(entries, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000)
        _file(page).write_text(
            f"# What docs/{page.relative_to(ROOT / 'docs')} prints; `make outputs` writes it.\n{text}", "utf-8"
        )


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as one can read it."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def read_readme(code: str) -> str:
    """Return the `text` block that follows a block of the README."""
    found = re.search(re.escape(code) + _TEXT, (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    return (found and found["output"]) or ""


def write_readme(code: str, output: str) -> None:
    """Write the `text` block that follows a block of the README."""
    page = ROOT / "README.md"
    block = f"{code}```\n\n```text\n{output}```\n"
    page.write_text(re.sub(re.escape(code) + _TEXT, lambda _: block, page.read_text("utf-8"), flags=re.DOTALL), "utf-8")
