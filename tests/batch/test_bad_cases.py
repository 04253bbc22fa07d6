"""The table of what goes wrong on the service's side: each has the right result, or an error that says what is done."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from kluster_integrations import errors
from kluster_integrations.batch import BatchJob, BatchResult
from kluster_integrations.batch.lines import BATCH_PATH
from kluster_integrations.emulator import BatchBehavior, Emulator, Fault

from .jobs import LLAMA, connection, create, is_answer_to, lines_by_id, questions, quick

GEMMA = "google/gemma-3-27b-it"


def places(job: BatchJob) -> list[bool]:
    return [is_answer_to(result, number) for number, result in enumerate(job.results())]


def tries(job: BatchJob) -> list[int]:
    return [result.tries for result in job.results()]


class TestLines:
    def test_missing_ones_are_sent_again(self, service: Emulator, tmp_path: Path) -> None:
        """Langasync 0.2.3 took the results in their order: behind a missing line each was one off."""
        service.batches.script(BatchBehavior(missing={0, 3, 6}))
        job = create(service, tmp_path, 8)
        job.wait()
        assert places(job) == [True] * 8
        assert tries(job) == [2, 1, 1, 2, 1, 1, 2, 1]
        assert [len(j.lines) for j in service.batches.jobs.values()] == [8, 3]

    def test_missing_three_times(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(missing={1}), BatchBehavior(missing={0}), BatchBehavior(missing={0}))
        job = create(service, tmp_path, 3)
        status = job.wait()
        assert (status.answered, status.failed, len(service.batches.jobs)) == (2, 1, 3)
        assert places(job) == [True, False, True]
        lost = list(job.results())[1]
        assert isinstance(lost.error, errors.InternalServerError)
        assert str(lost.error) == "Input 1 has no line in the results, in 3 jobs."

    @pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
    def test_failing_ones_are_sent_again(self, service: Emulator, tmp_path: Path, status: int) -> None:
        service.batches.script(BatchBehavior(failing={1: status}))
        job = create(service, tmp_path, 3)
        job.wait()
        assert places(job) == [True] * 3
        assert tries(job) == [1, 2, 1]

    def test_failing_three_times(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(failing={0: 503})
        job = create(service, tmp_path, 1)
        status = job.wait()
        [result] = job.results()
        assert (status.failed, result.tries, len(service.batches.jobs)) == (1, 3, 3)
        assert isinstance(result.error, errors.InternalServerError)
        assert result.error.status_code == 503

    def test_refused_ones_are_not(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(failing={1: 400})
        job = create(service, tmp_path, 3)
        job.wait()
        refused = list(job.results())[1]
        assert isinstance(refused.error, errors.BadRequestError)
        assert (refused.tries, len(service.batches.jobs)) == (1, 1)

    @pytest.mark.parametrize(
        "junk",
        [
            b"{",
            b"[]",
            b"null",
            b'{"custom_id": "%s"}',
            b'{"custom_id": "%s", "response": "no"}',
            b'{"custom_id": "%s", "response": {"status_code": 200, "body": null}}',
            b'{"custom_id": "%s", "response": {"status_code": 200, "body": []}}',
            b'{"custom_id": "%s", "response": {"status_code": 200, "body": {"choices": "x"}}}',
            b'{"custom_id": "%s", "response": {"status_code": 200, "body": {"error": {"message": "x"}}}}',
            b'{"custom_id": "%s", "response": {"status_code": "500", "body": "x"}}',
            b'{"custom_id": "%s", "response": null, "error": {"code": "batch_expired", "message": "x"}}',
            b'{"custom_id": "%s", "response": null, "error": "x"}',
        ],
    )
    def test_junk_is_sent_again(self, service: Emulator, tmp_path: Path, junk: bytes) -> None:
        job = create(service, tmp_path, 3)
        job.submit()

        def spoil(lines: list[bytes]) -> list[bytes]:
            custom_id = json.loads(lines[1])["custom_id"].encode()
            return [lines[0], junk.replace(b"%s", custom_id) + b"\n", lines[2]]

        _change_results(service, spoil)
        job.wait()
        assert places(job) == [True] * 3
        assert tries(job) == [1, 2, 1]

    def test_half_a_surrogate_pair(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(texts={0: "no \ud83d", 1: "no \ud83d"}))
        service.reply(json={"answer": 1}, when=LLAMA)
        plain, schema = questions(2)
        any_object = {"type": "json_object"}
        job = create(service, tmp_path, [plain, {"messages": schema, "response_format": any_object}])
        job.wait()
        first, second = job.results()
        assert first.completion is not None
        assert first.completion.text == "no \ufffd"  # as in real time: no later encoding can fail
        assert second.completion is not None
        assert (json.loads(second.completion.text), second.tries) == ({"answer": 1}, 2)

    def test_the_order_of_the_results_does_not_count(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 6)
        job.submit()
        _change_results(service, lambda lines: lines[::-1])
        job.wait()
        assert places(job) == [True] * 6


def _change_results(server: Emulator, change: Callable[[list[bytes]], list[bytes]]) -> None:
    [batch] = server.batches.jobs.values()
    while batch.output_file_id is None:
        time.sleep(0.001)
    file = server.batches.files[batch.output_file_id]
    lines = change(file.data.splitlines(keepends=True))
    server.batches.files[file.id] = type(file)(file.name, file.purpose, b"".join(lines), file.id)


class TestExpired:
    def test_what_is_answered_stays_and_the_rest_is_sent_again(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(expires_after=3))
        job = create(service, tmp_path, 8)
        job.wait()
        assert places(job) == [True] * 8
        assert tries(job) == [1] * 3 + [2] * 5
        assert [len(j.lines) for j in service.batches.jobs.values()] == [8, 5]

    def test_strict(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(expires_after=3))
        job = create(service, tmp_path, 5, strict=True)
        with pytest.raises(errors.BatchExpiredError, match="before 2 of 5 inputs were answered; 3 are") as caught:
            job.wait()
        assert (caught.value.done, caught.value.missing) == ([0, 1, 2], [3, 4])
        assert places(job) == [True] * 3 + [False] * 2
        assert [type(r.error) for r in job.results()][3:] == [errors.BatchExpiredError] * 2
        assert len(service.batches.jobs) == 1

    def test_three_times(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(expires_after=0)
        job = create(service, tmp_path, 2)
        with pytest.raises(errors.BatchExpiredError) as caught:
            job.wait()
        assert (caught.value.done, caught.value.missing) == ([], [0, 1])
        assert len(service.batches.jobs) == 3


class TestCancelled:
    def test_what_is_answered_stays(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(line_time=0.01)
        job = create(service, tmp_path, 50)
        job.submit()
        while not (answered := job.status().jobs[0].answered):
            time.sleep(0.001)
        job.cancel()
        status = job.wait()
        assert answered <= status.answered < 50
        assert status.is_done
        assert [r.error.code for r in job.results() if r.error] == ["cancelled"] * status.failed
        assert places(job) == [True] * status.answered + [False] * status.failed

    def test_nothing_more_is_sent(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(missing={0})
        job = create(service, tmp_path, 1)
        job.submit()
        job.cancel()
        assert job.wait().failed == 1
        with pytest.raises(errors.BadRequestError, match="was cancelled"):
            job.submit()
        assert len(service.batches.jobs) == 1

    def test_before_it_is_submitted(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 2)
        assert job.cancel().is_done
        assert job.wait().failed == 2
        assert service.requests == []

    def test_by_somebody_else(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(line_time=0.02)
        job = create(service, tmp_path, 50)
        job.submit()
        [id_] = service.batches.jobs
        job._transport.post(f"/batches/{id_}/cancel", {})
        status = job.wait()
        assert (status.is_done, len(service.batches.jobs)) == (True, 1)
        assert status.failed > 0

    def test_after_an_unclear_creation(self, service: Emulator, tmp_path: Path) -> None:
        """The job is found, and cancelled."""
        service.batches.behavior = BatchBehavior(line_time=0.02, create="hang after")
        with create(service, tmp_path, 50, config=connection(service, timeout=0.1)) as job:
            job.settle = 0
            service.add_fault(Fault("status", status=500, path="/v1/batches", after=1))
            with pytest.raises(errors.InternalServerError):
                job.submit()
        with quick(BatchJob.open(tmp_path, config=connection(service))) as job:
            job.cancel()
            assert job.wait().is_done
        assert [j.status for j in service.batches.jobs.values()] == ["cancelled"]


class TestRefusedAsAWhole:
    @pytest.mark.parametrize("form", ["auto", "list", "object"])
    def test_it_says_why(self, service: Emulator, tmp_path: Path, form: Any) -> None:
        service.batches.behavior = BatchBehavior(fails="The account is closed.", errors=form)
        job = create(service, tmp_path, 2)
        with pytest.raises(
            errors.BatchFailedError, match=r"The account is closed\. 0 of 2 inputs are answered"
        ) as caught:
            job.wait()
        assert [line["message"] for line in caught.value.lines] == ["The account is closed."]
        assert {type(r.error) for r in job.results()} == {errors.BatchFailedError}
        assert (tries(job), len(service.batches.jobs)) == ([1, 1], 1)

    def test_without_a_word(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(fails="The account is closed.", errors="null")
        with pytest.raises(errors.BatchFailedError, match="does not say why") as caught:
            create(service, tmp_path, 2).wait()
        assert caught.value.lines == []

    @pytest.mark.parametrize("form", ["null", "list", "object"])
    def test_errors_of_a_job_without_any(self, service: Emulator, tmp_path: Path, form: Any) -> None:
        """LiteLLM 1.105 fails at `errors: []`, after the job has been created."""
        service.batches.behavior = BatchBehavior(errors=form)
        assert create(service, tmp_path, 2).wait().answered == 2

    def test_a_plan_with_lower_limits_than_the_configured_one(self, tmp_path: Path) -> None:
        with Emulator(plan="trial") as server:
            job = create(server, tmp_path, 1_001)
            with pytest.raises(errors.BatchFailedError, match="1001 requests; allowed are 1000"):
                job.wait()


class TestCreation:
    @pytest.mark.parametrize("how", ["500 before", "500 after", "hang before", "hang after"])
    def test_one_job(self, service: Emulator, tmp_path: Path, how: Any) -> None:
        """OpenAI's SDK makes two of `500 after` and of `hang after`."""
        service.batches.script(BatchBehavior(create=how, list_lag=0.05))
        job = create(service, tmp_path, 3, config=connection(service, timeout=0.1, max_retries=2))
        job.settle = 0.3
        job.wait()
        assert places(job) == [True] * 3
        assert set(lines_by_id(service).values()) == {1}

    def test_a_list_that_is_an_error_says_nothing(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(create="500 after"))
        service.add_fault(Fault("error_event", path="/v1/batches", after=1))
        job = create(service, tmp_path, 3)
        with pytest.raises(errors.InternalServerError, match="not a list of batch jobs"):
            job.submit()
        job.submit()
        assert set(lines_by_id(service).values()) == {1}

    def test_too_many_requests(self, service: Emulator, tmp_path: Path) -> None:
        service.add_fault(Fault("status", status=429, retry_after=0.01, path="/v1/batches", times=2))
        job = create(service, tmp_path, 3)
        job.submit()
        assert set(lines_by_id(service).values()) == {1}
        assert [r.method for r in service.requests if r.path == "/v1/batches"] == ["POST"] * 3

    def test_a_refusal_is_an_error(self, service: Emulator, tmp_path: Path) -> None:
        service.add_fault(Fault("status", status=403, path="/v1/batches"))
        job = create(service, tmp_path, 3)
        with pytest.raises(errors.PermissionDeniedError):
            job.submit()
        job.submit()
        assert set(lines_by_id(service).values()) == {1}
        assert "GET" not in {r.method for r in service.requests}

    def test_a_second_job_that_would_cost_too_much(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(create="500 before")
        cost = create(service, tmp_path, 3).estimate().by_window["24h"] or 0
        job = create(service, tmp_path, 3, max_cost=cost * 1.5)
        with pytest.raises(errors.SubmissionUnclearError, match=r"Part 1 may have been submitted .* max_cost="):
            job.submit()
        assert service.batches.jobs == {}
        service.batches.behavior = BatchBehavior()
        with pytest.raises(errors.SubmissionUnclearError):
            job.wait()
        create(service, tmp_path, 3, max_cost=cost * 2.5).wait()
        assert set(lines_by_id(service).values()) == {1}

    def test_a_list_of_many_pages(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(create="500 after", text_timestamps=True))
        service.add_fault(Fault("status", status=500, path="/v1/batches", after=1))
        job = create(service, tmp_path / "first", 1)
        with pytest.raises(errors.InternalServerError):
            job.submit()
        other = create(service, tmp_path / "other", 1)
        other.submit()
        [_, later] = service.batches.jobs.values()
        body = {"input_file_id": later.file_id, "endpoint": BATCH_PATH, "completion_window": "24h"}
        for _ in range(100):
            other._transport.post("/batches", body)
        service._service.records.clear()
        job.submit()
        assert len(service.batches.jobs) == 102
        assert [(r.method, r.path) for r in service.requests] == [("GET", "/v1/batches")] * 2


class TestWhatWasSeenLive:
    @pytest.mark.parametrize(
        "behavior",
        [
            BatchBehavior(pre_schedule=0.03),
            BatchBehavior(text_timestamps=True),
            BatchBehavior(file_lag=60),
            BatchBehavior(line_time=0.002, pre_schedule=0.01, text_timestamps=True, errors="list"),
        ],
        ids=["pre_schedule", "text timestamps", "404 after upload", "all"],
    )
    def test_it_ends_well(self, service: Emulator, tmp_path: Path, behavior: BatchBehavior) -> None:
        service.batches.behavior = behavior
        job = create(service, tmp_path, 4)
        job.wait()
        assert places(job) == [True] * 4

    def test_results_that_come_late(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 1)
        job.submit()
        [batch] = service.batches.jobs.values()
        while batch.output_file_id is None:
            time.sleep(0.01)
        service.add_fault(Fault("status", status=404, path=f"/v1/files/{batch.output_file_id}/content"))
        job.wait()
        assert places(job) == [True]

    @pytest.mark.parametrize("kind", ["status", "cut", "end"])
    def test_a_broken_download_begins_again(
        self, service: Emulator, tmp_path: Path, kind: Literal["status", "cut", "end"]
    ) -> None:
        job = create(service, tmp_path, 20)
        job.submit()
        [batch] = service.batches.jobs.values()
        while batch.output_file_id is None:
            time.sleep(0.001)
        service.add_fault(Fault(kind, path=f"/v1/files/{batch.output_file_id}/content"))
        job.wait()
        assert places(job) == [True] * 20


class TestSize:
    def test_100_001_lines_on_plan_core(self, service: Emulator, tmp_path: Path) -> None:
        """Two jobs; not run, for the emulator would take a minute to answer them."""
        line = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        job = create(service, tmp_path, (line for _ in range(100_001)))
        assert job.estimate().files == 2
        job._plan()
        assert [part.lines for part in job._journal.parts()] == [100_000, 1]

    def test_101_megabytes(self, service: Emulator, tmp_path: Path) -> None:
        url = "data:image/png;base64," + "A" * 999_000
        image = {"type": "image_url", "image_url": {"url": url}}
        job = create(service, tmp_path, ([{"role": "user", "content": [image]}] for _ in range(101)), model=GEMMA)
        assert job.estimate().files == 2
        job.submit()
        files = [service.batches.files[j.file_id] for j in service.batches.jobs.values()]
        assert [len(f.data) <= 100_000_000 for f in files] == [True, True]
        assert [len(j.lines) for j in service.batches.jobs.values()] == [100, 1]
        job.cancel()

    def test_a_line_that_fits_into_no_file(self, service: Emulator, tmp_path: Path) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000_000}}
        with pytest.raises(errors.BadRequestError, match=r"requests\[0\] has 1000\d+ bytes"):
            create(service, tmp_path, [[{"role": "user", "content": [image]}]], model=GEMMA)

    def test_in_parts_where_one_post_is_too_large(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(largest_post=500)
        job = create(service, tmp_path, 5)
        job.wait()
        assert places(job) == [True] * 5
        assert [upload.status for upload in service.batches.uploads.values()] == ["completed"]


class TestAdopted:
    def test_a_job_of_somebody_else(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(missing={1}))
        with create(service, tmp_path / "theirs", 3) as theirs:
            theirs.submit()
        [id_] = service.batches.jobs
        with quick(BatchJob.adopt(id_, folder=tmp_path / "ours", config=connection(service))) as job:
            job.wait()
            assert places(job) == [True] * 3
        assert len(service.batches.jobs) == 2

    def test_whose_inputs_cannot_be_read(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(missing={1}))
        with create(service, tmp_path / "theirs", 3) as theirs:
            theirs.submit()
        [batch] = service.batches.jobs.values()
        del service.batches.files[batch.file_id]
        with quick(BatchJob.adopt(batch.id, folder=tmp_path / "ours", config=connection(service))) as job:
            job.wait()
            results: list[BatchResult] = list(job.results())
        assert [r.completion.text[:30] for r in results if r.completion] == [
            "Echo: Question 0",
            "Echo: Question 2",
        ]
        assert len(service.batches.jobs) == 1

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ({"custom_id": "line-0"}, "has the custom_id of a line before it: 'line-0'"),
            ({"custom_id": None}, "has custom_id=None, which must be a text"),
            ({"custom_id": 7}, "has custom_id=7, which must be a text"),
            ({"custom_id": ""}, "has custom_id='', which must be a text"),
            ({"body": None}, "has no list of messages in its body: body=None"),
            ({"body": {"messages": "x"}}, "has no list of messages in its body: body={'messages': 'x'}"),
            (["a", "list"], "is not a JSON object: "),
            ("{", "is not JSON: b'{'"),
            ("[" * 100_000, "is not JSON: "),
            (b"\xff", "is not JSON: "),
        ],
    )
    def test_whose_lines_are_odd(self, service: Emulator, tmp_path: Path, line: Any, why: str) -> None:
        body = {"model": LLAMA, "messages": questions(1)[0]}
        good = {"custom_id": "line-0", "method": "POST", "url": "/v1/chat/completions", "body": body}
        if isinstance(line, dict):
            line = {**good, "custom_id": "line-1", **line}
        raw = line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        with create(service, tmp_path / "theirs", 1) as theirs:
            theirs.submit()
        [batch] = service.batches.jobs.values()
        file = service.batches.files[batch.file_id]
        service.batches.files[batch.file_id] = replace(file, data=json.dumps(good).encode() + b"\n\n" + raw)
        with pytest.raises(errors.BadRequestError, match=re.escape(f"Line 3 of {batch.file_id}, ")) as caught:
            BatchJob.adopt(batch.id, folder=tmp_path / "ours", config=connection(service))
        assert why in caught.value.message
        assert not (tmp_path / "ours").exists()

    @pytest.mark.parametrize("id_", [None, "", " ", ".", "..", 5])
    def test_what_is_not_an_id_is_refused(self, service: Emulator, tmp_path: Path, id_: Any) -> None:
        with pytest.raises(errors.BadRequestError, match="must be the id of a file or a batch job"):
            BatchJob.adopt(id_, folder=tmp_path / "ours", config=connection(service))
        assert service.requests == []

    def test_an_id_stays_one_segment(self, service: Emulator, tmp_path: Path) -> None:
        with pytest.raises(errors.NotFoundError, match="check base_url and the id of the batch job"):
            BatchJob.adopt("../models?a=#b", folder=tmp_path / "ours", config=connection(service))
        assert [r.path for r in service.requests] in (
            ["/v1/batches/..%2Fmodels%3Fa%3D%23b"],
            ["/v1/batches/../models?a=#b"],  # as the server decodes it
        )

    async def test_async_and_again(self, service: Emulator, tmp_path: Path) -> None:
        with create(service, tmp_path / "theirs", 1) as theirs:
            theirs.submit()
        [id_] = service.batches.jobs
        for _ in range(2):
            with quick(await BatchJob.aadopt(id_, folder=tmp_path / "ours", config=connection(service))) as job:
                await job.await_()
        with pytest.raises(errors.BadRequestError, match="it is not another"):
            await BatchJob.aadopt("another", folder=tmp_path / "ours", config=connection(service))


def test_one_bad_case_after_the_other(service: Emulator, tmp_path: Path) -> None:
    service.batches.script(
        BatchBehavior(create="500 after", missing={0, 1}, failing={2: 500, 3: 429}, expires_after=8),
        BatchBehavior(create="500 before"),
        BatchBehavior(create="hang after", missing={5}, text_timestamps=True),
    )
    job = create(service, tmp_path, questions(12), model=LLAMA, config=connection(service, timeout=0.1))
    job.wait()
    assert places(job) == [True] * 12
    assert len(service.batches.jobs) == 3
