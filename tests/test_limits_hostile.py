"""The limits of a key where something goes wrong around them: loops, clocks, forks, slow networks, many keys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kluster_integrations import limits
from kluster_integrations.batch import journal
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import specs
from kluster_integrations.core.client import Client
from kluster_integrations.core.limits import account
from kluster_integrations.core.limits.limiter import Counts
from kluster_integrations.limits import Limiter, Limits
from tests.raw_server import RawServer, Reply
from tests.redis_server import running_redis
from tests.ways import LLAMA, SO_FAR, config


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture
def clean_redis(redis_url: str) -> Any:
    import redis

    client = redis.Redis.from_url(redis_url)
    client.flushall()
    return client


@pytest.fixture(params=["in-process", "redis"])
def address(request: pytest.FixtureRequest) -> str | None:
    if request.param == "in-process":
        return None
    request.getfixturevalue("clean_redis")
    return str(request.getfixturevalue("redis_url"))


# Event loops


def abandoned(begin: Callable[[], AsyncIterator[Any]]) -> Any:
    """Return a stream whose event loop was closed over it, without `asyncio.run`'s cleaning up."""
    loop = asyncio.new_event_loop()
    stream = begin()
    loop.run_until_complete(anext(stream))
    loop.close()
    return stream


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:coroutine:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_slot_of_a_closed_loop_comes_back(server: RawServer, address: str | None) -> None:
    server.script(Reply(SO_FAR, end="hang"))
    made = Limits(concurrent=1, max_wait=20.0, redis_url=address)
    client = Client(config(server, api_key="kk-of-a-closed-loop"), limits=made)
    request = client.build(LLAMA, [{"role": "user", "content": "hi"}], {}, stream=True)
    stream = abandoned(lambda: client.astream(request))
    plain = client.build(LLAMA, [{"role": "user", "content": "hi"}], {})
    assert client.complete(plain).text == "Hello"
    assert client.complete(plain).text == "Hello"
    del stream


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:coroutine:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_waits_already_gets_it() -> None:
    limiter = Limiter(Limits(concurrent=1))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(limiter.aenter())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limiter.enter)
        while limiter._slots is not None and not limiter._slots._waiting:
            time.sleep(0.001)
        loop.close()
        waiting.result(20).leave()
    assert limiter._slots is not None
    assert limiter._slots._free == 1


def test_a_slot_that_was_taken_away_is_not_given_back_twice() -> None:
    limiter = Limiter(Limits(concurrent=1))
    loop = asyncio.new_event_loop()
    ticket = loop.run_until_complete(limiter.aenter())
    loop.close()
    with limits.admitted(limiter):
        ticket.leave()
        assert limiter._slots is not None
        assert limiter._slots._free == 0
    assert limiter._slots._free == 1


# A slow network


class SlowLine:
    """Passes on what goes to and from a server, some time later; one `recv` at a time. A context manager."""

    def __init__(self, url: str, seconds: float) -> None:
        host, _, port = url.removeprefix("redis://").removesuffix("/0").partition(":")
        self._to, self._seconds = (host, int(port)), seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> SlowLine:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._to)
                for source, target in ((near, far), (far, near)):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**20):
                time.sleep(self._seconds / 2)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def _scripts_run(client: Any) -> int:
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


@pytest.mark.parametrize("threads", [False, True])
def test_a_round_trip_takes_many_questions(clean_redis: Any, redis_url: str, threads: bool) -> None:
    with SlowLine(redis_url, 0.02) as line:
        limiter = limits.shared(Limits(requests=10_000, concurrent=1_000, redis_url=line.url), _key("slow-line"))
        assert limiter is not None

        def one(_: int) -> None:
            with limits.admitted(limiter):
                limits.wait_for_rate_limit()

        async def aone() -> None:
            async with limits.aadmitted(limiter):
                await limits.await_for_rate_limit()

        async def all_() -> None:
            await asyncio.gather(*(aone() for _ in range(400)))

        before = _scripts_run(clean_redis)
        if threads:
            with ThreadPoolExecutor(100) as pool:
                list(pool.map(one, range(400)))
        else:
            asyncio.run(all_())
    assert _scripts_run(clean_redis) - before < 400, "1,200 questions one by one take 1,200 round trips"
    assert clean_redis.zcard(_names(clean_redis, "slots")) == 0
    assert clean_redis.zcard(_names(clean_redis, "starts")) == 400


