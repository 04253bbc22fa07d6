"""How `ChatKluster` fits into LangChain: caches, retries, fallbacks, batches, flags, parameters, clients, tokens."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from kluster_integrations import budget
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.langchain import (
    ChatKluster,
    KlusterBudgetExceededError,
    KlusterEmbeddings,
    KlusterRateLimitError,
    KlusterUnsupportedParameterError,
)
from kluster_integrations.langchain._compat import ModelError, ModelInvalidRequestError
from kluster_integrations.limits import Limits

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"
GEMMA = "google/gemma-3-27b-it"
CLIENTS = [httpx, httpx2]


def bodies(emulator: Emulator) -> list[Any]:
    return [request.body for request in emulator.requests]


# Cache.


async def test_a_cached_second_call_makes_no_request(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    model = chat(cache=InMemoryCache())

    first, second, third = model.invoke("hi"), model.invoke("hi"), await model.ainvoke("hi")

    assert first.content == second.content == third.content
    assert len(emulator.requests) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 0.1},
        {"model": R1},
        {"max_tokens": 5},
        {"stop": ["x"]},
        {"seed": 1},
        {"tool_calling": "prompted"},
    ],
    ids=str,
)
def test_other_settings_miss_the_cache(
    chat: Callable[..., ChatKluster], emulator: Emulator, other: dict[str, Any]
) -> None:
    cache = InMemoryCache()

    chat(cache=cache).invoke("hi")
    chat(**{"cache": cache, **other}).invoke("hi")

    assert len(emulator.requests) == 2


@pytest.mark.parametrize("call", [{"temperature": 0.1}, {"model": R1}, {"stop": ["x"]}], ids=str)
def test_arguments_of_a_call_miss_the_cache(
    chat: Callable[..., ChatKluster], emulator: Emulator, call: dict[str, Any]
) -> None:
    model = chat(cache=InMemoryCache())

    model.invoke("hi")
    model.invoke("hi", **call)

    assert len(emulator.requests) == 2


def test_the_global_cache_serves_equal_models(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    set_llm_cache(InMemoryCache())
    try:
        chat().invoke("hi")
        chat().invoke("hi")
    finally:
        set_llm_cache(None)

    assert len(emulator.requests) == 1


def test_tools_miss_the_cache(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    def get_time(city: str) -> str:
        """Get the time in a city."""
        return city

    model = chat(cache=InMemoryCache())

    model.invoke("hi")
    model.bind_tools([get_time]).invoke("hi")
    model.bind_tools([get_time], tool_choice="any").invoke("hi")

    assert len(emulator.requests) == 3


# Retries and fallbacks.

LIMITED = Fault("status", status=429, headers={"retry-after-ms": "1"})


def test_with_retry(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    emulator.add_fault(LIMITED)
    model = chat().with_retry(
        retry_if_exception_type=(openai.RateLimitError,), wait_exponential_jitter=False, stop_after_attempt=2
    )

    assert model.invoke("hi").text
    assert len(emulator.requests) == 2


@pytest.mark.parametrize(("max_retries", "requests"), [(0, 1), (1, 2), (2, 3)])
async def test_one_layer_of_retries(
    chat: Callable[..., ChatKluster], emulator: Emulator, max_retries: int, requests: int
) -> None:
    emulator.add_fault(Fault("status", status=429, headers={"retry-after-ms": "1"}, times=None))

    with pytest.raises(KlusterRateLimitError):
        chat(max_retries=max_retries).invoke("hi")
    with pytest.raises(KlusterRateLimitError):
        await chat(max_retries=max_retries).ainvoke("hi")
    assert len(emulator.requests) == 2 * requests


async def test_with_fallbacks(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=500, model=LLAMA, times=None))
    model = chat(LLAMA).with_fallbacks([chat(R1)])

    assert model.invoke("hi").response_metadata["model_name"] == R1
    assert (await model.ainvoke("hi")).response_metadata["model_name"] == R1
    assert "".join(part.text for part in model.stream("hi"))


def test_fallbacks_keep_tools_and_schemas(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=500, model=LLAMA, times=None))
    schema = {"title": "person", "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    model = chat(LLAMA).with_structured_output(schema).with_fallbacks([chat(R1).with_structured_output(schema)])

    assert model.invoke("name: Ada") == {"name": "Ada"}


# Batches.


async def test_batches(chat: Callable[..., ChatKluster]) -> None:
    questions: list[Any] = [f"Question {n}" for n in range(6)]

    answers = chat().batch(questions, config={"max_concurrency": 3})
    later = await chat().abatch(questions)

    for number, answer in enumerate(answers):
        assert answer.text == f"Echo: Question {number}"
        assert answer.text == later[number].text


async def test_batch_as_completed(chat: Callable[..., ChatKluster]) -> None:
    answers = dict(chat().batch_as_completed(["a", "b", "c"]))
    later = {index: answer async for index, answer in chat().abatch_as_completed(["a", "b", "c"])}

    assert sorted(answers) == sorted(later) == [0, 1, 2]
    assert answers[1].text == "Echo: b"  # type: ignore[union-attr]


def test_a_batch_can_return_exceptions(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=500))

    answers = chat().batch(["a", "b"], config={"max_concurrency": 1}, return_exceptions=True)

    assert [isinstance(answer, Exception) for answer in answers] == [True, False]


async def test_many_at_once_share_the_pool(chat: Callable[..., ChatKluster]) -> None:
    model = chat()

    answers = await asyncio.gather(*(model.ainvoke(f"Question {n}") for n in range(30)))

    assert all(answer.text == f"Echo: Question {n}" for n, answer in enumerate(answers))


# The account's limits.

ONCE = Limits(requests=1, period=3_600.0, max_wait=0.0)


async def test_limits_hold_requests_back(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    model = chat(limits=ONCE, api_key="key-of-this-test")
    again = chat(R1, limits=ONCE, api_key="key-of-this-test")  # another model, the same account

    assert model.invoke("hi").text
    for ask in (again.invoke, lambda text: list(again.stream(text))):
        with pytest.raises(KlusterRateLimitError, match="Nothing was sent"):
            ask("hi")
    with pytest.raises(KlusterRateLimitError, match="Nothing was sent"):
        await again.ainvoke("hi")
    with pytest.raises(KlusterRateLimitError, match="Nothing was sent"):
        [part async for part in again.astream("hi")]
    with pytest.raises(KlusterRateLimitError, match="Nothing was sent"):
        KlusterEmbeddings(base_url=emulator.base_url, limits=ONCE, api_key="key-of-this-test").embed_query("hi")
    assert len(emulator.requests) == 1


def test_a_stream_that_is_left_early_gives_its_slot_back(chat: Callable[..., ChatKluster]) -> None:
    model = chat(limits=Limits(concurrent=1, max_wait=0.0), api_key="another-key-of-this-test")

    for _ in model.stream("hi"):
        break

    assert model.invoke("hi").text


def test_a_budget_ends_a_run_and_is_not_retried(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    with budget(usd=1e-9) as spent:
        answer = chat().invoke("hi")
        with pytest.raises(KlusterBudgetExceededError) as caught:
            list(chat().stream("hi"))

    assert isinstance(caught.value, ModelError)
    assert not caught.value.is_retryable
    assert caught.value.limit_usd == 1e-9
    assert spent.usd == pytest.approx(answer.response_metadata["cost"])
    assert len(emulator.requests) == 1


# Streaming flags.


def get_time(city: str) -> str:
    """Get the time in a city."""
    return city


@pytest.mark.parametrize(
    ("flag", "streams", "with_tools"),
    [(False, True, True), ("tool_calling", True, False), (True, False, False)],
)
def test_disable_streaming(
    chat: Callable[..., ChatKluster], emulator: Emulator, flag: Any, streams: bool, with_tools: bool
) -> None:
    model = chat(disable_streaming=flag)

    assert "".join(part.text for part in model.stream("hi"))
    list(model.bind_tools([get_time]).stream("What time is it in Rome?"))

    assert [body.get("stream", False) for body in bodies(emulator)] == [streams, with_tools]


async def test_streaming_true_streams_underneath(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    plain, streamed = chat().invoke("hi"), chat(streaming=True).invoke("hi")
    later = await chat(streaming=True).ainvoke("hi")

    assert plain.content == streamed.content == later.content
    assert [body.get("stream", False) for body in bodies(emulator)] == [False, True, True]


# Parameters.


def test_fields_and_what_is_sent(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    chat(
        temperature=0.5,
        top_p=0.9,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        logit_bias={"5": 1},
        logprobs=True,
        top_logprobs=2,
        max_tokens=50,
        seed=7,
        stop=["END"],
        extra_body={"metadata": {"team": "a"}},
    ).invoke("hi")

    (body,) = bodies(emulator)
    assert body == {
        "model": LLAMA,
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "logit_bias": {"5": 1},
        "logprobs": True,
        "top_logprobs": 2,
        "max_completion_tokens": 50,
        "seed": 7,
        "stop": ["END"],
        "metadata": {"team": "a"},
    }


def test_nothing_more_than_needed_is_sent(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    chat().invoke("hi")

    assert bodies(emulator) == [{"model": LLAMA, "messages": [{"role": "user", "content": "hi"}]}]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_under_both_names(chat: Callable[..., ChatKluster], emulator: Emulator, name: str) -> None:
    chat(**{name: 5}).invoke("hi")
    chat().invoke("hi", **{name: 5})
    chat(max_tokens=9).invoke("hi", **{name: 5})

    assert [body["max_completion_tokens"] for body in bodies(emulator)] == [5, 5, 5]


def test_other_aliases() -> None:
    model = ChatKluster(model_name=LLAMA, api_key="key", request_timeout=3, stop_sequences=["x"])

    assert (model.model, model.timeout, model.stop) == (LLAMA, 3, ["x"])


def test_unknown_arguments_warn_and_go_to_model_kwargs(chat: Callable[..., ChatKluster]) -> None:
    with pytest.warns(UserWarning, match="top_k"):
        model = chat(top_k=5)

    assert model.model_kwargs == {"top_k": 5}
    with pytest.raises(KlusterUnsupportedParameterError, match="top_k=5"):
        model.invoke("hi")


def test_unsupported_drop_leaves_them_out(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    with pytest.warns(UserWarning, match="does not take service_tier='flex', n=2: left out"):
        chat(unsupported="drop", model_kwargs={"service_tier": "flex", "n": 2}).invoke("hi")

    assert set(bodies(emulator)[0]) == {"model", "messages"}


def test_fields_in_model_kwargs_become_fields_with_a_warning() -> None:
    given = {"temperature": 0.5}

    with pytest.warns(UserWarning, match="temperature"):
        model = ChatKluster(model=LLAMA, api_key="key", model_kwargs=given)

    assert (model.temperature, model.model_kwargs) == (0.5, {})
    assert given == {"temperature": 0.5}  # the caller's own


def test_the_apis_metadata_are_not_langchains(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    chat(metadata={"run": "1"}, tags=["a"]).invoke("hi", config={"metadata": {"run": "2"}})
    chat(extra_body={"metadata": {"team": "b"}}).invoke("hi")

    assert [body.get("metadata") for body in bodies(emulator)] == [None, {"team": "b"}]


def test_known_arguments_do_not_warn(chat: Callable[..., ChatKluster]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        chat(temperature=0, name="me", tags=["a"], metadata={"b": 1}, verbose=False, output_version="v1")


def test_extra_body_goes_as_it_is(chat: Callable[..., ChatKluster]) -> None:
    with Emulator(strict=False) as lenient:
        model = chat(base_url=lenient.base_url, extra_body={"top_k": 5})
        model.invoke("hi")
        model.invoke("hi", extra_body={"min_p": 0.1})

        assert [(b.get("top_k"), b.get("min_p")) for b in bodies(lenient)] == [(5, None), (5, 0.1)]


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 3}, {"top_p": -1}, {"max_tokens": 0}, {"top_logprobs": 3}, {"stop": [3]}],
    ids=str,
)
def test_values_out_of_range_cost_no_request(
    chat: Callable[..., ChatKluster], emulator: Emulator, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ModelInvalidRequestError, match=next(iter(wrong))):
        chat().invoke("hi", **wrong)
    assert emulator.requests == []


def test_six_stops_end_the_answer(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    stops = ["#1", "#2", "#3", "#4", "#5", "I see"]

    emulator.reply("I am here. I see all.", times=None)

    answer = chat().invoke("hi", stop=stops)

    assert answer.text == "I am here. "
    assert bodies(emulator)[0]["stop"] == stops[:4]
    assert "I see" not in "".join(part.text for part in chat(stop=stops).stream("hi"))


@pytest.mark.parametrize("value", [0, -1, "soon"])
def test_a_bad_timeout_is_refused_at_construction(value: Any) -> None:
    with pytest.raises(ValidationError, match="timeout"):
        ChatKluster(model=LLAMA, api_key="key", timeout=value)


def test_a_timeout_of_a_call(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    emulator.add_fault(Fault("hang"))

    with pytest.raises(openai.APITimeoutError):
        chat().invoke("hi", timeout=0.05)


# Overrides.


async def test_the_model_of_a_call(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    answers = [chat().invoke("hi", model=R1), await chat().ainvoke("hi", model=R1), chat().bind(model=R1).invoke("hi")]

    assert [answer.response_metadata["model_name"] for answer in answers] == [R1] * 3
    assert all("reasoning_content" in answer.additional_kwargs for answer in answers)
    assert [body["model"] for body in bodies(emulator)] == [R1] * 3


def test_bind(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    chat(temperature=0.5).bind(temperature=0.1, stop=["x"]).invoke("hi")

    assert (bodies(emulator)[0]["temperature"], bodies(emulator)[0]["stop"]) == (0.1, ["x"])


def test_with_config(chat: Callable[..., ChatKluster]) -> None:
    assert chat().with_config(tags=["a"], run_name="mine").invoke("hi").text


def test_configurable_fields(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    model = chat(temperature=0.5).configurable_fields(
        temperature=ConfigurableField(id="temperature"), model_name=ConfigurableField(id="model")
    )

    model.invoke("hi")
    answer = model.with_config(configurable={"temperature": 0.1, "model": R1}).invoke("hi")

    assert [body["temperature"] for body in bodies(emulator)] == [0.5, 0.1]
    assert answer.response_metadata["model_name"] == R1


def test_configurable_alternatives(chat: Callable[..., ChatKluster]) -> None:
    model = chat().configurable_alternatives(ConfigurableField(id="llm"), default_key="llama", r1=chat(R1))

    assert model.with_config(configurable={"llm": "r1"}).invoke("hi").response_metadata["model_name"] == R1


def test_a_chain(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    chain = ChatPromptTemplate([("system", "Be brief."), ("user", "{question}")]) | chat() | StrOutputParser()

    assert chain.invoke({"question": "Who?"}) == "Echo: Who?"
    assert bodies(emulator)[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "".join(chain.stream({"question": "Who?"})) == chain.invoke({"question": "Who?"})


# Clients, headers, configuration.


@pytest.mark.parametrize("library", CLIENTS, ids=lambda module: module.__name__)
async def test_own_http_clients(chat: Callable[..., ChatKluster], emulator: Emulator, library: Any) -> None:
    headers = {"x-mine": "yes"}
    with library.Client(headers=headers) as client:
        async with library.AsyncClient(headers=headers) as async_client:
            model = chat(http_client=client, http_async_client=async_client)
            model.invoke("hi")
            list(model.stream("hi"))
            await model.ainvoke("hi")
            [part async for part in model.astream("hi")]

    assert [request.headers.get("x-mine") for request in emulator.requests] == ["yes"] * 4


def test_default_and_extra_headers(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    model = chat(default_headers={"x-team": "a", "user-agent": "mine/1"})

    model.invoke("hi")
    model.invoke("hi", extra_headers={"x-team": "b"})

    assert [request.headers["x-team"] for request in emulator.requests] == ["a", "b"]
    assert emulator.requests[0].headers["user-agent"] == "mine/1"


def test_a_config_and_arguments_beside_it(emulator: Emulator) -> None:
    config = KlusterConfig(api_key="key", base_url=emulator.base_url, plan="trial", max_retries=5)

    model = ChatKluster(model=R1, config=config, plan="core")

    assert model.invoke("hi").text
    assert model.spec.context_window == 163_840
    assert model._client.config.max_retries == 5


async def test_close_and_go_on(chat: Callable[..., ChatKluster]) -> None:
    model = chat()

    for _ in range(2):
        assert model.invoke("hi").text
        model.close()
        assert (await model.ainvoke("hi")).text
        await model.aclose()
    model.close()
    await model.aclose()


def test_event_loops_come_and_go(chat: Callable[..., ChatKluster]) -> None:
    model = chat()

    answers = [asyncio.run(model.ainvoke("hi")).text for _ in range(3)]

    assert len(set(answers)) == 1


def test_a_missing_key_is_said_at_the_call(emulator: Emulator) -> None:
    for model in (ChatKluster(model=LLAMA), ChatKluster(model=LLAMA, base_url=emulator.base_url)):
        with pytest.raises(openai.AuthenticationError, match="KLUSTER_API_KEY"):
            model.invoke("hi")
    [request] = emulator.requests  # a server on loopback may need none
    assert "authorization" not in request.headers


# Tokens.


def test_tokens_are_counted_offline(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    model = chat()
    messages = [SystemMessage("Be brief."), HumanMessage("What is the ultimate breakfast sandwich?")]

    assert 5 <= model.get_num_tokens("What is the ultimate breakfast sandwich?") <= 15
    assert 10 <= model.get_num_tokens_from_messages(messages) <= 40
    assert model.get_num_tokens_from_messages(messages, tools=[get_time]) > model.get_num_tokens_from_messages(messages)
    assert emulator.requests == []


def test_an_own_tokenizer(chat: Callable[..., ChatKluster]) -> None:
    model = chat(custom_get_token_ids=lambda text: list(range(len(text.split()))))

    assert model.get_num_tokens("one two three") == 3


def test_trim_messages_counts_with_the_model(chat: Callable[..., ChatKluster]) -> None:
    history = [
        SystemMessage("Be brief."),
        *(message for n in range(20) for message in (HumanMessage(f"Question {n} " * 20), AIMessage("Answer " * 20))),
        HumanMessage("The last question"),
    ]

    trimmed = trim_messages(
        history, token_counter=chat(), max_tokens=400, strategy="last", include_system=True, start_on="human"
    )

    assert trimmed[0] == history[0]
    assert trimmed[-1] == history[-1]
    assert 3 < len(trimmed) < len(history)
    assert chat().get_num_tokens_from_messages(trimmed) <= 400


# What is trimmed and summarized may be any part of a history, of any length.


def test_tokens_of_nothing(chat: Callable[..., ChatKluster]) -> None:
    assert chat().get_num_tokens_from_messages([]) == 0


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_tokens_of_a_result_without_its_call(chat: Callable[..., ChatKluster], model: str) -> None:
    assert chat(model).get_num_tokens_from_messages([ToolMessage("Sunny", tool_call_id="1")]) > 0


@pytest.mark.parametrize("model", [LLAMA, GEMMA])
def test_tokens_of_an_image(chat: Callable[..., ChatKluster], model: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    message = HumanMessage([{"type": "text", "text": "What is this?"}, image])

    assert chat(model).get_num_tokens_from_messages([message]) > 0


def test_tokens_of_a_history_past_the_window(chat: Callable[..., ChatKluster]) -> None:
    assert chat().get_num_tokens_from_messages([HumanMessage("word " * 200_000)]) > 131_072


def test_trim_messages_of_a_history_past_the_window(chat: Callable[..., ChatKluster]) -> None:
    history = [HumanMessage("word " * 200_000), AIMessage("Long."), HumanMessage("Short?")]

    trimmed = trim_messages(history, token_counter=chat(), max_tokens=1000, strategy="last")

    assert trimmed[-1] == history[-1]
    assert len(trimmed) == 2
