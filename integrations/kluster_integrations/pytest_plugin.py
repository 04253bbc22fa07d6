"""The pytest fixtures `kluster_emulator` and `kluster_cassette`, registered with every pytest by an entry point.

Every run of pytest loads this module, so the fixtures import what they need themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kluster_integrations.emulator import Emulator

__all__ = ["kluster_cassette", "kluster_emulator"]

_DUMMY_KEY = "emulator-key"
_REPLAY_KEY = "replay-needs-no-key"
_LONGEST_NAME = 120


@pytest.fixture
def kluster_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A running `Emulator`. During the test `KLUSTER_BASE_URL` and a dummy `KLUSTER_API_KEY` point to it."""
    try:
        from kluster_integrations.emulator import Emulator
    except ModuleNotFoundError as exc:
        pytest.fail(str(exc), pytrace=False)
    with Emulator() as server:
        monkeypatch.setenv("KLUSTER_BASE_URL", server.base_url)
        monkeypatch.setenv("KLUSTER_API_KEY", _DUMMY_KEY)
        yield server


@pytest.fixture
def kluster_cassette(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Replay the test's calls of kluster.ai from `cassettes/<module>/<test>.yaml` beside it, or record them there.

    Pytest's option `--record-mode` decides. `none` (default) replays; the test fails if a request is not recorded or a
    recording is not used. `once`, `new_episodes`, `all` and `rewrite` record, with the test's key and base URL; see
    `kluster_integrations.recording.cassette`. A test that fails records nothing. Replaying needs no key: without one,
    `KLUSTER_API_KEY` is set to a dummy. With `--disable-recording` all calls are sent as usual.
    """
    if request.config.getoption("--disable-recording", False):
        yield None
        return
    mode: Any = request.config.getoption("--record-mode", None) or "none"
    missing = None
    try:
        from kluster_integrations.config import env_source
        from kluster_integrations.recording import playing
    except ModuleNotFoundError as exc:
        missing = str(exc)
    if missing:
        pytest.fail(missing, pytrace=False)
    if mode == "none" and env_source("api_key") is None:
        monkeypatch.setenv("KLUSTER_API_KEY", _REPLAY_KEY)
    failed = request.session.testsfailed
    hint = f'Hint: record this test alone, with a key: pytest --record-mode=rewrite "{request.node.nodeid}"'
    with playing(_cassette_path(request.node), mode, failure=_failure, hint=hint) as player:
        yield player
        if request.session.testsfailed != failed:  # of a test that failed half-way nothing is to be said or kept
            player.give_up()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """If a test's cassette lacks a request, fail the test with that message, not with a later error."""
    player: Any = pyfuncitem.funcargs.get("kluster_cassette")
    try:
        result = yield
    except Exception:
        if player is not None:
            player.check_nothing_missed()
        raise
    if player is not None:
        player.check_nothing_missed()
    return result


def _failure(message: str) -> BaseException:
    """Return a failure that shows the message alone; a traceback from the test to the cassette helps nobody."""
    return pytest.fail.Exception(message, pytrace=False)


def _cassette_path(item: pytest.Item) -> Path:
    name = item.name if item.cls is None else f"{item.cls.__name__}.{item.name}"  # type: ignore[attr-defined]
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-")[:_LONGEST_NAME]
    folder = item.path.parent / "cassettes" / item.path.stem
    return Path(os.path.relpath(folder / f"{safe}.yaml"))
