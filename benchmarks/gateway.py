"""CPU time of `kluster gateway` beside LiteLLM's proxy: the same upstream server, the same client, turn by turn.

    python -m benchmarks.gateway [--rounds 5] [--litellm .venv-litellm/bin/python]

Counted is the CPU time of the server's process, threads included, and nothing of the client or the upstream. LiteLLM
asks with `kluster/`, as `kluster export litellm` has it. It ends with status 1 if a median is above a quarter of
LiteLLM's, or if 200 streams at once do not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import aiohttp

from benchmarks.server import running
from benchmarks.wire import EXPECTED, MESSAGES, MODEL, SHORT, TOOLS

CASES = {
    "call": ("call", 100),
    "call with tools": ("tools", 100),
    "chunk": ("short", 6),
    "chunk, one by one": ("paced", 3),
    "chunk of a tool call": ("fragments", 6),
}
"""The upstream's answer of each case, and how many requests are in a sample."""
TARGET = 0.25
AT_ONCE = 200
_TICK = os.sysconf("SC_CLK_TCK")
_KEY = "sk-the-benchmarks-key"


class Server:
    """A server under test: its address by the upstream's answer, and its processes."""

    def __init__(self, name: str, commands: Sequence[Sequence[str]], env: Sequence[Mapping[str, str]]) -> None:
        self.name = name
        began = time.perf_counter()
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the processes
        self.processes = [
            subprocess.Popen([*command], env={**os.environ, **more}, stdout=self._out, stderr=self._out)
            for command, more in zip(commands, env, strict=True)
        ]
        self._began = began

    async def wait(self, urls: Sequence[str]) -> float:
        """Return how many seconds it took until all addresses answer."""
        async with aiohttp.ClientSession() as session:
            for url in urls:
                for _ in range(6_000):
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(url):
                            break
                    await asyncio.sleep(0.1)
                else:
                    self._out.seek(0)
                    raise RuntimeError(f"{self.name} does not answer:\n{self._out.read().decode()[-2_000:]}")
        return time.perf_counter() - self._began

    def cpu(self) -> float:
        """Return the seconds of CPU so far."""
        ticks = 0
        for process in self.processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICK

    def megabytes(self) -> float:
        """Return the memory of one process."""
        status = Path(f"/proc/{self.processes[0].pid}/status").read_text("ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1_024

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def gateway(upstream: str) -> Iterator[tuple[Server, dict[str, tuple[str, str]]]]:
    """Run a gateway per answer of the upstream; give the address and the model for each."""
    ports = {answer: _free_port() for answer, _ in CASES.values()}
    command = [sys.executable, "-m", "kluster_integrations.cli", "gateway", "--port"]
    env = [{"KLUSTER_BASE_URL": f"{upstream}/{a}/v1", "KLUSTER_API_KEY": "k" * 12} for a in ports]
    server = Server("kluster gateway", [[*command, str(port)] for port in ports.values()], env)
    try:
        urls = {answer: f"http://127.0.0.1:{port}" for answer, port in ports.items()}
        took = asyncio.run(server.wait([f"{url}/health" for url in urls.values()]))
        print(f"{server.name}: started in {took:.1f} s ({len(ports)} at once), {server.megabytes():.0f} MB")
        yield server, {answer: (url, MODEL) for answer, url in urls.items()}
    finally:
        server.stop()


@contextlib.contextmanager
def proxy(python: str, upstream: str) -> Iterator[tuple[Server, dict[str, tuple[str, str]]]]:
    """Run LiteLLM's proxy; give the address and the model for each answer of the upstream."""
    answers = [answer for answer, _ in CASES.values()]
    params = {"model": f"kluster/{MODEL}", "api_key": "k" * 12}
    handlers = [{"provider": "kluster", "custom_handler": "kluster_integrations.litellm.proxy.handler"}]
    config = {
        "model_list": [
            {"model_name": answer, "litellm_params": {**params, "api_base": f"{upstream}/{answer}/v1"}}
            for answer in answers
        ],
        "litellm_settings": {"custom_provider_map": handlers},
        "general_settings": {"master_key": _KEY},
    }
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(json.dumps(config), "utf-8")
        program = "from litellm.proxy.proxy_cli import run_server; run_server()"
        command = [python, "-c", program, "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
        server = Server("LiteLLM's proxy", [command], [{"LITELLM_LOCAL_MODEL_COST_MAP": "True"}])
        try:
            url = f"http://127.0.0.1:{port}"
            took = asyncio.run(server.wait([f"{url}/health/liveliness"]))
            print(f"{server.name}: started in {took:.1f} s, {server.megabytes():.0f} MB")
            yield server, {answer: (url, answer) for answer in answers}
        finally:
            server.stop()


async def _ask(session: aiohttp.ClientSession, where: tuple[str, str], answer: str) -> None:
    url, model = where
    stream = answer not in ("call", "tools")
    tools = {"tools": TOOLS} if answer in ("tools", "fragments") else {}
    body = {"model": model, "messages": MESSAGES, "stream": stream, **tools}
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        data = await response.read()
    if response.status != 200:
        raise RuntimeError(f"{url} answers {response.status}: {data[:300]!r}")
    rows = [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: {")] if stream else []
    parts = (
        [c["delta"] for row in rows for c in row["choices"]] if stream else [json.loads(data)["choices"][0]["message"]]
    )
    said = "".join(
        (part.get("content") or "") + "".join(c["function"]["arguments"] for c in part.get("tool_calls") or [])
        for part in parts
    )
    if said != EXPECTED[answer]:
        raise RuntimeError(f"{url} has read {said[:80]!r} from {answer}.")


def sample(server: Server, where: Mapping[str, tuple[str, str]], answer: str, count: int, at_once: int = 1) -> float:
    """Return the seconds of CPU that requests take."""

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {_KEY}"}, connector=connector) as session:
            for _ in range(count // at_once):
                await asyncio.gather(*(_ask(session, where[answer], answer) for _ in range(at_once)))

    before = server.cpu()
    asyncio.run(run())
    settled = server.cpu()
    while True:  # what LiteLLM logs afterwards counts, too
        time.sleep(0.1)
        now = server.cpu()
        if now - settled < 0.02:
            return now - before
        settled = now


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time of kluster gateway beside LiteLLM's proxy.")
    parser.add_argument("--rounds", type=int, default=5, help="samples per case (default 5)")
    parser.add_argument("--litellm", default=".venv-litellm/bin/python", help="the Python that has LiteLLM's proxy")
    given = parser.parse_args()
    reached = True
    with (
        running(None) as upstream,
        gateway(upstream) as ours,
        proxy(given.litellm, upstream) as theirs,
    ):
        servers = (ours, theirs)
        print(f"{'':24}" + "".join(f"{server.name:>20}" for server, _ in servers) + f"{'quotient':>10}   (CPU, median)")
        for case, (answer, count) in CASES.items():
            for server, where in servers:
                sample(server, where, answer, count)
            rows = [[sample(s, where, answer, count) for s, where in servers] for _ in range(given.rounds)]
            each = count if case.startswith("call") else count * SHORT
            medians = [statistics.median(column) / each * 1e6 for column in zip(*rows, strict=True)]
            quotient = medians[0] / medians[1]
            reached = reached and quotient <= TARGET
            print(f"{case:24}" + "".join(f"{m:17.0f} µs" for m in medians) + f"{quotient:10.2f}",
                  flush=True)  # fmt: skip
        for server, where in servers:
            began = time.perf_counter()
            cpu = sample(server, where, "paced", AT_ONCE, at_once=AT_ONCE)
            took = time.perf_counter() - began
            print(f"{AT_ONCE} streams at once, {server.name}: all whole in {took:.1f} s, {cpu:.1f} s of CPU")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
