"""Chat requests inside `deferred` become batch jobs: of every door, from tasks and threads."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import budget, catalog, errors
from kluster_integrations.batch import BatchJob, BatchStatus, deferred
from kluster_integrations.core.client import Client
from kluster_integrations.core.types import collect
from kluster_integrations.emulator import BatchBehavior, Emulator
from kluster_integrations.limits import Limits

from .jobs import LLAMA, connection, create, lines_by_id, questions

R1 = "deepseek-ai/DeepSeek-R1"
SCHEMA = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"POLL": "0.01", "SETTLE": "0.05", "QUIET": "0.5"}.items():
        monkeypatch.setenv(f"KLUSTER_BATCH_{name}", seconds)


@pytest.fixture
def client(service: Emulator) -> Client:
    return Client(connection(service))


def sizes(server: Emulator) -> list[int]:
    return [len(job.lines) for job in server.batches.jobs.values()]


def sent_one_by_one(server: Emulator) -> int:
    return sum(request.path == "/v1/chat/completions" for request in server.requests)


def ask(client: Client, number: int = 0, **params: Any) -> str:
    [messages] = questions(number + 1)[number:]
    return client.complete(client.build(LLAMA, messages, params)).text


async def aask(client: Client, number: int = 0, **params: Any) -> str:
    [messages] = questions(number + 1)[number:]
    return (await client.acomplete(client.build(LLAMA, messages, params))).text


class TestRounds:
    async def test_what_is_asked_together_is_one_job(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        async with deferred(tmp_path):
            texts = await asyncio.gather(*(aask(client, n) for n in range(20)))
        assert [f"Echo: Question {n}" == text for n, text in enumerate(texts)] == [True] * 20
        assert (sizes(service), sent_one_by_one(service)) == ([20], 0)

    async def test_rounds_follow_one_another(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        async def two(number: int) -> None:
            await aask(client, number, seed=1)
            await aask(client, number, seed=2)

        async with deferred(tmp_path):
            await asyncio.gather(*map(two, range(5)))
        assert sizes(service) == [5, 5]

    async def test_a_round_is_sent_while_another_runs(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(pre_schedule=600))
        async with deferred(tmp_path):
            slow = asyncio.create_task(aask(client, 0))
            while not service.batches.jobs:
                await asyncio.sleep(0.01)
            assert await aask(client, 1) == "Echo: Question 1"
            assert not slow.done()
            slow.cancel()
        assert sizes(service) == [1, 1]

    async def test_run_again_it_is_answered_at_once(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        async def run() -> list[str]:
            async with deferred(tmp_path):
                return await asyncio.gather(*(aask(client, n % 3) for n in range(6)))

        first = await run()
        before = len(service.requests)
        assert (await run(), len(service.requests) - before) == (first, 0)
        assert sizes(service) == [6]  # asked twice is two lines

    async def test_what_runs_is_waited_for(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(pre_schedule=0.5)
        async with deferred(tmp_path):
            first = asyncio.create_task(aask(client))
            while not service.batches.jobs:
                await asyncio.sleep(0.01)
        with pytest.raises(errors.KlusterError, match="block was left"):
            await first
        async with deferred(tmp_path):
            assert await aask(client) == "Echo: Question 0"
        assert sizes(service) == [1]

    async def test_who_goes_before_it_is_sent_is_not_sent(
        self, client: Client, service: Emulator, tmp_path: Path
    ) -> None:
        async with deferred(tmp_path):
            gone = asyncio.create_task(aask(client, 0))
            await asyncio.sleep(0)
            gone.cancel()
            await aask(client, 1)
        assert sizes(service) == [1]

    async def test_progress(self, client: Client, tmp_path: Path) -> None:
        seen: list[BatchStatus] = []
        async with deferred(tmp_path, on_progress=seen.append) as rounds:
            await asyncio.gather(aask(client, 0), aask(client, 1))
            assert rounds.status() == seen[-1]
        assert (seen[-1].answered, seen[-1].is_done, len(seen[-1].jobs), seen[-1].window) == (2, True, 1, "72h")
        assert seen[-1].cost

    def test_its_folder_is_a_job_to_look_at(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        with deferred(tmp_path):
            text = ask(client)
        with BatchJob.open(tmp_path, config=connection(service)) as job:
            [result] = job.results()
        assert result.completion is not None
        assert result.completion.text == text


class TestThreads:
    def test_a_pool_with_pythons_default_of_workers(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        with deferred(tmp_path), ThreadPoolExecutor() as pool:
            list(pool.map(lambda n: ask(client, n), range(50)))
        assert sizes(service) == [50]
        with ThreadPoolExecutor() as pool:
            assert pool._max_workers < 50

    def test_a_thread_that_was_there_before(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        with ThreadPoolExecutor(1) as before:
            before.submit(int).result()
            with deferred(tmp_path):
                before.submit(ask, client).result()
        assert (sizes(service), sent_one_by_one(service)) == ([], 1)

    async def test_sync_calls_in_threads_of_an_event_loop(
        self, client: Client, service: Emulator, tmp_path: Path
    ) -> None:
        await asyncio.to_thread(int)  # the loop has its executor, with few threads
        async with deferred(tmp_path):
            await asyncio.gather(*(asyncio.to_thread(ask, client, n) for n in range(50)))
        assert sizes(service) == [50]

    def test_a_loop_of_a_sync_block(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        async def work() -> None:
            await asyncio.gather(*(asyncio.to_thread(ask, client, n) for n in range(50)))

        with deferred(tmp_path):
            asyncio.run(work())
        assert sizes(service) == [50]

    def test_outside_nothing_is_deferred(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        with deferred(tmp_path):
            ask(client, 0)
        ask(client, 1)
        assert (sizes(service), sent_one_by_one(service)) == ([1], 1)

    def test_left_by_an_error_its_threads_end(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(pre_schedule=600)
        raised: list[BaseException] = []

        def work() -> None:
            try:
                ask(client)
            except errors.KlusterError as err:
                raised.append(err)

        def fail() -> None:
            with deferred(tmp_path):
                thread.start()
                while not service.batches.jobs:
                    time.sleep(0.01)
                raise ZeroDivisionError

        thread = threading.Thread(target=work)
        with pytest.raises(ZeroDivisionError):
            fail()
        thread.join()
        assert "block was left" in str(raised[0])


class TestWhatIsAsked:
    def test_streams_are_answered_whole(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        request = client.build(R1, questions(1)[0], {}, stream=True)
        with deferred(tmp_path):
            streamed = collect(client.stream(request))
            whole = client.complete(client.build(R1, questions(1)[0], {}))
        assert (streamed.text, streamed.reasoning) == (whole.text, whole.reasoning)
        assert streamed.text == "Echo: Question 0"
        assert streamed.reasoning
        assert streamed.usage.total_tokens
        [first, _] = [line for job in service.batches.jobs.values() for line in job.lines]
        assert not {"stream", "stream_options"} & set(first["body"])

    async def test_async_streams(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        request = client.build(LLAMA, questions(1)[0], {}, stream=True)
        async with deferred(tmp_path):
            streamed = collect([delta async for delta in client.astream(request)])
        assert streamed.text == "Echo: Question 0"
        assert (sizes(service), sent_one_by_one(service)) == ([1], 0)

    def test_a_repair_is_a_line_of_the_next_round(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(texts={0: "I would rather not."}))
        request = client.build(LLAMA, questions(1)[0], {"response_format": AS_SCHEMA})
        for _ in range(2):  # and the second time it is all in the journal
            with deferred(tmp_path):
                done = client.complete(request)
            assert (done.text[:8], done.usage.requests) == ('{"mood":', 2)
        assert sizes(service) == [1, 1]

    def test_a_check_is_made_here(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        request = client.build(LLAMA, questions(1)[0], {}, max_repairs=0, check=lambda _: "It is too plain.")
        with deferred(tmp_path), pytest.raises(errors.OutputValidationError, match="too plain"):
            client.complete(request)

    def test_embeddings_are_sent_at_once(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        with deferred(tmp_path):
            assert client.embed("BAAI/bge-m3", ["x"]).rows
        assert sizes(service) == []

    def test_the_accounts_limits_are_passed_by(self, service: Emulator, tmp_path: Path) -> None:
        client = Client(connection(service), limits=Limits(requests=1, concurrent=1, max_wait=0))
        with deferred(tmp_path), ThreadPoolExecutor() as pool:
            list(pool.map(lambda n: ask(client, n), range(5)))
        assert sizes(service) == [5]

    def test_ids_of_tool_calls_do_not_count(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        def talk(id_: str) -> None:
            call = {"id": id_, "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
            messages = [
                *questions(1)[0],
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": id_, "content": "Sunny"},
            ]
            with deferred(tmp_path):
                client.complete(client.build("Qwen/Qwen3-235B-A22B-FP8", messages, {"tools": [tool]}))

        talk("call_made_up")
        talk("call_made_up_again")
        assert sizes(service) == [1]


class TestMoney:
    def test_a_budget_counts_the_batch_price(self, client: Client, tmp_path: Path) -> None:
        with budget(usd=1) as spent, deferred(tmp_path) as rounds:
            ask(client)
            assert spent.usd == pytest.approx(rounds.status().cost)

    async def test_a_budget_counts_what_waits(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        async with deferred(tmp_path):
            with budget(usd=1e-9) as spent:
                found = await asyncio.gather(aask(client, 0), aask(client, 1), return_exceptions=True)
                assert [type(f).__name__ for f in found] == ["str", "BudgetExceededError"]
                assert "for what waits in batch jobs" in str(found[1])
            assert sizes(service) == [1]
            line = 107 * 0.03 / 1_000_000  # 7 tokens of the question, and at most 100 of the answer
            with budget(usd=3.5 * line) as spent:
                asked = (aask(client, n, max_completion_tokens=100) for n in range(2, 10))
                found = await asyncio.gather(*asked, return_exceptions=True)
                assert [isinstance(f, str) for f in found] == [True] * 4 + [False] * 4
                assert 0 < spent.usd < line  # so that there is room again
                assert await aask(client, 9, max_completion_tokens=100) == "Echo: Question 9"

    def test_a_price_that_is_known_only_in_real_time(
        self, client: Client, service: Emulator, tmp_path: Path, own_catalog: None
    ) -> None:
        catalog.add(catalog.ModelSpec(id=LLAMA, prices=catalog.Prices(1, 1)))
        with budget(usd=1), deferred(tmp_path), pytest.raises(errors.BudgetExceededError, match="no known price"):
            ask(client)
        with budget(usd=1, allow_unpriced=True) as spent, deferred(tmp_path):
            ask(client)
        assert (spent.usd, spent.unpriced) == (0, [LLAMA])

    def test_max_cost_refuses_a_round_before_it_is_sent(
        self, client: Client, service: Emulator, tmp_path: Path
    ) -> None:
        before = len(service.requests)
        with deferred(tmp_path, max_cost=1e-6):
            with pytest.raises(
                errors.CostLimitError, match=r"would cost about \$0.0000\d+, of which .* max_cost=\$0.000001"
            ):
                ask(client)
            assert len(service.requests) == before
        with deferred(tmp_path, max_cost=1):
            ask(client)
        assert sizes(service) == [1]

    async def test_a_round_beyond_max_cost_leaves_the_one_that_runs(
        self, client: Client, service: Emulator, tmp_path: Path
    ) -> None:
        service.batches.behavior = BatchBehavior(pre_schedule=1)
        async with deferred(tmp_path, max_cost=5e-5) as rounds:
            first = asyncio.create_task(aask(client, 0, max_completion_tokens=1_000))
            while not service.batches.jobs:
                await asyncio.sleep(0.01)
            with pytest.raises(errors.CostLimitError, match="of which"):
                await aask(client, 1, max_completion_tokens=1_000)
            assert await first == "Echo: Question 0"
            assert rounds.status().total == 1
        assert sizes(service) == [1]

    def test_auto_is_the_cheapest_window(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        with budget(usd=1) as spent, deferred(tmp_path, window="auto") as rounds:
            ask(client)
            assert rounds.status().window == "72h"
            assert spent.usd == pytest.approx(rounds.status().cost)


class TestTheLoopsExecutor:
    async def test_it_gets_its_own_back(self, client: Client, tmp_path: Path) -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_default_executor(mine := ThreadPoolExecutor(3))
        async with deferred(tmp_path / "one"):
            async with deferred(tmp_path / "two"):
                assert loop._default_executor._max_workers == 1_000
            assert loop._default_executor._max_workers == 1_000
        assert loop._default_executor is mine

    async def test_one_that_has_none(self, client: Client, tmp_path: Path) -> None:
        async with deferred(tmp_path):
            await asyncio.to_thread(ask, client)
        assert asyncio.get_running_loop()._default_executor._max_workers < 100  # type: ignore[attr-defined]
        assert await asyncio.to_thread(lambda: 1) == 1


class TestFailures:
    async def test_a_line_fails_and_the_others_go_on(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(failing={1: 400})
        for _ in range(2):  # an error is an answer, too
            async with deferred(tmp_path):
                found = await asyncio.gather(*(aask(client, n) for n in range(3)), return_exceptions=True)
            assert [type(f).__name__ for f in found] == ["str", "BadRequestError", "str"]
        assert sizes(service) == [3]

    def test_a_failure_that_may_pass_is_asked_again(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        service.batches.behavior = BatchBehavior(failing={0: 500})
        with deferred(tmp_path), pytest.raises(errors.InternalServerError):
            ask(client)
        assert sizes(service) == [1, 1, 1]
        service.batches.behavior = BatchBehavior()
        with deferred(tmp_path):
            assert ask(client) == "Echo: Question 0"

    def test_lines_that_are_missing_are_sent_again(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(missing={0}))
        with deferred(tmp_path):
            assert ask(client) == "Echo: Question 0"
        assert sizes(service) == [1, 1]

    def test_a_job_that_is_refused(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        service.batches.script(BatchBehavior(fails="No more jobs today."))
        with deferred(tmp_path):
            with pytest.raises(errors.BatchFailedError, match="No more jobs today"):
                ask(client, 0)
            assert ask(client, 1) == "Echo: Question 1"

    def test_the_service_refuses_the_key(self, service: Emulator, tmp_path: Path) -> None:
        client = Client(connection(service, api_key=None))
        with deferred(tmp_path), pytest.raises(errors.AuthenticationError):
            ask(client)

    def test_the_job_is_created_once_after_an_unclear_answer(
        self, client: Client, service: Emulator, tmp_path: Path
    ) -> None:
        service.batches.script(BatchBehavior(create="500 after"))
        with deferred(tmp_path):
            assert ask(client) == "Echo: Question 0"
        assert set(lines_by_id(service).values()) == {1}

    def test_another_account(self, client: Client, service: Emulator, tmp_path: Path) -> None:
        other = Client(connection(service, api_key="kk-another-secret-key"))
        with deferred(tmp_path):
            ask(client)
            with pytest.raises(errors.BadRequestError, match="another key or address"):
                ask(other)

    def test_an_on_progress_that_is_not_a_function_is_refused(self, service: Emulator, tmp_path: Path) -> None:
        with pytest.raises(errors.BadRequestError, match="on_progress=5 must be a function"):
            deferred(tmp_path, on_progress=5)  # type: ignore[arg-type]
        with pytest.raises(errors.BadRequestError, match="on_progress=5 must be a function"):
            create(service, tmp_path, 1).wait(on_progress=5)  # type: ignore[arg-type]

    def test_an_error_of_on_progress(self, client: Client, tmp_path: Path) -> None:
        with deferred(tmp_path, on_progress=lambda _: 1 / 0), pytest.raises(ZeroDivisionError):
            ask(client)


class TestFolders:
    def test_of_a_batch_job(self, service: Emulator, tmp_path: Path) -> None:
        BatchJob.create(questions(1), folder=tmp_path, config=connection(service), model=LLAMA).close()
        with pytest.raises(errors.BadRequestError, match="holds a job of other requests"), deferred(tmp_path):
            pass

    def test_in_use(self, tmp_path: Path) -> None:
        with (
            deferred(tmp_path) as rounds,
            pytest.raises(errors.JobLockedError, match="open in this process"),
            deferred(tmp_path),
        ):
            pass
        with rounds, pytest.raises(errors.JobLockedError, match="entered already"), rounds:
            pass

    def test_another_window(self, client: Client, tmp_path: Path) -> None:
        with deferred(tmp_path):
            ask(client)
        with pytest.raises(errors.BadRequestError, match="comes too late"), deferred(tmp_path, window="24h"):
            pass

    @pytest.mark.parametrize("quiet", ["x", -1, float("nan"), True])
    def test_a_time_that_is_not_a_number_of_seconds(self, tmp_path: Path, quiet: Any) -> None:
        with pytest.raises(errors.BadRequestError, match="quiet="):
            deferred(tmp_path, quiet=quiet)

    def test_a_wrong_window(self, tmp_path: Path) -> None:
        with pytest.raises(errors.BadRequestError, match="must be one of 24h"):
            deferred(tmp_path, window="1h")  # type: ignore[arg-type]
