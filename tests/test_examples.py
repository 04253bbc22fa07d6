"""Every example runs on its own against the emulator, and says what it is there to say."""

from __future__ import annotations

import asyncio
import base64
import importlib
import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

from kluster_integrations import catalog
from kluster_integrations.emulator import Emulator

from .programs import ROOT, chosen, run_example, run_examples

# Patterns that must be in the output, in this order.
SAYS = {
    "langchain.quickstart": [
        r"Answer:  \S.*breakfast sandwich",
        r"Model:   klusterai/Meta-Llama-3\.3-70B-Instruct-Turbo",
        r"Tokens:  [1-9]\d*",
        r"Cost:    US\$ 0\.0000[1-9]",
        r"Stream:  \S.*breakfast sandwich",
    ],
    "langchain.conversation": [
        r"You: .*San Francisco",
        r"Guide: \S",
        r"You: .*Which city",
        r"Guide: .*San Francisco in June",
    ],
    "langchain.agent": [
        r"\[thinks\] \S",
        r"get_(weather: 18 degrees and light rain in Lisbon|time: quarter past nine in Tokyo)",  # in any order
        r"get_(weather: 18 degrees and light rain in Lisbon|time: quarter past nine in Tokyo)",
        r"\[says\] .*light rain in Lisbon.*quarter past nine in Tokyo",
    ],
    "langchain.extraction": [r"Thought:  \S", r"Grace Hopper owes 1250\.50 USD", r"Thursday, 31 July 2025"],
    "langchain.rag": [
        r"How do bees",
        r"Retrieved: Honey bees",
        r"Answer:  .*dance",
        r"When did",
        r"Retrieved: The Golden Gate",
        r"Answer:  .*1937",
    ],
    "langchain.image": [r"Answer: .*2 by 2 pixels"],
    "langchain.support": [
        r"Customer: .*A-17",
        r"Approve:  refund {'number': 'A-17', 'euros': 49} -> yes",
        r"Agent:    .*49 euros",
        r"Model:    deepseek-ai/DeepSeek-R1-0528",
        r"Customer: How much",
        r"Agent:    The lamp was 49 euros\.",
    ],
    "langchain.later": [r"Waits for: \w+", r"Report: \S.*honey bees", r"Title: +\S"],
    "langchain.rag_verify": [
        r"Retrieved: Honey bees",
        r"Answer: .*dance",
        r"Reliable:  True The notes say so\.",
        r"Made up:   False The notes say Paris\.",
    ],
    "batch.keywords": [
        r"About US\$ 0\.000\d+, in real time US\$ 0\.00",
        r"Honey bees.*: honey bees, dance, flowers",
        r"Sourdough.*: sourdough, wild yeast",
    ],
    "batch.sentiment": [
        r"4 of 4",
        r"positive  The battery",
        r"negative  It broke",
        r"'positive': 2, 'negative': 1, 'neutral': 1",
        r"US\$ 0\.0000",
    ],
    "batch.tasks": [
        r"Breakfast Club: {'genre': 'comedy', 'language': 'English', 'rating': 4}",
        r"Run Lola Run: {'genre': 'thriller', 'language': 'German', 'rating': 5}",
    ],
    "batch.compare": [
        r"Cheapest: 72h",
        r"Llama-3\.1-8B.*breakfast sandwich",
        r"DeepSeek-R1 .*sky",
        r"US\$ 0\.000\d+  deepseek-ai/DeepSeek-R1",
    ],
    "batch.judge": [r"breakfast sandwich\? klusterai/\S+: \S", r"Why is the sky blue\? klusterai/\S+: \S"],
    "batch.images": [r"two\.png: .*2 by 2 pixels", r"one\.png: .*single pixel"],
    "openai_sdk.chat": [r"Model:  deepseek-ai/DeepSeek-V3-0324", r"Answer: \S.*breakfast sandwich", r"Tokens: [1-9]"],
    "openai_sdk.asynchronous": [r"breakfast: \S.*breakfast", r"lunch: \S.*lunch", r"dinner: \S.*dinner"],
    "openai_sdk.streaming": [r"Thoughts: \S", r"Answer: \S.*breakfast sandwich"],
    "openai_sdk.image": [r"Model:  google/gemma-3-27b-it", r"Answer: .*2 by 2 pixels"],
    "openai_sdk.save_json": [
        r"DeepSeek-R1-0528 says:",
        r"breakfast sandwich",
        r"All of the answer is in response\.json",
    ],
    "ray.classify": [
        r"Row 49: ValueError: the review has no text",
        r"Moods: \{'bad': 1\d, 'good': 1\d, 'neither': 1\d\}",
        r"Rows:  50",
    ],
}
SHORTER = {"ray.classify": ["--rows", "50"]}  # in CI, and where Ray is installed
CHAT = [spec for spec in catalog.all_models() if spec.purpose == "chat" and spec.status == "current"]


