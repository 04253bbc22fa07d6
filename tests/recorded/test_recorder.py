"""`make record` and `make record-live`: the same again changes nothing, and no key gets into a file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from kluster_integrations.emulator import Emulator

from ..features.adapters import usable
from ..tree import ROOT
from .__main__ import can_be_asked, main
from .recorder import OUTCOMES, SUMS, against_emulator, record, seal
from .scenarios import CASSETTES, KEY, SCENARIOS

LIVE_KEY = "kk-a-key-for-the-live-service"
all_adapters = pytest.mark.skipif(
    not all(usable(name) for name in ("langchain", "litellm", "crewai")), reason="an adapter is not installed"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's cassettes, to record over."""
    shutil.copytree(CASSETTES, tmp_path / "cassettes")
    return tmp_path


def texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.glob("cassettes/*/*.yaml")}


@pytest.mark.parametrize("name", ["core/tools-streamed", "core/error-500", "core/embeddings"])
def test_the_same_again_changes_nothing(name: str, copy: Path) -> None:
    (scenario,) = [one for one in SCENARIOS if one.id == name]
    before = texts(copy)
    about = yaml.safe_load(before[scenario.path.as_posix()])["recorded"]
    with against_emulator(scenario) as base_url:
        changed = record(scenario, base_url, {"against": about["against"], "text": "scripted"}, copy)

    assert not changed
    assert texts(copy) == before


@all_adapters
def test_live_with_a_key(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = texts(copy)
    monkeypatch.setenv("KLUSTER_API_KEY", LIVE_KEY)
    with Emulator(api_keys=[LIVE_KEY]) as service:
        monkeypatch.setenv("KLUSTER_BASE_URL", service.base_url)
        assert main(["--live", "--into", str(copy)]) == 0
        asked = len(service.requests)

    asking = [one for one in SCENARIOS if can_be_asked(one)]
    after = texts(copy)
    assert asked >= len(asking) > 50
    written = [path for path in copy.rglob("*") if path.is_file()]
    assert len(written) > len(asking)
    assert [path for path in written if LIVE_KEY in path.read_text("utf-8")] == []
    assert LIVE_KEY not in capsys.readouterr().out
    for one in SCENARIOS:
        path = one.path.as_posix()
        assert (after[path] == before[path]) is not can_be_asked(one)
        assert ("the service at" in after[path]) is can_be_asked(one)
        assert one.name != "error-401" or "Invalid API key" in after[path]
    assert (copy / SUMS).read_text("utf-8") == seal(copy)
    assert len(list((copy / OUTCOMES).glob("*.json"))) == 4


@all_adapters
def test_live_without_a_key(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = texts(copy)
    assert main(["--live", "--into", str(copy)]) == 1
    assert "KLUSTER_API_KEY" in capsys.readouterr().err
    assert texts(copy) == before


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_record_live_without_a_key(tmp_path: Path) -> None:
    options = ["VENVC=" + str(tmp_path), "--silent", "--old-file", f"{tmp_path}/.record"]
    (tmp_path / ".record").touch()
    done = subprocess.run(
        ["make", "-C", str(ROOT), *options, "record-live"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "there is no KLUSTER_API_KEY" in done.stderr
    assert KEY not in done.stderr
