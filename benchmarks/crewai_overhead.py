"""What `KlusterLLM` costs beside CrewAI's own class for OpenAI-compatible servers, on the same server in the same run.

`python -m benchmarks.crewai_overhead [--quick] [--check]`: CPU microseconds of a call or a chunk, candidates in turns,
medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any, NamedTuple

from benchmarks import server
from benchmarks.__main__ import _clean_environment, _pin
from benchmarks.wire import ARGUMENTS, EXPECTED, MESSAGES, MODEL, SHORT, TOOLS

LIMIT = 0.5
_ROUNDS = 7
_OWN, _OURS = "CrewAI", "kluster"


class Case(NamedTuple):
    """One row: the server's answer, how often a sample asks for it, what is counted, and whether it must be reached."""

    label: str
    path: str
    times: int
    units: int = 1
    tools: bool = False
    is_async: bool = False
    is_target: bool = True


CASES = (
    Case("call", "call", 300),
    Case("call, async", "call", 300, is_async=True),
    Case("call with 5 tools", "tools", 300, tools=True),
    Case("call with 5 tools, async", "tools", 300, tools=True, is_async=True),
    Case("chunk", "short", 10, SHORT),
    Case("chunk, async", "short", 10, SHORT, is_async=True),
    # For the most part the waking up and httpx, which both pay.
    Case("chunk, one a read (no target)", "paced", 2, SHORT, is_target=False),
    Case("tool-call fragment", "fragments", 10, SHORT, tools=True),
)


def _make(candidate: str, base_url: str, *, stream: bool) -> Any:
    if candidate == _OWN:
        from crewai import LLM

        return LLM(
            model=MODEL, custom_openai=True, base_url=base_url, api_key="not-a-key", stream=stream, max_retries=0
        )
    from kluster_integrations.crewai import kluster_llm

    return kluster_llm(MODEL, base_url=base_url, api_key="not-a-key", stream=stream, max_retries=0)


def _said(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    function = answer[0]["function"] if isinstance(answer[0], dict) else answer[0].function
    return function["arguments"] if isinstance(function, dict) else function.arguments


def _caller(case: Case, llm: Any, runner: asyncio.Runner) -> Callable[[int], Any]:
    tools = TOOLS if case.tools else None

    def call(times: int) -> Any:
        answer: Any = None
        for _ in range(times):
            answer = llm.call(MESSAGES, tools=tools)
        return answer

    async def acall(times: int) -> Any:
        answer: Any = None
        for _ in range(times):
            answer = await llm.acall(MESSAGES, tools=tools)
        return answer

    return (lambda times: runner.run(acall(times))) if case.is_async else call


def _measure(case: Case, address: str, runner: asyncio.Runner, rounds: int, times: int) -> dict[str, list[float]]:
    stream = case.units > 1
    callers = {}
    for candidate in (_OWN, _OURS):
        llm = _make(candidate, f"{address}/{case.path}-crewai-{candidate}/v1", stream=stream)
        call = callers[candidate] = _caller(case, llm, runner)
        expected = ARGUMENTS if case.path == "tools" else EXPECTED[case.path]
        if (said := _said(call(2))) != expected:
            raise RuntimeError(f"{candidate} reads {said[:80]!r} instead of {expected[:80]!r}.")
    samples: dict[str, list[float]] = {candidate: [] for candidate in callers}
    for _ in range(rounds):
        for candidate, call in callers.items():
            gc.collect()
            begin = time.process_time()
            call(times)
            samples[candidate].append((time.process_time() - begin) / (times * case.units) * 1e6)
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crewai_overhead", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller samples")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 if a ratio is above {LIMIT}")
    arguments = parser.parse_args()
    _clean_environment()
    os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true", "CREWAI_TRACING_ENABLED": "false"}
    _, server_core = _pin()
    from crewai.events.event_bus import crewai_event_bus

    missed = False
    print(f"crewai {version('crewai')}, openai {version('openai')}, Python {sys.version.split()[0]}")
    print(f"{'CPU µs':30}{_OWN:>10}{_OURS:>10}{'ratio':>8}")
    # Without CrewAI's own listeners, which draw panels: they cost both the same, many times what is measured.
    with crewai_event_bus.scoped_handlers(), server.running(server_core) as address, asyncio.Runner() as runner:
        for case in CASES:
            rounds, times = (3, max(case.times // 3, 1)) if arguments.quick else (_ROUNDS, case.times)
            samples = _measure(case, address, runner, rounds, times)
            ratio = median(a / b for a, b in zip(samples[_OURS], samples[_OWN], strict=True))
            missed |= case.is_target and ratio > LIMIT
            print(f"{case.label:30}{median(samples[_OWN]):10.0f}{median(samples[_OURS]):10.0f}{ratio:8.2f}", flush=True)
    print(f"At most {LIMIT}: {'missed' if missed else 'reached'}")
    return int(missed and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
