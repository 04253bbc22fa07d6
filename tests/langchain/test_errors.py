"""Each error of `ChatKluster` is this package's, openai's and langchain-core's at once."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage

from kluster_integrations import errors
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.langchain import ChatKluster
from kluster_integrations.langchain import _compat as core
from kluster_integrations.langchain._errors import LANGCHAIN_ERRORS

from ..raw_server import RawServer, Reply, event, sse, whole
from .conftest import GEMMA, KEY, model_of

Ask = Callable[[ChatKluster], Any]


async def _through(model: ChatKluster) -> None:
    async for _ in model.astream("hi"):
        pass


WAYS: dict[str, Ask] = {
    "invoke": lambda model: model.invoke("hi"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("hi")),
    "stream": lambda model: list(model.stream("hi")),
    "astream": lambda model: asyncio.run(_through(model)),
    "batch": lambda model: model.batch(["hi"]),
}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return WAYS[request.param]


OVERFLOW = {"error": {"message": "This model's maximum context length is 10 tokens. However, you requested 20 tokens"}}
FLAT_OVERFLOW = {
    "object": "error",
    "message": "The input (20 tokens) is longer than the model's context length (10 tokens).",
    "code": 400,
}

BY_STATUS: list[tuple[int, Any, type[Exception], type[Exception], type[Exception]]] = [
    (400, None, errors.BadRequestError, openai.BadRequestError, core.ModelInvalidRequestError),
    (401, None, errors.AuthenticationError, openai.AuthenticationError, core.ModelAuthenticationError),
    (402, None, errors.BadRequestError, openai.BadRequestError, core.ModelInvalidRequestError),
    (403, None, errors.PermissionDeniedError, openai.PermissionDeniedError, core.ModelPermissionDeniedError),
    (404, None, errors.NotFoundError, openai.NotFoundError, core.ModelNotFoundError),
    (408, None, errors.APITimeoutError, openai.APITimeoutError, core.ModelTimeoutError),
    (422, None, errors.BadRequestError, openai.BadRequestError, core.ModelInvalidRequestError),
    (429, None, errors.RateLimitError, openai.RateLimitError, core.ModelRateLimitError),
    (500, "vendor", errors.InternalServerError, openai.InternalServerError, core.ModelAPIError),
    (502, "html", errors.InternalServerError, openai.InternalServerError, core.ModelAPIError),
    (503, "empty", errors.InternalServerError, openai.InternalServerError, core.ModelAPIError),
    (400, OVERFLOW, errors.ContextWindowExceededError, openai.BadRequestError, core.ContextOverflowError),
    (400, FLAT_OVERFLOW, errors.ContextWindowExceededError, openai.BadRequestError, core.ContextOverflowError),
]


@pytest.mark.parametrize(("status", "body", "ours", "theirs", "cores"), BY_STATUS)
def test_errors_by_status(
    emulator: Emulator,
    ask: Ask,
    status: int,
    body: Any,
    ours: type[Exception],
    theirs: type[Exception],
    cores: type[Exception],
) -> None:
    emulator.add_fault(Fault("status", status=status, body=body, times=None))
    with pytest.raises(ours) as caught:
        ask(model_of(emulator))
    err = caught.value
    assert isinstance(err, theirs)
    assert isinstance(err, cores)
    assert isinstance(err, errors.KlusterError)
    assert isinstance(err, core.ModelError)
    assert err.status_code == status
    assert err.message
    assert KEY not in f"{err} {vars(err)}"


RETRYABLE = {400: False, 401: False, 403: False, 404: False, 429: True, 500: True}


@pytest.mark.parametrize(("status", "retryable"), RETRYABLE.items())
def test_agents_learn_whether_to_try_again(emulator: Emulator, status: int, retryable: bool) -> None:
    emulator.add_fault(Fault("status", status=status, retry_after=3))
    with pytest.raises(core.ModelError) as caught:
        model_of(emulator).invoke("hi")
    assert caught.value.is_retryable is retryable
    assert caught.value.retry_after == 3  # type: ignore[attr-defined]


def test_no_key_at_all(emulator: Emulator, ask: Ask) -> None:
    with pytest.raises(errors.AuthenticationError, match="KLUSTER_API_KEY") as caught:
        ask(model_of(emulator, api_key=None, base_url=None))  # kluster.ai itself
    assert isinstance(caught.value, (openai.AuthenticationError, core.ModelAuthenticationError))


def test_a_key_that_is_not_let_in(ask: Ask) -> None:
    with Emulator(api_keys=["other"]) as server, pytest.raises(errors.AuthenticationError):
        ask(model_of(server))


def test_nobody_listens(ask: Ask) -> None:
    with RawServer() as gone:
        model = model_of(gone)
    with pytest.raises(errors.APIConnectionError) as caught:
        ask(model)
    assert isinstance(caught.value, openai.APIConnectionError)
    assert isinstance(caught.value, core.ModelConnectionError)
    assert not isinstance(caught.value, openai.APITimeoutError)


def test_no_answer_in_time(emulator: Emulator, ask: Ask) -> None:
    emulator.add_fault(Fault("hang", times=None))
    with pytest.raises(errors.APITimeoutError) as caught:
        ask(model_of(emulator, timeout=0.2))
    assert isinstance(caught.value, openai.APITimeoutError)
    assert isinstance(caught.value, core.ModelTimeoutError)


@pytest.mark.parametrize("name", ["stream", "astream"])
@pytest.mark.parametrize("kind", ["cut", "end"])
def test_a_truncated_stream(emulator: Emulator, name: str, kind: Any) -> None:
    emulator.add_fault(Fault(kind, chunks=3))
    with pytest.raises(errors.TruncatedStreamError) as caught:
        WAYS[name](model_of(emulator))
    assert isinstance(caught.value, openai.APIConnectionError)
    assert isinstance(caught.value, core.ModelConnectionError)


@pytest.mark.parametrize("name", ["stream", "astream"])
@pytest.mark.parametrize("status", [429, 503])
def test_an_error_event(emulator: Emulator, name: str, status: int) -> None:
    emulator.add_fault(Fault("error_event", chunks=3, status=status))
    with pytest.raises(openai.RateLimitError if status == 429 else openai.InternalServerError):
        WAYS[name](model_of(emulator))


@pytest.mark.parametrize(
    "reply",
    [
        Reply([b"<html>hi</html>"], content_type="text/html"),
        Reply([b""], content_type="application/json", framing="length"),
        Reply([b'{"choices": []}'], content_type="application/json"),
        Reply([b'{"error": {"message": "no"}}'], content_type="application/json"),
        Reply([event({"object": "error", "message": "no"})]),
        Reply([event({"choices": [None]})]),
        Reply(sse({"content": "x"}, finish=None)),
    ],
)
def test_the_error_of_a_broken_answer_has_all_three_classes(server: RawServer, ask: Ask, reply: Reply) -> None:
    server.script(reply)
    with pytest.raises(errors.KlusterError) as caught:
        ask(model_of(server))
    assert isinstance(caught.value, openai.OpenAIError)
    assert isinstance(caught.value, core.ModelError)


def test_what_is_refused_before_a_request(emulator: Emulator) -> None:
    with pytest.raises(errors.UnsupportedParameterError) as caught:
        model_of(emulator).invoke("hi", n=2)
    assert isinstance(caught.value, openai.BadRequestError)
    assert isinstance(caught.value, core.ModelInvalidRequestError)
    with pytest.raises(errors.ContextWindowExceededError) as overflow:
        model_of(emulator, GEMMA, plan="trial").invoke([HumanMessage("word " * 40_000)])
    assert isinstance(overflow.value, core.ContextOverflowError)
    assert emulator.requests == []


def test_with_retry_and_fallbacks_know_the_errors(emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=429, times=1))
    tried = model_of(emulator).with_retry(
        retry_if_exception_type=(openai.RateLimitError,), wait_exponential_jitter=False
    )
    assert tried.invoke("hi").content
    emulator.add_fault(Fault("status", status=503, times=1))
    safe = model_of(emulator).with_fallbacks([model_of(emulator)], exceptions_to_handle=(core.ModelError,))
    assert safe.invoke("hi").content


@pytest.mark.parametrize("kind", LANGCHAIN_ERRORS.values(), ids=lambda k: k.__name__)
def test_errors_can_be_pickled_and_copied(kind: type[errors.KlusterError]) -> None:
    origin = next(ours for ours, theirs in LANGCHAIN_ERRORS.items() if theirs is kind)
    err = kind.like(origin("what", status_code=418, code="c", request_id="r", retry_after=2.0, body={"a": 1}))
    for again in (pickle.loads(pickle.dumps(err)), copy.copy(err), copy.deepcopy(err)):
        assert type(again) is kind
        assert (again.message, again.status_code, again.code) == ("what", 418, "c")
        assert (again.request_id, again.retry_after) == ("r", 2.0)
        assert again.body == {"a": 1}
        assert str(again) == str(err)


def test_every_error_of_the_core_has_its_own() -> None:
    named = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.KlusterError)}
    of_jobs = {  # a job raises them itself: it is the same for all frameworks
        *(errors.BatchFailedError, errors.BatchExpiredError, errors.JobLockedError),
        *(errors.SubmissionUnclearError, errors.CostLimitError),
    }
    assert named - {errors.KlusterError} - of_jobs == set(LANGCHAIN_ERRORS)
    for ours, theirs in LANGCHAIN_ERRORS.items():
        assert issubclass(theirs, ours)


def test_a_header_of_an_error_is_there_for_openais_users(server: RawServer) -> None:
    body = b'{"error": {"message": "slow", "type": "t", "param": "p", "code": "c"}}'
    server.script(Reply([body], status=429, headers={"X-A": "1"}, content_type="application/json"))
    with pytest.raises(openai.RateLimitError) as caught:
        model_of(server).invoke("hi")
    assert caught.value.response.headers["x-a"] == "1"
    assert (caught.value.param, caught.value.type, caught.value.code) == ("p", "t", "c")
    assert caught.value.response.status_code == 429


def test_a_good_answer_after_an_error(server: RawServer, ask: Ask) -> None:
    server.script(Reply([b"{}"], status=500, content_type="application/json"))
    with pytest.raises(errors.InternalServerError):
        ask(model_of(server))
    server.answer = lambda _: whole({"content": "x"})
    ask(model_of(server))
