"""What is in the wheel and the sdist: all that is tracked, no more, and complete metadata."""

from __future__ import annotations

import ast
import email.message
import email.parser
import re
import tarfile
import zipfile
from pathlib import Path

from tests.tree import ROOT, files

__all__ = ["check", "found", "metadata"]

PACKAGE = "kluster_integrations"
_SOURCE = "integrations/"
_ADDED = {"PKG-INFO"}  # by the build
_FIELDS = (
    *("Name", "Version", "Summary", "Author", "License-Expression", "License-File", "Requires-Python"),
    *("Classifier", "Keywords", "Project-URL", "Description-Content-Type", "Provides-Extra"),
)
_MUST_HAVE = (
    "core/catalog.toml",
    "core/plans.toml",
    "py.typed",
)  # data without which the package does not work, or is not typed


def found(dist: Path) -> tuple[Path, Path]:
    """Return the wheel and the sdist of a folder.

    Raises:
        SystemExit: If there is not exactly one of each.
    """
    wheels, sdists = list(dist.glob("*.whl")), list(dist.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        raise SystemExit(f"Error: {dist} must hold one wheel and one sdist. Hint: make dist")
    return wheels[0], sdists[0]


def check(wheel: Path, sdist: Path) -> list[str]:
    """Return what is wrong with a wheel and an sdist, a line each."""
    tracked = {path.relative_to(ROOT).as_posix() for path in files()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        in_sdist = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()} - _ADDED
    package = {path.removeprefix(_SOURCE) for path in tracked if path.startswith(f"{_SOURCE}{PACKAGE}/")}
    problems = [
        *_differ("the wheel", in_wheel, package),
        *_differ("the sdist", in_sdist, tracked),
        *(f"the wheel has no {PACKAGE}/{name}" for name in _MUST_HAVE if f"{PACKAGE}/{name}" not in in_wheel),
    ]
    return problems + _metadata_problems(metadata(wheel))


def metadata(wheel: Path) -> email.message.Message:
    """Return the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.parser.BytesParser().parsebytes(archive.read(name))


def _differ(what: str, there: set[str], wanted: set[str]) -> list[str]:
    return [
        *(f"{what} lacks {name}" for name in sorted(wanted - there)),
        *(f"{what} has {name}, which is not part of the project" for name in sorted(there - wanted)),
    ]


def _metadata_problems(said: email.message.Message) -> list[str]:
    problems = [f"the metadata has no {field}" for field in _FIELDS if not said.get(field)]
    version = ast.literal_eval((ROOT / _SOURCE / PACKAGE / "_version.py").read_text("utf-8").rpartition("=")[2].strip())
    if said["Version"] != version:
        problems.append(f"the metadata's version {said['Version']} is not that of _version.py, {version}")
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    if not re.search(rf"^## \[?{re.escape(version)}\]?", changes, re.MULTILINE):
        problems.append(f"CHANGELOG.md has no section for {version}")
    if "UNKNOWN" in str(said.get("Description-Content-Type")) or not said.get_payload():
        problems.append("the metadata has no description")
    return problems
