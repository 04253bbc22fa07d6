"""What of an LLM can be read and set, and what of CrewAI's own options it takes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytest.importorskip("crewai")

from crewai.llms.hooks.base import BaseInterceptor

from kluster_integrations import errors
from kluster_integrations.crewai import KlusterLLM, kluster_llm
from kluster_integrations.emulator import Emulator, Fault

from ..raw_server import RawServer, whole
from .crews import KEY, LLAMA, hello

Make = Callable[..., KlusterLLM]
DEFINITION = {
    "name": "get_weather",
    "description": "Current weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.mark.parametrize("more", [{}, {"type": "function"}])
def test_crewais_documented_form_of_a_tool(more: dict[str, str], llm: Make, emulator: Emulator) -> None:
    calls = llm().call("What is the weather in Paris?", tools=[DEFINITION | more])

    assert calls[0]["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert emulator.requests[0].body["tools"] == [{"type": "function", "function": DEFINITION}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_completion_tokens", 50),
        ("temperature", 0.5),
        ("seed", 7),
        ("stop", ["END"]),
        ("logprobs", True),
        ("logit_bias", {"1": 5}),
        ("metadata", {"a": "b"}),
        ("frequency_penalty", 0.1),
    ],
)
def test_what_is_set_is_sent(name: str, value: Any, llm: Make, emulator: Emulator) -> None:
    one: Any = llm()
    setattr(one, name, value)
    one.call("hi")

    assert getattr(one, name) == value
    assert emulator.requests[0].body[name] == value
    setattr(one, name, None)
    one.call("hi")
    assert name not in emulator.requests[1].body


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 5.0),
        ("max_retries", 0),
        ("plan", "core"),
        ("unsupported", "drop"),
        ("default_headers", {"x-team": "red"}),
    ],
)
@pytest.mark.parametrize(
    "way", [lambda llm: llm, copy.copy, copy.deepcopy, lambda llm: pickle.loads(pickle.dumps(llm))]
)
def test_the_connection_can_be_read_and_set(
    name: str, value: Any, way: Any, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    made: Any = way(kluster_llm(LLAMA, base_url=emulator.base_url))
    default = getattr(made, name)
    setattr(made, name, value)

    assert getattr(made, name) == value != default
    assert made.call("hi")
    if name == "default_headers":
        assert emulator.requests[-1].headers["x-team"] == "red"
    setattr(made, name, None)
    assert getattr(made, name) == default


def test_no_more_retries_than_set(llm: Make, emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=500, times=None, headers={"retry-after-ms": "1"}))
    one: Any = llm()
    one.max_retries = 0

    with pytest.raises(errors.InternalServerError):
        one.call("hi")
    assert len(emulator.requests) == 1


def test_time_is_as_set(llm: Make, emulator: Emulator) -> None:
    emulator.add_fault(Fault("hang"))
    one: Any = llm(max_retries=0)
    one.timeout = 0.2

    with pytest.raises(errors.APITimeoutError):
        one.call("hi")


def test_another_server_and_key(llm: Make, emulator: Emulator) -> None:
    with RawServer() as server:
        one: Any = llm()
        other = copy.copy(one)
        other.base_url, other.api_key = server.base_url, "another-key"
        other.call("hi")
        one.call("hi")

        assert b"Bearer another-key" in server.requests[0].raw
    assert len(emulator.requests) == 1
    assert "another-key" not in other.model_dump_json() + repr(other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", -1),
        ("max_retries", "many"),
        ("plan", "gold"),
        ("api", "responses"),
        ("tool_calling", "magic"),
        ("max_repairs", -1),
        ("logprobs", "yes"),
        ("callbacks", ["langfuse"]),
        ("interceptor", object()),
        ("base_url", "http://example.org/v1"),
    ],
)
def test_a_wrong_value_is_refused_and_changes_nothing(name: str, value: Any, llm: Make, emulator: Emulator) -> None:
    one: Any = llm()
    before = getattr(one, name)

    with pytest.raises((ValueError, errors.KlusterError), match=name):
        setattr(one, name, value)
    assert getattr(one, name) == before
    assert one.call("hi")
    with pytest.raises((ValueError, errors.KlusterError), match=name):
        llm(**{name: value})


def test_the_key_cannot_be_read(llm: Make) -> None:
    assert KEY not in f"{llm().api_key}"


def test_crewais_defaults_are_taken(llm: Make, emulator: Emulator) -> None:
    one: Any = llm(api="completions", callbacks=[], interceptor=None, logprobs=None, timeout=None)

    assert one.call("hi", callbacks=[])
    assert (one.api, one.callbacks, one.interceptor, one.logprobs) == ("completions", [], None, None)


def test_logprobs_are_in_the_last_event(llm: Make, emulator: Emulator, events: list[Any]) -> None:
    llm(logprobs=True, top_logprobs=2).call("hi")

    assert emulator.requests[0].body["top_logprobs"] == 2
    assert events[-1].usage["logprobs"]["content"][0]["token"]


class Seen(BaseInterceptor[httpx.Request, httpx.Response]):
    def __init__(self) -> None:
        self.statuses: list[int] = []

    def on_outbound(self, message: httpx.Request) -> httpx.Request:
        message.headers["x-seen"] = "yes"
        return message

    def on_inbound(self, message: httpx.Response) -> httpx.Response:
        self.statuses.append(message.status_code)
        return message

    async def aon_outbound(self, message: httpx.Request) -> httpx.Request:
        return self.on_outbound(message)

    async def aon_inbound(self, message: httpx.Response) -> httpx.Response:
        return self.on_inbound(message)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_interceptor_sees_requests_and_answers(stream: bool, llm: Make, emulator: Emulator) -> None:
    seen = Seen()
    one: Any = llm(interceptor=seen, stream=stream)

    assert one.call("hi")
    assert await one.acall("hi")
    assert seen.statuses == [200, 200]
    assert [r.headers["x-seen"] for r in emulator.requests] == ["yes", "yes"]
    assert copy.copy(one).interceptor is seen
    one.interceptor = None
    assert one.call("hi")
    assert "x-seen" not in emulator.requests[-1].headers


def test_an_interceptor_and_a_client_exclude_each_other(llm: Make) -> None:
    with pytest.raises(ValueError, match="interceptor"):
        llm(interceptor=Seen(), http_client=httpx.Client())


class Log:
    def __init__(self) -> None:
        self.done: list[Any] = []
        self.failed: list[Any] = []

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.done.append((kwargs["model"], response_obj["usage"]["total_tokens"] > 0, start_time <= end_time))
        raise RuntimeError("of the callback's own")

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.failed.append(type(kwargs["exception"]).__name__)


def test_callbacks_are_told_of_each_call(llm: Make, emulator: Emulator) -> None:
    log = Log()
    one = llm(callbacks=[log], max_retries=0)

    assert hello(one).kickoff().raw
    assert log.done == [(LLAMA, True, True)]
    emulator.add_fault(Fault("status", status=400))
    with pytest.raises(errors.BadRequestError):
        one.call("hi")
    assert log.failed == ["BadRequestError"]


def test_the_cost_is_in_the_last_event(llm: Make, events: list[Any]) -> None:
    one = llm()
    one.call("hi")
    usage = events[-1].usage

    cost = one.spec.cost(usage["prompt_tokens"], usage["completion_tokens"])
    assert usage["cost"] == round(cost, 12) > 0
    events.clear()
    with RawServer() as server:
        server.answer = lambda _: whole({"content": "Hello"})
        kluster_llm("some/model", base_url=server.base_url, api_key=KEY).call("hi")
    assert "cost" not in events[-1].usage
