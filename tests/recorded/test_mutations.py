"""A cassette in which one line of an answer is left out or altered does not pass for the one that was recorded.

The sums in `cassettes/SHA256SUMS` see every change. These tests leave them aside: the checks of the replay alone must
see it, too. A sample of the lines is tried, another one of each cassette; with `KLUSTER_ALL_MUTATIONS=1` all are, which
takes a minute (`make record-check`).
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from ..features.adapters import usable
from ..tree import ROOT
from .mutations import mutations, survives
from .scenarios import SCENARIOS, Scenario

pytestmark = pytest.mark.usefixtures("no_network")

EACH = 1 if os.environ.get("KLUSTER_ALL_MUTATIONS") else 4
HERE = [one for one in SCENARIOS if one.adapter == "core" or usable(one.adapter)]


@pytest.mark.parametrize("scenario", HERE, ids=lambda scenario: scenario.id)
def test_no_line_can_be_changed(scenario: Scenario, tmp_path: Path) -> None:
    found = list(mutations((ROOT / scenario.path).read_text("utf-8")))
    tried = found[zlib.crc32(scenario.id.encode()) % EACH :: EACH]

    assert len(tried) >= len(found) // EACH > 0
    assert [mutation for mutation in tried if survives(scenario, mutation, tmp_path)] == []


@pytest.mark.parametrize("name", ["core/chat", "core/stream", "core/tools"])
def test_a_cassette_as_it_is_passes(name: str, tmp_path: Path) -> None:
    (scenario,) = [one for one in SCENARIOS if one.id == name]
    found = list(mutations((ROOT / scenario.path).read_text("utf-8")))

    assert survives(scenario, type(found[0])(0, "as it is", (ROOT / scenario.path).read_text("utf-8")), tmp_path)
    assert len(found) > 20
