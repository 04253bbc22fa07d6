"""Answers that no server should give end in a result or in a typed error; `make fuzz` tries more of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fuzzing import DOORS, check, warm_up
from .raw_server import RawServer


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer() as server:
        warm_up(server)
        yield server


# The same answers at each run, so that a test fails for what has been changed; `make fuzz` rolls the dice.
_SETTINGS: dict[str, Any] = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=300, **_SETTINGS)
@given(seed=st.integers(0, 2**32))
def test_the_core_answers_or_says_what_is_wrong(server: RawServer, seed: int) -> None:
    check(server, random.Random(seed), "core")


@pytest.mark.parametrize("name", sorted(DOORS.keys() - {"core"}))
@settings(max_examples=40, **_SETTINGS)
@given(seed=st.integers(0, 2**32))
def test_adapters_do_too(server: RawServer, name: str, seed: int) -> None:
    check(server, random.Random(seed), name)
