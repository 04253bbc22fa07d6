"""LiteLLM's exception classes, for each thing that goes wrong, on each way to ask."""

from __future__ import annotations

import pickle
from typing import Any

import litellm
import pytest

from kluster_integrations import budget, errors
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.litellm import register, router
from tests.litellm.asking import ASK, EMBED, LLAMA, WAYS
from tests.raw_server import RawServer, chunk, event

BY_STATUS: dict[int, tuple[type[Exception], type[Exception]]] = {
    400: (litellm.BadRequestError, errors.BadRequestError),
    401: (litellm.AuthenticationError, errors.AuthenticationError),
    403: (litellm.PermissionDeniedError, errors.PermissionDeniedError),
    404: (litellm.NotFoundError, errors.NotFoundError),
    422: (litellm.UnprocessableEntityError, errors.BadRequestError),
    429: (litellm.RateLimitError, errors.RateLimitError),
    500: (litellm.InternalServerError, errors.InternalServerError),
    502: (litellm.BadGatewayError, errors.InternalServerError),
    503: (litellm.ServiceUnavailableError, errors.InternalServerError),
    504: (litellm.InternalServerError, errors.InternalServerError),
}


def raised(way: str, **call: Any) -> Any:
    """Return what a call raises; of the wrapper that LiteLLM puts around a broken stream, what is inside."""
    with pytest.raises(litellm.exceptions.openai.APIError) as caught:
        WAYS[way](model=LLAMA, messages=ASK, **call)
    error = caught.value
    if isinstance(error, litellm.exceptions.MidStreamFallbackError):
        assert way in ("astream", "stream")
        assert error.status_code == error.original_exception.status_code
        return error.original_exception
    return error


@pytest.mark.parametrize("status", BY_STATUS)
@pytest.mark.parametrize("way", WAYS)
def test_by_status(kluster: Emulator, way: str, status: int) -> None:
    kluster.add_fault(Fault("status", status=status, retry_after=7, headers={"x-request-id": "req-5"}))
    error = raised(way)
    theirs, ours = BY_STATUS[status]
    assert isinstance(error, theirs)
    assert isinstance(error, ours)
    assert (error.status_code, error.response.status_code) == (status, status)
    assert (error.llm_provider, error.model) == ("kluster", LLAMA.removeprefix("kluster/"))
    assert error.message.startswith(f"litellm.{theirs.__name__}: ")
    assert error.response.headers["retry-after"] == "7"
    assert (error.request_id, error.retry_after) == ("req-5", 7.0)
    assert "test-key" not in repr(vars(error))


def test_a_stream_that_is_refused_raises_at_the_call(kluster: Emulator) -> None:
    kluster.add_fault(Fault("status", status=429))
    with pytest.raises(litellm.RateLimitError):
        litellm.completion(LLAMA, messages=ASK, stream=True)


async def test_what_this_side_refuses_is_raised_before_an_async_stream_is_handed_out(kluster: Emulator) -> None:
    with pytest.raises(litellm.UnsupportedParamsError):
        await litellm.acompletion(LLAMA, messages=ASK, stream=True, n=2)
    with pytest.raises(litellm.ContextWindowExceededError):
        await litellm.acompletion(LLAMA, messages=[{"role": "user", "content": "word " * 140_000}], stream=True)
    register(KlusterConfig(base_url=kluster.base_url))
    with pytest.raises(litellm.AuthenticationError):
        await litellm.acompletion(LLAMA, messages=ASK, stream=True)


@pytest.mark.parametrize("way", WAYS)
def test_context_window_by_the_servers_word(kluster: Emulator, way: str) -> None:
    body = {"error": {"message": "This model's maximum context length is 131072 tokens.", "code": 400}}
    kluster.add_fault(Fault("status", status=400, body=body))
    error = raised(way)
    assert isinstance(error, litellm.ContextWindowExceededError)
    assert isinstance(error, errors.ContextWindowExceededError)


def test_context_window_before_any_request(kluster: Emulator) -> None:
    with pytest.raises(litellm.ContextWindowExceededError, match="131072") as caught:
        litellm.completion(LLAMA, messages=[{"role": "user", "content": "word " * 140_000}])
    assert caught.value.status_code == 400
    assert kluster.requests == []


