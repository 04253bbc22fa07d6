"""No file of the project names a machine or a package index, and none is too long to read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .tree import ROOT, files

# Put together here, so that this file does not hold what it looks for.
_HOMES = "|".join(
    (
        *("ho" + "me/[a-z]", "Us" + "ers/[A-Za-z]", "ro" + "ot(?:/|\\b)", "wo" + "rk(?:/[a-z]|$)", "o" + "pt/[a-z]"),
        *("mn" + "t/", "tm" + "p/", "va" + "r/[a-z]"),
    )
)
MACHINE_PATH = re.compile(rf"(?:(?<![\w./~-])|(?<=file://))/(?:{_HOMES})|[A-Z]:\\\\?Us" + r"ers\\", re.MULTILINE)
_INDEXES = (
    "py" + "pi",
    "python" + "hosted",
    "npm" + "js",
    "yarn" + "pkg",
    "cr" + "ates",
    "ana" + "conda",
    "arti" + "factory",
    "nex" + "us",
)
_BARE = (
    "files.python" + "hosted",
    "registry.npm" + "js",
    "py" + "pi.org",
    "dev" + "pi",
    "jf" + "rog.io",
    "code" + "artifact",
)
INDEX_HOST = re.compile(
    rf"//[\w.-]*\b(?:{'|'.join(_INDEXES)})\b[\w.-]*|\b(?:{'|'.join(map(re.escape, _BARE))})\b"
    rf"|/{'simple'}/|(?:--|PIP_)(?:(?:extra[-_])?index[-_]url|find[-_]links)",
    re.IGNORECASE,
)

TEXT = [path for path in files() if b"\0" not in path.read_bytes()[:1_000]]


def found(pattern: re.Pattern[str], text: str) -> list[str]:
    return [f"line {text.count(chr(10), 0, m.start()) + 1}: {m.group()}" for m in pattern.finditer(text)]


@pytest.mark.parametrize("pattern", [MACHINE_PATH, INDEX_HOST], ids=["machine path", "package index"])
def test_no_file_holds_a(pattern: re.Pattern[str]) -> None:
    wrong = {
        str(path.relative_to(ROOT)): hits
        for path in TEXT
        if (hits := found(pattern, path.read_text("utf-8", "replace")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, "cd /ho" + "me/ada/project"),
        (MACHINE_PATH, '"/Us' + 'ers/Ada"'),
        (MACHINE_PATH, "/ro" + "ot/x"),
        (MACHINE_PATH, "see /tm" + "p/x"),
        (MACHINE_PATH, "file:///ho" + "me/ada"),
        (MACHINE_PATH, "cd /wo" + "rk"),
        (MACHINE_PATH, "C:\\Us" + "ers\\Ada"),
        (INDEX_HOST, "https://py" + "pi.org/simple"),
        (INDEX_HOST, "https://files.python" + "hosted.org/x"),
        (INDEX_HOST, "https://registry.npm" + "js.org/left-pad"),
        (INDEX_HOST, "registry.npm" + "js.org"),
        (INDEX_HOST, "PIP_INDEX" + "_URL=http://127.0.0.1:8081"),
        (INDEX_HOST, "--find" + "-links wheels"),
        (INDEX_HOST, "http://127.0.0.1:8081/sim" + "ple/"),
        (INDEX_HOST, "http://mirror.example/py" + "pi/simple --extra-index" + "-url"),
    ],
)
def test_it_would_be_found(pattern: re.Pattern[str], text: str) -> None:
    assert found(pattern, f"line\n{text}\n")


def test_no_module_is_past_600_lines() -> None:
    modules = [path for path in TEXT if path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "tests"]
    assert {path.name: n for path in modules if (n := len(path.read_bytes().splitlines())) > 600} == {}


def test_the_package_is_typed() -> None:
    assert Path(ROOT, "integrations", "kluster_integrations", "py.typed").is_file()


def test_pins_are_names_and_versions_only() -> None:
    for path in ROOT.glob("constraints*.txt"):
        lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
        assert lines
        assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.+!-]+( ; [^:/@]+)?", line)] == [], (
            path.name
        )
