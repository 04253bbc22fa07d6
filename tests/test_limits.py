"""The limits of a key: in one process, in two over a real Redis, and when things break."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kluster_integrations import limits
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.core.limits import account
from kluster_integrations.core.limits import limiter as limiter_module
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import BadRequestError, RateLimitError
from kluster_integrations.limits import Limiter, Limits
from tests.raw_server import RawRequest, RawServer, Reply, whole
from tests.redis_server import running_redis

ROOT = Path(__file__).parent.parent
BODY = {"model": "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", "messages": [{"role": "user", "content": "Hi"}]}


def most_in_a_window(times: list[float], seconds: float) -> int:
    times = sorted(times)
    return max(sum(1 for t in times if start <= t < start + seconds) for start in times)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture
def clean_redis(redis_url: str) -> str:
    import redis

    redis.Redis.from_url(redis_url).flushall()
    return redis_url


def send(limiter: Limiter) -> None:
    """Do what a request does, without sending one."""
    with limits.admitted(limiter):
        limits.wait_for_rate_limit()


async def asend(limiter: Limiter) -> None:
    async with limits.aadmitted(limiter):
        await limits.await_for_rate_limit()


class Recorder:
    """A server that notes when requests arrive and how many are there at once."""

    def __init__(self, server: RawServer, seconds: float = 0.0) -> None:
        self.times: list[float] = []
        self.most = 0
        self._now = 0
        self._seconds = seconds
        self._lock = threading.Lock()
        server.answer = self._answer
        self.base_url = server.base_url

    def _answer(self, _: RawRequest) -> Reply:
        with self._lock:
            self.times.append(time.monotonic())
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds)
        with self._lock:
            self._now -= 1
        return whole({"content": "Hello"})


@pytest.fixture
def raw_server() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


def start_worker(base_url: str, count: int, **fields: Any) -> subprocess.Popen[str]:
    arguments = [base_url, json.dumps(fields), str(count), *(["hold"] if count == 0 else [])]
    command = [sys.executable, "-m", "tests.limits_worker", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def outcomes(*workers: subprocess.Popen[str]) -> list[str]:
    return [word for worker in workers for word in json.loads(worker.communicate(timeout=120)[0])]


@pytest.mark.parametrize(
    "fields",
    [
        {"requests": 0},
        {"requests": 1.5},
        {"requests": True},
        {"concurrent": -1},
        {"period": 0},
        {"slack": -1},
        {"max_wait": -1},
        {"max_wait": float("inf")},
        {"max_wait": "5"},
        {"period": float("nan")},
    ],
)
def test_refuses_numbers_that_make_no_sense(fields: dict[str, Any]) -> None:
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=f"{name}={value!r} must be"):
        Limits(**fields)


@pytest.mark.parametrize("wrong", [5, "core", {"requests": 5}])
def test_refuses_limits_of_another_type(wrong: Any) -> None:
    with pytest.raises(BadRequestError, match=f"limits={re.escape(repr(wrong))} is of type .*; it must be a Limits"):
        Client(KlusterConfig(api_key="kk"), limits=wrong)


def test_takes_the_plans_numbers_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_MAX_WAIT", "2.5")
    monkeypatch.setenv("KLUSTER_REDIS_URL", "redis://somewhere")
    made = Limits.of("trial")
    assert (made.requests, made.concurrent, made.max_wait, made.redis_url) == (30, 20, 2.5, "redis://somewhere")
    assert Limits.of("enterprise", max_wait=0).requests is None
    assert Limits.of("enterprise", max_wait=0).max_wait == 0
    assert Limits.of(None).concurrent is None


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_says_which_variable_is_wrong(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("KLUSTER_MAX_WAIT", text)
    with pytest.raises(ValueError, match=f"KLUSTER_MAX_WAIT='{text}'"):
        Limits.of("core")


def test_a_plan_in_any_case() -> None:
    assert Limits.of(" Core ") == Limits.of("core")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="plan='gold' must be one of trial, core"):
        Limits.of("gold")  # type: ignore[arg-type]


def test_one_limiter_a_key_and_address() -> None:
    made = Limits(requests=5)
    one = KlusterConfig(api_key="a", base_url="http://127.0.0.1:1")
    same = KlusterConfig(api_key="a", base_url="http://127.0.0.1:1", timeout=3)
    assert limits.shared(made, one) is limits.shared(made, same)
    assert limits.shared(made, one) is not limits.shared(made, KlusterConfig(api_key="b", base_url=one.base_url))
    assert limits.shared(made, one) is not limits.shared(made, KlusterConfig(api_key="a"))
    assert limits.shared(Limits(), one) is None


def test_other_limits_of_a_key_begin_no_new_minute() -> None:
    config = KlusterConfig(api_key="of-two-routers", base_url="http://127.0.0.1:1/v1")
    patient = limits.shared(Limits(requests=3, concurrent=1), config)
    hasty = limits.shared(Limits(requests=3, concurrent=1, max_wait=0.0), config)
    more = limits.shared(Limits(requests=5, max_wait=0.0), config)
    assert patient
    assert hasty
    assert more
    send(patient)
    send(hasty)
    send(more)
    with pytest.raises(RateLimitError, match="3 requests"):
        send(hasty)
    with limits.admitted(patient), pytest.raises(RateLimitError, match="1 concurrent"):
        send(hasty)
    send(more)
    send(more)
    with pytest.raises(RateLimitError, match="5 requests"):
        send(more)
    other = limits.shared(Limits(requests=3, max_wait=0.0), config.model_copy(update={"base_url": "http://[::1]:1/v1"}))
    assert other
    send(other)


def test_no_window_holds_more_than_the_limit_whoever_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Books and takes back at random, on a clock of its own."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(limiter_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    dice = random.Random(7)
    limiter = Limiter(Limits(requests=5, period=10.0, slack=0.0))
    ahead: list[float] = []
    sent: list[float] = []
    for _ in range(3_000):
        clock.now += dice.choice([0.0, 0.0, 0.3, 4.0])
        sent += [start for start in ahead if start <= clock.now]
        ahead = [start for start in ahead if start > clock.now]
        if ahead and dice.random() < 0.2:
            gone = dice.choice(ahead)
            ahead.remove(gone)
            limiter._starts.remove(gone)
        elif len(ahead) < 40:
            ahead.append(limiter._book(None))
    assert len(sent) > 1_000
    assert most_in_a_window(sent[:2_000], 9.999) == 5


def test_threads_and_tasks_share_a_limit() -> None:
    limiter = Limiter(Limits(requests=4, period=0.4, slack=0.3))  # a loaded machine wakes threads late
    times: list[float] = []

    def in_thread(_: int) -> None:
        with limits.admitted(limiter):
            limits.wait_for_rate_limit()
            times.append(time.monotonic())

    async def in_task() -> None:
        async with limits.aadmitted(limiter):
            await limits.await_for_rate_limit()
            times.append(time.monotonic())

    async def tasks() -> None:
        await asyncio.gather(*(in_task() for _ in range(6)))

    with ThreadPoolExecutor(7) as pool:
        loop = pool.submit(asyncio.run, tasks())
        list(pool.map(in_thread, range(6)))
        loop.result()
    assert len(times) == 12
    assert most_in_a_window(times, 0.4) <= 4


async def test_slots_are_first_come_first_served_for_threads_and_tasks() -> None:
    limiter = Limiter(Limits(concurrent=1))
    order: list[int] = []
    first = await limiter.aenter()

    async def task(number: int) -> None:
        async with limits.aadmitted(limiter):
            order.append(number)

    def thread(number: int) -> None:
        with limits.admitted(limiter):
            order.append(number)

    waiting = []
    for number in range(6):
        run = task(number) if number % 2 else asyncio.to_thread(thread, number)
        waiting.append(asyncio.create_task(run))
        while limiter._slots is not None and len(limiter._slots._waiting) < number + 1:
            await asyncio.sleep(0.001)
    assert order == []
    await first.aleave()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4, 5]


def test_says_at_once_what_would_take_too_long() -> None:
    limiter = Limiter(Limits(requests=2, concurrent=1, period=60.0, max_wait=5.0))
    for _ in range(2):
        send(limiter)
    with pytest.raises(RateLimitError, match="2 requests in 60 s") as caught:
        send(limiter)
    assert caught.value.status_code == 429
    assert 59 < caught.value.retry_after <= 61
    assert len(limiter._starts) == 2, "what is refused books nothing"
    assert free_slots(limiter) == 1


def test_a_wait_that_one_notices_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    limiter = Limiter(Limits(requests=1, slack=0))
    caplog.set_level("INFO", "kluster_integrations")
    with limits.admitted(limiter):
        limits.wait_for_rate_limit()
    assert not caplog.records
    with limits.admitted(limiter):
        limits.wait_for_rate_limit()
    (record,) = caplog.records
    assert re.fullmatch(r"Wait [56]\d\.\d s: the limit is 1 requests in 60 s\.", record.getMessage())


def test_too_many_at_once_is_refused_and_does_not_cost_a_start() -> None:
    limiter = Limiter(Limits(requests=5, concurrent=1, max_wait=0.0))
    ticket = limiter.enter()
    with pytest.raises(RateLimitError, match="1 concurrent"):
        send(limiter)
    ticket.leave()
    send(limiter)
    assert len(limiter._starts) == 1


def free_slots(limiter: Limiter) -> int:
    assert limiter._slots is not None
    return limiter._slots._free


async def test_who_gives_up_takes_nothing_along() -> None:
    limiter = Limiter(Limits(requests=1, concurrent=2, period=60.0))
    await asend(limiter)
    late = asyncio.create_task(asend(limiter))  # has a slot, and waits a minute for its start
    while len(limiter._starts) < 2:
        await asyncio.sleep(0.001)
    assert free_slots(limiter) == 1
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert len(limiter._starts) == 1
    assert free_slots(limiter) == 2


async def test_who_gives_up_waiting_for_a_slot_leaves_the_queue() -> None:
    limiter = Limiter(Limits(concurrent=1))
    ticket = await limiter.aenter()
    late = asyncio.create_task(limiter.aenter())
    await asyncio.sleep(0.01)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    ticket.leave()
    assert free_slots(limiter) == 1


def test_each_try_of_a_request_counts(emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=500, times=2, headers={"retry-after-ms": "1"}))
    limiter = Limiter(Limits(requests=10))
    transport = Transport(KlusterConfig(api_key="key", base_url=emulator.base_url))
    with limits.admitted(limiter):
        transport.post(CHAT_PATH, BODY)
    assert len(emulator.requests) == 3
    assert len(limiter._starts) == 3


async def test_each_try_of_an_async_request_counts(emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=500, times=2, headers={"retry-after-ms": "1"}))
    limiter = Limiter(Limits(requests=10))
    transport = Transport(KlusterConfig(api_key="key", base_url=emulator.base_url))
    async with limits.aadmitted(limiter):
        await transport.apost(CHAT_PATH, BODY)
    assert len(emulator.requests) == len(limiter._starts) == 3


def test_two_processes_hold_one_limit(clean_redis: str, raw_server: RawServer) -> None:
    recorder = Recorder(raw_server)
    fields = {"requests": 6, "period": 1.0, "slack": 1.0, "redis_url": clean_redis}
    workers = [start_worker(recorder.base_url, 9, **fields) for _ in range(2)]
    assert outcomes(*workers) == ["answered"] * 18
    assert len(recorder.times) == 18
    assert most_in_a_window(recorder.times, 1.0) <= 6


def test_a_burst_of_120_on_60_a_minute_without_waiting(clean_redis: str, raw_server: RawServer) -> None:
    recorder = Recorder(raw_server)
    fields = {"requests": 60, "max_wait": 0.0, "redis_url": clean_redis}
    workers = [start_worker(recorder.base_url, 60, **fields) for _ in range(2)]
    words = outcomes(*workers)
    assert (words.count("answered"), words.count("refused")) == (60, 60)
    assert len(recorder.times) == 60


def test_two_processes_hold_one_number_of_slots(clean_redis: str, raw_server: RawServer) -> None:
    recorder = Recorder(raw_server, seconds=0.05)
    fields = {"concurrent": 3, "redis_url": clean_redis}
    workers = [start_worker(recorder.base_url, 12, **fields) for _ in range(2)]
    assert outcomes(*workers) == ["answered"] * 24
    assert recorder.most == 3


def test_redis_holds_no_key(clean_redis: str, raw_server: RawServer) -> None:
    import redis

    outcomes(start_worker(Recorder(raw_server).base_url, 2, requests=5, concurrent=5, redis_url=clean_redis))
    client = redis.Redis.from_url(clean_redis)
    names = client.keys("*")
    assert names
    assert not any(b"the-one-key" in part for name in names for part in [name, client.dump(name) or b""])


def test_the_slot_of_a_killed_process_comes_back(
    clean_redis: str, raw_server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    fields: dict[str, Any] = {"concurrent": 1, "redis_url": clean_redis}
    worker = start_worker(raw_server.base_url, 0, **fields)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "held\n"
    worker.kill()
    worker.communicate()
    config = KlusterConfig(api_key="the-one-key", base_url=raw_server.base_url)
    impatient = limits.shared(Limits(**fields, max_wait=0.0), config)
    assert impatient is not None
    with pytest.raises(RateLimitError, match="1 concurrent"):
        impatient.enter()
    client = redis.Redis.from_url(clean_redis)
    (name,) = client.keys("*slots")
    ((member, until),) = client.zrange(name, 0, -1, withscores=True)
    seconds, _ = client.time()
    assert 0 < until / 1000 - seconds <= 31
    client.zadd(name, {member: (seconds - 1) * 1000})  # as if the lease were over
    impatient.enter().leave()


def test_a_slot_that_is_held_is_renewed(clean_redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kluster_integrations.core.limits import redis as limits_redis

    monkeypatch.setattr(limits_redis, "LEASE", 0.3)
    limiter = limits_redis.RedisLimiter(Limits(concurrent=1, max_wait=0.0, redis_url=clean_redis), "name")
    ticket = limiter.enter()
    time.sleep(1.0)
    with pytest.raises(RateLimitError):
        limiter.enter()
    ticket.leave()
    limiter.enter().leave()


def test_asking_redis_twice_under_one_id_counts_once(clean_redis: str) -> None:
    from kluster_integrations.core.limits.redis import RedisLimiter

    limiter = RedisLimiter(Limits(requests=1, concurrent=1, redis_url=clean_redis), "name")
    assert [limiter._ask("slot", "one").answer.result() for _ in range(2)] == [1, 1]
    assert [limiter._ask("start", "one").answer.result() for _ in range(2)] == [0, 0]
    assert limiter._ask("slot", "other", time.monotonic()).answer.result() == 0
    assert limiter._ask("start", "other").answer.result() > 60_000


async def test_who_gives_up_takes_nothing_along_in_redis(clean_redis: str) -> None:
    import redis

    from kluster_integrations.core.limits.redis import RedisLimiter

    limiter = RedisLimiter(Limits(requests=1, concurrent=5, redis_url=clean_redis), "name")
    await asend(limiter)
    client = redis.Redis.from_url(clean_redis)
    late = asyncio.create_task(asend(limiter))
    while client.zcard("kluster:{name}:starts") < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    for _ in range(100):
        if client.zcard("kluster:{name}:starts") == 1 and client.zcard("kluster:{name}:slots") == 0:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the start or the slot is still booked")


def test_without_redis_each_process_keeps_the_limits() -> None:
    pytest.importorskip("redis")
    from kluster_integrations.core.limits.redis import RedisLimiter

    nowhere = "redis://127.0.0.1:1/0"
    limiter = RedisLimiter(Limits(requests=2, concurrent=2, max_wait=0.0, redis_url=nowhere), "name")
    with pytest.warns(RuntimeWarning, match="does not answer"):
        send(limiter)
    send(limiter)
    with pytest.raises(RateLimitError):
        send(limiter)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    config = KlusterConfig(api_key="key-without-redis")
    with pytest.raises(ImportError, match=r"redis is not installed: pip install .*\[redis\]"):
        limits.shared(Limits(requests=1, redis_url="redis://127.0.0.1:1/0"), config)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_limiters_of_its_own() -> None:
    config = KlusterConfig(api_key="kk-of-a-parent", base_url="http://127.0.0.1:9/v1")
    few = Limits(concurrent=1)
    with limits.admitted(limits.shared(few, config)), account._limiters_lock:  # as another thread may hold it
        child = os.fork()
        if child == 0:  # pragma: no cover
            signal.alarm(10)
            code = 1
            try:
                with limits.admitted(limits.shared(few, config)):
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
