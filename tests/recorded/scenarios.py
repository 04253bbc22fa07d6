"""What is recorded: one table that recording, replaying and the search for drift share.

Each scenario is a few calls through one adapter, and a cassette `cassettes/<adapter>/<name>.yaml`. Where a real model
can write the text it does; tools, JSON, thoughts and images need more than a small model has, and are stated here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kluster_integrations import catalog
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import ChatRequest, Fault, Reply
from kluster_integrations.errors import KlusterError

from ..features.adapters import WEATHER
from ..stated import stated
from ..tree import ROOT
from .drivers import DRIVERS, Driver, Outcome, described

__all__ = ["CASSETTES", "KEY", "SCENARIOS", "Scenario"]

CASSETTES = ROOT / "cassettes"
KEY = "kk-a-key-that-no-cassette-holds"
WRONG_KEY = "kk-a-key-that-is-not-let-in"
LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"
R1 = "deepseek-ai/DeepSeek-R1"
VERIFY = "klusterai/verify-reliability"
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
GEMMA = "google/gemma-3-27b-it"
GIF_2X3 = "data:image/gif;base64,R0lGODlhAgADAAAAACw="
REQUEST_ID = {"x-request-id": "req-of-the-failed-call"}


class City(BaseModel):
    """A city."""

    name: str
    country: str


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


SEA = [user("Tell me about the sea in one sentence.")]
WRITE = {"temperature": 0, "max_completion_tokens": 40}
PICTURE = [user([{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": GIF_2X3}}])]


def _scripted(question: str, seen: str) -> str:
    return f'Scripted answer to "{question}": {seen}I see 1 user message.'


def _verdict(said: str, why: str) -> str:
    knowledge = 'general knowledge ("Paris is the capital of France.")'
    return f"Hallucination: {said}\n\nExplanation: Scripted judgement: {knowledge} {why}, which the answer says."


QUESTIONS = ("Tell me about the sea in one sentence.", "What is 6 times 7?")
ANSWERS: dict[str, Reply] = {
    "18 degrees and sunny": Reply(
        _scripted("What is the weather in Paris?", "get_weather returned 18 degrees and sunny. ")
    ),
    "What is it?": Reply(_scripted("What is it?", "Image 1 is image/gif, 2x3 pixels. ")),
    "The capital of France is London.": Reply(_verdict("Yes", 'does not have "London"')),
    "The capital of France is Paris.": Reply(
        _verdict("No", "has what the answer says").replace(", which the answer says", "")
    ),
}
"""What the last message is answered with; the questions, tools and objects beside these as in `answered`."""


def answered(request: ChatRequest) -> Reply | None:
    """Return what is stated, with thoughts on a model that has them."""
    if request.text in QUESTIONS:
        thought = f'The user says "{request.text}". I look for what the conversation says about it, and answer.'
        return Reply(_scripted(request.text, ""), thought if request.spec.reasoning else "")
    return ANSWERS.get(request.text) or stated(request)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A cassette.

    Args:
        adapter: Which adapter makes the calls.
        name: The cassette's name.
        run: Makes the calls, and returns what came of them.
        real: Whether a real model can write the text.
        server: How the emulator is set; the rest is its default.
        fault: What the emulator is made to answer; nobody can ask that of the service itself.
        key: The key that the calls are made with.
    """

    adapter: str
    name: str
    run: Callable[[Driver], Any]
    real: bool = False
    server: Mapping[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    key: str = KEY

    @property
    def id(self) -> str:
        """Adapter and name."""
        return f"{self.adapter}/{self.name}"

    @property
    def path(self) -> Path:
        """Where the cassette is, from the project's folder on."""
        return Path("cassettes") / self.adapter / f"{self.name}.yaml"

    def outcome(self, way: str, *, key: str | None = None, base_url: str | None = None) -> Outcome:
        """Make the calls in one way, and return all that the adapter makes of the answers."""
        fields: dict[str, Any] = {"base_url": base_url} if base_url else {}
        config = KlusterConfig(api_key=key or self.key, max_retries=0, **fields)
        driver = DRIVERS[self.adapter](config, way)
        try:
            return {"calls": self.run(driver)}
        except KlusterError as err:
            return described(err)


def chat(driver: Driver) -> list[Outcome]:
    return [driver.ask(LLAMA, SEA, **WRITE)]


def stream(driver: Driver) -> list[Outcome]:
    return [driver.ask(LLAMA, SEA, stream=True, **WRITE)]


def tools(driver: Driver) -> list[Outcome]:
    return _round_trip(driver, LLAMA, stream=False)


def tools_streamed(driver: Driver) -> list[Outcome]:
    return _round_trip(driver, LLAMA, stream=True)


def tools_prompted(driver: Driver) -> list[Outcome]:
    return [driver.ask(NEMO, [user("What is the weather in Paris?")], tools=[WEATHER])]


def _round_trip(driver: Driver, model: str, *, stream: bool) -> list[Outcome]:
    question = user("What is the weather in Paris?")
    first = driver.ask(model, [question], tools=[WEATHER], stream=stream)
    # The id of a call is the server's; here it is sent back as any client does.
    id_ = re.search(r"chatcmpl-tool-\w+", repr(first))
    assert id_, f"no tool call in {first}"
    call = {"id": id_[0], "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    found = {"role": "tool", "tool_call_id": id_[0], "content": "18 degrees and sunny"}
    return [first, driver.ask(model, [question, asked, found], tools=[WEATHER], stream=stream)]


def structured(driver: Driver) -> list[Outcome]:
    return [driver.ask(LLAMA, [user("name: Lisbon, country: Portugal")], schema=City)]


def structured_prompted(driver: Driver) -> list[Outcome]:
    return [driver.ask(NEMO, [user("name: Lisbon, country: Portugal")], schema=City)]


def reasoning(driver: Driver) -> list[Outcome]:
    return [driver.ask(R1, [user("What is 6 times 7?")])]


def reasoning_streamed(driver: Driver) -> list[Outcome]:
    return [driver.ask(QWEN, [user("What is 6 times 7?")], stream=True)]


def image(driver: Driver) -> list[Outcome]:
    return [driver.ask(GEMMA, PICTURE)]


def unknown_model(driver: Driver) -> list[Outcome]:
    return [driver.ask("no-such/model", SEA)]


def verify(driver: Driver) -> list[Outcome]:
    question = user("What is the capital of France?")
    answers = [{"role": "assistant", "content": f"The capital of France is {city}."} for city in ("London", "Paris")]
    return [driver.ask(VERIFY, [question, answer]) for answer in answers]


def embed(driver: Driver) -> list[Outcome]:
    return [driver.embed(["A cat sleeps on the mat.", "Stocks fell on Tuesday."])]


def talk(model: str) -> Callable[[Driver], list[Outcome]]:
    return lambda driver: [driver.ask(model, SEA, **WRITE | {"max_completion_tokens": 200})]


def _for(adapter: str) -> list[Scenario]:
    inline = {"reasoning": "open"}

    def row(name: str, run: Callable[[Driver], Any], **more: Any) -> Scenario:
        return Scenario(adapter=adapter, name=name, run=run, **more)

    return [
        row("chat", chat, real=True),
        row("stream", stream, real=True),
        row("tools", tools),
        row("tools-streamed", tools_streamed),
        row("tools-prompted", tools_prompted),
        row("structured", structured),
        row("structured-prompted", structured_prompted),
        row("reasoning", reasoning),
        row("reasoning-inline", reasoning, server=inline),
        row("reasoning-streamed", reasoning_streamed),
        row("reasoning-inline-streamed", reasoning_streamed, server={"reasoning": "think"}),
        row("image", image),
        row("embeddings", embed),
        row("error-401", chat, server={"api_keys": [KEY]}, key=WRONG_KEY),
        row("error-404", unknown_model),
        row("error-429", chat, fault=Fault("status", status=429, retry_after=7)),
        row("error-500", chat, fault=Fault("status", status=500, body="vendor", headers=REQUEST_ID)),
    ]


def _slug(model: str) -> str:
    return model.replace("/", "--")


_CHAT = [spec for spec in catalog.all_models() if spec.purpose == "chat"]
SCENARIOS: list[Scenario] = [
    *(scenario for adapter in DRIVERS for scenario in _for(adapter)),
    # The other shape in which the service answers, and the usage that it may send in a stream.
    Scenario(adapter="core", name="sglang", run=chat, server={"shape": "sglang"}, real=True),
    Scenario(
        adapter="core",
        name="sglang-streamed",
        run=stream,
        server={"shape": "sglang", "usage_in_stream": True},
        real=True,
    ),
    # A small model has no thoughts to show.
    *(
        Scenario(adapter="core", name=f"model-{_slug(spec.id)}", run=talk(spec.id), real=not spec.reasoning)
        for spec in _CHAT
    ),
    # It judges an answer instead of giving one.
    Scenario(adapter="core", name=f"model-{_slug(VERIFY)}", run=verify),
]
