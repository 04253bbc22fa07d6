"""Jobs for the tests, in milliseconds where the real thing takes minutes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from kluster_integrations.batch import BatchJob, BatchResult
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator

LLAMA = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
KEY = "kk-secret-key-of-the-batches"


def questions(count: int) -> list[list[dict[str, Any]]]:
    return [[{"role": "user", "content": f"Question {number}"}] for number in range(count)]


def connection(server: Emulator, **fields: Any) -> KlusterConfig:
    return KlusterConfig(**{"api_key": KEY, "base_url": server.base_url, "max_retries": 0, "timeout": 10, **fields})


def quick(job: BatchJob, settle: float = 0.05) -> BatchJob:
    job.poll, job.settle = 0.005, settle
    return job


def create(server: Emulator, folder: Path, requests: Any = 10, **options: Any) -> BatchJob:
    requests = questions(requests) if isinstance(requests, int) else requests
    config = options.pop("config", None) or connection(server)
    return quick(BatchJob.create(requests, folder=folder, config=config, **{"model": LLAMA, **options}))


def is_answer_to(result: BatchResult, number: int) -> bool:
    """Whether the result is in its place: the emulator echoes the question."""
    return (
        result.index == number
        and result.completion is not None
        and f"Echo: Question {number}" == result.completion.text
    )


def lines_by_id(server: Emulator) -> Counter[str]:
    """Return how many jobs of the server have a line of each id."""
    return Counter(id_ for job in server.batches.jobs.values() for id_ in job.custom_ids)
