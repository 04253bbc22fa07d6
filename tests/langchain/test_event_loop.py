"""`ChatKluster` in the event loop of a web server: nothing blocks it, and clients that go away cost no connection."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx

from kluster_integrations.emulator import Emulator

from ..raw_server import RawServer, Reply, sse, whole
from .conftest import model_of


def test_nothing_blocks_the_event_loop(emulator: Emulator, tmp_path: Path) -> None:
    settings = {"KLUSTER_BASE_URL": emulator.base_url, "KLUSTER_API_KEY": "kk-some-key"}
    command = [sys.executable, str(Path(__file__).with_name("loop_program.py")), str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "done\n", done.stderr


async def test_who_leaves_early_does_not_use_up_a_pool_of_the_callers(server: RawServer) -> None:
    """As in Starlette, whose scope cancels at each `await`, over again: 15 leave a pool of 10 connections."""
    hanging = Reply(sse({"content": "Hello"}), end="hang")
    server.answer = lambda request: whole({"content": "Hello"}) if b"last" in request.body else hanging
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=10), timeout=5) as pool:
        model = model_of(server, http_async_client=pool, timeout=5)

        async def texts() -> AsyncIterator[str]:
            async for chunk in model.astream("first"):
                yield chunk.text

        async def leave_early() -> None:
            async with anyio.create_task_group() as group:

                async def send() -> None:
                    async for _ in texts():
                        group.cancel_scope.cancel()

                group.start_soon(send)

        for _ in range(15):
            await leave_early()
        assert len(server.requests) == 15
        async with asyncio.timeout(20):
            assert (await model.ainvoke("last")).text == "Hello"
