"""`Emulator`: the application on uvicorn, in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import EllipsisType
from typing import Self, Unpack

import uvicorn

from kluster_integrations.emulator import THREAD
from kluster_integrations.emulator.app import build_app
from kluster_integrations.emulator.faults import Fault
from kluster_integrations.emulator.jobs import Batches
from kluster_integrations.emulator.records import RecordedRequest
from kluster_integrations.emulator.replies import Reply, When
from kluster_integrations.emulator.service import Service
from kluster_integrations.emulator.settings import Options, Settings

__all__ = ["Emulator"]

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_GRACE_SECONDS = 0.1


class Emulator:
    """A local look-alike of the kluster.ai API. A context manager; also `start()` and `stop()`.

    Args:
        settings: The settings; default: those of `Settings`.
        host: The address to listen on.
        port: The port, 0 for any free one.
        options: Settings that differ from these, such as `plan="trial"`; `Settings` documents each of them.

    Raises:
        ValueError: If an argument is not allowed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        **options: Unpack[Options],
    ) -> None:
        if not isinstance(host, str) or not host.strip():
            raise ValueError(f"Emulator: host={host!r} is not allowed; it must be a host name or address.")
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
            raise ValueError(f"Emulator: port={port!r} is not allowed; it must be 0 to 65535, 0 for any free one.")
        self._host = host
        self._wanted_port = port
        self._service = Service(replace(settings or Settings(), **options))
        self._app = build_app(self._service)
        self._port: int | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: If it is not running.
        """
        if self._port is None:
            raise RuntimeError("The emulator is not running; use `with Emulator() as server:` or start().")
        return self._port

    @property
    def base_url(self) -> str:
        """The base URL for clients, `http://127.0.0.1:PORT/v1`.

        Raises:
            RuntimeError: If it is not running.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/v1"

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, the newest 10,000, in the order of their arrival; a copy."""
        return list(self._service.records)

    @property
    def batches(self) -> Batches:
        """The files and batch jobs, and what happens to them."""
        return self._service.batches

    def clear(self) -> None:
        """Forget the recorded requests, all faults, stated replies, files and batch jobs."""
        self._service.records.clear()
        self._service.batches.clear()
        self._service.faults.clear()
        self._service.replies.clear()

    def reply(
        self,
        text: str | None = None,
        *,
        reasoning: str = "",
        tool_calls: Sequence[Mapping[str, object]] = (),
        json: object = None,
        finish_reason: str | None = None,
        usage: Mapping[str, object] | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        when: When | None = None,
        times: int | EllipsisType | None = ...,
    ) -> None:
        """State what the model answers; `Reply` documents what an answer holds.

        With `when` it answers the requests that this names: those for a model (its id), those whose last message
        contains a text, or those for which a function of the `ChatRequest` is true. Without, it waits in a queue for
        whatever requests come. `times` is how often it answers, None is always. Default: once without `when`; with it
        always, until another reply is stated for the same requests.

        Raises:
            ValueError: If a value is not allowed, or nothing is stated.
        """
        reply = Reply(text, reasoning, tool_calls, json, finish_reason, usage, status, headers)
        self._service.replies.add(reply, when=when, times=times)

    def add_fault(self, fault: Fault) -> None:
        """Schedule a fault; its `after` counts from now on.

        Raises:
            ValueError: If it is no `Fault`.
        """
        self._service.faults.add(fault)

    def start(self) -> Self:
        """Start, and return when requests are answered.

        Raises:
            RuntimeError: If it is running already.
            OSError: If the port is taken, or the host is not this machine's.
        """
        if self._thread is not None:
            raise RuntimeError(f"The emulator is running already, at {self.base_url}.")
        listener = self._bind()
        self._service.stopping = asyncio.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name=THREAD, daemon=True)
        _quiet()
        self._thread.start()
        if not ready.wait(_START_SECONDS) or not self._thread.is_alive():
            self._thread = self._loop = None
            listener.close()
            raise RuntimeError(f"The emulator did not start within {_START_SECONDS:g} seconds.")
        self._port = listener.getsockname()[1]
        return self

    def stop(self) -> None:
        """Stop: open streams break, hanging requests end. Does nothing if it is not running."""
        thread, loop = self._thread, self._loop
        self._thread = self._loop = self._port = None
        if thread is None or loop is None:
            return
        with suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(self._service.stopping.set)
        thread.join(_STOP_SECONDS)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Without the protocol asyncio does not set TCP_NODELAY, and each answer waits 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._wanted_port))
            # Listening already here lets a second emulator on this port fail, which SO_REUSEADDR alone would not.
            listener.listen(2048)
        except OSError as exc:
            listener.close()
            where = f"{self._host}:{self._wanted_port}"
            reason = f"the emulator cannot listen on {where} ({exc.strerror}); port=0 takes any free port"
            raise OSError(exc.errno, reason) from exc
        return listener

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(listener, ready))
        finally:
            ready.set()

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        config = uvicorn.Config(self._app, log_config=None, access_log=False, ws="none", timeout_keep_alive=60)
        server = _Server(config, self._service.stopping, ready)
        self._loop = asyncio.get_running_loop()
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Starts and stops at once; uvicorn's own loop looks ten times a second whether it should exit."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, ready: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._ready = ready

    async def main_loop(self) -> None:
        """Run until the event is set; the tick renews the Date header once a second."""
        self._ready.set()
        while not await self.on_tick(0) and not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is idle, give the rest a moment to see that it is over, and cancel what does not."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if tasks := set(self.server_state.tasks):
            _, late = await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
            for task in late:
                task.cancel()
        await self.lifespan.shutdown()


class _QuietFilter(logging.Filter):
    """Drops uvicorn's words on answers that a fault or a stop has broken; exceptions stay."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.threadName != THREAD:
            return True
        exc = record.exc_info[1] if record.exc_info else None
        return exc is not None and not isinstance(exc, asyncio.CancelledError)


_QUIET = _QuietFilter()


def _quiet() -> None:
    logging.getLogger("uvicorn.error").addFilter(_QUIET)  # adding it again changes nothing
