"""An ASGI application on uvicorn, in a thread of this process; for the emulator and the gateway."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import re
import socket
import threading
from contextlib import suppress
from typing import Any, ClassVar, Self

import uvicorn

__all__ = ["ThreadServer"]

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0


class ThreadServer:
    """Serves an ASGI application. A context manager; also `start()` and `stop()`.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port, 0 for any free one.

    Raises:
        ValueError: If host or port are not allowed.
    """

    _what: ClassVar[str]  # in messages, such as "emulator"
    _thread_name: ClassVar[str]
    _grace: float  # seconds that running requests get when it stops

    def __init__(self, app: Any, host: str, port: int) -> None:
        kind = type(self).__name__
        if not isinstance(host, str) or not host.strip():
            raise ValueError(f"{kind}: host={host!r} is not allowed; it must be a host name or address.")
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
            raise ValueError(f"{kind}: port={port!r} is not allowed; it must be 0 to 65535, 0 for any free one.")
        self._app = app
        self._host = host
        self._wanted_port = port
        self._port: int | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

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
            name = type(self).__name__
            raise RuntimeError(f"The {self._what} is not running; use `with {name}() as server:` or start().")
        return self._port

    @property
    def base_url(self) -> str:
        """The base URL for clients, `http://127.0.0.1:PORT/v1`.

        Raises:
            RuntimeError: If it is not running.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/v1"

    def start(self) -> Self:
        """Start, and return when requests are answered.

        Raises:
            RuntimeError: If it is running already.
            OSError: If the port is in use, or the host is not an address of this machine.
        """
        if self._thread is not None:
            raise RuntimeError(f"The {self._what} is running already, at {self.base_url}.")
        listener = self._bind()
        self._stopping = asyncio.Event()
        self._starting()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name=self._thread_name, daemon=True)
        logging.getLogger("uvicorn.error").addFilter(_quiet(self._thread_name))  # adding it again changes nothing
        logging.getLogger("asyncio").addFilter(_is_no_lost_write)
        self._thread.start()
        if not ready.wait(_START_SECONDS) or not self._thread.is_alive():
            self._thread = self._loop = None
            listener.close()
            raise RuntimeError(f"The {self._what} did not start within {_START_SECONDS:g} seconds.")
        self._port = listener.getsockname()[1]
        return self

    def _starting(self) -> None:
        """Take note of `_stopping`, which is set when it stops."""

    def stop(self) -> None:
        """Stop: running requests get a moment to end. Does nothing if it is not running."""
        thread, loop = self._thread, self._loop
        self._thread = self._loop = self._port = None
        if thread is None or loop is None:
            return
        with suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(self._stopping.set)
        thread.join(self._grace + _STOP_SECONDS)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Without the protocol asyncio does not set TCP_NODELAY, and each answer waits 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._wanted_port))
            # Listening already here lets a second server on this port fail, which SO_REUSEADDR alone would not.
            listener.listen(2048)
        except OSError as exc:
            listener.close()
            where = f"{self._host}:{self._wanted_port}"
            reason = f"the {self._what} cannot listen on {where} ({exc.strerror})"
            if exc.errno == errno.EADDRINUSE:
                reason += "; port=0 takes any free port"
            raise OSError(exc.errno, reason) from exc
        return listener

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(listener, ready))
        finally:
            ready.set()

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        config = uvicorn.Config(
            self._app, http=_protocol(), log_config=None, access_log=False, ws="none", timeout_keep_alive=60
        )
        server = _Server(config, self._stopping, ready, self._grace)
        self._loop = asyncio.get_running_loop()
        await server.serve(sockets=[listener])


_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


@functools.cache
def _protocol() -> Any:
    """Return uvicorn's HTTP protocol, which here ignores `Upgrade` headers.

    Java's HttpClient (LangChain4j, Spring AI) sends `Upgrade: h2c` with each request, and httptools then reads no body
    (uvicorn issue 2722). The server cannot upgrade anyway, so the header is renamed.
    """
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:  # httptools is of the extra `gateway`; h11 reads the body
        return "h11"

    class Protocol(HttpToolsProtocol):
        def data_received(self, data: bytes) -> None:
            if self.cycle is None or self.cycle.response_complete:
                end = data.find(b"\r\n\r\n")
                head = data if end < 0 else data[:end]
                if _UPGRADE.search(head):
                    data = _UPGRADE.sub(b"\r\nx-grade:", head) + data[len(head) :]
            super().data_received(data)

    return Protocol


class _Server(uvicorn.Server):
    """Starts and stops at once; uvicorn's own loop looks ten times a second whether it should exit."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, ready: threading.Event, grace: float) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._ready = ready
        self._grace = grace

    async def main_loop(self) -> None:
        """Run until the event is set; the tick renews the Date header once a second."""
        self._ready.set()
        while not await self.on_tick(0) and not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close idle connections, give running requests time to end, and cancel the rest."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if tasks := set(self.server_state.tasks):
            _, late = await asyncio.wait(tasks, timeout=self._grace)
            for task in late:
                task.cancel()
        await self.lifespan.shutdown()


def _is_no_lost_write(record: logging.LogRecord) -> bool:
    """Drop asyncio's log line per write to a client that has left: one answer may cause thousands."""
    is_ours = str(record.threadName).startswith("kluster-")
    return not (is_ours and record.msg == "socket.send() raised exception.")


class _QuietFilter(logging.Filter):
    """Drops uvicorn's messages about answers that a fault or a stop has broken; exceptions stay."""

    def __init__(self, thread: str) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        if record.threadName != self._thread:
            return True
        exc = record.exc_info[1] if record.exc_info else None
        return exc is not None and not isinstance(exc, asyncio.CancelledError)


_quiet = functools.cache(_QuietFilter)
