"""The crews that the tests run."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("crewai")

import crewai
from crewai import Agent, Crew, Task
from crewai.tools import tool
from packaging.version import Version
from pydantic import BaseModel

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"
GEMMA = "google/gemma-3-27b-it"
KEY = "kk-secret-key"

VERSIONS = [(1, 15, 17), (1, 15, 18), (1, 15, 30)]
INSTALLED = Version(crewai.__version__).release
since = {version: pytest.mark.skipif(version > INSTALLED, reason=f"new in CrewAI {version}") for version in VERSIONS}
"""Marks of tests of what older versions of CrewAI do not do."""

ran: list[str] = []
"""The cities that `get_weather` was called with."""


class Report(BaseModel):
    """A city's weather."""

    city: str
    temperature: int


@tool("get_weather")
def get_weather(city: str) -> str:
    """Current weather in a city."""
    ran.append(city)
    return f"It is 21 degrees and sunny in {city}."


def make_agent(llm: Any, **fields: Any) -> Agent:
    return Agent(role="Researcher", goal="Find facts", backstory="You are careful.", llm=llm, **fields)


def crew(llm: Any, description: str, *, tools: Any = (), crew: Any = None, agent: Any = None, **task: Any) -> Crew:
    """Return a crew of one agent with one task."""
    one = make_agent(llm, tools=list(tools), **(agent or {}))
    job = Task(description=description, expected_output="A sentence", agent=one, **task)
    return Crew(agents=[one], tasks=[job], **(crew or {}))


def hello(llm: Any, **fields: Any) -> Crew:
    return crew(llm, "Say hello in French", **fields)


def weather(llm: Any, **fields: Any) -> Crew:
    return crew(llm, "What is the weather in Paris?", tools=[get_weather], **fields)


def report(llm: Any, **fields: Any) -> Crew:
    return crew(llm, "Report that it is 21 degrees in Paris", **fields)
