"""What counts for a budget, from which thread or task, and when a request is refused."""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

from kluster_integrations import Budget, budget, catalog
from kluster_integrations.catalog import ModelSpec, Prices
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import budget as module
from kluster_integrations.core.request import build
from kluster_integrations.core.response import read
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.core.types import Usage
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import BudgetExceededError

LLAMA = catalog.get("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo")
R1 = catalog.get("deepseek-ai/DeepSeek-R1")
UNPRICED = ModelSpec(id="acme/fine-tuned", status="unknown")
# 100 tokens of prompt and 10 of answer: 110 of Llama's at 0.70 US$ per million.
USAGE = Usage(100, 10, 110)
COST = 100 * (0.70 / 1e6) + 10 * (0.70 / 1e6)


def spend(spec: ModelSpec = LLAMA, usage: Usage = USAGE) -> None:
    """Do what the client does around a request, without one."""
    module.count(module.check(spec), spec, usage)


def in_thread(work: Callable[[], object]) -> None:
    """Run a function in a plain thread, and raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as err:
            raised.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


class OldThread:
    """A thread that begins now, and runs one function later."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._go = threading.Event()
        self._thread = threading.Thread(target=lambda: self._go.wait() and work(), daemon=True)
        self._thread.start()

    def run(self) -> None:
        self._go.set()
        self._thread.join()


class TestCounting:
    def test_by_model(self) -> None:
        with budget(usd=5.0) as spent:
            spend()
            spend()
            spend(R1, Usage(1_000, 500, 1_500, reasoning_tokens=400))
        assert spent.by_model == {
            LLAMA.id: (2, 200, 20, pytest.approx(2 * COST)),
            R1.id: (1, 1_000, 500, pytest.approx(1_000 * 3e-6 + 500 * 5e-6)),
        }
        row = spent.by_model[R1.id]
        assert (row.requests, row.prompt_tokens, row.completion_tokens) == (1, 1_000, 500)
        assert row.usd == R1.cost(1_000, 500)
        assert spent.usd == pytest.approx(2 * COST + 0.0055)
        assert spent.requests == 3
        assert spent.remaining == pytest.approx(5.0 - spent.usd)
        assert spent.unpriced == []

    def test_nothing_at_first(self) -> None:
        with budget(1) as spent:
            pass
        assert (spent.usd, spent.requests, spent.by_model, spent.remaining) == (0.0, 0, {}, 1.0)
        assert spent.estimated is False

    def test_estimates_are_marked(self) -> None:
        with budget(usd=1) as spent:
            spend(usage=USAGE._replace(estimated=True))
            spend()
        assert spent.estimated is True

    def test_what_is_read_does_not_change(self) -> None:
        with budget(usd=1) as spent:
            spend()
            before = spent.by_model
            spend()
        assert before[LLAMA.id].requests == 1

    def test_it_shows_what_is_spent(self) -> None:
        with budget(usd=0.5) as spent:
            spend()
        assert repr(spent) == "Budget(spent 0.000077 US$ of 0.5 US$, requests=1)"

    def test_outside_nothing_is_counted(self) -> None:
        with budget(usd=5.0) as spent:
            assert module.current() == (spent,)
        assert module.current() == ()
        spend()
        assert spent.requests == 0

    def test_what_began_inside_is_counted_after_the_end(self) -> None:
        with budget(usd=5.0) as spent:
            budgets = module.check(LLAMA)
        module.count(budgets, LLAMA, USAGE)
        assert spent.requests == 1

    def test_entered_again_it_goes_on(self) -> None:
        spent = budget(usd=5.0)
        for _ in range(2):
            with spent:
                spend()
        assert spent.requests == 2

    def test_it_is_left_when_an_error_comes(self) -> None:
        with pytest.raises(RuntimeError), budget(usd=5.0):
            raise RuntimeError
        assert module.current() == ()


