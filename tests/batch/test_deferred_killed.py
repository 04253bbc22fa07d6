"""A program inside `deferred` that is killed at any moment, and started again: no line is sent twice, none is lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

import pytest

from kluster_integrations.batch import deferred
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.emulator import BatchBehavior, Emulator

from .jobs import KEY, LLAMA, lines_by_id
from .proxy import Proxy
from .victim import Victim

_CALLERS = 6


def work(folder: str, base_url: str) -> None:
    """Run a program of two rounds, the second made of the answers to the first; half of it in threads."""
    os.environ.update(KLUSTER_BATCH_POLL="0.005", KLUSTER_BATCH_SETTLE="0.2", KLUSTER_BATCH_QUIET="0.1")
    client = Client(KlusterConfig(api_key=KEY, base_url=base_url, max_retries=0, timeout=0.5))

    def ask(*texts: str) -> str:
        messages = [{"role": "user", "content": text} for text in texts]
        return client.complete(client.build(LLAMA, messages, {})).text

    async def talk(number: int) -> list[str]:
        question = f"Question {number}"
        if number % 2:
            first = await asyncio.to_thread(ask, question)
        else:
            request = client.build(LLAMA, [{"role": "user", "content": question}], {})
            first = (await client.acomplete(request)).text
        return [first, await asyncio.to_thread(ask, question, first)]

    async def run() -> list[list[str]]:
        async with deferred(Path(folder) / "job"):
            return await asyncio.gather(*map(talk, range(_CALLERS)))

    texts = asyncio.run(run())
    (Path(folder) / "texts.json").write_text(json.dumps(texts), "utf-8")


def check(server: Emulator, folder: Path) -> None:
    texts = json.loads((folder / "texts.json").read_text("utf-8"))
    assert [f"Echo: Question {n}" == first for n, (first, _) in enumerate(texts)] == [True] * _CALLERS
    assert set(lines_by_id(server).values()) == {1}
    assert len(lines_by_id(server)) == 2 * _CALLERS
    assert not any(request.path == "/v1/chat/completions" for request in server.requests)


def test_killed_at_each_step(service: Emulator, tmp_path: Path) -> None:
    """The first process dies at its first event, the second at its second: until one lives long enough to end."""
    with Proxy(service.base_url) as proxy:
        victim = Victim(work, str(tmp_path), proxy.base_url)
        died_at = victim.run_dying_at_each_step(proxy)
    check(service, tmp_path)
    # Which events it died at depends on how tasks and threads take turns.
    assert any("POST /v1/files" in event for event in died_at)
    assert any("/v1/batches" in event for event in died_at)


@pytest.mark.parametrize("event", ["before POST /v1/batches", "after POST /v1/batches", "after GET /v1/files/"])
@pytest.mark.parametrize("which", [1, 2])
def test_killed_in_each_round(service: Emulator, tmp_path: Path, event: str, which: int) -> None:
    with Proxy(service.base_url) as proxy:
        Victim(work, str(tmp_path), proxy.base_url).run_killed_at(proxy, event, which)
    check(service, tmp_path)


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_while_the_server_fails(service: Emulator, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    service.batches.behavior = BatchBehavior(line_time=0.005, list_lag=0.05)
    failing = [BatchBehavior(create=how, list_lag=0.05) for how in ("500 before", "500 after", "hang after")]  # type: ignore[arg-type]
    service.batches.script(*failing)
    with Proxy(service.base_url) as proxy:
        Victim(work, str(tmp_path), proxy.base_url).run_killed_at_random(chance, 10, (0.05, 0.8))
    check(service, tmp_path)
