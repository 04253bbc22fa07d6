"""What is warned of is logged, too: LiteLLM's proxy shows no warnings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest

from kluster_integrations.core import notices
from kluster_integrations.core.notices import warn


@pytest.fixture(autouse=True)
def _nothing_logged_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(notices, "_last_logged", {})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def test_a_warning_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        with pytest.warns(RuntimeWarning, match="Redis does not answer"):
            warn("Redis does not answer", RuntimeWarning)
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "Redis does not answer")
    ]


def test_it_points_to_its_caller() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warn("something")
    assert [warning.filename for warning in caught] == [__file__]


def test_where_nobody_shows_warnings_the_log_says_them(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "showwarning", lambda *_, **__: None)  # as LiteLLM's proxy does
    warn("left out")
    assert [record.message for record in caplog.records] == ["left out"]
