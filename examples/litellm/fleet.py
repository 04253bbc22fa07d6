"""Two LiteLLM proxies that share one limit through Redis, under load; starts everything, and stops everything.

Run it with `python -m examples.litellm.fleet [--requests 45]`. Needs `litellm[proxy]` (1.94 or later) and a
`redis-server` on the path. The plan is Trial's: 30 requests per minute. More than that are asked at once, half of each
proxy; the rest wait for the next minute, and nobody gets an error.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
from examples._service import service

from kluster_integrations.litellm.config_file import config_yaml

MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
PLAN_LIMIT = 30
INSTALL = 'In a checkout: pip install ".[litellm,redis]" "litellm[proxy]"'


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(*command: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as this lasts."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **environ}, stdout=silent, stderr=silent)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


def wait_for(url: str, proxy: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        if proxy.poll() is not None:
            break
        time.sleep(0.2)
    raise SystemExit(f"Error: no proxy answers at {url}.\nHint: see what `litellm --port 4000` prints. {INSTALL}")


@contextlib.contextmanager
def fleet(count: int, master_key: str) -> Iterator[list[str]]:
    """Run Redis and proxies, and give the proxies' base URLs."""
    redis_server = shutil.which("redis-server")
    proxy = Path(sys.executable).with_name("litellm")
    if redis_server is None or not proxy.exists():
        raise SystemExit(
            f"Error: redis-server and LiteLLM's proxy are needed.\nHint: apt-get install redis-server. {INSTALL}"
        )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis_port = free_port()
        stack.enter_context(running(redis_server, "--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""))
        config = folder / "config.yaml"
        config.write_text(config_yaml(plan="trial", redis_url=f"redis://127.0.0.1:{redis_port}/0"), "utf-8")
        ports = [free_port() for _ in range(count)]
        proxies = []
        for port in ports:
            arguments = (str(proxy), "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
            proxies.append(stack.enter_context(running(*arguments, LITELLM_MASTER_KEY=master_key)))
        for port, process in zip(ports, proxies, strict=True):
            wait_for(f"http://127.0.0.1:{port}/health/liveliness", process)
        yield [f"http://127.0.0.1:{port}/v1" for port in ports]


def load(urls: list[str], master_key: str, requests: int) -> list[float]:
    """Ask that often, all at once, and return when the answers came."""
    began = time.monotonic()

    def ask(number: int) -> float:
        client = openai.OpenAI(base_url=urls[number % len(urls)], api_key=master_key, timeout=300)
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": f"Say {number}."}])
        return time.monotonic() - began

    with ThreadPoolExecutor(requests) as pool:
        return sorted(pool.map(ask, range(requests)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Two LiteLLM proxies under one limit.")
    parser.add_argument("--requests", type=int, default=45, help="how many are asked at once (default 45)")
    requests = parser.parse_args().requests
    master_key = f"sk-{secrets.token_hex(24)}"
    with fleet(2, master_key) as urls:
        print(f"Proxies:  {', '.join(urls)}")
        times = load(urls, master_key, requests)
    for start in range(0, int(times[-1]) + 1, 10):
        number = sum(1 for t in times if start <= t < start + 10)
        print(f"{start:4} s    {'#' * number} {number or ''}".rstrip())
    most = max(sum(1 for t in times if first <= t < first + 60) for first in times)
    print(f"Answered: {len(times)} of {requests}, in {times[-1]:.0f} s")
    print(f"Limit:    {most} in a minute at the most, of {PLAN_LIMIT} that the plan allows")
    print("Stopped:  proxies and Redis")


if __name__ == "__main__":
    with service():
        main()
