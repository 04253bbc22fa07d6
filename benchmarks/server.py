"""The smallest HTTP/1.1 server that can be told apart from none: keep-alive, and answers that are ready to send.

The first part of the path names the answer, up to a hyphen: `/short-3/v1/chat/completions` gives a client that wants
connections of its own a base URL of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import cast

from benchmarks.wire import Reply, replies

_BACKLOG = 1024


class _Connection(asyncio.Protocol):
    def __init__(self, answers: dict[bytes, Reply]) -> None:
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)  # none: a GET
        if len(rest) < length:
            return
        self._received = rest[length:]
        reply = self._answers[head.split(b"/", 2)[1].partition(b"-")[0]]
        if reply.latency:
            self._timer = self._loop.call_later(reply.latency, self._transport.write, reply.pieces[0])
        else:
            self._send(reply, 0)

    def _send(self, reply: Reply, at: int) -> None:
        self._transport.write(reply.pieces[at])
        if at + 1 < len(reply.pieces):
            self._timer = self._loop.call_later(reply.pace, self._send, reply, at + 1)


async def _serve() -> None:
    answers = {path.encode(): reply for path, reply in replies().items()}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(answers), "127.0.0.1", 0, backlog=_BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The end of standard input is the end of the benchmark, however that came.
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@contextlib.contextmanager
def running(core: int | None) -> Iterator[str]:
    """Run the server in a process of its own, on a core of its own if there is one, and give its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", *([str(core)] if core is not None else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        port = process.stdout.readline().strip() if process.stdout else ""
        if not port:
            raise RuntimeError("The benchmark's server did not start; what it said is above.")
        yield f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(_serve())
