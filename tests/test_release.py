"""The check before a release sees what is missing, what is too much, and metadata that is not complete."""

from __future__ import annotations

import io
import re
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from release import contents, extras, pins

from kluster_integrations import __version__

from .tree import ROOT, files

METADATA = f"""Metadata-Version: 2.4
Name: kluster-integrations
Version: {__version__}
Summary: one
Author: the maintainers
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.11
Classifier: Typing :: Typed
Keywords: llm
Project-URL: kluster.ai, https://www.kluster.ai
Description-Content-Type: text/markdown
Provides-Extra: emulator
Provides-Extra: crewai
Provides-Extra: all

# kluster-integrations
"""
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
TRACKED = {path.relative_to(ROOT).as_posix(): path for path in files()}
PACKAGE = {
    name.removeprefix("integrations/"): path.read_bytes()
    for name, path in TRACKED.items()
    if name.startswith("integrations/kluster_integrations/")
}


def build(folder: Path, package: Mapping[str, bytes], *, metadata: str = METADATA, sdist: bool = True) -> list[str]:
    """Return what is wrong with a wheel of these files, and an sdist with all or none."""
    wheel = folder / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in {**package, "x-1.dist-info/METADATA": metadata.encode()}.items():
            archive.writestr(name, data)
    with tarfile.open(folder / "x-1.tar.gz", "w:gz") as archive:
        for name in TRACKED if sdist else ():
            archive.addfile(tarfile.TarInfo(f"x-1/{name}"), io.BytesIO())
    return contents.check(*contents.found(folder))


def test_what_is_right_passes(tmp_path: Path) -> None:
    assert build(tmp_path, PACKAGE) == []


@pytest.mark.parametrize("name", ["py.typed", "core/catalog.toml", "errors.py"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    full = f"kluster_integrations/{name}"
    problems = build(tmp_path, {key: data for key, data in PACKAGE.items() if key != full})
    assert f"the wheel lacks {full}" in problems


def test_a_file_too_many_is_named(tmp_path: Path) -> None:
    problems = build(tmp_path, {**PACKAGE, "tests/test_x.py": b""})
    assert problems == ["the wheel has tests/test_x.py, which is not part of the project"]


def test_an_empty_sdist_lacks_everything(tmp_path: Path) -> None:
    assert {f"the sdist lacks {name}" for name in TRACKED} == set(build(tmp_path, PACKAGE, sdist=False))


@pytest.mark.parametrize("field", ["Author", "License-Expression", "Requires-Python", "Project-URL"])
def test_a_missing_field_is_named(field: str, tmp_path: Path) -> None:
    lines = [line for line in METADATA.splitlines(keepends=True) if not line.startswith(f"{field}:")]
    assert build(tmp_path, PACKAGE, metadata="".join(lines)) == [f"the metadata has no {field}"]


def test_another_version_is_noticed(tmp_path: Path) -> None:
    problems = build(tmp_path, PACKAGE, metadata=METADATA.replace(f"Version: {__version__}", "Version: 9.9.9"))
    assert problems == [f"the metadata's version 9.9.9 is not that of _version.py, {__version__}"]


def test_all_extras_and_the_bare_package_are_tried(tmp_path: Path) -> None:
    build(tmp_path, PACKAGE)
    assert extras.names(contents.found(tmp_path)[0]) == ["all", "crewai", "emulator", "bare"]


def test_each_extra_has_a_snippet() -> None:
    for extra in EXTRAS.keys() - {"all"}:
        assert len(extras.snippets(extra)) == 1
    assert len(extras.snippets("all")) == 4
    with pytest.raises(extras.Failed, match="no-such-extra"):
        extras.snippets("no-such-extra")


def test_no_dist_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make dist"):
        contents.found(tmp_path)


def test_what_the_makefile_installs_is_pinned() -> None:
    """An extra or a group that is installed with a constraint file, and is not in it, has no versions."""
    makefile = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ")
    installs = [line for line in makefile.splitlines() if "--constraint" in line and "--no-deps" not in line]
    assert len(installs) > 10
    in_all = EXTRAS["all"][0].partition("[")[2].rstrip("]").split(",")
    for line in installs:
        name = line.split("--constraint ")[1].split()[0]
        extras_of = re.findall(r'"\.\[(.*?)\]"', line)
        wanted = {*(extra for found in extras_of for extra in found.split(",")), *re.findall(r"--group (\S+)", line)}
        pinned = pins.FILES[name]
        assert wanted <= {*pinned.extras, *pinned.groups, *in_all * ("all" in pinned.extras)}, line
