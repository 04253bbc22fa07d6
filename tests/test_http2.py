"""Clients of the caller's that speak HTTP/2: many streams on one connection, of which each has its own deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

pytest.importorskip("h2")  # comes with LiteLLM

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.transport import Transport
from kluster_integrations.errors import APITimeoutError

from .raw_server import sse
from .ways import KEY, asked, text_of

BEGUN, *REST = sse({"content": "so "}, {"content": "far"})


class Http2Server:
    """Begins an answer to each request, and ends them all once `finish` is set.

    It is not told which were given up: httpcore 1.0.9 resets no stream.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.begun, self.finish = threading.Event(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        state = H2Connection(H2Configuration(client_side=False))
        state.initiate_connection()
        waiting: set[int] = set()
        with client, contextlib.suppress(OSError):
            client.settimeout(0.02)
            while True:
                client.sendall(state.data_to_send())
                try:
                    data = client.recv(65_536)
                except TimeoutError:
                    for number in waiting:  # a comment: nobody waits for long
                        state.send_data(number, b": wait\n\n")
                    if self.finish.is_set():
                        for number in waiting:
                            state.send_data(number, b"".join(REST), end_stream=True)
                        waiting.clear()
                    continue
                if not data:
                    return
                for event in state.receive_data(data):
                    if isinstance(event, RequestReceived):
                        head = [(":status", "200"), ("content-type", "text/event-stream")]
                        state.send_headers(event.stream_id, head)
                        state.send_data(event.stream_id, BEGUN)
                        waiting.add(event.stream_id)
                        self.begun.set()


@pytest.fixture
def server() -> Iterator[Http2Server]:
    server = Http2Server()
    yield server
    server.close()


def sender(server: Http2Server, client: httpx.Client | httpx.AsyncClient, **fields: float) -> Transport:
    config = KlusterConfig(api_key=KEY, base_url=server.base_url, max_retries=0, timeout=20, **fields)
    if isinstance(client, httpx.Client):
        return Transport(config, http_client=client)
    return Transport(config, http_async_client=client)


def test_a_deadline_ends_its_own_stream_alone(server: Http2Server) -> None:
    with httpx.Client(http1=False, http2=True) as client:
        patient, hurried = sender(server, client), sender(server, client, total_timeout=0.3)
        request = asked(patient.config, stream=True)
        neighbor = patient.stream(request.body, ChatStream(request))
        deltas = [next(neighbor)]
        with pytest.raises(APITimeoutError):
            list(hurried.stream(request.body, ChatStream(request)))
        server.finish.set()
        assert text_of([*deltas, *neighbor]) == "so far"
    assert server.connections == 1


async def test_an_async_deadline_ends_its_own_stream_alone(server: Http2Server) -> None:
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        patient, hurried = sender(server, client), sender(server, client, total_timeout=0.3)
        request = asked(patient.config, stream=True)

        async def whole() -> str:
            return text_of([d async for d in patient.astream(request.body, ChatStream(request))])

        neighbor = asyncio.create_task(whole())
        while not server.begun.is_set():
            await asyncio.sleep(0.001)
        with pytest.raises(APITimeoutError):
            async for _ in hurried.astream(request.body, ChatStream(request)):
                pass
        server.finish.set()
        assert await neighbor == "so far"
    assert server.connections == 1