@pytest.mark.parametrize("way", WAYS)
def test_no_connection(way: str) -> None:
    register(KlusterConfig(api_key="key", base_url="http://127.0.0.1:1/v1", max_retries=0))
    error = raised(way)
    assert isinstance(error, litellm.APIConnectionError)
    assert isinstance(error, errors.APIConnectionError)
    assert "(HTTP" not in str(error)  # there is no status


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_that_breaks_off_is_no_answer(kluster: Emulator, way: str) -> None:
    kluster.add_fault(Fault("end", chunks=3))
    error = raised(way)
    assert isinstance(error, litellm.APIConnectionError)
    assert isinstance(error, errors.TruncatedStreamError)
    assert error.partial


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_an_error_inside_a_stream(way: str) -> None:
    with RawServer() as server:
        from tests.raw_server import Reply

        server.script(Reply([event(chunk({"content": "Hi"})), event({"error": {"message": "Full", "code": 503}})]))
        register(KlusterConfig(api_key="key", base_url=server.base_url, max_retries=0))
        assert isinstance(raised(way), litellm.ServiceUnavailableError)


def test_embedding_errors(kluster: Emulator) -> None:
    kluster.add_fault(Fault("status", status=429, path="/v1/embeddings"))
    with pytest.raises(litellm.RateLimitError) as caught:
        litellm.embedding(EMBED, input=["a"])
    assert caught.value.model == "BAAI/bge-m3"
    with pytest.raises(litellm.BadRequestError, match=r"input\[0\]"):
        litellm.embedding(EMBED, input=[" "])
    with pytest.raises(litellm.BadRequestError, match="makes no embeddings"):
        litellm.embedding(LLAMA, input=["a"])
    with pytest.raises(litellm.BadRequestError, match="makes embeddings, not chat"):
        litellm.completion(EMBED, messages=ASK)


@pytest.mark.parametrize("way", WAYS)
def test_a_spent_budget(kluster: Emulator, way: str) -> None:
    with budget(usd=0.0001) as spent:
        model = "kluster/deepseek-ai/DeepSeek-R1-0528"
        response = WAYS[way](model=model, messages=[{"role": "user", "content": "word " * 100}])
        assert spent.usd == litellm.completion_cost(response, model=model) > 0.0001
        with pytest.raises(litellm.BudgetExceededError, match=r"budget of 0\.0001 US\$ is spent") as caught:
            WAYS[way](model=LLAMA, messages=ASK)
    error: Any = caught.value
    assert isinstance(error, errors.BudgetExceededError)
    assert (error.current_cost, error.max_budget) == (spent.usd, 0.0001)
    assert error.message.startswith("litellm.BudgetExceededError: ")
    assert pickle.loads(pickle.dumps(error)).max_budget == 0.0001
    assert len(kluster.requests) == 1


@pytest.mark.parametrize("call", [{"num_retries": 2}, {}], ids=["retries", "none"])
def test_a_spent_budget_is_not_tried_again(kluster: Emulator, call: dict[str, int]) -> None:
    made = router(["klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"], base_url=kluster.base_url, api_keys=["k"])
    with budget(usd=0), pytest.raises(litellm.BudgetExceededError):
        made.completion(model="klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", messages=ASK, **call)
    with budget(usd=0), pytest.raises(litellm.BudgetExceededError):
        litellm.embedding(EMBED, input=["a"])
    assert kluster.requests == []


def test_headers_that_a_proxy_would_hand_on_are_few(kluster: Emulator) -> None:
    kluster.add_fault(Fault("status", status=429, retry_after=3, headers={"set-cookie": "a=b", "x-internal": "1"}))
    error = raised("completion")
    assert error.headers == {"retry-after": "3"}


def test_errors_survive_pickling(kluster: Emulator) -> None:
    kluster.add_fault(Fault("status", status=429, retry_after=3))
    error = raised("completion")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.status_code, again.model, str(again)) == (429, error.model, str(error))


@pytest.mark.parametrize("edit", [False, True])
async def test_images_are_refused_and_not_a_failure_of_the_servers(kluster: Emulator, edit: bool) -> None:
    wish: dict[str, Any] = {"model": LLAMA, "prompt": "A cat"} | ({"image": b"..."} if edit else {})
    kinds = ("image_edit", "aimage_edit") if edit else ("image_generation", "aimage_generation")
    for kind in kinds:
        with pytest.raises(litellm.BadRequestError, match="makes no images"):  # noqa: PT012
            answer = getattr(litellm, kind)(**wish)
            await answer
