"""What `register` installs, and what a call sends: the right fields, the right key, as often as asked."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import litellm
import pytest
from litellm.integrations.custom_logger import CustomLogger

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import BadRequestError
from kluster_integrations.limits import Limits
from kluster_integrations.litellm import KlusterLLM, _calls, register
from tests.litellm.asking import ASK, EMBED, LLAMA, NEMO, WAYS, bodies, stream
from tests.raw_server import RawServer, Reply, whole

# Every parameter of `litellm.completion` that is OpenAI's, with a value that is none of its defaults.
EVERY: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f", "parameters": {"type": "object", "properties": {}}}],
    "logit_bias": {"5": 1},
    "logprobs": True,
    "max_completion_tokens": 50,
    "max_tokens": 40,
    "modalities": ["text", "audio"],
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "Eggs"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "k",
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "safety_identifier": "s",
    "seed": 5,
    "service_tier": "flex",
    "stop": [f"stop {i}" for i in range(5)],
    "store": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tool_choice": "auto",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "top_logprobs": 2,
    "top_p": 0.5,
    "user": "somebody",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
TAKEN = {
    "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "messages", "metadata", "model",
    "parallel_tool_calls", "presence_penalty", "seed", "stop", "stream", "temperature", "tool_choice", "tools",
    "top_logprobs", "top_p",
}  # fmt: skip

REFUSED = {
    "audio", "function_call", "functions", "modalities", "n", "prediction", "reasoning_effort", "safety_identifier",
    "service_tier", "thinking", "web_search_options",
}  # fmt: skip
LEFT_TO_LITELLM = {"prompt_cache_key", "store", "verbosity"}  # which up to 1.90 leaves them out in silence


def test_register_again_replaces_the_handler(kluster: Emulator) -> None:
    second = register(KlusterConfig(api_key="other", base_url=kluster.base_url))
    handlers = [item["custom_handler"] for item in litellm.custom_provider_map if item["provider"] == "kluster"]
    assert handlers == [second]
    assert litellm.provider_list.count("kluster") == 1
    assert litellm._custom_providers.count("kluster") == 1


@pytest.mark.parametrize("wrong", [{"config": 5}, {"limits": 5}])
def test_register_refuses_another_type_and_replaces_nothing(kluster: Emulator, wrong: dict[str, Any]) -> None:
    before = list(litellm.custom_provider_map)
    with pytest.raises(BadRequestError, match="is of type int; it must be a"):
        register(**wrong)
    assert litellm.custom_provider_map == before


def test_register_from_many_threads_installs_one() -> None:
    litellm.custom_provider_map = []
    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item["provider"] for item in litellm.custom_provider_map] == ["kluster"]
    assert isinstance(litellm.custom_provider_map[0]["custom_handler"], KlusterLLM)


def test_no_tokenizer_is_downloaded(kluster: Emulator) -> None:
    assert litellm.disable_hf_tokenizer_download is True
    assert litellm.token_counter(model=LLAMA, text="Hello there") > 0


def test_nothing_is_printed_beside_the_program(kluster: Emulator, capfd: pytest.CaptureFixture[str]) -> None:
    litellm.suppress_debug_info = False  # as it is when it has been imported
    register(KlusterConfig(api_key="test-key", base_url=kluster.base_url))
    for way in WAYS.values():
        litellm.completion_cost(way(model=LLAMA, messages=ASK))
    assert capfd.readouterr().out == ""


def test_only_the_first_prefix_is_cut(kluster: Emulator) -> None:
    assert litellm.get_llm_provider(LLAMA)[:2] == ("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", "kluster")
    litellm.completion(LLAMA, messages=ASK)
    assert bodies(kluster)[0]["model"] == "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"


def test_the_catalog_is_in_litellms_table(kluster: Emulator) -> None:
    for spec in catalog.all_models():
        info = litellm.get_model_info(f"kluster/{spec.id}")
        assert info["max_input_tokens"] == spec.context_window
        assert bool(info.get("supports_vision")) == spec.supports_vision
        assert not litellm.supports_reasoning(f"kluster/{spec.id}"), "by it LiteLLM means reasoning_effort"
    assert litellm.supports_function_calling(NEMO) is True, "through the prompt"
    assert litellm.get_model_info(EMBED)["output_vector_size"] == 1024


def test_the_plan_caps_windows() -> None:
    register(KlusterConfig(plan="trial"))
    assert litellm.get_model_info(LLAMA)["max_input_tokens"] == 32_768
    assert litellm.get_max_tokens(LLAMA) == 4_096


@pytest.mark.parametrize("way", WAYS)
def test_every_parameter_at_once_sends_what_is_taken(kluster: Emulator, way: str) -> None:
    with pytest.warns(UserWarning, match="left out"):
        WAYS[way](model=LLAMA, messages=ASK, drop_params=True, **EVERY)
    for body in bodies(kluster):
        assert set(body) <= TAKEN
        assert body["max_completion_tokens"] == 50
        assert len(body["stop"]) == 4


@pytest.mark.parametrize("name", EVERY)
def test_each_parameter_alone(kluster: Emulator, name: str) -> None:
    """It is sent, done here, or refused by name before any request; LiteLLM itself refuses a few."""
    call = {name: EVERY[name], **({"drop_params": True} if name in LEFT_TO_LITELLM else {})}
    if name == "top_logprobs":
        call["logprobs"] = True
    if name in ("tool_choice", "parallel_tool_calls"):
        call["tools"] = EVERY["tools"]
    if name in REFUSED:
        with pytest.raises(litellm.UnsupportedParamsError, match=name):
            litellm.completion(LLAMA, messages=ASK, **call)
        assert kluster.requests == []
    else:
        litellm.completion(LLAMA, messages=ASK, **call)
        assert all(set(body) <= TAKEN for body in bodies(kluster))


def test_without_drop_params_what_is_not_taken_is_refused_by_name(kluster: Emulator) -> None:
    with pytest.raises(litellm.UnsupportedParamsError, match="n=2") as caught:
        litellm.completion(LLAMA, messages=ASK, n=2)
    assert (caught.value.status_code, caught.value.llm_provider) == (400, "kluster")
    assert "send the request n times" in str(caught.value)
    assert kluster.requests == []


def test_litellms_global_drop_params_holds(kluster: Emulator) -> None:
    litellm.drop_params = True
    with pytest.warns(UserWarning, match="n=2"):
        litellm.completion(LLAMA, messages=ASK, n=2)
    assert "n" not in bodies(kluster)[0]


def test_additional_drop_params(kluster: Emulator) -> None:
    litellm.completion(LLAMA, messages=ASK, n=2, seed=4, additional_drop_params=["n", "seed"])
    assert set(bodies(kluster)[0]) == {"model", "messages"}


def test_a_name_that_openai_does_not_know_is_refused_and_extra_body_is_not(kluster: Emulator) -> None:
    with pytest.raises(litellm.UnsupportedParamsError, match="top_k=5"):
        litellm.completion(LLAMA, messages=ASK, top_k=5)
    assert kluster.requests == []
    with Emulator(strict=False) as lenient:
        litellm.completion(LLAMA, messages=ASK, api_base=lenient.base_url, extra_body={"top_k": 5})
        assert bodies(lenient)[0]["top_k"] == 5


def test_metadata_of_ours_is_sent_and_litellms_is_not(kluster: Emulator) -> None:
    ours = {"callback_url": "https://example.com/done"}
    litellm.completion(LLAMA, messages=ASK, metadata={"@kluster.ai": ours, "trace_id": "5", "tags": ["a"]})
    assert bodies(kluster)[0]["metadata"] == {"@kluster.ai": ours}
    litellm.completion(LLAMA, messages=ASK, metadata={"trace_id": "5"})
    assert "metadata" not in bodies(kluster)[1]
    litellm.completion(LLAMA, messages=ASK, extra_body={"metadata": {"a": "b"}})
    assert bodies(kluster)[2]["metadata"] == {"a": "b"}


def test_valid_models_are_those_of_all_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another-companys-key")
    before = set(litellm.get_valid_models())
    register()
    assert set(litellm.get_valid_models()) == before != set()
    monkeypatch.setenv("KLUSTER_API_KEY", "test-key")
    ours = {f"kluster/{spec.id}" for spec in catalog.all_models()}
    assert set(litellm.get_valid_models()) == before | ours
    assert set(litellm.get_valid_models(custom_llm_provider="kluster")) == ours


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("where", ["extra_headers", "headers"])
def test_headers_of_embeddings_are_sent(kluster: Emulator, where: str, asynchronous: bool) -> None:
    call: dict[str, Any] = {"model": EMBED, "input": ["text"], where: {"X-Team": "search"}}
    asyncio.run(litellm.aembedding(**call)) if asynchronous else litellm.embedding(**call)
    assert kluster.requests[0].headers["x-team"] == "search"


@pytest.mark.parametrize("drop", [False, True])
def test_vectors_of_another_length_are_refused(kluster: Emulator, drop: bool) -> None:
    """Left out they would be silently longer than what the caller's store is made for."""
    with pytest.raises(litellm.UnsupportedParamsError, match=r"dimensions=256.*1024"):
        litellm.embedding(EMBED, input=["text"], dimensions=256, drop_params=drop)
    assert kluster.requests == []
    assert len(litellm.embedding(EMBED, input=["text"], dimensions=1024).data[0]["embedding"]) == 1024


