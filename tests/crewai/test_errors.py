"""One layer of tries, errors that CrewAI understands, and one terminal event a call."""

from __future__ import annotations

import asyncio
import importlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai.events.types.llm_events import LLMCallCompletedEvent, LLMCallFailedEvent, LLMCallStartedEvent
from crewai.hooks.llm_hooks import register_before_llm_call_hook, unregister_before_llm_call_hook
from crewai.utilities.agent_utils import is_context_length_exceeded
from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError

from kluster_integrations import errors
from kluster_integrations.crewai import KlusterContextWindowError, KlusterLLM, KlusterRateLimitError
from kluster_integrations.crewai._compat import LLMCallBlockedError
from kluster_integrations.emulator import Emulator, Fault

from .crews import KEY, R1, hello, since, weather

Make = Callable[..., KlusterLLM]


def terminal(events: list[Any]) -> list[type]:
    return [type(e) for e in events if isinstance(e, LLMCallCompletedEvent | LLMCallFailedEvent)]


def test_one_429_costs_one_retry(llm: Make, emulator: Emulator, events: list[Any]) -> None:
    emulator.add_fault(Fault("status", status=429, retry_after=0))

    assert hello(llm()).kickoff().raw
    assert len(emulator.requests) == 2
    assert terminal(events) == [LLMCallCompletedEvent]


@pytest.mark.parametrize("max_retries", [0, 2])
def test_429_for_ever_ends_after_the_configured_tries(max_retries: int, llm: Make, emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=429, retry_after=0, times=None))

    with pytest.raises(KlusterRateLimitError, match="429"):
        hello(llm(max_retries=max_retries)).kickoff()
    assert len(emulator.requests) == max_retries + 1


def test_429_for_ever_natively(native: Any, emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=429, headers={"retry-after-ms": "1"}, times=None))

    with pytest.raises(Exception, match="429"):
        hello(native(emulator, max_retries=0), agent={"max_retry_limit": 1}).kickoff()
    assert len(emulator.requests) == 3 * 2  # CrewAI's tries, times the agent's


async def test_429_for_ever_async(llm: Make, emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=429, retry_after=0, times=None))

    with pytest.raises(errors.RateLimitError):
        await llm(max_retries=1).acall("hi")
    assert len(emulator.requests) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_inside_a_200_is_tried_again_by_the_agent(
    stream: bool, status: int, llm: Make, emulator: Emulator
) -> None:
    emulator.add_fault(Fault("error_event", status=status))

    assert hello(llm(stream=stream)).kickoff().raw
    assert len(emulator.requests) == 2


@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [(401, errors.AuthenticationError, 1), (404, errors.NotFoundError, 1), (500, errors.InternalServerError, 2)],
)
def test_what_cannot_succeed_is_not_tried_again_by_the_agent(
    status: int, kind: type[Exception], tries: int, llm: Make, emulator: Emulator, events: list[Any]
) -> None:
    emulator.add_fault(Fault("status", status=status, times=None, headers={"retry-after-ms": "1"}))

    with pytest.raises(kind):
        weather(llm(max_retries=1)).kickoff()
    assert len(emulator.requests) == tries
    assert terminal(events) == [LLMCallFailedEvent]
    assert len({e.call_id for e in events}) == 1


def test_a_stream_that_breaks_is_tried_again_by_the_agent(llm: Make, emulator: Emulator) -> None:
    emulator.add_fault(Fault("cut"))

    assert hello(llm(stream=True)).kickoff().raw
    assert len(emulator.requests) == 2


@since[1, 15, 18]
def test_crewai_understands_a_rate_limit(llm: Make, emulator: Emulator) -> None:
    retry: Any = importlib.import_module("crewai.llms.retry")
    emulator.add_fault(Fault("status", status=429, retry_after=7, times=None))

    with pytest.raises(errors.RateLimitError) as caught:
        llm(max_retries=0).call("hi")
    assert retry._ThrottlingErrorClassifier.is_throttling_error(caught.value)
    assert retry._retry_after_seconds(caught.value) == 7


def test_overflow_is_crewais_own_exception(llm: Make, emulator: Emulator) -> None:
    with pytest.raises(LLMContextLengthExceededError) as caught:
        llm(plan="trial").call("word " * 40_000)
    assert isinstance(caught.value, errors.ContextWindowExceededError)
    assert is_context_length_exceeded(caught.value)
    assert emulator.requests == []
    assert type(pickle.loads(pickle.dumps(caught.value))) is KlusterContextWindowError


def test_no_error_shows_the_key(llm: Make, emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=401, body={"error": {"message": f"bad key {KEY}"}}))

    with pytest.raises(errors.AuthenticationError) as caught:
        llm().call("hi")
    assert KEY not in f"{caught.value!r} {caught.value} {vars(caught.value)}"


@pytest.mark.parametrize("returned", [False, None])
def test_hooks(returned: Any, llm: Make, emulator: Emulator, events: list[Any]) -> None:
    def hook(context: Any) -> Any:
        context.messages.append({"role": "user", "content": "and say Ahoy"})
        return returned

    register_before_llm_call_hook(hook)
    try:
        if returned is False:
            with pytest.raises(LLMCallBlockedError):
                llm().call("hi")
        else:
            llm().call("hi")
    finally:
        unregister_before_llm_call_hook(hook)
    assert type(events[0]) is LLMCallStartedEvent
    assert terminal(events) == [LLMCallFailedEvent if returned is False else LLMCallCompletedEvent]
    assert len(emulator.requests) == (0 if returned is False else 1)
    if returned is None:
        assert emulator.requests[0].body["messages"][-1]["content"] == "and say Ahoy"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n": 2}, "n=2"),
        ({"temprature": 0.1}, "temprature"),
        ({"temperature": 7}, "temperature"),
        ({"tool_calling": "magic"}, "tool_calling"),
        ({"tool_calling": "native", "model": R1}, None),
        ({"max_repairs": -1}, "max_repairs"),
        ({"base_url": "http://example.org/v1"}, "base_url"),
        ({"plan": "gold"}, "plan"),
        ({"stop": 5}, "stop=5"),
        ({"stop": [5]}, "stop"),
        ({"response_format": "json"}, "response_format='json'"),
        ({"response_format": int}, "response_format"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], named: str | None, llm: Make) -> None:
    model = options.pop("model", None)
    if named is None:
        llm(model, **options)  # without tools there is nothing wrong with it
        return
    with pytest.raises((ValueError, errors.KlusterError), match=named):
        llm(**options)


async def test_a_call_that_is_canceled_ends(llm: Make, emulator: Emulator, events: list[Any]) -> None:
    emulator.add_fault(Fault("hang"))
    call = asyncio.create_task(llm().acall("hi"))
    while not emulator.requests:
        await asyncio.sleep(0.01)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert terminal(events) == [LLMCallFailedEvent]