def test_every_example_is_tested() -> None:
    folders = ("batch", "langchain", "openai_sdk", "ray")
    found = [path for name in folders for path in (ROOT / "examples" / name).glob("*.py")]
    assert {f"{path.parent.name}.{path.stem}" for path in found} == set(SAYS)


@pytest.fixture(scope="module")
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    names = [name for name in chosen(request) if name in SAYS and name not in SHORTER]
    return run_examples(*names, cwd=tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("name", SAYS)
def test_example(printed: dict[str, str], name: str, tmp_path: Path) -> None:
    if name not in SHORTER:
        out = printed[name]
    elif importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (make test-ray)")
    else:
        out = run_example(name, *SHORTER[name], cwd=tmp_path, timeout=180, HOME=str(tmp_path), RAY_AUTH_MODE="disabled")

    assert re.search(".*".join(SAYS[name]), out, re.DOTALL), out
    assert "Traceback" not in out
    if name == "langchain.support":
        assert out in (ROOT / "docs" / "langchain.md").read_text("utf-8"), "the page shows what it prints"


def test_with_a_key_the_service_is_asked() -> None:
    with Emulator(api_keys=["own-key"]) as server:
        run_example("langchain.quickstart", KLUSTER_API_KEY="own-key", KLUSTER_BASE_URL=server.base_url)

        assert [request.path for request in server.requests] == ["/v1/chat/completions"] * 2


@pytest.fixture
def asked(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Emulator:
    """The emulator, to which examples of this process go."""
    monkeypatch.setenv("KLUSTER_API_KEY", "examples")
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    return emulator


@pytest.mark.parametrize("model", [spec.id for spec in CHAT])
@pytest.mark.parametrize("name", ["chat", "asynchronous", "streaming"])
def test_the_sdk_asks_every_model(asked: Emulator, capsys: pytest.CaptureFixture[str], name: str, model: str) -> None:
    done = importlib.import_module(f"examples.openai_sdk.{name}").main(model)
    if name == "asynchronous":
        asyncio.run(done)

    assert "breakfast sandwich" in capsys.readouterr().out
    assert {request.body["model"] for request in asked.requests} == {model}


@pytest.mark.parametrize("model", [spec.id for spec in CHAT if spec.supports_vision])
def test_the_sdk_asks_about_a_file(asked: Emulator, capsys: pytest.CaptureFixture[str], model: str) -> None:
    image = importlib.import_module("examples.openai_sdk.image")
    Path("square.png").write_bytes(base64.b64decode(image.SQUARE.partition(",")[2]))
    image.main(model, "square.png")

    assert "[image/png]" in capsys.readouterr().out
    assert image.SQUARE in str(asked.requests[0].body)


@pytest.mark.parametrize("model", [spec.id for spec in CHAT])
def test_the_whole_answer_is_saved(asked: Emulator, model: str) -> None:
    importlib.import_module("examples.openai_sdk.save_json").main(model, Path("answer.json"))

    saved = json.loads(Path("answer.json").read_text("utf-8"))
    assert (saved["object"], saved["model"]) == ("chat.completion", model)
    assert "breakfast sandwich" in saved["choices"][0]["message"]["content"]
    assert saved["usage"]["total_tokens"] > 0


def test_the_key_is_asked_for_at_a_terminal(asked: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    save_json = importlib.import_module("examples.openai_sdk.save_json")
    monkeypatch.delenv("KLUSTER_API_KEY")
    monkeypatch.setattr(save_json, "getpass", lambda prompt: "typed-key")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    save_json.ask_for_key()

    assert os.environ["KLUSTER_API_KEY"] == "typed-key"
