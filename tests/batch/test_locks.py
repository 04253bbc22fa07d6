"""One process at a time drives a job, whatever is done with its folder; its files are for their owner."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kluster_integrations.batch import BatchJob, deferred
from kluster_integrations.emulator import BatchBehavior, Emulator
from kluster_integrations.errors import BadRequestError

from .jobs import connection, create

OTHER = """
import sys
from kluster_integrations.batch import BatchJob
from kluster_integrations.config import KlusterConfig
from kluster_integrations.errors import JobLockedError
try:
    BatchJob.open(sys.argv[1], config=KlusterConfig(api_key="other-process", base_url=sys.argv[2])).submit()
except JobLockedError:
    print("locked")
"""


def test_copying_the_folder_lets_nobody_in(service: Emulator, tmp_path: Path) -> None:
    job = create(service, tmp_path / "job", 3)
    shutil.copytree(tmp_path / "job", tmp_path / "backup")
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(tmp_path / "job"), service.base_url],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "locked\n"
    job.submit()
    assert len(service.batches.jobs) == 1
    job.close()


def test_only_the_owner_reads_it(service: Emulator, tmp_path: Path) -> None:
    with create(service, tmp_path / "job", 3):
        for path in (tmp_path / "job", *(tmp_path / "job").iterdir()):
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_closing_again_leaves_others_alone(service: Emulator, tmp_path: Path) -> None:
    one = create(service, tmp_path / "job", 3)
    two = BatchJob.open(tmp_path / "job", config=connection(service))
    one.close()
    one.close()
    assert two.last_status()
    two.close()


def test_an_interrupted_cancel_is_finished(service: Emulator, tmp_path: Path) -> None:
    service.batches.behavior = BatchBehavior(line_time=0.5)
    with create(service, tmp_path / "running", 3) as job:
        job.submit()
        job._journal.put({"is_cancelled": True})  # killed before the server was told
    with BatchJob.open(tmp_path / "running", config=connection(service)) as job:
        job.poll = 0.01
        job.wait(timeout=20)
    assert [batch.status for batch in service.batches.jobs.values()] == ["cancelled"]
    with create(service, tmp_path / "new", 3) as job:
        job._journal.put({"is_cancelled": True})
        assert job.wait(timeout=20).is_done
        assert len(service.batches.jobs) == 1


@pytest.mark.parametrize("data", [b"garbage" * 400, b"SQLite format 3\0" + b"x" * 4_000])
def test_a_journal_that_cannot_be_read_is_said_so(data: bytes, service: Emulator, tmp_path: Path) -> None:
    (tmp_path / "job.sqlite").write_bytes(data)
    with pytest.raises(BadRequestError, match=r"job\.sqlite cannot be read"):
        BatchJob.open(tmp_path, config=connection(service))


@pytest.mark.parametrize("most", [float("nan"), float("inf"), -1, "5", True])
def test_a_limit_that_limits_nothing_is_refused(most: object, service: Emulator, tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match="max_cost"):
        create(service, tmp_path / "job", 3, max_cost=most)
    with pytest.raises(BadRequestError, match="max_cost"), deferred(tmp_path / "d", max_cost=most):  # type: ignore[arg-type]
        pass