def test_extra_headers_are_sent(kluster: Emulator) -> None:
    litellm.completion(LLAMA, messages=ASK, extra_headers={"X-Team": "search"})
    assert kluster.requests[0].headers["x-team"] == "search"


def test_the_calls_own_key_and_address_win(kluster: Emulator) -> None:
    with Emulator(api_keys=["own"]) as other:
        litellm.completion(LLAMA, messages=ASK, api_key="own", api_base=other.base_url)
        with pytest.raises(litellm.AuthenticationError):
            litellm.completion(LLAMA, messages=ASK, api_key="wrong", api_base=other.base_url)
    assert kluster.requests == []


@pytest.mark.parametrize("way", WAYS)
def test_another_companys_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch, emulator: Emulator, way: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("OPENAI_ORGANIZATION", "org-of-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", emulator.base_url)
    monkeypatch.setattr(litellm, "api_key", "sk-of-litellm")
    register(KlusterConfig(base_url=emulator.base_url))
    with pytest.raises(litellm.AuthenticationError, match="KLUSTER_API_KEY"):
        WAYS[way](model=LLAMA, messages=ASK)
    assert all("authorization" not in request.headers for request in emulator.requests)


def test_the_environment_is_read_at_the_call(monkeypatch: pytest.MonkeyPatch, emulator: Emulator) -> None:
    register()
    with Emulator(api_keys=["first", "second"]) as server:
        for key in ("first", "second"):
            monkeypatch.setenv("KLUSTER_API_KEY", key)
            monkeypatch.setenv("KLUSTER_BASE_URL", server.base_url)
            litellm.completion(LLAMA, messages=ASK)
        monkeypatch.setenv("KLUSTER_API_KEY", "third")
        with pytest.raises(litellm.AuthenticationError):
            litellm.completion(LLAMA, messages=ASK, max_retries=0)


