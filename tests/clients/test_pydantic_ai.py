"""Pydantic AI with the module that is written for it, and the example of the guide."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.emulator import Emulator
from tests.litellm.proxy_server import MASTER_KEY
from tests.stated import call

from .conftest import GEMMA, KEY, LLAMA, R1, ROOT, SQUARE, bodies, export, run

if importlib.util.find_spec("pydantic_ai") is None:
    if os.environ.get("CI"):
        pytest.fail("pydantic-ai is not installed: make test-clients", pytrace=False)
    pytest.skip("pydantic-ai is not installed", allow_module_level=True)

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, PromptedOutput, RunContext
from pydantic_ai.exceptions import UserError

CHAT = [spec.id for spec in catalog.all_models() if spec.purpose == "chat" and spec.status == "current"]


class City(BaseModel):
    name: str
    country: str


LISBON = City(name="Lisbon", country="Portugal")
SAID = "name: Lisbon, country: Portugal"


def module(folder: Path, text: str) -> ModuleType:
    path = folder / "kluster_models.py"
    path.write_text(text, "utf-8")
    spec = importlib.util.spec_from_file_location("kluster_models", path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def models(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, for the strict emulator itself."""
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    return module(tmp_path, export("pydantic-ai", "--base-url", emulator.base_url))


async def streamed(agent: Agent[Any, Any], prompt: str, **options: Any) -> str:
    async with agent.run_stream(prompt, **options) as result:
        return "".join([piece async for piece in result.stream_text(delta=True)])


def weather_agent(model: Any) -> Agent[str, str]:
    agent = Agent(model, deps_type=str)

    @agent.tool
    def get_weather(context: RunContext[str], city: str) -> str:
        """Get the weather of a city."""
        return f"{context.deps} in {city}"

    return agent


@pytest.mark.parametrize("model", CHAT)
def test_every_model(models: ModuleType, emulator: Emulator, model: str) -> None:
    agent = Agent(models.kluster_model(model), model_settings={"max_tokens": 100, "temperature": 0.5})

    assert "breakfast" in agent.run_sync("What is breakfast?").output
    assert "breakfast" in asyncio.run(streamed(agent, "What is breakfast?"))
    assert Agent(models.kluster_model(model), output_type=City).run_sync(SAID).output == LISBON
    assert {body["model"] for body in bodies(emulator)} == {model}
    assert bodies(emulator)[0]["max_completion_tokens"] == 100


@pytest.mark.parametrize("model", [model for model in CHAT if catalog.get(model).supports_tools])
def test_tools(models: ModuleType, model: str) -> None:
    agent = weather_agent(models.kluster_model(model))

    assert "Sunny in Lisbon" in agent.run_sync("What is the weather in Lisbon?", deps="Sunny").output
    assert "Sunny in Lisbon" in asyncio.run(streamed(agent, "What is the weather in Lisbon?", deps="Sunny"))


def test_an_object_as_it_comes(models: ModuleType) -> None:
    async def last() -> City:
        async with Agent(models.kluster_model(R1), output_type=City).run_stream(SAID) as result:
            return [part async for part in result.stream_output()][-1]

    assert asyncio.run(last()) == LISBON


def test_prompted_output(models: ModuleType) -> None:
    agent = Agent(models.kluster_model(LLAMA), output_type=PromptedOutput(City))
    assert agent.run_sync(SAID).output == LISBON


def test_an_image(models: ModuleType) -> None:
    image = BinaryContent(base64.b64decode(SQUARE), media_type="image/png")
    assert "[image/png]" in Agent(models.kluster_model(GEMMA)).run_sync(["What is this?", image]).output


def test_thoughts_are_no_answer(models: ModuleType, emulator: Emulator) -> None:
    emulator.reply("A meal.", reasoning="I look for what it is.")
    result = Agent(models.kluster_model(R1)).run_sync("What is breakfast?")
    assert "I look for" in (result.response.thinking or "")
    assert "I look for" not in result.output


def test_native_output_is_refused_before_a_request(models: ModuleType, emulator: Emulator) -> None:
    from pydantic_ai import NativeOutput

    with pytest.raises(UserError):
        Agent(models.kluster_model(LLAMA), output_type=NativeOutput(City)).run_sync(SAID)
    assert emulator.requests == []


def test_the_module_runs(models: ModuleType, tmp_path: Path) -> None:
    out = run([sys.executable, "kluster_models.py"], cwd=tmp_path, env={"KLUSTER_API_KEY": KEY})
    assert "breakfast sandwich" in out


def test_through_the_proxy_tools_on_models_without_them(
    proxy: tuple[str, Emulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = proxy
    monkeypatch.setenv("LITELLM_MASTER_KEY", MASTER_KEY)
    models = module(tmp_path, export("pydantic-ai", "--base-url", url, "--proxy"))
    agent = weather_agent(models.kluster_model(R1))
    assert "Sunny in Lisbon" in agent.run_sync("What is the weather in Lisbon?", deps="Sunny").output
    assert "Sunny in Lisbon" in asyncio.run(streamed(agent, "What is the weather in Lisbon?", deps="Sunny"))


@pytest.mark.parametrize("model", [model for model in CHAT if catalog.get(model).supports_tools])
def test_the_weather_agent_of_the_guide(emulator: Emulator, model: str) -> None:
    env = {
        "KLUSTER_API_KEY": KEY,
        "KLUSTER_BASE_URL": emulator.base_url,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")]),
    }
    report = {"city": "Lisbon", "conditions": "18 degrees and light rain"}
    emulator.reply(
        tool_calls=[call("get_weather", latitude=38.72, longitude=-9.14), call("find_position", city="Lisbon")]
    )
    emulator.reply(tool_calls=[call("final_result", **report)])
    out = run([sys.executable, "-m", "examples.pydantic_ai.weather_agent", "--model", model], cwd=ROOT, env=env)
    assert re.search(r'Calls:  get_weather \{"latitude":38\.72', out)
    assert re.search(r'Calls:  find_position \{"city":"Lisbon"\}', out)
    assert "Report: city='Lisbon' conditions='18 degrees and light rain'" in out
