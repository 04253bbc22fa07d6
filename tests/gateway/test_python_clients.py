"""Python frameworks as they come from PyPI, pointed at the gateway as their own documentation says.

`make test-frameworks` installs and requires them all; elsewhere a test whose framework is missing is skipped. Each test
imports its own, for they import slowly. Semantic Kernel and Strands do not install beside these:
tests/clients/test_python_clients.py.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import BaseModel

from kluster_integrations.emulator import ChatRequest, Emulator
from kluster_integrations.gateway import Gateway
from tests.stated import THOUGHT

from .conftest import LISBON, R1, bodies

SMALL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
EMBEDDER = "BAAI/bge-m3"
BREAKFAST = "What is breakfast?"
WEATHER = "What is the weather in Lisbon?"
TOLD = "This is what the tools have said, one after the other: Sunny in Lisbon."
REQUIRED = "KLUSTER_FRAMEWORKS" in os.environ  # `make test-frameworks` sets it

pytestmark = [
    pytest.mark.parametrize("model", [SMALL, R1], ids=["llama", "r1"]),
    pytest.mark.allow_hosts(["127.0.0.1"]),  # no telemetry, no traces, no price lists
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),  # of openai's parsed answers, in the frameworks
]


class City(BaseModel):
    name: str
    country: str


CITY = City(name="Lisbon", country="Portugal")


def get_weather(city: str) -> str:
    """Return the weather of a city.

    Args:
        city: The city's name.
    """
    return f"Sunny in {city}"


def needs(module: str) -> pytest.MarkDecorator:
    """Skip a test whose framework is not installed, except where `make test-frameworks` runs it."""
    return pytest.mark.skipif(not REQUIRED and find_spec(module) is None, reason=f"{module} is not installed")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HAYSTACK_TELEMETRY_ENABLED", "MEM0_TELEMETRY", "AGNO_TELEMETRY"):
        monkeypatch.setenv(name, "false")


@pytest.fixture(autouse=True)
def _the_model_alone_was_asked(emulator: Emulator, model: str) -> Any:
    yield
    asked = {(request.path, request.body["model"], request.status) for request in emulator.requests}
    assert asked - {("/v1/embeddings", EMBEDDER, 200)} == {("/v1/chat/completions", model, 200)}


@needs("agents")
@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
async def test_openai_agents(gateway: Gateway, model: str, responses: bool) -> None:
    from agents import Agent, OpenAIProvider, RunConfig, Runner, function_tool

    provider = OpenAIProvider(base_url=gateway.base_url, api_key="any", use_responses=responses)
    config = RunConfig(model_provider=provider, tracing_disabled=True)
    plain = Agent(name="Cook", model=model, instructions="You are a cook.")
    result = await Runner.run(plain, BREAKFAST, run_config=config)
    assert result.final_output == f"Echo: {BREAKFAST}"
    assert result.context_wrapper.usage.total_tokens > 0

    weather = Agent(name="Weather", model=model, tools=[function_tool(get_weather)])
    streamed = Runner.run_streamed(weather, WEATHER, run_config=config)
    deltas = [event.data async for event in streamed.stream_events() if event.type == "raw_response_event"]
    assert "".join(one.delta for one in deltas if one.type == "response.output_text.delta") == TOLD
    assert streamed.final_output == TOLD
    assert (await Runner.run(weather, WEATHER, run_config=config)).final_output == TOLD

    city = Agent(name="City", model=model, output_type=City)
    assert (await Runner.run(city, LISBON, run_config=config)).final_output == CITY


@needs("haystack")
@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_haystack(gateway: Gateway, model: str, responses: bool) -> None:
    from haystack.components.agents import Agent
    from haystack.components.embedders import OpenAITextEmbedder
    from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
    from haystack.dataclasses import ChatMessage
    from haystack.tools import create_tool_from_function
    from haystack.utils import Secret

    there: Any = {"api_base_url": gateway.base_url, "api_key": Secret.from_token("any")}
    kind: Any = OpenAIResponsesChatGenerator if responses else OpenAIChatGenerator
    generator = kind(model=model, **there)
    [reply] = generator.run([ChatMessage.from_user(BREAKFAST)])["replies"]
    assert reply.text == f"Echo: {BREAKFAST}"
    assert reply.meta["usage"]["total_tokens"] > 0

    pieces: list[str] = []
    streamed = generator.run(
        [ChatMessage.from_user(BREAKFAST)], streaming_callback=lambda one: pieces.append(one.content)
    )
    assert "".join(pieces) == streamed["replies"][0].text == f"Echo: {BREAKFAST}"

    def weather(city: str) -> str:
        """Return the weather of a city."""
        return get_weather(city)

    agent = Agent(chat_generator=generator, tools=[create_tool_from_function(weather)])
    for callback in (None, lambda _: None):  # with one it streams
        found = agent.run(messages=[ChatMessage.from_user(WEATHER)], streaming_callback=callback)
        assert found["last_message"].text == TOLD

    objects = kind(model=model, generation_kwargs={"text_format" if responses else "response_format": City}, **there)
    [reply] = objects.run([ChatMessage.from_user(LISBON)])["replies"]
    assert City.model_validate_json(reply.text or "") == CITY

    embedder = OpenAITextEmbedder(model=EMBEDDER, **there)
    assert len(embedder.run("breakfast")["embedding"]) == 1024


@needs("autogen_agentchat")
async def test_autogen(gateway: Gateway, model: str) -> None:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.messages import ModelClientStreamingChunkEvent
    from autogen_core.models import ModelInfo
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    info = ModelInfo(vision=False, function_calling=True, json_output=True, structured_output=True, family="unknown")
    client = OpenAIChatCompletionClient(model=model, base_url=gateway.base_url, api_key="any", model_info=info)
    plain = await AssistantAgent("cook", client).run(task=BREAKFAST)
    assert plain.messages[-1].content == f"Echo: {BREAKFAST}"
    assert plain.messages[-1].models_usage.prompt_tokens > 0

    weather: Any = {"tools": [get_weather], "reflect_on_tool_use": True}
    assert (await AssistantAgent("weather", client, **weather).run(task=WEATHER)).messages[-1].content == TOLD
    streaming = AssistantAgent("weather", client, model_client_stream=True, **weather)
    events: list[Any] = [event async for event in streaming.run_stream(task=WEATHER)]
    pieces = [event.content for event in events if isinstance(event, ModelClientStreamingChunkEvent)]
    thought = f"<think>{THOUGHT}</think>" if model == R1 else ""  # AutoGen writes reasoning so, in each of two turns
    assert "".join(pieces) == 2 * thought + TOLD
    assert events[-1].messages[-1].content == TOLD

    objects = await AssistantAgent("city", client, output_content_type=City).run(task=LISBON)
    assert objects.messages[-1].content == CITY
    await client.close()


@needs("agno")
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_agno(gateway: Gateway, model: str, api: str) -> None:
    from agno.agent import Agent
    from agno.models.anthropic import Claude
    from agno.models.openai import OpenAIChat, OpenAIResponses

    if api == "messages":
        root = {"base_url": gateway.base_url.removesuffix("/v1")}
        thinking = {"type": "enabled", "budget_tokens": 1_024}
        there: Any = Claude(id=model, api_key="any", client_params=root, thinking=thinking)
    else:
        kind = OpenAIResponses if api == "responses" else OpenAIChat
        there = kind(id=model, base_url=gateway.base_url, api_key="any")
    plain = Agent(model=there, telemetry=False).run(BREAKFAST)
    assert plain.content == f"Echo: {BREAKFAST}"
    assert plain.metrics.total_tokens > 0
    assert bool(plain.reasoning_content) == (model == R1)

    weather = Agent(model=there, tools=[get_weather], telemetry=False)
    assert weather.run(WEATHER).content == TOLD
    events = list(weather.run(WEATHER, stream=True))
    assert "".join(event.content or "" for event in events if event.event == "RunContent") == TOLD
    assert Agent(model=there, output_schema=City, telemetry=False).run(LISBON).content == CITY


@needs("smolagents")
def test_smolagents(gateway: Gateway, emulator: Emulator, model: str) -> None:
    from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool

    def shown(text: str) -> Any:
        return lambda request: text in json.dumps(request.messages[-1]["content"])

    there = OpenAIModel(model_id=model, api_base=gateway.base_url, api_key="any")
    get_the_weather = tool(get_weather)
    call = {"name": "get_weather", "arguments": {"city": "Lisbon"}}
    emulator.reply(reasoning="So." if model == R1 else "", tool_calls=[call], when=shown(WEATHER))
    final = {"name": "final_answer", "arguments": {"answer": "It is sunny."}}
    emulator.reply(reasoning="So." if model == R1 else "", tool_calls=[final], when=shown("Sunny in Lisbon"))
    for stream in (False, True):
        agent = ToolCallingAgent(tools=[get_the_weather], model=there, verbosity_level=0, stream_outputs=stream)
        assert agent.run(WEATHER) == "It is sunny."
        assert [type(step).__name__ for step in agent.memory.steps] == ["TaskStep", "ActionStep", "ActionStep"]
        assert agent.monitor.total_input_token_count > 0

    emulator.clear()
    emulator.reply('Thought: I ask.\n<code>\nprint(get_weather("Lisbon"))\n</code>', when=shown(WEATHER))
    emulator.reply('Thought: So it is.\n<code>\nfinal_answer("It is sunny.")\n</code>', when=shown("Sunny in Lisbon"))
    for stream in (False, True):
        agent = CodeAgent(tools=[get_the_weather], model=there, verbosity_level=0, stream_outputs=stream)
        assert agent.run(WEATHER) == "It is sunny."
    assert len(bodies(emulator)) == 4


@needs("instructor")
@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON"])
def test_instructor(gateway: Gateway, emulator: Emulator, model: str, mode: str) -> None:
    import instructor
    from openai import OpenAI

    if mode == "MD_JSON":
        emulator.reply(f"So it is:\n```json\n{CITY.model_dump_json()}\n```", when=LISBON)
    with OpenAI(base_url=gateway.base_url, api_key="any") as there:
        client = instructor.from_openai(there, mode=instructor.Mode[mode])
        asked: Any = {"model": model, "messages": [{"role": "user", "content": LISBON}], "response_model": City}
        assert client.chat.completions.create(**asked).model_dump() == CITY.model_dump()
        parts = [part.model_dump() for part in client.chat.completions.create_partial(**asked)]
        assert parts[-1] == CITY.model_dump()


@needs("instructor")
def test_instructor_on_messages(gateway: Gateway, model: str) -> None:
    import instructor
    from anthropic import Anthropic

    with Anthropic(base_url=gateway.base_url.removesuffix("/v1"), api_key="any") as there:
        client = instructor.from_anthropic(there)
        asked: Any = {"model": model, "messages": [{"role": "user", "content": LISBON}], "max_tokens": 500}
        assert client.messages.create(response_model=City, **asked).model_dump() == CITY.model_dump()


@needs("mem0")
def test_mem0(gateway: Gateway, emulator: Emulator, model: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEM0_DIR", str(tmp_path))
    from mem0 import Memory

    def extracts(request: ChatRequest) -> bool:
        return "I live in Lisbon." in json.dumps(request.messages)

    there = {"openai_base_url": gateway.base_url, "api_key": "any"}
    store = {"path": str(tmp_path / "qdrant"), "embedding_model_dims": 1024, "collection_name": "memories"}
    config = {
        "llm": {"provider": "openai", "config": {"model": model, **there}},
        "embedder": {"provider": "openai", "config": {"model": EMBEDDER, "embedding_dims": 1024, **there}},
        "vector_store": {"provider": "qdrant", "config": store},
        "history_db_path": str(tmp_path / "history.db"),
    }
    emulator.reply(json={"memory": [{"id": "0", "text": "Lives in Lisbon"}]}, when=extracts)
    memory = Memory.from_config(config)
    try:
        added = memory.add("I live in Lisbon.", user_id="ada")
        assert [one["memory"] for one in added["results"]] == ["Lives in Lisbon"]
        found = memory.search("Lives in Lisbon", filters={"user_id": "ada"})
        assert [one["memory"] for one in found["results"]] == ["Lives in Lisbon"]
    finally:
        memory.close()
