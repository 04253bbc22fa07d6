"""Forty results of a tool in one task: kept as they are while they fit the window, shortened when they do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai.tools import tool

from kluster_integrations.crewai import kluster_llm

from ..raw_server import RawRequest, RawServer, Reply, sse, whole
from .crews import KEY, LLAMA, R1, crew

looked: list[int] = []


def page(number: int) -> str:
    """Return a page of about 2,000 tokens."""
    return f"PAGE-{number} " + "".join(f"Line {n} of it tells of harbour fees and tides. " for n in range(170))


@tool("read_page")
def read_page(number: int) -> str:
    """A page of the archive."""
    looked.append(number)
    return page(number)


def archivist(pages: int, *, stream: bool = False) -> Callable[[RawRequest], Reply]:
    """Return a model that reads one page after the other, and then answers; without tools it summarizes."""
    turns = count(1)

    def say(message: dict[str, Any], finish: str = "stop") -> Reply:
        return Reply(sse(message, finish=finish)) if stream else whole(message, finish=finish)

    def reply(request: RawRequest) -> Reply:
        if "read_page" not in str(request.json.get("tools") or request.json["messages"][0]["content"]):
            return say({"content": "A summary."})
        if (turn := next(turns)) > pages:
            return say({"content": "All read."})
        arguments = {"number": turn}
        if "tools" not in request.json:
            called = json.dumps({"name": "read_page", "arguments": arguments})
            return say({"content": f"<tool_call>{called}</tool_call>"})
        function = {"name": "read_page", "arguments": json.dumps(arguments)}
        call = {"index": 0, "id": f"c{turn}", "type": "function", "function": function}
        return say({"content": None, "tool_calls": [call]}, "tool_calls")

    return reply


@pytest.fixture
def server() -> Iterator[RawServer]:
    looked.clear()
    with RawServer() as running:
        yield running


def read_all(llm: Any, pages: int = 40) -> Any:
    return crew(llm, f"Read the {pages} pages", tools=[read_page], agent={"max_iter": pages + 5}).kickoff()


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("stream", [False, True])
def test_forty_results_that_fit_are_neither_summarized_nor_deferred(
    stream: bool, model: str, server: RawServer
) -> None:
    server.answer = archivist(40, stream=stream)

    assert read_all(kluster_llm(model, base_url=server.base_url, api_key=KEY, stream=stream)).raw == "All read."
    assert looked == list(range(1, 41))
    assert len(server.requests) == 41
    last = json.dumps(server.requests[-1].json["messages"])
    assert all(page(n) in last for n in range(1, 41))
    assert all("deferred" not in r.body.decode() for r in server.requests)
    assert len(last) / 4 > 60_000  # tokens, roughly


def test_natively_they_are_summarized(server: RawServer, native: Any) -> None:
    server.answer = archivist(40)

    read_all(native(server))
    last = json.dumps(server.requests[-1].json["messages"])
    assert not any(page(n) in last for n in range(1, 20))
    assert any("read_page" not in str(r.json.get("tools")) for r in server.requests)  # the summaries


def test_natively_a_long_result_is_deferred(server: RawServer, native: Any) -> None:
    server.answer = archivist(1)

    read_all(native(server))
    assert "PAGE-1" in server.requests[-1].body.decode()
    assert page(1) not in server.requests[-1].body.decode()
