"""What a batch job costs on this side: CPU per line and peak memory, against an emulator in a process of its own.

    .venv/bin/python -m benchmarks.batch [LINES]

The emulator takes most of the time; it is not counted. Goals: under 0.5 ms of CPU per line, under 300 MB at the peak.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

MODEL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
REVIEW = "The screen is bright, the battery holds for two days, and yet the speaker is thin. " * 10  # 830 bytes


def serve(pipe: Connection) -> None:
    from kluster_integrations.emulator import Emulator

    with Emulator(plan="core") as server:
        pipe.send(server.base_url)
        pipe.recv()


def run(base_url: str, lines: int) -> dict[str, Any]:
    from kluster_integrations.batch import BatchJob
    from kluster_integrations.config import KlusterConfig

    def requests() -> Iterator[list[dict[str, str]]]:
        for number in range(lines):
            yield [{"role": "user", "content": f"{number}: good or bad? {REVIEW}"}]

    config = KlusterConfig(api_key="kk-benchmark", base_url=base_url, plan="core")
    cpu: dict[str, float] = {}

    def lap(name: str, before: float) -> float:
        now = time.process_time()
        cpu[name] = round((now - before) / lines * 1_000, 4)
        return now

    with tempfile.TemporaryDirectory() as folder:
        begin = at = time.process_time()
        job = BatchJob.create(requests(), folder=folder, model=MODEL, config=config, temperature=0)
        job.poll = 1.0
        at = lap("create", at)
        job.submit()
        at = lap("submit", at)
        status = job.wait()
        at = lap("wait", at)
        answered = sum(result.completion is not None for result in job.results())
        at = lap("results", at)
        lap("all", begin)
        job.close()
    assert answered == status.answered == lines
    return {
        "lines": lines,
        "ms of CPU per line": cpu,
        "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024),
    }


def main() -> None:
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    server.start()
    try:
        print(json.dumps(run(ours.recv(), lines), indent=2))
    finally:
        ours.send(None)
        server.join()


if __name__ == "__main__":
    main()