def _key(name: str) -> KlusterConfig:
    return KlusterConfig(api_key=f"kk-{name}", base_url="http://127.0.0.1:9/v1")


def _names(client: Any, what: str) -> Any:
    return next(iter(client.keys(f"*:{what}")), b"none")


def test_waiting_for_a_slot_is_first_come_first_served(clean_redis: Any, redis_url: str) -> None:
    limiter = limits.shared(Limits(concurrent=1, redis_url=redis_url), _key("in-order"))
    assert limiter is not None
    order: list[int] = []

    async def one(number: int) -> None:
        async with limits.aadmitted(limiter):
            order.append(number)

    async def all_() -> None:
        await asyncio.gather(*(one(number) for number in range(30)))

    asyncio.run(all_())
    assert order == list(range(30))


def test_keys_share_the_connections_to_redis(clean_redis: Any, redis_url: str) -> None:
    before = clean_redis.info("clients")["connected_clients"]
    made = Limits(requests=100, concurrent=10, redis_url=redis_url)
    limiters = [limits.shared(made, _key(f"number-{number}")) for number in range(300)]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda limiter: limiter.enter().leave(), limiters))
    assert clean_redis.info("clients")["connected_clients"] - before <= 8


# Clocks


def test_a_clock_that_is_set_back_holds_nobody(clean_redis: Any, redis_url: str) -> None:
    made = Limits(requests=1, concurrent=1, max_wait=70.0, redis_url=redis_url)
    limiter = limits.shared(made, _key("of-an-old-clock"))
    assert limiter is not None
    limiter.enter().wait_for_start()  # holds its slot, and the minute's start
    hour = 3_600_000
    for what in ("starts", "slots"):  # as if it had been done by a clock that was an hour ahead
        for member in clean_redis.zrange(_names(clean_redis, what), 0, -1):
            clean_redis.zincrby(_names(clean_redis, what), hour, member)
    clock = _names(clean_redis, "clock")
    clean_redis.set(clock, float(clean_redis.get(clock) or time.time() * 1000) + hour)
    wait = limiter._ask("start", "another").answer.result()  # type: ignore[attr-defined]
    assert 50_000 < wait <= 61_000
    ((_, until),) = clean_redis.zrange(_names(clean_redis, "slots"), 0, -1, withscores=True)
    assert until / 1000 - clean_redis.time()[0] <= 31


# Many keys


def test_keys_that_have_rested_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "_counts", {})
    monkeypatch.setattr(account, "_MOST_COUNTS", 10)
    made = Limits(requests=5, concurrent=2)
    busy = limits.shared(made, _key("busy"))
    assert busy is not None
    ticket = busy.enter()
    ticket.wait_for_start()
    for number in range(50):
        limits.shared(made, _key(f"idle-{number}"))
    assert len(account._counts) <= 11
    assert limits.shared(made, _key("busy")) is busy
    again = limits.shared(Limits(requests=5, concurrent=2, max_wait=0.0), _key("busy"))
    assert again is not None
    assert len(again._starts) == 1
    ticket.leave()


def test_counts_that_matter_are_not_idle() -> None:
    counts = Counts()
    assert counts.is_idle(60)
    limiter = Limiter(Limits(requests=1, concurrent=1), counts)
    ticket = limiter.enter()
    assert not counts.is_idle(60)
    ticket.wait_for_start()
    ticket.leave()
    assert not counts.is_idle(60)
    assert counts.is_idle(0)


# Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("lock", [specs._lock, journal._opening, account._limiters_lock])
def test_a_lock_that_another_thread_holds_is_free_in_a_fork(lock: Any) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    child = os.fork()
    if child == 0:  # pragma: no cover
        signal.alarm(10)
        with lock:
            os._exit(0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
