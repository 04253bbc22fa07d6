"""What holds over all adapters of a process together."""

from __future__ import annotations

import threading

import pytest

from kluster_integrations import budget, catalog, errors
from kluster_integrations.emulator import Emulator

from .adapters import ADAPTERS, Adapter, usable
from .test_features import LLAMA


@pytest.fixture
def here() -> list[Adapter]:
    """The adapters whose frameworks are installed."""
    return [made() for name, (_, made) in ADAPTERS.items() if usable(name)]


def test_limits_of_the_plan_hold_over_all_adapters(
    here: list[Adapter], kluster: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLUSTER_PLAN", "trial")
    monkeypatch.setenv("KLUSTER_MAX_WAIT", "0")
    monkeypatch.setenv("KLUSTER_API_KEY", "one-key-for-all")
    allowed = catalog.PLANS["trial"].requests_per_minute
    assert allowed
    for number in range(allowed):
        here[number % len(here)].ask(LLAMA, "Hello!")
    for adapter in here:
        with pytest.raises(errors.RateLimitError, match=f"{allowed} requests in 60 s"):
            adapter.ask(LLAMA, "Hello!")
    assert len(kluster.requests) == allowed


def test_a_budget_holds_over_all_adapters_in_threads(here: list[Adapter], kluster: Emulator) -> None:
    price = catalog.get(LLAMA).prices
    assert price
    refused: list[Exception] = []

    def spend(adapter: Adapter) -> None:
        try:
            for _ in range(10_000):
                adapter.ask(LLAMA, "Tell me of the sea. " * 40)
        except errors.BudgetExceededError as err:
            refused.append(err)

    with budget(usd=0.002) as spent:
        threads = [threading.Thread(target=spend, args=(adapter,)) for adapter in here]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(refused) == len(here)
    assert 0.002 <= spent.usd < 0.004
    assert spent.requests == len(kluster.requests)
    row = spent.by_model[LLAMA]
    assert row.usd == pytest.approx(price.cost(row.prompt_tokens, row.completion_tokens), rel=1e-9)
    assert not spent.estimated  # the server's own numbers
