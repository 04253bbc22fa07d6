"""A process that is killed at any moment, as often as it likes: no line is in two jobs, and none is lost.

Between two requests a job only writes to its journal, and a kill there is the same as one at the next request, or one
before the last answer was seen. So a proxy that kills before and after each request meets every state of the journal.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kluster_integrations.batch import BatchJob, steps
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import BatchBehavior, Emulator

from .jobs import KEY, LLAMA, connection, is_answer_to, lines_by_id, questions, quick
from .proxy import Proxy
from .victim import Victim

_INPUTS = 12


def work(folder: str, base_url: str, settle: float) -> None:
    """Run a job from wherever it is to its end."""
    steps.FILE_BYTES = 1_000  # three parts of four lines
    config = KlusterConfig(api_key=KEY, base_url=base_url, max_retries=0, timeout=0.3)
    job = quick(BatchJob.create(questions(_INPUTS), folder=folder, config=config, model=LLAMA), settle)
    job.wait()


def check(server: Emulator, folder: Path, jobs: int = 3) -> None:
    with BatchJob.open(folder, config=connection(server)) as job:
        results = list(job.results())
    assert [r.index for r in results if is_answer_to(r, r.index)] == list(range(_INPUTS))
    assert set(lines_by_id(server).values()) == {1}
    assert len(lines_by_id(server)) == _INPUTS
    assert len(server.batches.jobs) == jobs


def test_killed_at_each_step(service: Emulator, tmp_path: Path) -> None:
    """The first process dies at its first event, the second at its second: until one lives long enough to end."""
    with Proxy(service.base_url) as proxy:
        victim = Victim(work, str(tmp_path / "job"), proxy.base_url, 0.05)
        died_at = victim.run_dying_at_each_step(proxy)
    check(service, tmp_path / "job")
    assert {"before POST /v1/files", "after POST /v1/files"} <= {*died_at}
    assert any("/v1/batches" in event for event in died_at)


@pytest.mark.parametrize("event", ["before POST /v1/files", "after POST /v1/files"])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_killed_at_an_upload(service: Emulator, tmp_path: Path, event: str, which: int) -> None:
    _killed_at(service, tmp_path, event, which)


@pytest.mark.parametrize("event", ["before POST /v1/batches", "after POST /v1/batches"])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_killed_at_a_creation(service: Emulator, tmp_path: Path, event: str, which: int) -> None:
    _killed_at(service, tmp_path, event, which)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_the_results(service: Emulator, tmp_path: Path, when: str) -> None:
    _killed_at(service, tmp_path, f"{when} GET /v1/files/", 2)


def _killed_at(server: Emulator, folder: Path, event: str, which: int) -> None:
    with Proxy(server.base_url) as proxy:
        Victim(work, str(folder / "job"), proxy.base_url, 0.05).run_killed_at(proxy, event, which)
    check(server, folder / "job")


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_while_the_server_fails(service: Emulator, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    service.batches.behavior = BatchBehavior(line_time=0.002, list_lag=0.05, text_timestamps=True)
    failing = [BatchBehavior(create=how, list_lag=0.05) for how in ("500 before", "500 after", "hang after")]  # type: ignore[arg-type]
    service.batches.script(*failing)
    with Proxy(service.base_url) as proxy:
        victim = Victim(work, str(tmp_path / "job"), proxy.base_url, 0.2)
        victim.run_killed_at_random(chance, 12, (0.01, 0.3))
    check(service, tmp_path / "job")
