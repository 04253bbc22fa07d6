"""Which versions of LiteLLM are known to fail, and what is said."""

from __future__ import annotations

import pytest

from kluster_integrations.litellm import _versions, provider, register


@pytest.mark.parametrize("version", ["1.90.0", "1.90.7", "1.105.3", "1.108.11", "1.109.1"])
def test_versions_that_work(version: str) -> None:
    assert _versions.problem(version) is None


@pytest.mark.parametrize(
    ("version", "what"),
    [
        ("1.82.7", "malicious"),
        ("1.82.8", "malicious"),
        ("1.88.6", "older"),
        ("1.106.2", "tools"),
        ("1.106.10", "tools"),
        ("2.0.0", "newer"),
    ],
)
def test_versions_that_do_not(version: str, what: str) -> None:
    problem = _versions.problem(version)
    assert problem is not None
    assert what in problem
    assert _versions.RECOMMENDED in problem


def test_register_warns_once(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(_versions, "installed", lambda: "1.106.2")
    provider._warn_about.cache_clear()
    register()
    register()
    assert [str(w.message) for w in recwarn if "1.106.2" in str(w.message)] == [_versions.problem("1.106.2")]
