"""What a job does: made, estimated, sent, waited for, read; the same in sync and async."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog, errors
from kluster_integrations.batch import BatchJob, BatchStatus
from kluster_integrations.batch.steps import JobSteps
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.request import build
from kluster_integrations.emulator import BatchBehavior, Emulator

from .jobs import LLAMA, connection, create, is_answer_to, lines_by_id, questions, quick

R1 = "deepseek-ai/DeepSeek-R1"
SCHEMA = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
PROSE = "I would rather not."
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class TestResults:
    def test_one_per_input_in_input_order(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 5)
        status = job.wait()
        results = list(job.results())
        assert [is_answer_to(result, n) for n, result in enumerate(results)] == [True] * 5
        assert (status.total, status.answered, status.failed, status.is_done) == (5, 5, 0, True)

    async def test_async(self, service: Emulator, tmp_path: Path) -> None:
        job = await BatchJob.acreate(questions(5), folder=tmp_path, config=connection(service), model=LLAMA)
        quick(job)
        assert (await job.aestimate()).lines == 5
        await job.asubmit()
        await job.await_()
        assert (await job.astatus()).is_done
        assert [is_answer_to(r, r.index) async for r in job.aresults()] == [True] * 5

    def test_cost_is_the_batch_price_of_all_tokens(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 1, window="72h")
        status = job.wait()
        [result] = job.results()
        assert result.completion is not None
        assert result.cost == pytest.approx(result.completion.usage.total_tokens * 0.03 / 1_000_000)
        assert status.cost == pytest.approx(result.cost)

    def test_an_unknown_price_is_not_guessed(self, service: Emulator, tmp_path: Path, own_catalog: None) -> None:
        catalog.add(catalog.ModelSpec(id=LLAMA))
        job = create(service, tmp_path, 1)
        assert job.wait().cost is None
        assert [result.cost for result in job.results()] == [None]

    def test_without_an_answer_yet(self, service: Emulator, tmp_path: Path) -> None:
        [result] = create(service, tmp_path, 1).results()
        assert (result.completion, result.tries) == (None, 0)
        assert "Input 0 has no answer yet" in str(result.error)

    def test_each_line_may_have_its_model(self, service: Emulator, tmp_path: Path) -> None:
        messages = questions(2)
        job = create(
            service, tmp_path, [{"model": LLAMA, "messages": messages[0]}, {"model": R1, "messages": messages[1]}]
        )
        job.wait()
        assert [r.completion.model for r in job.results() if r.completion] == [LLAMA, R1]

    def test_reasoning_is_read(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 1, model=R1)
        job.wait()
        [result] = job.results()
        assert result.completion is not None
        assert result.completion.reasoning


class TestWhatIsPrompted:
    def test_schema(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 2, response_format=AS_SCHEMA)
        job.wait()
        assert [r.completion.text for r in job.results() if r.completion] == ['{"mood": "good"}', '{"mood": "good"}']

    @pytest.mark.parametrize("model", [LLAMA, R1])
    def test_tools(self, service: Emulator, tmp_path: Path, model: str) -> None:
        job = create(service, tmp_path, 1, model=model, tools=[WEATHER], tool_choice="required")
        job.wait()
        [result] = job.results()
        assert result.completion is not None
        assert [call.name for call in result.completion.tool_calls] == ["weather"]

    def test_requests_that_are_built_already(self, service: Emulator, tmp_path: Path) -> None:
        made = build(LLAMA, questions(1)[0], {"response_format": AS_SCHEMA}, config=connection(service))
        job = create(service, tmp_path, [made])
        job.wait()
        assert [r.completion.text for r in job.results() if r.completion] == ['{"mood": "good"}']

    def test_a_check_is_refused(self, service: Emulator, tmp_path: Path) -> None:
        made = build(LLAMA, questions(1)[0], {}, config=connection(service))
        made.check = lambda _: None
        with pytest.raises(errors.BadRequestError, match=r"requests\[0\] has a check"):
            create(service, tmp_path, [made])


class TestRepairs:
    def test_a_further_round(self, service: Emulator, tmp_path: Path) -> None:
        requests = [
            {"messages": questions(1)[0], "response_format": AS_SCHEMA},
            {"messages": questions(2)[1], "tools": [WEATHER], "tool_choice": "required", "model": LLAMA},
        ]
        service.batches.script(BatchBehavior(texts={0: PROSE, 1: PROSE}))
        job = create(service, tmp_path, requests)
        job.wait()
        first, second = job.results()
        assert (first.tries, second.tries) == (2, 2)
        assert first.completion is not None
        assert first.completion.text == '{"mood": "good"}'
        assert second.completion is not None
        assert [call.name for call in second.completion.tool_calls] == ["weather"]
        [_, again] = service.batches.jobs.values()
        said = again.lines[0]["body"]["messages"][-2:]
        assert [m["role"] for m in said] == ["assistant", "user"]
        assert said[0]["content"] == PROSE
        assert "That is not what was asked for" in said[1]["content"]

    def test_tokens_and_cost_of_all_attempts(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(texts={0: PROSE}))
        job = create(service, tmp_path, 1, response_format=AS_SCHEMA)
        job.wait()
        [result] = job.results()
        answers = [loads["response"]["body"] for j in service.batches.jobs.values() for loads in j.answered]
        tokens = sum(answer["usage"]["total_tokens"] for answer in answers)
        assert len(answers) == 2
        assert result.completion is not None
        assert result.completion.usage.total_tokens == tokens
        assert result.cost == pytest.approx(tokens * 0.05 / 1_000_000)

    def test_no_more_than_max_repairs(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 1, response_format=AS_SCHEMA, max_repairs=1)
        service.batches.behavior = BatchBehavior(texts={0: PROSE})
        job.wait()
        [result] = job.results()
        assert result.tries == 2
        assert isinstance(result.error, errors.OutputValidationError)
        assert result.error.raw_text == PROSE
        assert result.cost is not None


class TestFolder:
    def test_created_again_it_is_the_same(self, service: Emulator, tmp_path: Path) -> None:
        create(service, tmp_path, 3).wait()
        again = create(service, tmp_path, 3)
        again.wait()
        assert len(service.batches.jobs) == 1
        assert [is_answer_to(r, r.index) for r in again.results()] == [True] * 3

    @pytest.mark.parametrize(
        ("requests", "why"), [(4, r"requests\[3\] is not"), (2, "has 3 requests, not 2"), (questions(4)[1:], r"\[0\]")]
    )
    def test_other_requests_are_refused(self, service: Emulator, tmp_path: Path, requests: Any, why: str) -> None:
        create(service, tmp_path, 3)
        with pytest.raises(errors.BadRequestError, match=why):
            create(service, tmp_path, requests)

    def test_opened_it_goes_on(self, service: Emulator, tmp_path: Path) -> None:
        with create(service, tmp_path, 3) as job:
            job.submit()
        with quick(BatchJob.open(tmp_path, config=connection(service))) as job:
            job.wait()
            assert len(list(job.results())) == 3
        assert len(service.batches.jobs) == 1

    def test_nothing_to_open(self, service: Emulator, tmp_path: Path) -> None:
        with pytest.raises(errors.NotFoundError, match="holds no job"):
            BatchJob.open(tmp_path / "none", config=connection(service))
        assert not (tmp_path / "none").exists()

    def test_a_request_that_cannot_be_sent(self, service: Emulator, tmp_path: Path) -> None:
        wrong = [*questions(2), [{"role": "nobody", "content": "x"}]]
        with pytest.raises(errors.BadRequestError, match=r"requests\[2\]: messages\[0\]\.role='nobody'"):
            create(service, tmp_path, wrong)
        create(service, tmp_path, 2).wait()  # of the first attempt nothing is left
        assert service.requests[0].path == "/v1/files"

    def test_no_requests(self, service: Emulator, tmp_path: Path) -> None:
        with pytest.raises(errors.BadRequestError, match="requests is empty"):
            create(service, tmp_path, [])

    def test_the_window_holds_once_it_is_submitted(self, service: Emulator, tmp_path: Path) -> None:
        create(service, tmp_path, 1, window="24h")
        job = create(service, tmp_path, 1, window="48h")
        job.submit()
        assert [j.window for j in service.batches.jobs.values()] == ["48h"]
        with pytest.raises(errors.BadRequestError, match="'24h' comes too late"):
            create(service, tmp_path, 1, window="24h")

    def test_what_is_not_passed_stays_as_it_was(self, service: Emulator, tmp_path: Path) -> None:
        with create(service, tmp_path, 1) as job:
            assert (job.window, job.max_cost, job._journal.get("strict")) == ("24h", None, False)
        create(service, tmp_path, 1, window="72h", max_cost=0.5, strict=True).close()
        with create(service, tmp_path, 1) as job:
            assert (job.window, job.max_cost, job._journal.get("strict")) == ("72h", 0.5, True)
        with create(service, tmp_path, 1, max_cost=None) as job:
            assert (job.window, job.max_cost) == ("72h", None)

    @pytest.mark.parametrize("given", [None, 5, "text", {"messages": []}, b"x"])
    def test_requests_that_are_not_a_list(self, service: Emulator, tmp_path: Path, given: Any) -> None:
        with pytest.raises(errors.BadRequestError, match=r"requests=.* must be a list"):
            BatchJob.create(given, folder=tmp_path, config=connection(service), model=LLAMA)

    def test_strict_is_true_or_false(self, service: Emulator, tmp_path: Path) -> None:
        with pytest.raises(errors.BadRequestError, match="strict='yes'"):
            create(service, tmp_path, 1, strict="yes")

    @pytest.mark.parametrize("repairs", ["x", None, 1.5, True])
    def test_max_repairs_that_is_not_a_number(self, service: Emulator, tmp_path: Path, repairs: Any) -> None:
        with pytest.raises(errors.BadRequestError, match=r"requests\[0\]: max_repairs="):
            create(service, tmp_path, 1, max_repairs=repairs)

    @pytest.mark.parametrize("window", ["12h", "", 24])
    def test_unknown_window(self, service: Emulator, tmp_path: Path, window: Any) -> None:
        with pytest.raises(errors.BadRequestError, match="24h, 48h, 72h, auto"):
            create(service, tmp_path, 1, window=window)
        assert list(tmp_path.iterdir()) == []
        create(service, tmp_path, 1).close()
        with pytest.raises(errors.BadRequestError, match="24h, 48h, 72h, auto"):
            BatchJob.open(tmp_path, config=connection(service), window=window)

    def test_the_key_is_nowhere(self, service: Emulator, tmp_path: Path) -> None:
        create(service, tmp_path, 1).wait()
        assert not [path for path in tmp_path.iterdir() if b"kk-secret" in path.read_bytes()]


class TestEstimate:
    def test_by_window(self, service: Emulator, tmp_path: Path) -> None:
        estimate = create(service, tmp_path, 4, max_completion_tokens=100).estimate()
        prompt = estimate.tokens.prompt_tokens
        assert (estimate.lines, estimate.files, estimate.assumed) == (4, 1, 0)
        assert (estimate.tokens.completion_tokens, estimate.tokens.estimated) == (400, True)
        assert estimate.real_time == pytest.approx((prompt + 400) * 0.18 / 1_000_000)
        assert estimate.by_window["24h"] == pytest.approx((prompt + 400) * 0.05 / 1_000_000)
        assert (estimate.cheapest, estimate.unknown) == ("72h", ())
        assert service.requests == []

    def test_real_time_may_be_cheaper(self, service: Emulator, tmp_path: Path) -> None:
        """Maverick takes 0.20 for a prompt in real time, and 0.25 in a batch job of 24 hours."""
        scout = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
        estimate = create(service, tmp_path, [questions(1)[0] * 50], model=scout, max_completion_tokens=1).estimate()
        assert estimate.cheapest == "real_time"
        assert estimate.cheapest_window == "72h"

    def test_unknown_prices(self, service: Emulator, tmp_path: Path) -> None:
        estimate = create(service, tmp_path, 1, model="deepseek-ai/DeepSeek-R1-0528").estimate()
        assert estimate.unknown == ("deepseek-ai/DeepSeek-R1-0528",)
        assert estimate.by_window == {"24h": None, "48h": None, "72h": None}
        assert (estimate.real_time is None, estimate.cheapest, estimate.cheapest_window) == (False, "real_time", "24h")

    def test_auto_takes_the_cheapest(self, service: Emulator, tmp_path: Path) -> None:
        create(service, tmp_path, 1, window="auto").submit()
        assert [job.window for job in service.batches.jobs.values()] == ["72h"]


class TestMaxCost:
    def test_too_much_is_not_sent(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 10, max_cost=0.0001)
        with pytest.raises(
            errors.CostLimitError,
            match=r"about \$0\.0002535, .* max_cost=\$0\.0001\. 0 of 10 inputs have ended, 10 are not",
        ):
            job.submit()
        assert service.requests == []

    def test_a_higher_one_lets_it_go(self, service: Emulator, tmp_path: Path) -> None:
        with pytest.raises(errors.CostLimitError):
            create(service, tmp_path, 10, max_cost=0.0001).submit()
        assert create(service, tmp_path, 10, max_cost=0.01).wait().answered == 10

    def test_no_price_no_limit(self, service: Emulator, tmp_path: Path) -> None:
        job = create(service, tmp_path, 1, model="deepseek-ai/DeepSeek-R1-0528", max_cost=100)
        with pytest.raises(errors.CostLimitError, match="no batch price is known for deepseek-ai/DeepSeek-R1-0528"):
            job.submit()

    def test_it_ends_repairs_too(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(texts={0: PROSE})
        options = {"response_format": AS_SCHEMA, "max_completion_tokens": 10, "max_repairs": 9}
        cost = create(service, tmp_path, 1, **options).estimate().by_window["24h"]
        assert cost is not None
        job = create(service, tmp_path, 1, **options, max_cost=cost * 1.5)
        with pytest.raises(errors.CostLimitError, match="0 of 1 inputs have ended, 1 are not sent"):
            job.wait()
        assert 1 <= len(service.batches.jobs) < 10


class TestProgress:
    def test_each_status_once(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(line_time=0.01, pre_schedule=0.02)
        seen: list[BatchStatus] = []
        create(service, tmp_path, 5).wait(on_progress=seen.append)
        assert "pre_schedule" in {job.status for status in seen for job in status.jobs}
        assert [a.progress <= b.progress for a, b in itertools.pairwise(seen)] == [True] * (len(seen) - 1)
        assert len(seen) == len({repr(status) for status in seen})
        assert seen[-1].is_done

    def test_the_time_is_over(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(pre_schedule=60)
        job = create(service, tmp_path, 3)
        job.submit()
        with pytest.raises(errors.APITimeoutError, match="0 of 3 inputs have an answer"):
            job.wait(timeout=0.02)
        assert set(lines_by_id(service).values()) == {1}


class TestOneAtATime:
    async def test_two_tasks(self, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(pre_schedule=60)
        job = create(service, tmp_path, 1)
        waiting = asyncio.create_task(job.await_())
        while not service.batches.jobs:
            await asyncio.sleep(0.005)
        with pytest.raises(errors.JobLockedError, match="Another thread or task"):
            await job.astatus()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await job.asubmit()
        assert (await job.astatus()).jobs[0].status == "pre_schedule"
        assert len(service.batches.jobs) == 1

    def test_two_processes(self, service: Emulator, tmp_path: Path) -> None:
        code = f"from kluster_integrations.batch import BatchJob; BatchJob.open({str(tmp_path)!r})"
        with create(service, tmp_path, 1):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "JobLockedError: Another process works on the job" in done.stderr
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stderr == ""


class TestSettings:
    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: Emulator) -> None:
        monkeypatch.setenv("KLUSTER_BATCH_SETTLE", "7")
        monkeypatch.setenv("KLUSTER_BATCH_POLL", "0.5")
        with BatchJob.create(questions(1), folder=tmp_path, config=connection(service), model=LLAMA) as job:
            assert (job.settle, job.poll) == (7, 0.5)

    def test_the_defaults(self, tmp_path: Path) -> None:
        with BatchJob.create(questions(1), folder=tmp_path, config=KlusterConfig(), model=LLAMA) as job:
            assert (job.settle, job.poll) == (60, 5)
            assert isinstance(job, JobSteps)

    @pytest.mark.parametrize("value", ["soon", "-1", "nan"])
    def test_no_number(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
        monkeypatch.setenv("KLUSTER_BATCH_SETTLE", value)
        with pytest.raises(ValueError, match=f"KLUSTER_BATCH_SETTLE='{value}' must be a number of seconds"):
            BatchJob.create(questions(1), folder=tmp_path, config=KlusterConfig(), model=LLAMA)


OWN = """
[[models]]
id = "mine"
context_window = 8_192
reasoning = true
opens_in_thought = true
native = ["max_tokens"]
prices = { input = 3.0, output = 3.0 }
batch_prices = { 24h = 2.0, 48h = 1.5, 72h = 1.0 }
"""


class TestACatalogOfTheConnections:
    """`KlusterConfig(catalog=…)`, without a KLUSTER_CATALOG in the environment."""

    def create(self, server: Emulator, tmp_path: Path, **options: Any) -> BatchJob:
        path = tmp_path / "models.toml"
        path.write_text(OWN, "utf-8")
        options = {"model": "mine", "max_tokens": 100, "window": "72h", **options}
        return create(server, tmp_path / "job", 2, config=connection(server, catalog=path), **options)

    def test_the_estimate(self, service: Emulator, tmp_path: Path) -> None:
        estimate = self.create(service, tmp_path).estimate()
        tokens = estimate.tokens.total_tokens
        assert estimate.tokens.completion_tokens == 200
        assert (estimate.unknown, estimate.assumed) == ((), 0)
        assert estimate.real_time == pytest.approx(tokens * 3.0 / 1_000_000)
        assert estimate.by_window == pytest.approx(
            {"24h": tokens * 2.0 / 1_000_000, "48h": tokens * 1.5 / 1_000_000, "72h": tokens * 1.0 / 1_000_000}
        )

    def test_max_cost(self, service: Emulator, tmp_path: Path) -> None:
        job = self.create(service, tmp_path, max_cost=0.00001)
        with pytest.raises(errors.CostLimitError, match=r"would cost about"):
            job.submit()
        assert not service.requests

    def test_reading_and_paying(self, tmp_path: Path) -> None:
        with Emulator(plan="core", models=[catalog.ModelSpec(id="mine")], strict=False) as server:
            for _ in range(2):
                server.reply(text="It is a thought.</think>\n\nGood.")
            job = self.create(server, tmp_path, max_cost=1.0)
            status = job.wait()
        results = list(job.results())
        used = sum(r.completion.usage.total_tokens for r in results if r.completion)
        assert status.cost == pytest.approx(used * 1.0 / 1_000_000)
        assert [r.completion and (r.completion.reasoning, r.completion.text) for r in results] == [
            ("It is a thought.", "Good.")
        ] * 2
