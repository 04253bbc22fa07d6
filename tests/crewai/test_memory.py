"""Memory and knowledge on kluster.ai's vectors, with no key but its own and no other host."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Crew, Task
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.memory.unified_memory import Memory
from crewai.rag.embeddings.factory import build_embedder

from kluster_integrations import errors
from kluster_integrations.crewai import KlusterConverter, kluster_embedder, kluster_llm
from kluster_integrations.emulator import Emulator

from .crews import KEY, LLAMA, R1, Report, make_agent, since


@pytest.fixture
def only_kluster(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
    return emulator


@since[1, 15, 17]
@pytest.mark.parametrize("model", [LLAMA, R1])
def test_a_crew_with_memory_knowledge_and_planning(model: str, only_kluster: Emulator) -> None:
    llm = kluster_llm(model)
    one = make_agent(llm)
    job = Task(description="When does the library in Lisbon open?", expected_output="A sentence", agent=one)
    source = StringKnowledgeSource(content="The library in Lisbon opens at nine.")
    crew = Crew(
        agents=[one],
        tasks=[job],
        memory=True,
        knowledge_sources=[source],
        embedder=kluster_embedder(),
        planning=True,
        planning_llm=llm,
    )

    assert crew.kickoff().raw
    memory: Any = crew._memory
    memory.drain_writes()
    said = str([r.body["messages"] for r in only_kluster.requests if r.path.endswith("/chat/completions")])
    assert "The library in Lisbon opens at nine." in said
    assert memory.list_records()
    assert {r.path for r in only_kluster.requests} == {"/v1/chat/completions", "/v1/embeddings"}


def test_memory_finds_what_it_was_told(only_kluster: Emulator) -> None:
    memory = Memory(llm=kluster_llm(LLAMA), embedder=kluster_embedder())
    memory.remember("The library in Lisbon opens at nine.", scope="/a", categories=["b"], importance=0.5)
    memory.remember("Honey bees dance.", scope="/a", categories=["b"], importance=0.5)

    assert "Lisbon" in memory.recall("When does the library open?", depth="shallow")[0].record.content


def test_vectors(only_kluster: Emulator) -> None:
    embedder: Any = build_embedder(kluster_embedder(chunk_size=2))
    vectors = embedder(["one", "two", "three"])

    assert [len(v) for v in vectors] == [1024] * 3
    assert [r.body["input"] for r in only_kluster.requests] == [["one", "two"], ["three"]]
    assert embedder.build_from_config(embedder.get_config())(["one"])[0].tolist() == vectors[0].tolist()
    assert KEY not in str(embedder.get_config())


def test_two_embedders_do_not_share_a_connection(emulator: Emulator) -> None:
    specs = [kluster_embedder(base_url=emulator.base_url, api_key=key) for key in ("one", "two")]

    made: Any = [build_embedder(spec) for spec in specs]
    assert [one._client.config.api_key.get_secret_value() for one in made] == ["one", "two"]


def test_empty_texts_are_refused(only_kluster: Emulator) -> None:
    embedder: Any = build_embedder(kluster_embedder())

    with pytest.raises(errors.BadRequestError, match="empty"):
        embedder([" "])
    assert only_kluster.requests == []


WRONG = [{"chunk_size": 0}, {"base_ulr": "x"}, {"base_url": "http://example.org", "api_key": KEY}]


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        kluster_embedder(**options)


@pytest.mark.parametrize("tool_calling", ["auto", "react"])
def test_the_converter_makes_json_with_the_agents_own_llm(tool_calling: str, only_kluster: Emulator) -> None:
    llm = kluster_llm(R1, tool_calling=tool_calling)
    one = make_agent(llm)
    made = KlusterConverter(llm=llm, text="It is 21 degrees in Paris", model=Report, instructions="{}", agent=one)
    held = KlusterConverter(llm=llm, text='So: {"city": "Oslo", "temperature": 3}', model=Report, instructions="")

    assert held.to_json() == '{"city":"Oslo","temperature":3}'
    assert only_kluster.requests == []
    if tool_calling == "auto":
        assert made.to_json() == '{"city":"Paris","temperature":21}'
