from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from kluster_integrations.emulator import Emulator


@pytest.fixture(scope="session")
def _core_emulator() -> Iterator[Emulator]:
    with Emulator(plan="core") as server:
        yield server


@pytest.fixture
def service(_core_emulator: Emulator) -> Iterator[Emulator]:
    """An emulator with the limits of plan core."""
    _core_emulator.clear()
    yield _core_emulator
    _core_emulator.clear()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
