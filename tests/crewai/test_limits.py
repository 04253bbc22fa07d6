"""The account's limits and a budget: they hold for crews, together with everything else on the same key."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai.rag.embeddings.factory import build_embedder

from kluster_integrations import budget
from kluster_integrations.catalog import PLANS
from kluster_integrations.crewai import (
    KlusterBudgetExceededError,
    KlusterLLM,
    KlusterRateLimitError,
    kluster_embedder,
    kluster_llm,
)
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import RateLimitError
from kluster_integrations.limits import Limits

from ..raw_server import RawServer, whole
from .crews import LLAMA, R1, hello, weather

LIMITS = Limits(requests=2, max_wait=0)


@pytest.fixture
def make(emulator: Emulator) -> Callable[..., KlusterLLM]:
    """Make an LLM on a key that no other test has used."""
    unused = uuid.uuid4().hex
    return lambda model=R1, **options: kluster_llm(model, base_url=emulator.base_url, api_key=unused, **options)


def test_the_plans_limits_hold(make: Any, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_MAX_WAIT", "0")
    one, allowed = make(plan="trial"), PLANS["trial"].requests_per_minute
    assert allowed
    for _ in range(allowed):
        one.call("hi")

    with pytest.raises(RateLimitError, match=f"{allowed} requests in 60 s"):
        one.call("hi")
    assert len(emulator.requests) == allowed


@pytest.mark.parametrize("stream", [False, True])
def test_a_crew_that_may_not_wait_ends_at_once(stream: bool, make: Any, emulator: Emulator) -> None:
    one = make(limits=Limits(requests=1, max_wait=0), stream=stream)

    with pytest.raises(KlusterRateLimitError, match="1 requests"):
        weather(one).kickoff()
    assert len(emulator.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_spent_budget_ends_a_crew(stream: bool, make: Any, emulator: Emulator) -> None:
    one = make(LLAMA, stream=stream)

    with budget(usd=1e-9) as spent, pytest.raises(KlusterBudgetExceededError, match="is spent") as caught:
        weather(one).kickoff()
    usage = one.get_token_usage_summary()
    assert caught.value.spent_usd == spent.usd == one.spec.cost(usage.prompt_tokens, usage.completion_tokens)
    assert (len(emulator.requests), spent.requests) == (1, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_async_calls_too(stream: bool, make: Any, emulator: Emulator) -> None:
    one = make(limits=LIMITS, stream=stream)
    assert [await one.acall("hi"), await one.acall("hi")]

    with pytest.raises(RateLimitError):
        await one.acall("hi")
    assert len(emulator.requests) == 2


def test_repairs_count(server: RawServer) -> None:
    server.answer = lambda _: whole({"content": ""})
    unused = uuid.uuid4().hex
    one = kluster_llm(R1, base_url=server.base_url, api_key=unused, limits=LIMITS)

    with pytest.raises(RateLimitError):
        one.call("hi")
    assert len(server.requests) == 2


def test_what_has_the_same_key_shares_them(make: Any, emulator: Emulator) -> None:
    one = make(limits=LIMITS)
    key = one.client.config.api_key
    embedder: Any = build_embedder(kluster_embedder(base_url=emulator.base_url, api_key=key, limits=LIMITS))
    embedder(["a"])
    make(limits=LIMITS).call("hi")

    for refused in (lambda: one.call("hi"), lambda: embedder(["a"])):
        with pytest.raises(RateLimitError):
            refused()
    assert len(emulator.requests) == 2


def test_copies_and_rebuilt_llms_keep_them_and_no_dump_has_them(make: Any) -> None:
    one = make(limits=LIMITS)
    crew = hello(one, crew={"planning_llm": one, "chat_llm": one}).copy()

    assert crew.chat_llm.client.limits == LIMITS
    assert "limits" not in one.model_dump_json()
