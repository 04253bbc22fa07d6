"""Programs of LangChain, LangGraph, LiteLLM and CrewAI that know nothing of batches, inside `deferred`."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from kluster_integrations.batch import deferred
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import BatchBehavior, Emulator
from kluster_integrations.litellm import _versions

from .jobs import KEY, LLAMA
from .test_deferred import sent_one_by_one, sizes

R1 = "deepseek-ai/DeepSeek-R1"
NATIVE = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"


class Mood(BaseModel):
    """The mood of a text."""

    mood: Literal["good", "bad"]


@pytest.fixture(autouse=True)
def _environment(service: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    monkeypatch.setenv("KLUSTER_BASE_URL", service.base_url)
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path / "crewai"))
    for name, seconds in {"POLL": "0.01", "SETTLE": "0.05", "QUIET": "1.5"}.items():
        monkeypatch.setenv(f"KLUSTER_BATCH_{name}", seconds)


async def twice(server: Emulator, folder: Path, program: Callable[[], Awaitable[Any]]) -> Any:
    """Run a program, then once more: the second time nothing is sent, and the answers are the same."""
    async with deferred(folder):
        first = await program()
    requests = len(server.requests)
    async with deferred(folder):
        again = await program()
    assert len(server.requests) == requests
    assert sent_one_by_one(server) == 0
    assert repr(again) == repr(first)
    return first


async def test_structured_outputs(service: Emulator, tmp_path: Path) -> None:
    langchain = pytest.importorskip("kluster_integrations.langchain")
    chain = langchain.ChatKluster(model=R1).with_structured_output(Mood)

    async def program() -> Any:
        return await asyncio.gather(*(chain.ainvoke(f"The mood of text {n}") for n in range(30)))

    moods = await twice(service, tmp_path / "job", program)
    assert all(isinstance(mood, Mood) for mood in moods)
    assert sizes(service) == [30]


def test_batch_of_a_chain(service: Emulator, tmp_path: Path) -> None:
    langchain = pytest.importorskip("kluster_integrations.langchain")
    chain = langchain.ChatKluster(model=R1).with_structured_output(Mood)
    with deferred(tmp_path / "job"):
        moods = chain.batch([f"The mood of text {n}" for n in range(30)])
    assert all(isinstance(mood, Mood) for mood in moods)
    assert sizes(service) == [30]


@pytest.mark.parametrize("model", [NATIVE, R1])
async def test_agents_with_a_tool(service: Emulator, tmp_path: Path, model: str) -> None:
    agents = pytest.importorskip("langchain.agents")
    from kluster_integrations.langchain import ChatKluster

    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        return f"Sunny in {city}"

    call = {"name": "get_weather", "arguments": {"city": "Paris"}}
    service.reply(tool_calls=[call], when="What is the weather in Paris")
    agent = agents.create_agent(ChatKluster(model=model), [get_weather])

    async def talk(number: int) -> list[tuple[str, str]]:
        text = f"What is the weather in Paris, asked for the {number}th time?"
        messages = (await agent.ainvoke({"messages": [("user", text)]}))["messages"]
        return [(message.type, message.text) for message in messages]

    async def program() -> Any:
        return await asyncio.gather(*map(talk, range(10)))

    talks = await twice(service, tmp_path / "job", program)
    for said in talks:
        assert [kind for kind, _ in said] == ["human", "ai", "tool", "ai"]
        assert said[-1][1] == "Echo: Sunny in Paris"
    assert sizes(service) == [10, 10]


@pytest.mark.skipif(bool(_versions.problem(_versions.installed() or "")), reason="no LiteLLM that works")
class TestLiteLLM:
    @pytest.fixture(autouse=True)
    def _registered(self) -> None:
        from kluster_integrations.litellm import register

        register(KlusterConfig())

    def ask(self, number: int, **options: Any) -> Any:
        import litellm

        messages = [{"role": "user", "content": f"Question {number}"}]
        return litellm.acompletion(model=f"kluster/{LLAMA}", messages=messages, **options)

    async def test_completions(self, service: Emulator, tmp_path: Path) -> None:
        async def program() -> list[str]:
            answers = await asyncio.gather(*map(self.ask, range(20)))
            return [answer.choices[0].message.content for answer in answers]

        texts = await twice(service, tmp_path / "job", program)
        assert [f"Echo: Question {n}" == text for n, text in enumerate(texts)] == [True] * 20
        assert sizes(service) == [20]

    async def test_the_cost_is_the_batch_price(self, service: Emulator, tmp_path: Path) -> None:
        async with deferred(tmp_path / "job", window="24h"):
            answer = await self.ask(0)
        assert answer._hidden_params["response_cost"] == pytest.approx(answer.usage.total_tokens * 0.05 / 1_000_000)
        answer = await self.ask(0)
        assert answer._hidden_params["response_cost"] == pytest.approx(answer.usage.total_tokens * 0.18 / 1_000_000)

    async def test_a_stream(self, service: Emulator, tmp_path: Path) -> None:
        async with deferred(tmp_path / "job"):
            chunks = [chunk async for chunk in await self.ask(0, stream=True)]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Echo: Question 0"
        assert sizes(service) == [1]

    async def test_an_error_of_a_line(self, service: Emulator, tmp_path: Path) -> None:
        import litellm

        service.batches.behavior = BatchBehavior(failing={1: 400})
        async with deferred(tmp_path / "job"):
            found = await asyncio.gather(*map(self.ask, range(3)), return_exceptions=True)
        assert [isinstance(f, litellm.BadRequestError) for f in found] == [False, True, False]


@pytest.mark.parametrize("stream", [False, True])
def test_the_cost_in_langchain_is_the_batch_price(service: Emulator, tmp_path: Path, stream: bool) -> None:
    langchain = pytest.importorskip("kluster_integrations.langchain")
    from langchain_core.messages import AIMessageChunk

    chat = langchain.ChatKluster(model=LLAMA)
    with deferred(tmp_path / "job", window="24h"):
        message = sum(chat.stream("Hello!"), start=AIMessageChunk("")) if stream else chat.invoke("Hello!")
    tokens = message.usage_metadata["total_tokens"]
    assert message.response_metadata["cost"] == pytest.approx(tokens * 0.05 / 1_000_000)


async def test_an_error_of_a_line_in_langchain(service: Emulator, tmp_path: Path) -> None:
    langchain = pytest.importorskip("kluster_integrations.langchain")
    chat = langchain.ChatKluster(model=LLAMA)
    service.batches.behavior = BatchBehavior(failing={1: 400})
    async with deferred(tmp_path / "job"):
        found = await chat.abatch(["Question 0", "Question 1", "Question 2"], return_exceptions=True)
    assert [isinstance(f, openai.BadRequestError) for f in found] == [False, True, False]


@pytest.mark.skipif(not importlib.util.find_spec("crewai"), reason="CrewAI is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", ["kickoff_for_each_async", "akickoff_for_each"])
async def test_crews(service: Emulator, tmp_path: Path, way: str) -> None:
    from crewai import Agent, Crew, Task

    from kluster_integrations.crewai import kluster_llm

    agent = Agent(role="Greeter", goal="Greet", backstory="You greet.", llm=kluster_llm(NATIVE))
    task = Task(description="Say hello to {name}.", expected_output="A greeting.", agent=agent)
    crew = Crew(agents=[agent], tasks=[task])

    async def program() -> list[str]:
        outputs = await getattr(crew, way)([{"name": f"Person {n}"} for n in range(10)])
        return [output.raw for output in outputs]

    texts = await twice(service, tmp_path / "job", program)
    assert [f"Person {n}" in text for n, text in enumerate(texts)] == [True] * 10
    assert sizes(service) == [10]
