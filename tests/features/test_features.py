"""One test a row of the README's table of what works where, run on each adapter that the row says yes for."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from kluster_integrations import catalog, errors
from kluster_integrations.emulator import Emulator, Fault

from .adapters import Adapter, adapters

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"  # has tools
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"  # has none
R1 = "deepseek-ai/DeepSeek-R1"  # thinks, and has none
GEMMA = "google/gemma-3-27b-it"  # sees
CHAT = [spec.id for spec in catalog.all_models() if spec.purpose == "chat"]
VISION = [spec.id for spec in catalog.all_models() if spec.supports_vision]
WITHOUT_TOOLS = [spec.id for spec in catalog.all_models() if spec.purpose == "chat" and not spec.supports_tools]
THINKERS = [spec.id for spec in catalog.all_models() if spec.reasoning]
GIF_2X3 = "data:image/gif;base64,R0lGODlhAgADAAAAACw="

ALL = adapters("langchain", "litellm", "crewai")


class City(BaseModel):
    name: str
    country: str


def bodies(server: Emulator) -> list[dict[str, object]]:
    return [dict(request.body) for request in server.requests if isinstance(request.body, dict)]


@ALL
@pytest.mark.parametrize("model", CHAT)
def test_chat(adapter: Adapter, model: str, kluster: Emulator) -> None:
    assert "capital of France" in adapter.ask(model, "What is the capital of France?")
    assert [body["model"] for body in bodies(kluster)] == [model]


@ALL
async def test_async(adapter: Adapter, kluster: Emulator) -> None:
    assert "capital of France" in await adapter.aask(LLAMA, "What is the capital of France?")


@ALL
@pytest.mark.parametrize("model", [LLAMA, R1])
def test_streaming(adapter: Adapter, model: str, kluster: Emulator) -> None:
    pieces = adapter.stream(model, "What is the capital of France?")
    assert len(pieces) > 3
    assert "".join(pieces) == adapter.ask(model, "What is the capital of France?")
    assert bodies(kluster)[0]["stream"] is True
    assert "stream_options" not in bodies(kluster)[0]


@ALL
def test_tools(adapter: Adapter, kluster: Emulator) -> None:
    assert adapter.tool_call(LLAMA, "What is the weather in Paris?") == ("get_weather", {"city": "Paris"})
    assert "tools" in bodies(kluster)[0]


@ALL
@pytest.mark.parametrize("model", WITHOUT_TOOLS)
def test_tools_on_models_without_them(adapter: Adapter, model: str, kluster: Emulator) -> None:
    assert adapter.tool_call(model, "What is the weather in Paris?") == ("get_weather", {"city": "Paris"})
    assert "tools" not in bodies(kluster)[0]


@ALL
@pytest.mark.parametrize("model", CHAT)
def test_structured_output(adapter: Adapter, model: str, kluster: Emulator) -> None:
    assert adapter.fill(model, "name: Lisbon, country: Portugal", City) == City(name="Lisbon", country="Portugal")
    assert "response_format" not in bodies(kluster)[0]


@ALL
@pytest.mark.parametrize("model", VISION)
def test_images(adapter: Adapter, model: str, kluster: Emulator) -> None:
    kluster.reply("A picture of 2x3 pixels.")
    assert "2x3" in adapter.ask_about_image(model, "What is it?", GIF_2X3)
    assert GIF_2X3 in str(bodies(kluster)[0]["messages"])


@ALL
@pytest.mark.parametrize("style", ["reasoning_content", "reasoning", "think", "open"])
@pytest.mark.parametrize("model", THINKERS)
def test_reasoning(
    adapter: Adapter, model: str, style: str, monkeypatch: pytest.MonkeyPatch, kluster: Emulator
) -> None:
    with Emulator(reasoning=style) as server:  # type: ignore[arg-type]
        monkeypatch.setenv("KLUSTER_BASE_URL", server.base_url)
        thoughts, answer = adapter.think(model, "What is 6 times 7?")
    assert thoughts
    assert answer
    assert thoughts.strip() not in answer
    assert "think>" not in thoughts + answer


@ALL
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_usage(adapter: Adapter, stream: bool, kluster: Emulator) -> None:
    assert min(adapter.usage(LLAMA, "What is the capital of France?", stream=stream)) > 0


@adapters("langchain", "litellm")
def test_cost(adapter: Adapter, kluster: Emulator) -> None:
    prompt, completion, cost = adapter.cost(LLAMA, "What is the capital of France?")
    assert cost == pytest.approx(catalog.get(LLAMA).cost(prompt, completion), rel=1e-9)  # LangChain's is rounded
    assert cost > 0


@ALL
def test_embeddings(adapter: Adapter, kluster: Emulator) -> None:
    vectors = adapter.embed(["some text", "another"])
    assert [len(vector) for vector in vectors] == [1024, 1024]
    assert vectors[0] != vectors[1]


@ALL
def test_the_server_fails_once(adapter: Adapter, kluster: Emulator) -> None:
    kluster.add_fault(Fault("status", status=429, retry_after=0.01))
    assert adapter.ask(LLAMA, "Hello!")
    assert len(kluster.requests) == 2


@ALL
def test_the_server_fails_for_ever(adapter: Adapter, kluster: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    kluster.add_fault(Fault("status", status=500, body="vendor", times=None))
    monkeypatch.setenv("KLUSTER_MAX_RETRIES", "1")
    with pytest.raises(errors.InternalServerError, match="Unexpected error occurred"):
        adapter.ask(LLAMA, "Hello!")
    assert len(kluster.requests) == 2  # one further try, and not one a layer


@ALL
def test_what_kluster_does_not_take_is_refused_first(adapter: Adapter, kluster: Emulator) -> None:
    with pytest.raises(Exception, match="n=2"):
        adapter.ask(LLAMA, "Hello!", n=2)
    with pytest.raises(errors.BadRequestError, match="image"):
        adapter.ask_about_image(LLAMA, "What is it?", GIF_2X3)
    assert kluster.requests == []


@ALL
def test_a_prompt_that_is_too_long(adapter: Adapter, kluster: Emulator) -> None:
    with pytest.raises(adapter.overflow()) as caught:
        adapter.ask(LLAMA, "word " * 140_000)
    assert isinstance(caught.value, errors.ContextWindowExceededError)
    assert kluster.requests == []


@ALL
def test_the_key_stays_secret(adapter: Adapter, kluster: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "kk-a-key-that-is-nowhere"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-company")
    assert key not in adapter.shown(LLAMA, key)
    adapter.ask(LLAMA, "Hello!")
    with Emulator(api_keys=[key]) as server:
        monkeypatch.setenv("KLUSTER_BASE_URL", server.base_url)
        with pytest.raises(errors.AuthenticationError) as caught:
            adapter.ask(LLAMA, "Hello!")
    assert "test-key" not in str(caught.value)
    sent = [value for request in kluster.requests for value in request.headers.values()]
    assert "another-company" not in str(sent)


@adapters("langchain", "litellm", "crewai")
def test_limits_of_the_plan(adapter: Adapter, kluster: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_PLAN", "trial")
    monkeypatch.setenv("KLUSTER_MAX_WAIT", "0")
    monkeypatch.setenv("KLUSTER_API_KEY", f"a-key-for-{type(adapter).__name__}")
    allowed = catalog.PLANS["trial"].requests_per_minute
    assert allowed
    for _ in range(allowed):
        adapter.ask(LLAMA, "Hello!")
    with pytest.raises(errors.RateLimitError, match=f"{allowed} requests in 60 s"):
        adapter.ask(LLAMA, "Hello!")
    assert len(kluster.requests) == allowed
