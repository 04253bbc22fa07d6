"""Measure ChatKluster next to raw httpx and aiohttp, the openai SDK and ChatOpenAI, on one fast local server."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import cold, server
from benchmarks.cases import CASES, Case, Sampler
from benchmarks.clients import CANDIDATES, Client, SdkOnAiohttp
from benchmarks.report import Results, as_json, show, targets
from kluster_integrations import __version__

_PACKAGES = (
    "openai",
    "httpx",
    "aiohttp",
    "langchain-core",
    "langchain-openai",
    "pydantic",
)
# Each with the package that it needs, where that is another.
_MODULES = {
    "kluster_integrations": "",
    "kluster_integrations.langchain": "langchain_core",
    "kluster_integrations.litellm": "litellm",
    "kluster_integrations.crewai": "crewai",
    "openai": "",
    "langchain_openai": "",
}
_WIDTH = 170


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller samples")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to a file")
    parser.add_argument("--only", metavar="TEXT", default="", help="only cases whose name holds this")
    return parser.parse_args()


def _clean_environment() -> None:
    """No proxy, no other key, no tracing: they would be measured too."""
    for name in list(os.environ):
        upper = name.upper()
        if upper.endswith("_PROXY") or upper.startswith(("OPENAI_", "KLUSTER", "LANGSMITH_", "LANGCHAIN_")):
            del os.environ[name]


def _pin() -> tuple[int | None, int | None]:
    """Keep this process on one core and return it and the server's; none where there is only one, or no choice."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None, None
    os.sched_setaffinity(0, {cores[0]})
    return cores[0], cores[1]


def _facts(core: int | None, server_core: int | None, rounds: int) -> dict[str, Any]:
    found = {"kluster-integrations": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "pinned": f"client to core {core}, server to core {server_core}" if core is not None else "no",
        "rounds": rounds,
        "versions": found,
    }


def _header(console: Console, facts: dict[str, Any]) -> None:
    console.print(f"Python {facts['python']}, " + ", ".join(f"{p} {v}" for p, v in facts["versions"].items()))
    console.print(f"{facts['machine']}; pinned: {facts['pinned']}; {facts['rounds']} rounds, candidates in turns")
    console.print(
        "Equal for all: messages, no retries, room for 1000 connections, of which httpx keeps 100 when they are idle."
    )
    console.print(
        f"ChatKluster sends on httpx, and on aiohttp where it is async; {SdkOnAiohttp.name!r} is the SDK on the same.\n"
    )


def _measure(sampler: Sampler, case: Case, clients: Sequence[type[Client]], rounds: int) -> dict[str, list[Any]]:
    samples: dict[str, list[Any]] = {client.name: [] for client in clients if case.takes(client)}
    made = {} if case.kind == "many" else {c.name: sampler.make(case, c) for c in clients if case.takes(c)}
    for _ in range(rounds):
        for client in clients:
            if not case.takes(client):
                continue
            # Many connections do not stay open beside those of the next.
            one = made.get(client.name) or sampler.make(case, client)
            samples[client.name].append(sampler.sample(case, one))
            if client.name not in made:
                sampler.close(one)
    for one in made.values():
        sampler.close(one)
    return samples


def _importable(console: Console) -> list[str]:
    modules = []
    for module, needs in _MODULES.items():
        missing = next((m for m in (needs, module) if m and importlib.util.find_spec(m) is None), None)
        if missing:
            console.print(f"Skipped: the import of {module}, for {missing} is not installed.")
        else:
            modules.append(module)
    return modules


def _run(console: Console, address: str, quick: bool, rounds: int, only: str) -> tuple[Results, list[Case]]:
    clients = []
    for client in CANDIDATES:
        if missing := client.missing():
            console.print(f"Skipped: {client.name}, for {missing} is not installed.")
        else:
            clients.append(client)
    results = Results()
    modules = _importable(console)
    fresh = [client.name for client in clients if client.sync]
    with console.status("") as status:
        for done in range(1 if quick else rounds // 2 + 1):
            status.update(f"fresh processes, round {done + 1}")
            for module in modules:
                results.imports.setdefault(module, []).append(cold.run(module))
            for name in fresh:
                results.constructions.setdefault(name, []).append(cold.run(name, address))
        cases = [case for case in CASES if only in case.key]
        with Sampler(address, quick=quick) as sampler:
            for case in cases:
                status.update(case.label)
                case_rounds = (1 if quick else 3) if case.kind == "many" else rounds
                results.samples[case.key] = _measure(sampler, case, clients, case_rounds)
    return results, cases


def main() -> int:
    arguments = _arguments()
    _clean_environment()
    core, server_core = _pin()
    rounds = 3 if arguments.quick else 7
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    facts = _facts(core, server_core, rounds)
    _header(console, facts)
    with server.running(server_core) as address:
        results, cases = _run(console, address, arguments.quick, rounds, arguments.only)
    show(console, results, cases, [client.name for client in CANDIDATES])
    reached = targets(results)
    for target in reached:
        console.print(str(target), highlight=False)
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(results, cases, facts), indent=1) + "\n", "utf-8")
    return 1 if arguments.check and any(t.verdict == "FAIL" for t in reached) else 0


if __name__ == "__main__":
    sys.exit(main())
