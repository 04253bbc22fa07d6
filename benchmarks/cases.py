"""What is measured, and how one sample of it is taken."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from benchmarks.clients import Client
from benchmarks.wire import EXPECTED, LONG, SHORT

CONCURRENT, REQUESTS = 200, 1000


class Sample(NamedTuple):
    """Microseconds a unit: a call, a chunk."""

    cpu: float
    wall: float


class _Clock:
    """Counts the process's CPU (user and system) and the wall time inside its `with` blocks."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        key: Its name in the JSON.
        label: Its name in the table.
        path: The server's answer.
        kind: Whole calls, streams, streams up to their first token, or many calls at once.
        mode: `sync` or `async`.
        times: Calls or streams in a sample.
        quick_times: The same with `--quick`.
        units: Chunks in a stream; 1 for calls.
    """

    key: str
    label: str
    path: str
    kind: Literal["call", "stream", "first", "many"]
    mode: Literal["sync", "async"]
    times: int
    quick_times: int
    units: int = 1
    tools: bool = False
    handler: bool = False

    def takes(self, client: type[Client]) -> bool:
        """Whether a candidate can do this at all."""
        return (client.sync or self.mode == "async") and (client.handles or not self.handler)


def _both(
    key: str, label: str, path: str, kind: Any, times: int, quick: int, units: int = 1, **more: Any
) -> list[Case]:
    return [
        Case(f"{key}_{mode}", f"{label}, {mode}", path, kind, mode, times, quick, units, **more)
        for mode in ("sync", "async")
    ]


CASES: tuple[Case, ...] = (
    *_both("call", "call", "call", "call", 300, 100),
    *_both("call_tools", "call with 5 tools", "tools", "call", 300, 100, tools=True),
    *_both("call_handler", "call, with a handler", "call", "call", 300, 100, handler=True),
    *_both("chunk", f"chunk, streams of {SHORT}", "short", "stream", 10, 10, SHORT),
    *_both("chunk_long", f"chunk, streams of {LONG}", "long", "stream", 1, 1, LONG),
    *_both("chunk_handler", "chunk, with a handler", "short", "stream", 10, 10, SHORT, handler=True),
    *_both("chunk_paced", "chunk, one a read", "paced", "stream", 2, 1, SHORT),
    *_both("fragment", "tool-call fragment", "fragments", "stream", 10, 10, SHORT, tools=True),
    *_both("first", "first token", "short", "first", 100, 30),
    Case("many", f"{REQUESTS} calls, {CONCURRENT} at once", "slow", "many", "async", REQUESTS, REQUESTS),
)


class Sampler:
    """Takes samples. All async ones run in one event loop, as in a service.

    Args:
        server: The server's address.
        quick: Whether samples are small.
    """

    def __init__(self, server: str, *, quick: bool) -> None:
        self._server = server
        self._quick = quick
        self._runner = asyncio.Runner()
        self._made = 0

    def __enter__(self) -> Sampler:
        self._runner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.__exit__(*error)

    def make(self, case: Case, client: type[Client]) -> Client:
        """Return a client with connections of its own, warmed up.

        Raises:
            RuntimeError: It does not read all that it is sent: its figures would mean nothing.
        """
        self._made += 1
        made = client(f"{self._server}/{case.path}-{self._made}/v1", tools=case.tools, handler=case.handler)
        for _ in range(2):
            said = _said(case, made) if case.mode == "sync" else self._runner.run(_asaid(case, made))
            if said != EXPECTED[case.path]:
                raise RuntimeError(f"{client.name} reads {said[:80]!r} instead of {EXPECTED[case.path][:80]!r}.")
        return made

    def close(self, client: Client) -> None:
        """Close its async connections."""
        self._runner.run(client.aclose())

    def sample(self, case: Case, client: Client) -> Sample:
        """Take one sample."""
        times = case.quick_times if self._quick else case.times
        clock = _Clock()
        gc.collect()
        if case.mode == "sync":
            _SYNC[case.kind](client, times, clock)
        else:
            self._runner.run(_ASYNC[case.kind](client, times, clock))
        return Sample(clock.cpu / (times * case.units) * 1e6, clock.wall / (times * case.units) * 1e6)


def _said(case: Case, client: Client) -> str:
    if case.kind in _WHOLE:
        return client.call()
    return "".join([client.text(chunk) for chunk in client.stream()])


async def _asaid(case: Case, client: Client) -> str:
    if case.kind in _WHOLE:
        return await client.acall()
    return "".join([client.text(chunk) async for chunk in client.astream()])


def _call(client: Client, times: int, clock: _Clock) -> None:
    with clock:
        for _ in range(times):
            client.call()


async def _acall(client: Client, times: int, clock: _Clock) -> None:
    with clock:
        for _ in range(times):
            await client.acall()


def _stream(client: Client, times: int, clock: _Clock) -> None:
    with clock:
        for _ in range(times):
            for _chunk in client.stream():
                pass


async def _astream(client: Client, times: int, clock: _Clock) -> None:
    with clock:
        for _ in range(times):
            async for _chunk in client.astream():
                pass


def _first(client: Client, times: int, clock: _Clock) -> None:
    for _ in range(times):
        with clock:
            chunks = client.stream()
            while not client.text(next(chunks)):
                pass
        for _chunk in chunks:
            pass


async def _afirst(client: Client, times: int, clock: _Clock) -> None:
    for _ in range(times):
        with clock:
            chunks = client.astream()
            while not client.text(await anext(chunks)):
                pass
        async for _chunk in chunks:
            pass


async def _many(client: Client, times: int, clock: _Clock) -> None:
    gate = asyncio.Semaphore(CONCURRENT)

    async def one() -> None:
        async with gate:
            await client.acall()

    with clock:
        async with asyncio.TaskGroup() as group:
            for _ in range(times):
                group.create_task(one())


_WHOLE = ("call", "many")
_SYNC: Mapping[str, Callable[[Client, int, _Clock], None]] = {"call": _call, "stream": _stream, "first": _first}
_ASYNC: Mapping[str, Callable[[Client, int, _Clock], Coroutine[Any, Any, None]]] = {
    "call": _acall,
    "stream": _astream,
    "first": _afirst,
    "many": _many,
}
