"""The tokens of a crew: those of every call, once, also of memory and of copies."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Crew, Task

from kluster_integrations.core.types import Usage
from kluster_integrations.crewai import KlusterLLM, kluster_embedder, kluster_llm
from kluster_integrations.crewai._usage import Tally
from kluster_integrations.emulator import Emulator

from .crews import KEY, LLAMA, hello, make_agent, since

Make = Callable[..., KlusterLLM]


def chats(emulator: Emulator) -> int:
    return sum(r.path.endswith("/chat/completions") for r in emulator.requests)


def remembering(llm: Any, emulator: Emulator) -> Crew:
    return hello(llm, crew={"memory": True, "embedder": kluster_embedder(base_url=emulator.base_url, api_key=KEY)})


def used(crew: Any) -> Any:
    """Return the tokens of a crew, once memory has written what it keeps."""
    crew._memory.drain_writes()
    return crew.calculate_usage_metrics()


@since[1, 15, 17]
def test_what_memory_uses_is_the_crews(llm: Make, emulator: Emulator) -> None:
    crew = remembering(llm(), emulator)
    crew.kickoff()

    usage = used(crew)
    assert usage.successful_requests == chats(emulator) > 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0
    assert used(crew) == usage


def test_what_memory_uses_for_several_inputs_is_in_one_sum(llm: Make, emulator: Emulator) -> None:
    crew: Any = remembering(llm(), emulator)
    crew.kickoff_for_each([{"n": n} for n in range(3)])
    total = crew.usage_metrics  # of the three copies

    late = used(crew)  # what memory has written behind the last copy's sum
    assert total.successful_requests + late.successful_requests == chats(emulator)


async def test_copies_for_inputs_at_the_same_time_count_for_themselves(llm: Make, emulator: Emulator) -> None:
    outputs = await hello(llm()).kickoff_for_each_async([{"n": n} for n in range(3)])

    assert [o.token_usage.successful_requests for o in outputs] == [1, 1, 1]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_begins_at_zero(duplicate: Callable[[Any], Any], llm: Make) -> None:
    one = llm()
    one.call("hi")

    assert duplicate(one).get_token_usage_summary().total_tokens == 0
    assert one.get_token_usage_summary().successful_requests == 1


def test_a_pickle_keeps_its_tokens(llm: Make) -> None:
    one = llm()
    one.call("hi")

    assert pickle.loads(pickle.dumps(one)).get_token_usage_summary() == one.get_token_usage_summary()


@pytest.fixture
def switching() -> Iterator[None]:
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_no_sum_holds_half_a_call(switching: None) -> None:
    one = kluster_llm(LLAMA, api_key=KEY)
    calls = 400

    def call(_: int) -> None:
        for _ in range(calls):
            one._tally.add(Usage(3, 4, 7, requests=2))

    def read(_: int) -> list[Any]:
        return [one.get_token_usage_summary() for _ in range(calls)]

    with ThreadPoolExecutor(8) as pool:
        adding, reading = pool.map(call, range(4)), pool.map(read, range(4))
        sums = [total for totals in reading for total in totals]
        list(adding)
    assert all(
        (s.prompt_tokens * 7, s.successful_requests * 7) == (s.total_tokens * 3, s.total_tokens * 2) for s in sums
    )
    assert one.get_token_usage_summary().successful_requests == 4 * calls * 2


def test_crews_of_several_threads_count_a_shared_llm_once(switching: None) -> None:
    one = kluster_llm(LLAMA, api_key=KEY)
    one._tally.add(Usage(3, 4, 7))
    agents = [make_agent(one), make_agent(one)]
    task = Task(description="x", expected_output="y", agent=agents[0])
    crews = [Crew(agents=agents, tasks=[task]) for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        totals = pool.map(lambda crew: [crew.calculate_usage_metrics().total_tokens for _ in range(400)], crews)
        assert {total for each in totals for total in each} == {7}


def test_memorys_tokens_are_taken_once() -> None:
    first = Tally()
    copied, memorys = Tally(first), Tally(first, is_memorys=True)
    memorys.add(Usage(3, 4, 7))

    assert [tally.summary().total_tokens for tally in (copied, first, copied)] == [7, 0, 7]
