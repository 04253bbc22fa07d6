"""The server of the soak, in a process of its own: it fails in known ways, and keeps the books.

A call's number is in its message, with its key. What happens to it is a matter of the number: `fault_of`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from typing import Any

__all__ = ["fault_of"]

_CALL = re.compile(rb"call (\d+) of (kk-[\w-]+)")
_FAULTS = {37: "500", 41: "cut", 43: "429", 47: "broken stream", 53: "no done", 59: "slow"}


def fault_of(number: int) -> str:
    """Return what goes wrong with a call."""
    return next((fault for divisor, fault in _FAULTS.items() if number % divisor == 0), "")


class Books:
    """What was received: tries by call, and what must never happen."""

    def __init__(self) -> None:
        self.tries: dict[int, int] = {}
        self.twice = self.wrong_keys = self.cookies = 0
        self.ids: dict[int, str] = {}

    def note(self, head: bytes, body: bytes) -> tuple[int, str, int]:
        """Count a try, and return the call's number and key, and which try it is."""
        found = _CALL.search(body)
        assert found is not None, body
        number, key = int(found[1]), found[2].decode()
        self.wrong_keys += f"Bearer {key}".encode() not in head
        self.cookies += b"\r\ncookie:" in head.lower()
        tried = self.tries.get(number, 0)
        said = re.search(rb"x-kluster-retry-count: (\d+)", head, re.IGNORECASE)
        once = re.search(rb"idempotency-key: (\S+)", head, re.IGNORECASE)
        assert once is not None
        same = self.ids.setdefault(number, once[1].decode()) == once[1].decode()
        self.twice += tried != (int(said[1]) if said else 0) or not same
        self.tries[number] = tried + 1
        return number, key, tried

    def row(self) -> dict[str, int]:
        """Return the sums."""
        sums = {"calls": len(self.tries), "tries": sum(self.tries.values()), "twice": self.twice}
        return {**sums, "wrong_keys": self.wrong_keys, "cookies": self.cookies}


def _json(data: Any, status: str = "200 OK", **headers: str) -> bytes:
    body = json.dumps(data).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    chunk = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


_USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


class Server:
    """Answers, one connection after another on each of them."""

    def __init__(self) -> None:
        self.books = Books()
        self._together = 0
        self._all_there = asyncio.Event()

    async def _wait_for_all(self, number: int) -> None:
        """Wait until as many streams have begun, so that they are open at once."""
        self._together += 1
        if self._together == number:
            self._together = 0
            self._all_there.set()
            self._all_there = asyncio.Event()
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_there.wait(), 20)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                if head.startswith(b"GET"):
                    writer.write(_json(self.books.row()))
                elif not await self._answer(writer, head, body):
                    break
                await writer.drain()
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, head: bytes, body: bytes) -> bool:
        number, key, tried = self.books.note(head, body)
        fault, text, cookie = fault_of(number), f"{number} {key}", f"session={key}; Path=/"
        if fault in ("500", "429") and not tried:
            status = "500 No" if fault == "500" else "429 No"
            writer.write(_json({"error": {"message": "no"}}, status, retry_after_ms="1", set_cookie=cookie))
            return True
        if fault == "cut" and not tried:
            return False
        if fault == "slow":
            await asyncio.sleep(0.2)
        if b'"stream":true' not in body:
            choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
            writer.write(_json({"id": "c", "choices": [choice], "usage": _USAGE}, set_cookie=cookie))
            return True
        lines = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
        writer.write(f"{lines}Set-Cookie: {cookie}\r\n\r\n".encode())
        for piece in (text[:3], text[3:]):
            writer.write(_event({"content": piece}))
            await writer.drain()
            await asyncio.sleep(0.002)
            if piece == text[:3] and (together := re.search(rb"together (\d+)", body)):
                await self._wait_for_all(int(together[1]))
            if fault == "broken stream":
                return False
        writer.write(_event({}, "stop"))
        if fault != "no done":
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n")
        writer.write(b"0\r\n\r\n")
        return True


async def _main() -> None:
    server = await asyncio.start_server(Server().talk, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.to_thread(sys.stdin.read)  # until whoever started it is gone


if __name__ == "__main__":
    asyncio.run(_main())
