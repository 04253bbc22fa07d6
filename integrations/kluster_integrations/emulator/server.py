"""`Emulator`: the application on uvicorn, in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

import uvicorn

from kluster_integrations.catalog import ModelSpec, Plan
from kluster_integrations.emulator import THREAD
from kluster_integrations.emulator.app import build_app, build_service
from kluster_integrations.emulator.faults import Fault
from kluster_integrations.emulator.gate import RecordedRequest
from kluster_integrations.emulator.jobs import Batches
from kluster_integrations.emulator.settings import EngineName, ReasoningStyle, Settings, ShapeName

__all__ = ["Emulator"]

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_GRACE_SECONDS = 0.1


class Emulator:
    """A local look-alike of the kluster.ai API. A context manager; also `start()` and `stop()`.

    Args:
        host: The address to listen on.
        port: The port, 0 for any free one.
        engine: `scripted` writes deterministic answers out of the request, `upstream` lets another server write.
        upstream: Base URL of an OpenAI-compatible server; given, the engine is `upstream`.
        upstream_model: The model to ask there; default: the first one that it lists.
        strict: Whether whatever the docs do not call supported is answered with 400; otherwise unknown fields are
            ignored, unknown message keys are dropped and `max_tokens` counts.
        plan: The plan whose limits and windows apply; None is no limits and the windows of Core.
        api_keys: The keys that are let in; None lets any key in.
        shape: The server whose answers are imitated, `vllm` or `sglang`.
        reasoning: Where a reasoning model's thoughts go: the field `reasoning_content`, the field `reasoning`, inline
            in `<think>` tags (`think`), or inline with the closing tag only where the model's template opens it
            (`open`).
        usage_in_stream: Whether a stream ends with a chunk that holds usage.
        delay: Seconds between the chunks of a stream.
        faults: Faults scheduled from the start.
        models: Specs of further models to serve, or to serve in place of the catalog's.

    Raises:
        ValueError: If an argument is not allowed.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        engine: EngineName = "scripted",
        upstream: str | None = None,
        upstream_model: str | None = None,
        strict: bool = True,
        plan: Plan | None = None,
        api_keys: Iterable[str] | None = None,
        shape: ShapeName = "vllm",
        reasoning: ReasoningStyle = "reasoning_content",
        usage_in_stream: bool = False,
        delay: float = 0.0,
        faults: Iterable[Fault] = (),
        models: Iterable[ModelSpec] = (),
    ) -> None:
        if not isinstance(host, str) or not host.strip():
            raise ValueError(f"Emulator: host={host!r} is not allowed; it must be a host name or address.")
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
            raise ValueError(f"Emulator: port={port!r} is not allowed; it must be 0 to 65535, 0 for any free one.")
        settings = Settings(
            engine=engine,
            upstream=upstream,
            upstream_model=upstream_model,
            strict=strict,
            plan=plan,
            api_keys=api_keys,
            shape=shape,
            reasoning=reasoning,
            usage_in_stream=usage_in_stream,
            delay=delay,
            faults=faults,
            models=models,
        )
        self._host = host
        self._wanted_port = port
        self._service = build_service(settings)
        self._app = build_app(self._service)
        self._port: int | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        return list(self._service.requests)

    @property
    def batches(self) -> Batches:
        """The files and batch jobs, and what happens to them."""
        return self._service.batches

    def clear(self) -> None:
        """Forget the recorded requests, all faults, files and batch jobs."""
        self._service.requests.clear()
        self._service.batches.clear()
        self._service.faults.clear()

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
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=60,
        )
        server = _Server(config, self._service.stopping)
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(_when_started, server, ready)
        await server.serve(sockets=[listener])


def _when_started(server: uvicorn.Server, ready: threading.Event) -> None:
    if server.started:
        ready.set()
    else:
        asyncio.get_running_loop().call_later(0.001, _when_started, server, ready)


class _Server(uvicorn.Server):
    """Starts and stops at once; uvicorn's own loop looks ten times a second whether it should exit."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def main_loop(self) -> None:
        """Run until the event is set; the tick renews the Date header once a second."""
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
