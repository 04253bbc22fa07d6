"""The soak's short form."""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.soak.checks import faults_of
from tests.soak.run import soak

pytest.importorskip("redis")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_short_soak() -> None:
    report = soak(8.0)
    # In so short a time the heap is still growing into its size.
    assert not faults_of(report, growth=1.5), f"{report.line()}\n{report.wrong[:5]}"
