"""Several answers to one request, where the server gives them: `native = ["n"]`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import Budget
from kluster_integrations.batch import BatchJob
from kluster_integrations.batch.lines import replay
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.core.response import read
from kluster_integrations.core.tokens import estimate_request
from kluster_integrations.core.types import ChatRequest, Completion
from kluster_integrations.errors import (
    BadRequestError,
    InternalServerError,
    OutputValidationError,
    UnsupportedParameterError,
)

from .agreeing import SCHEMA, TOOLS
from .raw_server import RawServer, Reply, whole

CATALOG = """
[[models]]
id = "mine"
context_window = 8_192
reasoning = true
prices = { input = 1.0, output = 1.0 }
native = ["n", "tools", "response_format"]

[[models]]
id = "plain"
context_window = 8_192
prices = { input = 1.0, output = 1.0 }
"""
ASK = [{"role": "user", "content": "Tell me of Oslo."}]
USAGE = {"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": 40}


def several(*messages: Any, usage: Any = USAGE, finish: str = "stop", reverse: bool = False) -> Reply:
    choices = [
        {"index": i, "message": {"role": "assistant", **({"content": m} if isinstance(m, str) else m)}}
        | {"finish_reason": finish}
        for i, m in enumerate(messages)
    ]
    body = {"id": "chat-1", "model": "mine", "choices": choices[::-1] if reverse else choices, "usage": usage}
    return Reply([json.dumps(body).encode()], content_type="application/json", framing="length")


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer() as made:
        yield made


@pytest.fixture
def config(server: RawServer, tmp_path: Path) -> KlusterConfig:
    path = tmp_path / "models.toml"
    path.write_text(CATALOG, "utf-8")
    return KlusterConfig(base_url=server.base_url, catalog=path, max_retries=0, timeout=20)


def build(config: KlusterConfig, n: Any = 2, **params: Any) -> ChatRequest:
    return Client(config).build("mine", ASK, {"n": n, **params}, several=True)


@pytest.fixture(params=["sync", "async"])
def complete(request: pytest.FixtureRequest, config: KlusterConfig) -> Callable[[ChatRequest], Completion]:
    client = Client(config)
    return client.complete if request.param == "sync" else lambda made: asyncio.run(client.acomplete(made))


def test_all_come_back_in_their_order(server: RawServer, config: KlusterConfig, complete: Any) -> None:
    server.script(several("<think>Hm.</think>One", {"content": "Two", "reasoning_content": "Ah."}, "3", reverse=True))
    with (spent := Budget(1.0)):
        done = complete(build(config, 3))
    assert server.requests[0].json["n"] == 3
    assert [(c.text, c.reasoning) for c in (done, *done.others)] == [("One", "Hm."), ("Two", "Ah."), ("3", "")]
    usage = done.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.requests, usage.estimated) == (10, 30, 1, False)
    assert 0 < (usage.reasoning_tokens or 0) < 30
    assert [c.usage.total_tokens for c in done.others] == [0, 0]
    assert spent.usd == pytest.approx(40 / 1_000_000)


def test_without_usage_the_estimate_counts_all(server: RawServer, config: KlusterConfig, complete: Any) -> None:
    server.script(several("a" * 40, "b" * 80, usage=None))
    usage = complete(build(config)).usage
    assert (usage.estimated, usage.completion_tokens) == (True, 30)
    assert usage.total_tokens == usage.prompt_tokens + 30


def test_each_is_checked_and_repaired_alone(server: RawServer, config: KlusterConfig, complete: Any) -> None:
    good = '{"name": "Oslo", "size": 7}'
    server.script(several(good, '{"name": "Bergen"}'), several('{"name": "Bergen", "size": 3}'))
    done = complete(build(config, response_format=SCHEMA))
    assert [json.loads(c.text)["size"] for c in (done, *done.others)] == [7, 3]
    first, second = (request.json for request in server.requests)
    assert "n" not in second
    assert [m["content"] for m in second["messages"] if m["role"] == "assistant"] == ['{"name": "Bergen"}']
    assert (done.usage.requests, done.usage.total_tokens) == (2, 80)
    assert first["response_format"] == second["response_format"]


def test_one_that_stays_wrong_fails_them_all(server: RawServer, config: KlusterConfig, complete: Any) -> None:
    server.script(several('{"name": "Oslo", "size": 7}', "no"), several("no"), several("no"))
    with pytest.raises(OutputValidationError):
        complete(build(config, response_format=SCHEMA))
    assert len(server.requests) == 3


def test_calls(server: RawServer, config: KlusterConfig, complete: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "create_city", "arguments": "{}"}}
    written = '<tool_call>{"name": "Oslo", "arguments": {}}</tool_call>'
    server.script(several({"content": None, "tool_calls": [call]}, written))
    done = complete(build(config, tools=TOOLS))
    assert [[call.name for call in c.tool_calls] for c in (done, *done.others)] == [["create_city"], ["Oslo"]]


@pytest.mark.parametrize("given", [1, 3])
def test_another_number_than_asked_for_is_an_error(
    server: RawServer, config: KlusterConfig, complete: Any, given: int
) -> None:
    server.script(several(*["One"] * given))
    with (
        (spent := Budget(1.0)),
        pytest.raises(InternalServerError, match=rf"gives {given} answers where n=2.*`native`"),
    ):
        complete(build(config))
    assert spent.usd > 0  # it was paid for


@pytest.mark.parametrize("choice", [None, 5, "text", {"message": 5}])
def test_what_cannot_be_read_is_a_typed_error(config: KlusterConfig, choice: Any) -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "a"}}, choice]}
    with pytest.raises(InternalServerError, match="form that cannot be read"):
        read(answer, build(config))


@pytest.mark.parametrize("n", [0, -1, "2", True, 2.0])
def test_what_is_not_a_number_of_answers_is_refused(config: KlusterConfig, n: Any) -> None:
    with pytest.raises(BadRequestError, match=r"n=.* must be a whole number of 1 or more"):
        build(config, n)


def test_one_is_not_sent(config: KlusterConfig) -> None:
    assert "n" not in build(config, 1).body


@pytest.mark.parametrize("model", ["mine", "plain"])
def test_where_it_cannot_be_had(config: KlusterConfig, model: str, tmp_path: Path) -> None:
    """A stream, and whoever takes one answer alone; elsewhere all."""
    client = Client(config)
    ways: list[dict[str, Any]] = [
        {"stream": True, "several": True},
        {},
        *([{"several": True}] if model == "plain" else []),
    ]
    said = r"n=2; allowed is n=1\." if model == "mine" else r"plain' does not take n=2; allowed are "
    for way in ways:
        with pytest.raises(UnsupportedParameterError, match=f"{said}.*Hint: send the request n times"):
            client.build(model, ASK, {"n": 2}, **way)
        dropping = Client(config.model_copy(update={"unsupported": "drop"}))
        with pytest.warns(UserWarning, match="n=2"):
            assert "n" not in dropping.build(model, ASK, {"n": 2}, **way).body
    with pytest.raises(UnsupportedParameterError, match="n=2"):
        BatchJob.create([ASK], folder=tmp_path / "job", config=config, model=model, n=2)


def test_an_estimate_knows_it(config: KlusterConfig) -> None:
    assert estimate_request({**build(config, 3).body, "max_completion_tokens": 50}, 8_192)[1] == 150


def test_in_the_results_of_a_job_of_someone_elses(config: KlusterConfig) -> None:
    answer = json.loads(several("One", "Two").pieces[0])
    done = replay(build(config), [answer])
    assert done.completion is not None
    assert [c.text for c in (done.completion, *done.completion.others)] == ["One", "Two"]
    assert done.tokens == 40


# In each framework


@pytest.mark.parametrize("sync", [True, False])
def test_langchain(server: RawServer, config: KlusterConfig, sync: bool) -> None:
    from langchain_core.messages import AIMessage, HumanMessage

    from kluster_integrations.langchain import ChatKluster

    server.script(several("One", "Two"))
    model, messages = ChatKluster(model="mine", config=config), [[HumanMessage("Count!")]]
    result = model.generate(messages, n=2) if sync else asyncio.run(model.agenerate(messages, n=2))
    made = [generation.message for generation in result.generations[0] if isinstance(generation.message, AIMessage)]
    assert [message.text for message in made] == ["One", "Two"]
    assert [message.response_metadata["finish_reason"] for message in made] == ["stop", "stop"]
    assert [message.usage_metadata and message.usage_metadata["total_tokens"] for message in made] == [40, 0]
    assert result.llm_output
    assert result.llm_output["token_usage"]["total_tokens"] == 40
    with pytest.raises(UnsupportedParameterError, match="n=2"):
        list(model.stream("Count!", n=2))
    with pytest.raises(UnsupportedParameterError, match="n=2"):
        ChatKluster(model="plain", config=config).generate(messages, n=2)
    with pytest.raises(UnsupportedParameterError, match="n=2"):
        model.batch_job(["Count!"], folder=config.catalog and Path(config.catalog).parent / "job", n=2)


@pytest.mark.parametrize("sync", [True, False])
def test_litellm(server: RawServer, config: KlusterConfig, sync: bool) -> None:
    litellm = pytest.importorskip("litellm")
    from kluster_integrations.litellm import register

    register(config)
    server.script(several("One", "Two"))
    call: dict[str, Any] = {"messages": ASK, "n": 2}
    if sync:
        answer = litellm.completion("kluster/mine", **call)
    else:
        answer = asyncio.run(litellm.acompletion("kluster/mine", **call))
    assert server.requests[0].json["n"] == 2
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "One", "stop"),
        (1, "Two", "stop"),
    ]
    assert answer.usage.total_tokens == 40
    with pytest.raises(litellm.UnsupportedParamsError, match="n=2"):
        litellm.completion("kluster/plain", **call)
    with pytest.raises(litellm.UnsupportedParamsError, match="n=2"):
        list(litellm.completion("kluster/mine", stream=True, **call))


def test_crewai_has_one_answer(server: RawServer, config: KlusterConfig) -> None:
    pytest.importorskip("crewai")
    from kluster_integrations.crewai import kluster_llm

    with pytest.raises(UnsupportedParameterError, match="n=2"):
        kluster_llm("mine", config=config, n=2).call("Count!")
    assert not server.requests


def test_the_gateway(server: RawServer, config: KlusterConfig) -> None:
    pytest.importorskip("starlette")
    import openai

    from kluster_integrations.gateway import Gateway

    server.script(several("One", "Two"))
    with Gateway(config, grace=1) as gateway, openai.OpenAI(base_url=gateway.base_url, api_key="any") as client:
        create: Any = client.chat.completions.create
        answer = create(model="mine", messages=ASK, n=2)
        assert [(c.index, c.message.content) for c in answer.choices] == [(0, "One"), (1, "Two")]
        assert answer.usage.total_tokens == 40
        assert [request.json.get("n") for request in server.requests] == [2]
        server.answer = lambda request: whole({"content": "Each"})
        answer = create(model="plain", messages=ASK, n=2)  # elsewhere as many requests
        assert [c.message.content for c in answer.choices] == ["Each", "Each"]
        assert [request.json.get("n") for request in server.requests] == [2, None, None]
        server.script(several('{"name": "Oslo", "size": 7}', '{"name": "Ber', finish="length"))
        with pytest.raises(openai.APIStatusError, match="it was cut"):
            create(model="mine", messages=ASK, n=2, response_format=SCHEMA)
