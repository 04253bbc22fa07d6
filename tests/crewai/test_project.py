"""A `@CrewBase` project whose YAML names the LLM."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("crewai")

from kluster_integrations.emulator import Emulator

from .crews import KEY, R1

CREW = """
from crewai import Agent, Crew, Task
from crewai.project import CrewBase, agent, crew, llm, task
from kluster_integrations.crewai import kluster_llm

@CrewBase
class Greeting:
    @llm
    def kluster_r1(self):
        return kluster_llm("deepseek-ai/DeepSeek-R1")

    @agent
    def greeter(self):
        return Agent(config=self.agents_config["greeter"])

    @task
    def greet(self):
        return Task(config=self.tasks_config["greet"])

    @crew
    def crew(self):
        return Crew(agents=self.agents, tasks=self.tasks)
"""
AGENTS = "greeter:\n  role: Greeter\n  goal: Greet\n  backstory: You greet.\n  llm: kluster_r1\n"
TASKS = "greet:\n  description: Greet in a new way, {number}\n  expected_output: A greeting\n  agent: greeter\n"


def test_the_llm_of_agents_yaml(tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "agents.yaml").write_text(AGENTS)
    (tmp_path / "config" / "tasks.yaml").write_text(TASKS)
    (tmp_path / "greeting_crew.py").write_text(CREW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
    import greeting_crew  # type: ignore[import-not-found]

    try:
        assert greeting_crew.Greeting().crew().kickoff(inputs={"number": 7}).raw
        assert [r.body["model"] for r in emulator.requests] == [R1]
    finally:
        del sys.modules["greeting_crew"]
