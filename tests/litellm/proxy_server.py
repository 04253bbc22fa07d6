"""LiteLLM's proxy for tests: started for real, with the file that `kluster export litellm` writes."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["MASTER_KEY", "running_proxies", "wait_for"]

MASTER_KEY = f"sk-{secrets.token_hex(16)}"  # LiteLLM refuses to start with a weak one
_SECONDS = 240.0  # on a machine with much else to do


@contextlib.contextmanager
def running_proxies(
    config: Path, environment: Mapping[str, str], *, count: int = 1, python: Path | str = sys.executable
) -> Iterator[list[str]]:
    """Run proxies on free ports, and give their base URLs once they answer."""
    base = {k: v for k, v in os.environ.items() if not k.startswith(("KLUSTER", "OPENAI_", "LITELLM", "REDIS"))}
    env = {**base, "LITELLM_MASTER_KEY": MASTER_KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **environment}
    proxies = [_start(config, env, python) for _ in range(count)]
    try:
        for port, process, log in proxies:
            wait_for(port, process, log)
        yield [f"http://127.0.0.1:{port}/v1" for port, _, _ in proxies]
    finally:
        for _, process, _ in proxies:
            process.terminate()
        for _, process, _ in proxies:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def _start(config: Path, env: Mapping[str, str], python: Path | str) -> tuple[int, subprocess.Popen[bytes], Path]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = "from litellm.proxy.proxy_cli import run_server; run_server()"
    command = [str(python), "-c", program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    log = config.with_name(f"proxy-{port}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=dict(env), stdout=out, stderr=subprocess.STDOUT, cwd=config.parent)
    return port, process, log


def wait_for(port: int, process: subprocess.Popen[Any], log: Path) -> None:
    """Wait until the proxy on this port answers; fail with its log if it does not."""
    for _ in range(int(_SECONDS / 0.2)):
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=5).close()
            return
        time.sleep(0.2)
    pytest.fail(f"the proxy does not answer: {log.read_text('utf-8', 'replace')[-3000:]}")
