"""The pytest fixture `kluster_emulator`, registered with every pytest by the package's entry point.

Every run of pytest loads this module, so it imports nothing that the fixture alone needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kluster_integrations.emulator import Emulator

__all__ = ["kluster_emulator"]

_DUMMY_KEY = "emulator-key"


@pytest.fixture
def kluster_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A running `Emulator`; for the test `KLUSTER_BASE_URL` and a dummy `KLUSTER_API_KEY` point to it."""
    try:
        from kluster_integrations.emulator import Emulator
    except ModuleNotFoundError as exc:
        pytest.fail(f'{exc.name} is missing: pip install "kluster-integrations[emulator]"', pytrace=False)
    with Emulator() as server:
        monkeypatch.setenv("KLUSTER_BASE_URL", server.base_url)
        monkeypatch.setenv("KLUSTER_API_KEY", _DUMMY_KEY)
        yield server
