"""A stream whose event loop is closed over it gives its slot back."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import litellm
import pytest

from kluster_integrations.limits import Limits
from kluster_integrations.litellm import register
from tests.raw_server import RawServer, Reply
from tests.ways import LLAMA, SO_FAR, config

CALL: dict[str, Any] = {"model": f"kluster/{LLAMA}", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:coroutine:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_slot_of_a_stream_that_nobody_can_close(server: RawServer) -> None:
    register(config(server, api_key="kk-of-a-closed-loop"), limits=Limits(concurrent=1, max_wait=20))
    server.script(Reply(SO_FAR, end="hang"))
    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        stream: Any = await litellm.acompletion(**CALL, stream=True)
        await anext(stream)
        return stream

    stream = loop.run_until_complete(begin())
    loop.close()
    answer: Any = litellm.completion(**CALL)
    assert answer.choices[0].message.content == "Hello"
    del stream
    gc.collect()  # what it leaves open is said here, and not in another test
