"""What a fresh process pays: the import, the first and second client, the first call.

`python -m benchmarks.cold MODULE` and `python -m benchmarks.cold CANDIDATE ADDRESS` print JSON.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from typing import Any

FRAMEWORKS = ("langchain", "langchain_core", "litellm", "crewai", "openai")
"""What `import kluster_integrations` must leave alone."""


def _timed(work: Any) -> tuple[Any, float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, (time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3


def _import(module: str) -> dict[str, Any]:
    before = len(sys.modules)
    _, cpu, wall = _timed(lambda: importlib.import_module(module))
    loaded = [name for name in FRAMEWORKS if name in sys.modules]
    return {"cpu": cpu, "wall": wall, "modules": len(sys.modules) - before, "frameworks": loaded}


def _construct(name: str, server: str) -> dict[str, Any]:
    from benchmarks.clients import CANDIDATES

    candidate = next(c for c in CANDIDATES if c.name == name)
    for module in candidate.modules:
        importlib.import_module(module)
    base_url = f"{server}/call/v1"
    client, _, first = _timed(lambda: candidate(base_url))
    _, _, second = _timed(lambda: candidate(base_url))
    _, _, call = _timed(client.call)
    return {"first": first, "second": second, "call": call}


def run(*arguments: str) -> dict[str, Any]:
    """Return the figures of a process of its own, in milliseconds."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cold", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(_import(*sys.argv[1:]) if len(sys.argv) == 2 else _construct(*sys.argv[1:])))
