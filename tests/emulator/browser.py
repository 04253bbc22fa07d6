"""Chromium without a window, over its own protocol on a pipe: no driver and no library needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

__all__ = ["Browser", "need_browser"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_SECONDS = 60.0


def need_browser() -> Browser:
    """Return a browser to enter; where there is none, skip the test, or fail in CI."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("chromium is not installed")
    return Browser()


class Browser:
    """One tab: `open`, `js`, `until`, `screenshot`. Errors and warnings of its console are in `console`."""

    def __init__(self) -> None:
        self.console: list[str] = []
        self._number = 0
        self._buffer = b""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

    def __enter__(self) -> Self:
        ours, theirs = os.pipe(), os.pipe()  # the browser reads its orders from 3, and answers on 4
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-pipe", "--window-size=1200,800", f"--user-data-dir={self._profile.name}"]
        # bash, for dash knows no descriptor of two digits.
        started = f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]} >/dev/null 2>&1'
        self._process = subprocess.Popen(
            ["bash", "-c", started, str(CHROMIUM), *flags, "about:blank"], pass_fds=(ours[0], theirs[1])
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read = ours[1], theirs[0]
        (target, *_) = (t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.do(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def do(self, method: str, **params: Any) -> Any:
        """Do one thing in the tab."""
        return self._ask(method, self._session, **params)

    def open(self, url: str) -> None:
        """Open a page."""
        self.do("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """Return what an expression is on the page."""
        result = self.do("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true on the page, and return it."""
        ends = time.monotonic() + _SECONDS
        while time.monotonic() < ends:
            if value := self.js(expression):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}; the page says {self.js('document.body.innerText')!r}")

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the page."""
        path.write_bytes(b64decode(self.do("Page.captureScreenshot", format="png")["data"]))

    def _ask(self, method: str, session: str | None = None, /, **params: Any) -> Any:
        self._number += 1
        order = {"id": self._number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(order).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("method") == "Log.entryAdded":
                self.console.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.console.append(str(message["params"]["exceptionDetails"]))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def _next(self) -> Any:
        while b"\0" not in self._buffer:
            data = os.read(self._read, 65_536)
            assert data, "the browser has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
