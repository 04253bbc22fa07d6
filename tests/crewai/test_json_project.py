"""A project of JSON files, as `crewai create crew` makes it by default, whose agent names an LLM of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("crewai")

from crewai import project

from kluster_integrations.emulator import Emulator

from .crews import KEY, R1

MODULE = f'from kluster_integrations.crewai import kluster_llm\n\nthinker = kluster_llm("{R1}")\n'
AGENT = {"role": "Greeter", "goal": "Greet", "backstory": "You greet.", "llm": {"python": "my_llms.thinker"}}
TASK = {
    "name": "greet",
    "description": "Greet in a new way, {number}",
    "expected_output": "A greeting",
    "agent": "greeter",
}


@pytest.mark.skipif(not hasattr(project, "load_crew"), reason="CrewAI has JSON crews since 1.15")
def test_the_llm_of_an_agents_file(tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "greeter.json").write_text(json.dumps(AGENT))
    (tmp_path / "crew.json").write_text(json.dumps({"name": "greeting", "agents": ["greeter"], "tasks": [TASK]}))
    (tmp_path / "my_llms.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)

    try:
        crew, _ = project.load_crew(tmp_path / "crew.json")
        assert crew.kickoff(inputs={"number": 7}).raw
        assert [r.body["model"] for r in emulator.requests] == [R1]
    finally:
        sys.modules.pop("my_llms", None)
