"""The adapters' main features against a real server, native and prompted.

A model of 135 million parameters neither reads a schema nor chooses a tool (docs/evidence.md has figures), but it can
repeat a text: so it is asked to repeat the answer that is wanted, and what is tested is all that lies around it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.errors import BadRequestError, InternalServerError

from ..agreeing import WAYS, Question, Way

MODELS = ("native", "prompted")
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 60}


def repeating(text: str) -> dict[str, Any]:
    """Return the fields of a question that has the model repeat a text, as it seems to have done before."""
    ask = f"Repeat this text exactly:\n{text}"
    return {
        "content": ask,
        "history": ({"role": "user", "content": ask}, {"role": "assistant", "content": text}) * 2,
        "params": GREEDY,
    }


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_it_answers_and_counts(way: Way, model: str, config: KlusterConfig) -> None:
    seen = way.ask(config, Question(model, **repeating("Good morning")))
    assert "Good morning" in getattr(seen, "text", ""), seen
    assert seen.usage is not None
    prompt, completion, _ = seen.usage
    if model == "native" or not way.stream:  # else it is estimated
        assert 20 < prompt < 100
        assert 2 <= completion <= 8


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_a_schema(way: Way, model: str, config: KlusterConfig) -> None:
    seen = way.ask(config, Question(model, city=True, **repeating('{"name": "Oslo", "size": 7}')))
    assert seen.city is not None, seen
    assert seen.city.name == "Oslo"


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_a_tool_call(way: Way, model: str, config: KlusterConfig) -> None:
    wanted = '<tool_call>\n{"name": "create_city", "arguments": {}}\n</tool_call>'
    seen = way.ask(config, Question(model, tools=True, **repeating(wanted)))
    assert [name for name, _ in seen.calls] == ["create_city"], seen
    assert isinstance(json.loads(seen.calls[0][1]), dict)


def test_a_tools_result_goes_back_and_is_answered(config: KlusterConfig) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "create_city", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Make a city."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    client = Client(config)
    for model in MODELS:
        assert client.complete(client.build(model, messages, GREEDY)).text


def test_logprobs_stops_and_limits(config: KlusterConfig) -> None:
    client = Client(config)
    messages = [{"role": "user", "content": "Count: 1, 2, 3, 4, 5, 6, 7, 8, 9"}]
    for model in MODELS:
        params = {"temperature": 0, "max_completion_tokens": 7, "logprobs": True, "top_logprobs": 2}
        done = client.complete(client.build(model, messages, params))
        assert (done.finish_reason, done.usage.completion_tokens) == ("length", 7)
        assert done.logprobs is not None
        assert len(done.logprobs["content"]) == 7
        stopped = client.complete(client.build(model, messages, {**GREEDY, "stop": ["e"]}))
        assert stopped.finish_reason == "stop"
        assert "e" not in stopped.text


def test_what_the_server_refuses_is_a_typed_error(config: KlusterConfig) -> None:
    client = Client(config)
    with pytest.raises(BadRequestError) as caught:
        client.complete(client.build("unknown", [{"role": "user", "content": "word " * 20_000}], {}))
    assert caught.value.status_code == 400
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
    with pytest.raises(InternalServerError, match="image"):  # llama.cpp answers 500
        client.complete(client.build("unknown", [{"role": "user", "content": image}], {}))


@pytest.mark.parametrize("adapter", ["core", "langchain", "litellm", "crewai"])
def test_embeddings(adapter: str, llama_vectors: str, catalog: Path) -> None:
    config = KlusterConfig(base_url=llama_vectors, catalog=catalog, max_retries=0, timeout=60)
    texts = ["A cat sleeps.", "It rains."]
    if adapter == "core":
        rows = Client(config).embed("vectors", texts).rows
    elif adapter == "langchain":
        from kluster_integrations.langchain import KlusterEmbeddings

        rows = KlusterEmbeddings(model="vectors", config=config).embed_documents(texts)
    elif adapter == "litellm":
        import litellm

        from kluster_integrations.litellm import register

        register(config)
        rows = [row["embedding"] for row in litellm.embedding("kluster/vectors", input=texts).data]
    else:
        from crewai.rag.embeddings.factory import build_embedder

        from kluster_integrations.crewai import kluster_embedder

        rows = [list(map(float, v)) for v in build_embedder(kluster_embedder("vectors", config=config))(texts)]
    assert [len(row) for row in rows] == [576, 576]
    assert rows[0] != rows[1]


def test_refresh_reads_its_window(config: KlusterConfig, own_catalog: None) -> None:
    from kluster_integrations import catalog

    [spec] = catalog.refresh(config)
    assert (spec.context_window, spec.max_output_tokens, spec.supports_vision, spec.known) == (
        8_192,
        8_192,
        False,
        True,
    )