def test_clients_of_many_keys_are_let_go(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy may pass on the keys of all its clients. A stream that is being read is not cut off."""
    monkeypatch.setattr(_calls, "_MAX_CLIENTS", 2)
    handler = register(KlusterConfig(base_url=emulator.base_url))
    chunks = litellm.completion(LLAMA, messages=ASK, stream=True, api_key="key-0")
    for number in range(1, 5):
        litellm.completion(LLAMA, messages=ASK, api_key=f"key-{number}")
    assert handler._connections._client.cache_info().currsize == 2
    assert "breakfast sandwich" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_an_address_that_would_leak_the_key_is_refused() -> None:
    register(KlusterConfig(api_key="key"))
    with pytest.raises(litellm.BadRequestError, match="unencrypted"):
        litellm.completion(LLAMA, messages=ASK, api_base="http://example.com/v1")


def test_text_completion(kluster: Emulator) -> None:
    response = litellm.text_completion(model=LLAMA, prompt="Say this")
    assert "Say this" in response.choices[0].text
    chunks = list(litellm.text_completion(model=LLAMA, prompt="Say this", stream=True))
    assert "Say this" in "".join(chunk.choices[0].text or "" for chunk in chunks)


async def test_async_text_completion(kluster: Emulator) -> None:
    response = await litellm.atext_completion(model=LLAMA, prompt="Say this", max_tokens=30, logprobs=2)
    assert "Say this" in response.choices[0].text
    sent = bodies(kluster)[0]
    assert (sent["max_completion_tokens"], sent["logprobs"], sent["top_logprobs"]) == (30, True, 2)
    chunks = [c async for c in await litellm.atext_completion(model=LLAMA, prompt="Say this", stream=True)]
    assert "Say this" in "".join(chunk.choices[0].text or "" for chunk in chunks)


def test_responses(kluster: Emulator) -> None:
    response = litellm.responses(model=LLAMA, input="Say this", store=True, metadata={"a": "b"}, instructions="Be kind")
    assert "Say this" in response.output[0].content[0].text
    kinds = [event.type for event in litellm.responses(model=LLAMA, input="Say this", stream=True)]
    assert kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds
    assert all(set(body) <= TAKEN for body in bodies(kluster))


RETRIES = [({}, 1), ({"max_retries": 2}, 3), ({"num_retries": 2}, 3), ({"num_retries": 0, "max_retries": 5}, 1)]


@pytest.mark.parametrize(("asked", "requests"), RETRIES, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_there_are_as_many_retries_as_asked(kluster: Emulator, way: str, asked: dict[str, int], requests: int) -> None:
    kluster.add_fault(Fault("status", status=500, times=None, headers={"retry-after-ms": "1"}))
    with pytest.raises(litellm.exceptions.openai.APIStatusError):
        WAYS[way](model=LLAMA, messages=ASK, **asked)
    assert len(kluster.requests) == requests


def test_what_fails_once_is_asked_again(kluster: Emulator) -> None:
    kluster.add_fault(Fault("status", status=429, times=2, headers={"retry-after-ms": "1"}))
    assert litellm.completion(LLAMA, messages=ASK, num_retries=2).choices
    assert len(kluster.requests) == 3


def test_the_configurations_retries_hold_where_the_call_says_nothing(emulator: Emulator) -> None:
    register(KlusterConfig(api_key="key", base_url=emulator.base_url, max_retries=1))
    emulator.add_fault(Fault("status", status=500, times=None, headers={"retry-after-ms": "1"}))
    with pytest.raises(litellm.InternalServerError):
        litellm.completion(LLAMA, messages=ASK)
    assert len(emulator.requests) == 2


@pytest.mark.parametrize("way", ["completion", "stream"])
def test_timeout(way: str) -> None:
    with RawServer() as server:
        server.script(Reply(silent=True, end="hang"))
        register(KlusterConfig(api_key="key", base_url=server.base_url, max_retries=0))
        with pytest.raises(litellm.Timeout, match="did not answer in time") as caught:
            WAYS[way](model=LLAMA, messages=ASK, timeout=0.2)
        assert caught.value.status_code == 408


def test_the_configurations_timeout_holds_where_the_call_says_nothing() -> None:
    with RawServer() as server:
        server.script(Reply(silent=True, end="hang"))
        register(KlusterConfig(api_key="key", base_url=server.base_url, max_retries=0, timeout=0.2))
        with pytest.raises(litellm.Timeout):
            litellm.completion(LLAMA, messages=ASK)


def test_json_is_repaired_or_refused() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wish = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with RawServer() as server:
        register(KlusterConfig(api_key="key", base_url=server.base_url))
        server.script(whole({"content": "no"}), whole({"content": 'Here: {"a": 1}'}))
        response = litellm.completion(NEMO, messages=ASK, response_format=wish)
        assert response.choices[0].message.content == '{"a": 1}'
        assert response.usage.total_tokens == 14, "of both tries"
        server.script(whole({"content": "no"}))
        with pytest.raises(litellm.JSONSchemaValidationError) as caught:
            litellm.completion(NEMO, messages=ASK, response_format=wish, max_repairs=0)
        assert caught.value.raw_response == "no"


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_of_json_is_checked_before_anybody_sees_it(way: str) -> None:
    with RawServer() as server:
        register(KlusterConfig(api_key="key", base_url=server.base_url))
        server.script(whole({"content": "no"}), whole({"content": 'Here: {"a": 1}'}))
        response = WAYS[way](model=NEMO, messages=ASK, response_format={"type": "json_object"})
        assert response.choices[0].message.content == '{"a": 1}'
        assert response.usage.total_tokens == 14
        assert [request.json["stream"] for request in server.requests] == [True, True]


class Log(CustomLogger):
    """Notes the events of one call: LiteLLM also delivers those that calls in earlier event loops have left."""

    def __init__(self, call_id: str) -> None:
        super().__init__()
        self._call_id = call_id
        self.events: list[str] = []
        self.costs: list[float] = []
        self.sent: list[Any] = []

    def log_pre_api_call(self, model: str, messages: Any, kwargs: Any) -> None:
        if kwargs["litellm_call_id"] == self._call_id:
            self.sent.append((kwargs["additional_args"]["complete_input_dict"], json.dumps(kwargs, default=str)))

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        if kwargs["litellm_call_id"] == self._call_id:
            self.events.append("success")
            self.costs.append(kwargs["standard_logging_object"]["response_cost"])

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        if kwargs["litellm_call_id"] == self._call_id:
            self.events.append("failure")

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.log_failure_event(kwargs, response_obj, start_time, end_time)


async def _astream(**call: Any) -> None:
    async for _ in await litellm.acompletion(stream=True, **call):
        pass


CALLS: dict[str, Callable[..., Any]] = {
    "completion": lambda **call: litellm.completion(**call),
    "stream": lambda **call: stream(**call),
    "acompletion": lambda **call: litellm.acompletion(**call),
    "astream": _astream,
}


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
@pytest.mark.parametrize("way", CALLS)
async def test_callbacks_come_once(kluster: Emulator, way: str, fails: bool) -> None:
    call_id = f"call-{way}-{fails}"
    log = Log(call_id)
    litellm.callbacks = [log]
    if fails:
        kluster.add_fault(Fault("status", status=400, times=None))
    try:
        answer = CALLS[way](model=LLAMA, messages=ASK, litellm_call_id=call_id)
        if asyncio.iscoroutine(answer):
            await answer
    except litellm.BadRequestError:
        assert fails
    until = time.monotonic() + 10
    while not log.events and time.monotonic() < until:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)  # a second one would come now
    assert log.events == ["failure" if fails else "success"]
    assert len(log.sent) == 1
    assert log.sent[0][0] == bodies(kluster)[0]
    assert "test-key" not in log.sent[0][1]
    if not fails:
        assert log.costs[0] > 0


@pytest.mark.usefixtures("own_catalog")
def test_a_model_that_is_added_later_is_priced(kluster: Emulator) -> None:
    spec = ModelSpec(id="me/tuned", prices=catalog.Prices(1.0, 2.0))
    with Emulator(models=[spec]) as server:
        catalog.add(spec)
        response = litellm.completion("kluster/me/tuned", messages=ASK, api_base=server.base_url)
    usage = response.usage
    assert litellm.completion_cost(response) == spec.cost(usage.prompt_tokens, usage.completion_tokens)


def test_limits_are_kept_over_all_models(emulator: Emulator) -> None:
    limits = Limits(requests=3, max_wait=0.0)
    register(KlusterConfig(api_key="limited", base_url=emulator.base_url), limits=limits)
    litellm.completion(LLAMA, messages=ASK)
    stream(model=NEMO, messages=ASK)
    litellm.embedding(EMBED, input=["a"])
    for ask in (lambda: litellm.completion(NEMO, messages=ASK), lambda: litellm.embedding(EMBED, input=["a"])):
        with pytest.raises(litellm.RateLimitError, match="3 requests in 60 s") as caught:
            ask()
        assert int(caught.value.response.headers["retry-after"]) > 50
    assert len(emulator.requests) == 3
    litellm.completion(NEMO, messages=ASK, api_key="another")


async def test_a_stream_holds_its_slot_until_it_is_over_or_dropped(emulator: Emulator) -> None:
    limits = Limits(concurrent=1, max_wait=0.0)
    register(KlusterConfig(api_key="slots", base_url=emulator.base_url, max_retries=0), limits=limits)
    chunks = await litellm.acompletion(LLAMA, messages=ASK, stream=True)
    await anext(chunks)
    with pytest.raises(litellm.RateLimitError, match="1 concurrent"):
        await litellm.acompletion(NEMO, messages=ASK)
    await chunks.aclose()
    await litellm.acompletion(NEMO, messages=ASK)
    ended = litellm.completion(LLAMA, messages=ASK, stream=True)
    with pytest.raises(litellm.RateLimitError):
        litellm.completion(NEMO, messages=ASK)
    del ended  # never read
    litellm.completion(NEMO, messages=ASK)
