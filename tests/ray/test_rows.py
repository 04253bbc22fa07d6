"""Rows of a real Ray dataset on two actors: one limit for both, errors as a column, killed and started again.

`KLUSTER_RAY_ROWS` sets how many rows are asked about; default 300.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.emulator import Emulator, Fault
from tests.programs import ROOT
from tests.redis_server import running_redis

pytest.importorskip("ray", reason='Ray is not installed: pip install "kluster-integrations[ray]"')

from .driver import BLANK, HUGE

COUNT = int(os.environ.get("KLUSTER_RAY_ROWS", "300"))
ASKED = {n for n in range(COUNT) if n % 100 not in (BLANK, HUGE)}
LIMITS = {"requests": COUNT // 5, "period": max(2.0, COUNT / 500), "slack": 1.0}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """A short path, for it holds sockets, whose paths have 107 bytes at most."""
    folder = tempfile.mkdtemp(prefix="ray")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Program:
    """The driver, in a process that can be killed."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        own = {"KLUSTER_API_KEY": "the-one-key", "HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
        environ = {**os.environ, **own, "RAY_USAGE_STATS_ENABLED": "0"}
        command = [sys.executable, "-m", "tests.ray.driver", str(COUNT), str(folder), *arguments]
        self._out = (folder / "driver.log").open("ab")
        self._process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=self._out, stderr=self._out)

    def kill_when_logged(self, rows: int) -> None:
        """Kill the driver alone, and wait until Ray has noticed: its actors end by themselves."""
        while len(logged(self._folder)) < rows:
            assert self._process.poll() is None, self._said()
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        self._out.close()
        actors = {int(path.name.partition("-")[0]) for path in (self._folder / "answers").iterdir()}
        for _ in range(600):
            if not any(map(_runs, actors)):
                return
            time.sleep(0.1)
        pytest.fail("Ray's actors outlive their driver")

    def wait(self) -> dict[int, dict[str, Any]]:
        """Return the rows by id, once it has ended by itself."""
        code = self._process.wait(1_000)
        self._out.close()
        assert code == 0, self._said()
        rows = json.loads((self._folder / "rows.json").read_text("utf-8"))
        assert len(rows) == COUNT
        return {row["id"]: row for row in rows}

    def _said(self) -> str:
        return (self._folder / "driver.log").read_text("utf-8")[-5_000:]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def number_in(text: str) -> int:
    match = re.search(r"Row (\d+)\.", text)
    assert match, text
    return int(match[1])


def logged(folder: Path) -> set[int]:
    """Return the rows whose answers the log has."""
    lines = [line for path in (folder / "answers").glob("*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]
    return {number_in(text) for _, text, _ in map(json.loads, lines) if text}


def asked(emulator: Emulator) -> Counter[int]:
    return Counter(number_in(request.body["messages"][-1]["content"]) for request in emulator.requests)


def most_in_a_window(times: list[float], seconds: float) -> int:
    times, first, most = sorted(times), 0, 0
    for last, moment in enumerate(times):
        while times[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def test_two_actors_share_a_limit_and_poisoned_rows_are_errors(redis_url: str, tmp_path: Path, ray_folder: str) -> None:
    emulator = Emulator(faults=[Fault("status", status=400, times=3, after=20)])
    times: list[float] = []
    app = emulator._app

    async def timed(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            times.append(time.monotonic())
        await app(scope, receive, send)

    emulator._app = timed  # type: ignore[assignment]
    with emulator:
        arguments = (ray_folder, emulator.base_url, json.dumps({**LIMITS, "redis_url": redis_url}))
        rows = Program(tmp_path, *arguments).wait()
    most = most_in_a_window(times, LIMITS["period"])
    print(f"{COUNT} rows, {most} in a window of at most {LIMITS['requests']}, in {max(times) - min(times):.1f} seconds")
    assert most <= LIMITS["requests"]
    assert asked(emulator) == dict.fromkeys(ASKED, 1)
    assert len([path for path in (tmp_path / "answers").iterdir() if path.stat().st_size]) == 2, "one actor did it all"

    refused = {n for n in ASKED if rows[n]["error"]}
    assert len(refused) == 3
    assert all(rows[n]["error"].startswith("BadRequestError: ") for n in refused)
    assert [n for n in ASKED - refused if number_in(rows[n]["answer"]) != n] == []
    for n in {*range(COUNT)} - ASKED:
        kind = "BadRequestError: prompt=' '" if n % 100 == BLANK else "ContextWindowExceededError: "
        assert (rows[n]["answer"], rows[n]["error"][: len(kind)]) == (None, kind)


def test_killed_twice_no_answered_row_is_asked_again(
    emulator: Emulator, redis_url: str, tmp_path: Path, ray_folder: str
) -> None:
    arguments = (ray_folder, emulator.base_url, json.dumps({**LIMITS, "redis_url": redis_url}))
    total: Counter[int] = Counter()
    for part in (0.3, 0.6):
        before = logged(tmp_path)
        emulator.clear()
        Program(tmp_path, *arguments).kill_when_logged(int(part * COUNT))
        assert before.isdisjoint(asked(emulator))
        total += asked(emulator)
    before = logged(tmp_path)
    assert len(before) < len(ASKED), "it was done before the second kill"
    emulator.clear()
    rows = Program(tmp_path, *arguments).wait()
    assert before.isdisjoint(asked(emulator))
    total += asked(emulator)

    assert {n for n in rows if rows[n]["answer"] and number_in(rows[n]["answer"]) == n} == ASKED
    again = sum(total.values()) - len(ASKED)
    print(f"{COUNT} rows, {again} asked again, whose answers were on their way")
    assert again <= 2 * 2 * 32  # kills, actors, requests at the same time