class TestRefusing:
    def test_the_next_request_once_the_limit_is_reached(self) -> None:
        with budget(usd=2 * COST) as spent:
            spend()
            spend()
            with pytest.raises(BudgetExceededError) as caught:
                spend()
        err = caught.value
        assert err.message == "The budget of 0.000154 US$ is spent (0.000154 US$ so far). Nothing was sent."
        assert "usd=" in str(err.hint)
        assert (err.spent_usd, err.limit_usd) == (spent.usd, 2 * COST)
        assert spent.remaining == 0.0
        assert spent.requests == 2
        again = pickle.loads(pickle.dumps(err))
        assert (again.spent_usd, again.limit_usd, str(again)) == (err.spent_usd, err.limit_usd, str(err))

    def test_a_request_may_go_beyond_the_limit_and_remaining_is_never_negative(self) -> None:
        with budget(usd=1.5 * COST) as spent:
            spend()
            spend()
        assert spent.usd > spent.limit_usd
        assert spent.remaining == 0.0

    def test_rounding_lets_no_request_more_through(self) -> None:
        tenth = ModelSpec(id="acme/ten-cents", prices=Prices(1e5, 0.0))
        with budget(usd=1.0) as spent:
            for _ in range(10):
                spend(tenth, Usage(1, 0, 1))
            assert spent.usd < 1.0
            with pytest.raises(BudgetExceededError):
                spend(tenth, Usage(1, 0, 1))

    def test_nothing_at_all(self) -> None:
        with budget(usd=0), pytest.raises(BudgetExceededError):
            spend()

    def test_without_a_limit(self) -> None:
        with budget(usd=math.inf) as spent:
            spend(usage=Usage(10**12, 0, 10**12))
            spend()
        assert spent.remaining == math.inf

    def test_a_model_without_a_price(self) -> None:
        with budget(usd=5.0) as spent:
            with pytest.raises(BudgetExceededError, match=r"'acme/fine-tuned' has no known price") as caught:
                spend(UNPRICED)
            assert "allow_unpriced=True" in str(caught.value.hint)
            spend()
        assert (spent.requests, spent.unpriced) == (1, [])

    def test_a_model_without_a_price_that_is_allowed(self) -> None:
        with budget(usd=COST, allow_unpriced=True) as spent:
            spend(UNPRICED)
            spend(UNPRICED)
            spend()
            with pytest.raises(BudgetExceededError, match="is spent"):
                spend(UNPRICED)
        assert spent.unpriced == [UNPRICED.id]
        assert spent.by_model[UNPRICED.id] == (2, 200, 20, 0.0)
        assert spent.usd == COST

    def test_a_price_of_ones_own(self, own_catalog: None) -> None:
        catalog.add(ModelSpec(id="acme/priced", prices=Prices(1.0, 2.0)))
        with budget(usd=5.0) as spent:
            spend(catalog.get("acme/priced"))
        assert spent.usd == pytest.approx(100e-6 + 20e-6)

    @pytest.mark.parametrize("usd", [-1, -0.01, math.nan, "5", None, True, [5]])
    def test_what_is_not_a_limit_is_refused(self, usd: Any) -> None:
        with pytest.raises(ValueError, match=r"usd=.* must be a number of US\$, 0 or more"):
            budget(usd=usd)


class TestNesting:
    def test_the_inner_counts_for_the_outer(self) -> None:
        with budget(usd=5.0) as outer:
            spend()
            with budget(usd=5.0) as inner:
                spend()
            spend()
        assert (outer.requests, inner.requests) == (3, 1)

    def test_either_refuses(self) -> None:
        with budget(usd=3 * COST) as outer:
            with budget(usd=COST) as inner:
                spend()
                with pytest.raises(BudgetExceededError):
                    spend()
            with budget(usd=5.0) as generous:
                spend()
                spend()
                with pytest.raises(BudgetExceededError) as caught:
                    spend()
        assert caught.value.limit_usd == 3 * COST
        assert (outer.requests, inner.requests, generous.requests) == (3, 1, 2)

    def test_the_same_one_counts_once(self) -> None:
        with budget(usd=5.0) as spent:
            with spent:
                spend()
            spend()
        assert spent.requests == 2


