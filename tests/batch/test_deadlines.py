"""The time that an operation has ends whatever it is in, and nothing is lost by that."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import errors
from kluster_integrations.batch import BatchJob, deferred
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.emulator import BatchBehavior, Emulator, Fault

from .jobs import LLAMA, connection, create, lines_by_id, questions, quick

LONG = 3_600.0  # seconds; a test that waits for it fails


@pytest.fixture
def dead() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


async def wait(job: BatchJob, how: str, timeout: float | None = None) -> Any:
    return await job.await_(timeout) if how == "async" else await asyncio.to_thread(job.wait, timeout)


@pytest.mark.parametrize("how", ["sync", "async"])
class TestWait:
    async def test_a_creation_that_hangs(self, service: Emulator, tmp_path: Path, how: str) -> None:
        service.batches.script(BatchBehavior(create="hang after"))
        with (
            create(service, tmp_path, 3, config=connection(service, timeout=LONG)) as job,
            pytest.raises(errors.APITimeoutError, match=r"not done after 0\.5 s: 0 of 3"),
        ):
            await wait(job, how, 0.5)
        with quick(BatchJob.open(tmp_path, config=connection(service))) as job:
            assert (await wait(job, how)).answered == 3
        assert set(lines_by_id(service).values()) == {1}

    async def test_the_settle_time_goes_on_from_one_wait_to_the_next(
        self, service: Emulator, tmp_path: Path, how: str
    ) -> None:
        service.batches.script(BatchBehavior(create="500 before"))
        with create(service, tmp_path, 3) as job:
            job.settle = 0.6
            tries = 0
            while True:
                try:
                    tries += 1
                    await wait(job, how, 0.25)
                    break
                except errors.APITimeoutError:
                    assert tries < 20
        assert tries > 1
        assert set(lines_by_id(service).values()) == {1}

    async def test_any_request_that_hangs(self, service: Emulator, tmp_path: Path, how: str) -> None:
        with create(service, tmp_path, 3, config=connection(service, timeout=LONG, max_retries=5)) as job:
            for path in ("/v1/files", "/v1/batches/{}", "/v1/files/{}/content"):
                [batch] = service.batches.jobs.values() or [None]
                ids = {"/v1/batches/{}": batch and batch.id, "/v1/files/{}/content": batch and batch.output_file_id}
                service.add_fault(Fault("hang", path=path.format(ids.get(path))))
                with pytest.raises(errors.APITimeoutError, match="not done after"):
                    await wait(job, how, 1)
                job.submit()
            assert (await wait(job, how)).answered == 3
        assert set(lines_by_id(service).values()) == {1}

    async def test_a_long_retry_after(self, service: Emulator, tmp_path: Path, how: str) -> None:
        service.add_fault(Fault("status", status=429, retry_after=LONG, path="/v1/batches"))
        with create(service, tmp_path, 3) as job:
            with pytest.raises(errors.APITimeoutError, match="not done after"):
                await wait(job, how, 0.2)
            assert (await wait(job, how)).answered == 3
        assert set(lines_by_id(service).values()) == {1}

    async def test_with_0_nothing_is_asked(self, service: Emulator, tmp_path: Path, how: str) -> None:
        with create(service, tmp_path, 3) as job:
            with pytest.raises(errors.APITimeoutError, match="not done after 0 s"):
                await wait(job, how, 0)
            assert service.requests == []
            await wait(job, how)
            assert (await wait(job, how, 0)).answered == 3

    @pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True])
    async def test_what_is_not_a_number_of_seconds(
        self, service: Emulator, tmp_path: Path, how: str, timeout: Any
    ) -> None:
        with create(service, tmp_path, 3) as job, pytest.raises(errors.BadRequestError, match="timeout="):
            await wait(job, how, timeout)


class TestLeavingDeferred:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, seconds in {"POLL": "0.01", "SETTLE": str(LONG), "QUIET": "0.05"}.items():
            monkeypatch.setenv(f"KLUSTER_BATCH_{name}", seconds)

    @pytest.mark.parametrize("create_", ["hang after", "500 before"])
    async def test_while_a_job_is_created_or_looked_for(
        self, service: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create_: Any
    ) -> None:
        service.batches.script(BatchBehavior(create=create_))
        client = Client(connection(service, timeout=LONG))
        request = client.build(LLAMA, questions(1)[0], {})
        async with deferred(tmp_path):
            caller = asyncio.create_task(client.acomplete(request))
            while not any((r.method, r.path) == ("POST", "/v1/batches") for r in service.requests):
                await asyncio.sleep(0.01)
        with pytest.raises(errors.KlusterError, match="block was left"):
            await caller
        assert not [t for t in threading.enumerate() if t.name == "kluster-deferred"]
        monkeypatch.setenv("KLUSTER_BATCH_SETTLE", "0.05")
        async with deferred(tmp_path):
            assert (await client.acomplete(request)).text == "Echo: Question 0"
        assert set(lines_by_id(service).values()) == {1}

    def test_while_a_file_is_uploaded(self, service: Emulator, tmp_path: Path) -> None:
        service.add_fault(Fault("hang", path="/v1/files"))
        client = Client(connection(service, timeout=LONG))
        failed: list[BaseException] = []

        def ask() -> None:
            try:
                client.complete(client.build(LLAMA, questions(1)[0], {}))
            except errors.KlusterError as err:
                failed.append(err)

        with deferred(tmp_path):
            caller = threading.Thread(target=ask)
            caller.start()
            while not service.requests:
                time.sleep(0.01)
        caller.join()
        assert ["block was left" in str(err) for err in failed] == [True]

    def test_a_dead_address_ends_it(self, dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLUSTER_BATCH_PATIENCE", "0.2")
        client = Client(KlusterConfig(api_key="any-secret-key", base_url=dead, max_retries=0))
        with deferred(tmp_path):
            for _ in range(2):
                with pytest.raises(errors.APIConnectionError, match=r"For 0\.2 s the service could not be used"):
                    client.complete(client.build(LLAMA, questions(1)[0], {}))

    def test_what_was_lost_meanwhile_is_sent_by_the_next_run(
        self, dead: str, service: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KLUSTER_BATCH_PATIENCE", "0.1")
        for address in (dead, service.base_url):
            client = Client(KlusterConfig(api_key="any-secret-key", base_url=address, max_retries=0))
            request = client.build(LLAMA, questions(1)[0], {})
            if address == dead:
                with deferred(tmp_path), pytest.raises(errors.APIConnectionError):
                    client.complete(request)
            else:
                with deferred(tmp_path):
                    assert client.complete(request).text == "Echo: Question 0"
        assert set(lines_by_id(service).values()) == {1}
