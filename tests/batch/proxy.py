"""A proxy that kills the client's process when a request comes in, or when its answer would go out."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Proxy"]

Hook = Callable[[str], None]


class Proxy:
    """Passes requests on to an emulator. A context manager.

    Attributes:
        hook: Called with `before POST /v1/files` when that request is here, and with `after …` when the server has
            answered it and the client knows nothing of it yet.
    """

    def __init__(self, upstream: str) -> None:
        self.hook: Hook = lambda _: None
        parts = urlsplit(upstream)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(parts.hostname or "", parts.port or 0))
        self._http.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self, host: str, port: int) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.headers.get("transfer-encoding") == "chunked":
                    body = self._chunks()
                what = f"{self.command} {urlsplit(self.path).path}"
                proxy.hook(f"before {what}")
                onward = http.client.HTTPConnection(host, port, timeout=10)
                kept = {k: v for k, v in self.headers.items() if k.lower() in ("authorization", "content-type")}
                onward.request(self.command, self.path, body, kept)
                answer = onward.getresponse()
                data = answer.read()
                onward.close()
                proxy.hook(f"after {what}")
                with contextlib.suppress(OSError):  # nobody is there any more
                    self.send_response(answer.status)
                    self.send_header("content-type", answer.getheader("content-type") or "")
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def _chunks(self) -> bytes:
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data

            do_GET = do_POST = _pass  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        return Handler