class TestThreads:
    def test_a_thread_that_begins_inside_counts(self) -> None:
        with budget(usd=2 * COST) as spent:
            in_thread(spend)
            in_thread(lambda: in_thread(spend))
            with pytest.raises(BudgetExceededError):
                in_thread(spend)
        assert spent.requests == 2

    def test_an_executors_worker_that_begins_inside_counts(self) -> None:
        with budget(usd=5.0) as spent, ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(spend) for _ in range(50)]:
                done.result()
        assert spent.requests == 50
        assert spent.usd == pytest.approx(50 * COST)

    def test_a_thread_that_was_there_before_does_not(self) -> None:
        seen: list[tuple[Budget, ...]] = []
        old = OldThread(lambda: seen.append(module.current()))
        with budget(usd=5.0):
            old.run()
        assert seen == [()]

    def test_it_may_enter_the_budget(self) -> None:
        spent = budget(usd=5.0)

        def work() -> None:
            with spent:
                spend()

        old = OldThread(work)
        with spent:
            old.run()
            spend()
        assert spent.requests == 2

    def test_it_may_run_in_the_context(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
            with budget(usd=5.0) as spent:
                pool.submit(copy_context().run, spend).result()
                pool.submit(spend).result()
        assert spent.requests == 1

    def test_a_thread_with_a_budget_of_its_own_counts_for_that(self) -> None:
        own = budget(usd=5.0)

        def work() -> None:
            with own:
                spend()
            spend()

        with budget(usd=5.0) as outer:
            in_thread(work)
        assert (own.requests, outer.requests) == (1, 1)

    def test_only_the_budgets_that_were_open_when_it_began(self) -> None:
        with budget(usd=5.0) as first:
            thread = OldThread(spend)
            with budget(usd=5.0) as second:
                thread.run()
        assert (first.requests, second.requests) == (1, 0)

    def test_a_thread_that_goes_on_after_the_end_counts_no_more(self) -> None:
        with budget(usd=COST) as spent:
            spend()
            thread = OldThread(spend)
        thread.run()
        assert spent.requests == 1

    def test_a_thread_not_started_by_python_does_not_count(self) -> None:
        import _thread

        seen: list[tuple[Budget, ...]] = []
        done = threading.Event()

        def work() -> None:
            seen.append(module.current())
            done.set()

        with budget(usd=5.0):
            _thread.start_new_thread(work, ())
            assert done.wait(10)
        assert seen == [()]

    def test_many_threads_lose_nothing(self) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with budget(usd=5.0) as outer, budget(usd=5.0) as inner, ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: [spend() for _ in range(250)], range(8)))
        finally:
            sys.setswitchinterval(interval)
        for spent in (outer, inner):
            assert spent.by_model[LLAMA.id][:3] == (2_000, 200_000, 20_000)
            assert spent.usd == pytest.approx(2_000 * COST)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_forked_process_counts_for_itself(self) -> None:
        elsewhere, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with budget(usd=0.0), module._budgets.lock:
                elsewhere.set()
                leave.wait()

        with budget(usd=5.0) as spent:
            holder = threading.Thread(target=hold)
            holder.start()
            elsewhere.wait()
            child = os.fork()
            if child == 0:  # the holder is not here: neither its lock nor its budget may be in the way
                status = 1
                try:
                    spend()
                    in_thread(spend)
                    status = 0 if spent.requests == 2 else 2
                finally:
                    os._exit(status)
            deadline = time.monotonic() + 20
            while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            if ended[0] == 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            leave.set()
            holder.join()
        assert ended == (child, 0)
        assert spent.requests == 0


class TestTasks:
    async def test_async_with(self) -> None:
        async with budget(usd=COST) as spent:
            spend()
            with pytest.raises(BudgetExceededError):
                spend()
        assert spent.requests == 1
        assert module.current() == ()

    async def test_tasks_inside_count_and_tasks_beside_do_not(self) -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            spend()

        async def user(tasks: int) -> Budget:
            async with budget(usd=5.0) as spent:
                await asyncio.gather(*(work() for _ in range(tasks)))
                await asyncio.to_thread(spend)
            return spent

        beside = asyncio.create_task(work())
        one, three = await asyncio.gather(user(1), user(3))
        await beside
        assert (one.requests, three.requests) == (2, 4)

    async def test_a_task_that_goes_on_after_the_end_counts_no_more(self) -> None:
        end = asyncio.Event()

        async def work() -> tuple[Budget, ...]:
            await end.wait()
            return module.current()

        async def user() -> None:
            async with budget(usd=5.0):
                await end.wait()
                assert await task == ()

        async with budget(usd=5.0):
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
        other = asyncio.create_task(user())
        await asyncio.sleep(0)
        end.set()
        await other

    async def test_left_in_another_context_than_entered(self) -> None:
        spent = budget(usd=5.0)
        copy_context().run(spent.__enter__)
        spent.__exit__()
        assert module.current() == ()

    def test_an_event_loop_in_a_thread_that_begins_inside(self) -> None:
        async def work() -> None:
            await asyncio.gather(*(asyncio.to_thread(spend) for _ in range(3)))

        with budget(usd=5.0) as spent:
            in_thread(lambda: asyncio.run(work()))
        assert spent.requests == 3


def test_it_counts_the_servers_tokens_and_sends_nothing_beyond_the_limit(emulator: Emulator) -> None:
    transport = Transport(KlusterConfig(api_key="any", base_url=emulator.base_url))

    def ask(spec: ModelSpec) -> Usage:
        budgets = module.check(spec)
        request = build(spec.id, [{"role": "user", "content": "Hi"}], {}, config=transport.config)
        usage = read(transport.post(CHAT_PATH, request.body).data, request).usage
        module.count(budgets, spec, usage)
        return usage

    with budget(usd=2e-5) as spent:
        said = [(spec, ask(spec)) for spec in (LLAMA, R1)]
        with pytest.raises(BudgetExceededError):
            ask(LLAMA)
    assert len(emulator.requests) == 2
    assert {model: row[1:3] for model, row in spent.by_model.items()} == {s.id: usage[:2] for s, usage in said}
    assert spent.usd == sum(spec.cost(usage.prompt_tokens, usage.completion_tokens) or 0.0 for spec, usage in said)
    assert spent.estimated is False
