"""CPU time of `litellm.completion("kluster/…")` beside `openai/…`: the same server, the same run, turn by turn.

    python -m benchmarks.litellm_overhead [--rounds 9]

CPU time is that of the whole process, LiteLLM's logging threads included. A pair of samples is taken per round, in
turn, and the median of the rounds' quotients decides; it ends with status 1 if one is above its target.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from benchmarks.server import running
from benchmarks.wire import EXPECTED, MESSAGES, MODEL, SHORT, TOOLS

CALLS = 40
STREAMS = 6
CASES = {
    "call": CALLS,
    "call, async": CALLS,
    "call with tools": CALLS,
    "chunk": STREAMS * SHORT,
    "chunk, async": STREAMS * SHORT,
    "chunk of a tool call": STREAMS * SHORT,
}
"""What is measured, and how many of it are in a sample."""
TARGETS = {"call": 0.7, "chunk": 1.0}
"""The highest quotient of a case, by the first word of its name."""


def text_of(answer: Any) -> str:
    message = answer.choices[0].message
    return str(message.tool_calls[0].function.arguments if message.tool_calls else message.content)


def piece_of(chunk: Any) -> str:
    delta = chunk.choices[0].delta if chunk.choices else None
    if delta is not None and delta.tool_calls:
        return delta.tool_calls[0].function.arguments or ""
    return (delta.content or "") if delta is not None else ""


class Asker:
    """Asks under one prefix."""

    def __init__(self, prefix: str, address: str) -> None:
        self._model = f"{prefix}/{MODEL}"
        self._address = address

    def _arguments(self, path: str, **more: Any) -> dict[str, Any]:
        base = f"{self._address}/{path}/v1"
        return {"model": self._model, "messages": MESSAGES, "api_base": base, "api_key": "k", "max_retries": 0, **more}

    def _check(self, path: str, said: str) -> None:
        if said != EXPECTED[path]:
            raise RuntimeError(f"{self._model} read {said[:80]!r} from {path}.")

    def sample(self, case: str) -> None:
        """Do what one sample is made of."""
        import litellm

        tools = {"tools": TOOLS} if "tool" in case else {}
        if case.startswith("call"):
            path = "tools" if tools else "call"
            call = self._arguments(path, **tools)
            if "async" in case:
                asyncio.run(self._acalls(path, call))
            else:
                for _ in range(CALLS):
                    self._check(path, text_of(litellm.completion(**call)))
            return
        path = "fragments" if tools else "short"
        call = self._arguments(path, stream=True, **tools)
        if "async" in case:
            asyncio.run(self._astreams(path, call))
        else:
            for _ in range(STREAMS):
                self._check(path, "".join(map(piece_of, litellm.completion(**call))))

    async def _acalls(self, path: str, call: dict[str, Any]) -> None:
        import litellm

        for _ in range(CALLS):
            self._check(path, text_of(await litellm.acompletion(**call)))

    async def _astreams(self, path: str, call: dict[str, Any]) -> None:
        import litellm

        for _ in range(STREAMS):
            pieces = [piece_of(chunk) async for chunk in await litellm.acompletion(**call)]
            self._check(path, "".join(pieces))


def cpu(run: Callable[[], None]) -> float:
    """Return the seconds of CPU that this takes, with what LiteLLM's threads still do afterwards."""
    gc.collect()
    before = time.process_time()
    run()
    settled = time.process_time()
    while True:
        time.sleep(0.05)
        now = time.process_time()
        if now - settled < 0.005:
            return now - before
        settled = now


def measure(address: str, rounds: int) -> bool:
    """Print one line per case, and return whether each reaches its target."""
    ours, theirs = Asker("kluster", address), Asker("openai", address)
    reached = True
    print(f"{'':24}{'kluster/':>12}{'openai/':>12}{'quotient':>10}{'target':>8}   (CPU, median of {rounds})")
    for case, count in CASES.items():
        pairs = []
        for asker in (ours, theirs):
            asker.sample(case)
        for number in range(rounds):
            order = (ours, theirs) if number % 2 else (theirs, ours)
            took = {asker: cpu(partial(asker.sample, case)) for asker in order}
            pairs.append((took[ours], took[theirs]))
        quotient = statistics.median(a / b for a, b in pairs)
        mine, other = (statistics.median(side) / count * 1e6 for side in zip(*pairs, strict=True))
        target = TARGETS[case.split()[0].rstrip(",")]
        reached = reached and quotient <= target
        print(f"{case:24}{mine:9.0f} µs{other:9.0f} µs{quotient:10.2f}{target:8.2f}", flush=True)
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time of kluster/ beside openai/ in LiteLLM.")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of samples a case (default 9)")
    rounds = parser.parse_args().rounds
    from importlib.metadata import version

    import litellm

    from kluster_integrations.litellm import register

    register()
    litellm.suppress_debug_info = True
    litellm.register_model({f"openai/{MODEL}": {"litellm_provider": "openai", "mode": "chat", "max_tokens": 8192,
        "input_cost_per_token": 7e-07, "output_cost_per_token": 7e-07, "cache_read_input_token_cost": 7e-07,
        "cache_creation_input_token_cost": 7e-07, "supports_function_calling": True}})  # fmt: skip
    print(f"litellm {version('litellm')}, openai {version('openai')}, Python {sys.version.split()[0]}")
    with running(None) as address:
        return 0 if measure(address, rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
