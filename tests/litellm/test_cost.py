"""Usage and cost: the catalog's price times the tokens, to the last digit, also where a stream has no usage."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import litellm
import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec, Prices
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator
from kluster_integrations.litellm import register
from tests.litellm.asking import ASK, EMBED, LLAMA, WAYS
from tests.raw_server import RawServer, Reply, sse, whole

PRICED = [spec for spec in catalog.all_models() if spec.prices and spec.purpose == "chat"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spec", PRICED, ids=lambda spec: spec.id)
def test_cost_is_the_catalogs_price_times_tokens(kluster: Emulator, spec: ModelSpec, way: str) -> None:
    response = WAYS[way](model=f"kluster/{spec.id}", messages=ASK)
    usage = response.usage
    assert min(usage.prompt_tokens, usage.completion_tokens) > 0
    expected = spec.cost(usage.prompt_tokens, usage.completion_tokens)
    assert litellm.completion_cost(response, model=f"kluster/{spec.id}") == expected
    if way in ("completion", "acompletion"):
        assert response._hidden_params["response_cost"] == expected
        assert litellm.completion_cost(response) == expected


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_a_stream_without_usage_is_estimated_and_says_so(kluster: Emulator, awaited: bool) -> None:
    chunks: list[Any] = []
    call: dict[str, Any] = {"messages": ASK, "stream": True, "stream_options": {"include_usage": True}}
    model = f"kluster/{PRICED[0].id}"

    async def collect() -> None:
        chunks.extend([chunk async for chunk in await litellm.acompletion(model, **call)])

    if awaited:
        asyncio.run(collect())
    else:
        chunks.extend(litellm.completion(model, **call))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.completion_tokens >= len(text) // 4
    assert "stream_options" not in kluster.requests[0].body  # type: ignore[operator]


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_usage_that_the_server_sends_is_exact(way: str) -> None:
    usage = {"prompt_tokens": 1_234, "completion_tokens": 567, "total_tokens": 1_801}
    with RawServer() as server:
        server.script(Reply(sse({"content": "Hi"}, usage=usage)))
        register(KlusterConfig(api_key="key", base_url=server.base_url))
        response = WAYS[way](model=f"kluster/{PRICED[0].id}", messages=ASK)
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (1_234, 567)


@pytest.mark.parametrize("way", WAYS)
def test_tokens_of_thoughts_are_estimated_where_the_server_does_not_count_them(kluster: Emulator, way: str) -> None:
    model = "deepseek-ai/DeepSeek-R1-0528"
    response = WAYS[way](model=f"kluster/{model}", messages=ASK)
    message, usage = response.choices[0].message, response.usage
    share = len(message.reasoning_content) / len(message.reasoning_content + message.content)
    assert usage.completion_tokens_details.reasoning_tokens == pytest.approx(usage.completion_tokens * share, abs=5)
    details = WAYS[way](model=LLAMA, messages=ASK).usage.completion_tokens_details
    assert not getattr(details, "reasoning_tokens", None)


@pytest.mark.usefixtures("own_catalog")
@pytest.mark.parametrize("way", WAYS)
def test_cost_with_thoughts_is_exact_whatever_the_numbers(way: str) -> None:
    """LiteLLM adds the products for thoughts and for text, which differ from that for both in a binary digit."""
    spec = ModelSpec(id="me/thinker", reasoning=True, prices=Prices(0.3, 0.7))
    catalog.add(spec)
    with RawServer() as server:
        register(KlusterConfig(api_key="key", base_url=server.base_url))
        for tokens in (1, 3, 7, 1_001, 54_321):
            usage = {"prompt_tokens": 11, "completion_tokens": tokens, "total_tokens": 11 + tokens}
            message = {"content": "Hi there", "reasoning_content": "Hm. " * tokens}
            server.script(Reply(sse(message, usage=usage)) if "stream" in way else whole(message, usage=usage))
            response = WAYS[way](model="kluster/me/thinker", messages=ASK)
            assert 0 < response.usage.completion_tokens_details.reasoning_tokens <= tokens
            assert litellm.completion_cost(response, model="kluster/me/thinker") == spec.cost(11, tokens)


@pytest.mark.usefixtures("own_catalog")
@pytest.mark.parametrize("way", WAYS)
def test_reasoning_tokens_that_the_server_counts_stay(way: str) -> None:
    """Also where their price and that of the rest are not the whole price to the last digit."""
    catalog.add(ModelSpec(id="me/thinker", reasoning=True, prices=Prices(0.3, 0.7)))
    with RawServer() as server:
        register(KlusterConfig(api_key="key", base_url=server.base_url))
        for tokens in range(1, 30):
            details = {"completion_tokens_details": {"reasoning_tokens": tokens}}
            usage = {"prompt_tokens": 11, "completion_tokens": 31, "total_tokens": 42, **details}
            message = {"content": "Hi", "reasoning_content": "Hm."}
            server.script(Reply(sse(message, usage=usage)) if "stream" in way else whole(message, usage=usage))
            response = WAYS[way](model="kluster/me/thinker", messages=ASK)
            assert response.usage.completion_tokens_details.reasoning_tokens == tokens


def test_details_of_usage() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 3}, "prompt_tokens_details": {"cached_tokens": 4}}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, **details}
    spec = PRICED[0]
    with RawServer() as server:
        server.script(whole({"content": "Hi"}, usage=usage))
        register(KlusterConfig(api_key="key", base_url=server.base_url))
        response = litellm.completion(f"kluster/{spec.id}", messages=ASK)
    assert response.usage.completion_tokens_details.reasoning_tokens == 3
    assert response.usage.prompt_tokens_details.cached_tokens == 4
    assert litellm.completion_cost(response) == pytest.approx(spec.cost(10, 5), rel=1e-12), "cached ones cost the same"


@pytest.mark.usefixtures("own_catalog")
@pytest.mark.parametrize("sync", [True, False])
async def test_cost_of_an_embedding(emulator: Emulator, sync: bool) -> None:
    spec = catalog.get("BAAI/bge-m3")
    priced = ModelSpec(
        id=spec.id, purpose="embeddings", context_window=8_192, max_output_tokens=0, prices=Prices(0.07, 0.0)
    )
    catalog.add(priced)
    register(KlusterConfig(api_key="key", base_url=emulator.base_url))
    call = {"model": EMBED, "input": ["some text", "and more of it"]}
    response = litellm.embedding(**call) if sync else await litellm.aembedding(**call)
    assert response.usage.prompt_tokens > 0
    expected = priced.cost(response.usage.prompt_tokens, 0)
    assert litellm.completion_cost(response) == response._hidden_params["response_cost"] == expected


def test_an_unknown_model_has_no_cost() -> None:
    spec = ModelSpec(id="somebody/tuned")
    with Emulator(models=[spec]) as server:
        register(KlusterConfig(api_key="key", base_url=server.base_url))
        response = litellm.completion("kluster/somebody/tuned", messages=ASK)
    assert response._hidden_params.get("response_cost") is None


def test_many_texts_go_in_several_requests(kluster: Emulator) -> None:
    response = litellm.embedding(EMBED, input=[f"text {i}" for i in range(300)])
    assert len(kluster.requests) == 2
    assert [row["index"] for row in response.data] == list(range(300))
    assert response.usage.prompt_tokens >= 300


@pytest.mark.parametrize("way", WAYS)
def test_cost_with_thoughts_is_exact_with_the_connections_own_catalog(way: str, tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[[models]]\nid = "my/one"\nreasoning = true\nprices = { input = 0.3, output = 0.7 }\n', "utf-8")
    with RawServer() as server:
        config = KlusterConfig(api_key="key", base_url=server.base_url, catalog=path)
        register(config)
        spec = catalog.get("my/one", config=config)
        for tokens in (7, 1_001, 54_321):
            usage = {"prompt_tokens": 11, "completion_tokens": tokens, "total_tokens": 11 + tokens}
            message = {"content": "Hi there", "reasoning_content": "Hm. " * tokens}
            server.script(Reply(sse(message, usage=usage)) if "stream" in way else whole(message, usage=usage))
            response = WAYS[way](model="kluster/my/one", messages=ASK)
            assert litellm.completion_cost(response, model="kluster/my/one") == spec.cost(11, tokens)
