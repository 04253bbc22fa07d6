"""One process at a time drives a job, whatever is done with its folder; its files are for their owner."""

from __future__ import annotations

import gc
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.batch import BatchJob, deferred
from kluster_integrations.emulator import BatchBehavior, Emulator
from kluster_integrations.errors import BadRequestError, NotFoundError

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


def submit_elsewhere(folder: Path, service: Emulator) -> str:
    """Let another process submit a job, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(folder), service.base_url], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_copying_the_folder_lets_nobody_in(service: Emulator, tmp_path: Path) -> None:
    job = create(service, tmp_path / "job", 3)
    shutil.copytree(tmp_path / "job", tmp_path / "backup")
    assert submit_elsewhere(tmp_path / "job", service) == "locked\n"
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


class TestClosed:
    @pytest.mark.parametrize("method", ["submit", "wait", "status", "last_status", "cancel", "estimate", "results"])
    def test_a_job_that_is_used_after(self, service: Emulator, tmp_path: Path, method: str) -> None:
        job = create(service, tmp_path / "job", 3)
        with BatchJob.open(tmp_path / "job", config=connection(service)):  # another one keeps the journal open
            job.close()
            with pytest.raises(BadRequestError, match=r"job' is closed\. Hint: open it again with BatchJob\.open"):
                list(getattr(job, method)() or ())
        with pytest.raises(BadRequestError, match="is closed"):
            list(getattr(job, method)() or ())

    def test_while_the_results_are_read(self, service: Emulator, tmp_path: Path) -> None:
        with create(service, tmp_path / "job", 1_100) as job:
            results = job.results()
            next(results)
        with pytest.raises(BadRequestError, match="is closed"):
            list(results)

    async def test_async(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path / "job", 3)
        job.close()
        with pytest.raises(BadRequestError, match="is closed"):
            await job.await_()
        with pytest.raises(BadRequestError, match="is closed"):
            _ = job.window

    def test_jobs_that_are_forgotten_hold_no_lock(self, service: Emulator, tmp_path: Path) -> None:
        create(service, tmp_path / "job", 3)
        create(service, tmp_path / "job", 3)
        with create(service, tmp_path / "job", 3) as last:
            pass
        gc.collect()
        assert submit_elsewhere(tmp_path / "job", service) == ""
        assert len(service.batches.jobs) == 1
        with pytest.raises(BadRequestError, match="is closed"):
            last.status()

    def test_the_directory_changes(self, service: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with create(service, Path("job"), 3) as job:
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            assert job.wait().answered == 3
        assert list((tmp_path / "elsewhere").iterdir()) == []
        monkeypatch.chdir(tmp_path)
        with create(service, Path("job"), 3) as job:
            assert job.last_status().answered == 3


class TestFoldersThatCannotBeUsed:
    @pytest.mark.parametrize("name", ["file", "file/below", "/proc/none"])
    def test_it_says_so(self, service: Emulator, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("x")
        folder = tmp_path / name
        with pytest.raises(BadRequestError, match=rf"folder='{folder}' cannot be used: \w+"):
            create(service, folder, 3)
        with pytest.raises(BadRequestError, match="cannot be used"), deferred(folder):
            pass
        with pytest.raises(BadRequestError, match="cannot be used"):
            BatchJob.adopt("some-id", folder=folder, config=connection(service))
        with pytest.raises(NotFoundError, match="holds no job"):
            BatchJob.open(folder, config=connection(service))

    @pytest.mark.parametrize("folder", [None, 5, "", " ", "a\0b", b"x"])
    def test_what_is_not_a_path(self, service: Emulator, folder: Any) -> None:
        for call in (
            lambda: create(service, folder, 3),
            lambda: BatchJob.open(folder, config=connection(service)),
            lambda: BatchJob.adopt("some-id", folder=folder, config=connection(service)),
            lambda: deferred(folder),
        ):
            with pytest.raises(BadRequestError, match="must be the path of the job"):
                call()

    def test_it_goes_while_the_job_runs(self, service: Emulator, tmp_path: Path) -> None:
        with create(service, tmp_path / "job", 3) as job:
            shutil.rmtree(tmp_path / "job")
            with pytest.raises(BadRequestError, match="cannot be used"):
                job.submit()

    def test_what_failed_leaves_nothing(self, service: Emulator, tmp_path: Path) -> None:
        (tmp_path / "old").mkdir()
        for name in ("new", "old"):
            with pytest.raises(BadRequestError, match=r"requests\[1\]"):
                create(service, tmp_path / name, [[{"role": "user", "content": "x"}], 5])
            with pytest.raises(NotFoundError):
                BatchJob.adopt("none", folder=tmp_path / name, config=connection(service))
        assert list(tmp_path.rglob("*")) == [tmp_path / "old"]
