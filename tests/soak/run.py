"""The calls of the soak, what is measured meanwhile, and what must hold at the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.errors import KlusterError, TruncatedStreamError
from kluster_integrations.limits import Limits

from .server import fault_of

__all__ = ["Report", "soak"]

_MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
_KEYS = [f"kk-soak-key-{number}" for number in range(50)]
_THREADS, _TASKS, _AT_ONCE = 3, 6, 500
_KINDS = ("complete", "complete", "stream", "stream", "leave", "close")


@dataclass
class Sample:
    """What this process has at one moment."""

    second: float
    memory: int  # bytes
    descriptors: int
    threads: int


@dataclass
class Report:
    """What came of it."""

    seconds: float
    calls: int = 0
    left: int = 0
    broken: int = 0
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    before: Sample | None = None
    after: Sample | None = None
    tasks_left: int = 0
    restarts: int = 0
    most_streams: int = 0
    books: dict[str, int] = field(default_factory=dict)

    def growth(self) -> float:
        """Return the memory of the last tenth of the time over that of the second tenth."""
        tenth = self.seconds / 10
        early = [s.memory for s in self.samples if tenth <= s.second < 2 * tenth]
        late = [s.memory for s in self.samples if s.second >= self.seconds - tenth]
        return statistics.median(late or [0]) / statistics.median(early or [1])

    def line(self) -> str:
        """Return the numbers in a few lines."""
        memory = [s.memory // 2**20 for s in self.samples]
        assert self.before is not None
        assert self.after is not None
        return (
            f"{self.seconds:g} s: {self.calls} calls, {self.left} left or cancelled, {self.broken} broken streams, "
            f"{self.most_streams} streams at once, Redis restarted {self.restarts} times, {len(self.wrong)} wrong\n"
            f"server: {self.books}\n"
            f"memory: {min(memory)} to {max(memory)} MiB, the last tenth {self.growth():.3f} of the second\n"
            f"descriptors: {self.before.descriptors} before, {max(s.descriptors for s in self.samples)} at most, "
            f"{self.after.descriptors} after; threads: {self.before.threads} before, {self.after.threads} after; "
            f"tasks left: {self.tasks_left}"
        )


class Redis:
    """A Redis server that can be started again on its port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([str(shutil.which("redis-server")), *options], stdout=subprocess.DEVNULL)
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.05)
        raise RuntimeError("redis-server does not answer")

    def stop(self) -> None:
        """Kill it, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def _server() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.soak.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def _sample(began: float) -> Sample:
    own = Path("/proc/self")
    memory = int((own / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Sample(time.monotonic() - began, memory, len(list((own / "fd").iterdir())), threading.active_count())


class _Soak:
    def __init__(self, seconds: float, base_url: str, redis: Redis) -> None:
        self.report = Report(seconds)
        self._base_url, self._redis = base_url, redis
        self._began = time.monotonic()
        self._until = self._began + seconds
        self._lock = threading.Lock()
        self._number = 0
        self._open = 0
        self._bursts = threading.Semaphore(0)
        limits = Limits(requests=1_000_000, concurrent=_AT_ONCE + 100, redis_url=redis.url)
        self._clients = [self._client(key, limits) for key in _KEYS]

    def _client(self, key: str, limits: Limits) -> Client:
        return Client(KlusterConfig(api_key=key, base_url=self._base_url, timeout=30, max_retries=3), limits=limits)

    def _next(self, kind: str, *, together: bool = False) -> tuple[int, str, Client, Any]:
        with self._lock:
            self._number += 1
            number = self._number
            self.report.calls += 1
        key = number % len(_KEYS)
        client = self._clients[key]
        messages = [{"role": "user", "content": f"call {number} of {_KEYS[key]}" + f" together {_AT_ONCE}" * together}]
        request = client.build(_MODEL, messages, {}, stream=kind not in ("complete", "close"))
        return number, f"{number} {_KEYS[key]}", client, request

    def _check(self, number: int, expected: str, text: str) -> None:
        if text != expected:
            self.report.wrong.append(f"call {number}: {text!r} is not {expected!r}")

    def _failed(self, number: int, err: BaseException, *, streams: bool) -> None:
        if streams and fault_of(number) == "broken stream" and isinstance(err, TruncatedStreamError):
            with self._lock:
                self.report.broken += 1
        else:
            self.report.wrong.append(f"call {number} ({fault_of(number) or 'no fault'}): {err!r}")

    def thread(self, seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < self._until:
            kind = dice.choice(_KINDS)
            number, expected, client, request = self._next(kind)
            try:
                if kind in ("complete", "close"):
                    self._check(number, expected, client.complete(request).text)
                    if kind == "close":
                        client.close()
                else:
                    stream = client.stream(request)
                    if kind == "leave":
                        next(stream, None)
                        stream.close()  # type: ignore[attr-defined]
                        with self._lock:
                            self.report.left += 1
                    else:
                        self._check(number, expected, "".join(delta.content for delta in stream))
            except KlusterError as err:
                self._failed(number, err, streams=kind in ("stream", "leave"))

    def loops(self) -> None:
        """Run tasks, in one event loop after another: each ends with connections and streams open."""
        round_ = 0
        while time.monotonic() < self._until:
            round_ += 1
            asyncio.run(self._loop(round_, min(self._until, time.monotonic() + max(1.0, self.report.seconds / 20))))

    async def _loop(self, round_: int, until: float) -> None:
        tasks = [asyncio.create_task(self._task(round_ * 100 + n, until)) for n in range(_TASKS)]
        if self._bursts.acquire(blocking=False):
            tasks.append(asyncio.create_task(self._burst()))
        await asyncio.gather(*tasks)
        self.report.tasks_left += len(asyncio.all_tasks()) - 1

    async def _task(self, seed: int, until: float) -> None:
        dice = random.Random(seed)
        while time.monotonic() < until:
            kind = dice.choice(_KINDS)
            if kind == "leave":
                await self._cancelled(dice.random() * 0.02)
                continue
            await self._one(kind)

    async def _one(self, kind: str, *, together: bool = False) -> None:
        number, expected, client, request = self._next(kind, together=together)
        try:
            if kind in ("complete", "close"):
                self._check(number, expected, (await client.acomplete(request)).text)
                if kind == "close":
                    await client.aclose()
            else:
                self._check(number, expected, await self._read(client, request))
        except KlusterError as err:
            self._failed(number, err, streams=kind == "stream")

    async def _read(self, client: Client, request: Any) -> str:
        text, is_open = "", False
        try:
            async for delta in client.astream(request):
                if not is_open:
                    is_open = True
                    self._open += 1
                    self.report.most_streams = max(self.report.most_streams, self._open)
                text += delta.content
        finally:
            self._open -= is_open
        return text

    async def _cancelled(self, seconds: float) -> None:
        task = asyncio.create_task(self._one("stream"))
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with self._lock:
            self.report.left += 1

    async def _burst(self) -> None:
        await asyncio.gather(*(self._one("stream", together=True) for _ in range(_AT_ONCE)))

    def measure(self) -> None:
        """Sample once a second, or twenty times in all; let streams burst and Redis crash at set times."""
        seconds, events = self.report.seconds, [(0.02, "burst"), (0.35, "redis"), (0.5, "burst"), (0.65, "redis")]
        while (now := time.monotonic()) < self._until:
            self.report.samples.append(_sample(self._began))
            if events and (now - self._began) / seconds >= events[0][0]:
                if events.pop(0)[1] == "burst":
                    self._bursts.release()
                else:
                    self._redis.stop()
                    time.sleep(min(2.0, seconds / 20))
                    self._redis.start()
                    self.report.restarts += 1
            time.sleep(min(1.0, seconds / 40))

    def run(self) -> Report:
        threads = [threading.Thread(target=self.thread, args=(number,)) for number in range(_THREADS)]
        threads += [threading.Thread(target=self.loops), threading.Thread(target=self.measure)]
        self._warm_up()
        self.report.before = _sample(self._began)
        self._began = time.monotonic()
        self._until = self._began + self.report.seconds
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in self._clients:
            client.close()
        with urllib.request.urlopen(f"{self._base_url}/books") as answer:
            self.report.books = json.load(answer)
        gc.collect()
        for _ in range(100):  # threads that ask Redis end when they have nothing to do
            self.report.after = _sample(self._began)
            if self.report.after.threads <= self.report.before.threads:
                break
            time.sleep(0.2)
        return self.report

    def _warm_up(self) -> None:
        """Load what is loaded once, and open what stays open."""
        for _ in range(2):
            _, _, client, request = self._next("complete")
            client.complete(request)
            client.close()
        asyncio.run(self._one("complete"))


def soak(seconds: float) -> Report:
    """Run it."""
    redis = Redis()
    redis.start()
    try:
        with _server() as base_url, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that Redis does not answer
            return _Soak(seconds, base_url, redis).run()
    finally:
        redis.stop()
