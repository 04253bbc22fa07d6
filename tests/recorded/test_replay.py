"""Each cassette is replayed through its adapter, sync and async, on the SDK that is installed, without a network."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import pytest_socket
import yaml

from kluster_integrations import catalog
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.transport import Transport
from kluster_integrations.errors import APIConnectionError

from ..features.adapters import usable
from ..tree import ROOT
from . import wire
from .drivers import WAYS, Outcome
from .recorder import SUMS, outcomes, replay, seal
from .scenarios import CASSETTES, KEY, SCENARIOS, WRONG_KEY, Scenario

pytestmark = pytest.mark.usefixtures("no_network")

FILES = sorted(CASSETTES.glob("*/*.yaml"))
ADAPTERS = [name for name in WAYS if name == "core" or usable(name)]
HERE = [(one, way) for one in SCENARIOS if one.adapter in ADAPTERS for way in WAYS[one.adapter]]


class Told:
    """What an answer says, whichever adapter it came through."""

    def __init__(self, adapter: str, call: Outcome) -> None:
        getattr(self, f"_{adapter}")(call)

    def _core(self, call: Outcome) -> None:
        answer = call["answer"]
        self.text, self.thoughts = answer["text"], answer["reasoning"]
        self.calls = [(one["name"], json.loads(one["arguments"])) for one in answer["tool_calls"]]
        self.pieces = [piece[0] for piece in call.get("pieces", [])]
        self.filled = None if self.thoughts or not self.text.startswith("{") else json.loads(self.text)

    def _langchain(self, call: Outcome) -> None:
        answer = call["answer"]
        self.text = answer.get("content", "")
        self.thoughts = answer.get("additional_kwargs", {}).get("reasoning_content", "")
        self.calls = [(one["name"], one["args"]) for one in answer.get("tool_calls", [])]
        self.pieces = [piece.get("content", "") for piece in call.get("pieces", [])]
        self.filled = call.get("parsed")

    def _litellm(self, call: Outcome) -> None:
        answer = call["answer"]
        self.text, self.thoughts = answer.get("content", ""), answer.get("reasoning_content", "")
        functions = [one["function"] for one in answer.get("tool_calls", [])]
        self.calls = [(one["name"], json.loads(one["arguments"])) for one in functions]
        self.pieces = [piece.get("content", "") for piece in call.get("pieces", [])]
        self.filled = json.loads(self.text) if self.text.startswith("{") else None

    def _crewai(self, call: Outcome) -> None:
        result = call["result"]
        functions = [one["function"] for one in result] if isinstance(result, list) else []
        self.text, self.thoughts = result if isinstance(result, str) else "", "".join(call["thoughts"])
        self.calls = [(one["name"], json.loads(one["arguments"])) for one in functions]
        self.pieces = call["pieces"]
        self.filled = result if isinstance(result, dict) else None


def is_of_the_emulator(text: str) -> bool:
    """Whether a cassette's head says so: what a live model says, and in which fields, is for a reviewer to judge."""
    return "\n  against: the emulator " in text


def check_chat(told: Told) -> None:
    assert "sea" in told.text.lower()
    assert told.calls == []


def check_stream(told: Told) -> None:
    check_chat(told)
    assert "".join(told.pieces) == told.text
    assert len([piece for piece in told.pieces if piece]) > 10


def check_tools(asked: Told, answered: Told | None = None) -> None:
    assert asked.calls == [("get_weather", {"city": "Paris"})]
    if answered:
        assert "18 degrees" in answered.text
        assert answered.calls == []


def check_structured(told: Told) -> None:
    assert told.filled == {"name": "Lisbon", "country": "Portugal"}


def check_reasoning(told: Told) -> None:
    assert told.thoughts
    assert told.text
    assert "think>" not in told.text + told.thoughts
    assert told.thoughts.strip() not in told.text


def check_verdicts(*told: Told) -> None:
    assert [one.text.partition("\n\nExplanation: ")[0] for one in told] == ["Hallucination: Yes", "Hallucination: No"]
    assert '"London"' in told[0].text


def check_image(told: Told) -> None:
    assert "2x3" in told.text


ERRORS = {
    "error-401": ("AuthenticationError", 401, "invalid_api_key", None, None),
    "error-404": ("NotFoundError", 404, "model_not_found", None, None),
    "error-429": ("RateLimitError", 429, "rate_limit_exceeded", 7.0, None),
    "error-500": ("InternalServerError", 500, "4000", None, "req-of-the-failed-call"),
}
CHECKS: dict[str, Any] = {
    "chat": check_chat,
    "model": check_chat,
    "model-klusterai--verify-reliability": check_verdicts,
    "stream": check_stream,
    "sglang": check_chat,
    "tools": check_tools,
    "structured": check_structured,
    "reasoning": check_reasoning,
    "image": check_image,
}


def check(scenario: Scenario, outcome: Outcome) -> None:
    """Check what the scenario is about, whatever has been noted."""
    if scenario.name in ERRORS:
        kind, *fields = ERRORS[scenario.name]
        assert outcome["error"].endswith(kind)
        said = [outcome[name] for name in ("status_code", "code", "retry_after", "request_id")]
        assert [said[0], str(said[1]), *said[2:]] == fields
    elif scenario.name == "embeddings":
        assert outcome["calls"][0]["vectors"]["lengths"] == [1024, 1024]
    else:
        checked = CHECKS.get(scenario.name) or CHECKS[scenario.name.partition("-")[0]]
        checked(*(Told(scenario.adapter, call) for call in outcome["calls"]))


@pytest.mark.parametrize(("scenario", "way"), HERE, ids=lambda value: getattr(value, "id", value))
def test_replay(scenario: Scenario, way: str) -> None:
    outcome = replay(scenario, way)

    assert outcome == outcomes(scenario.adapter)[scenario.name]
    if is_of_the_emulator((ROOT / scenario.path).read_text("utf-8")):
        check(scenario, outcome)


def test_there_is_one_cassette_a_scenario() -> None:
    assert [file.relative_to(ROOT) for file in FILES] == sorted(scenario.path for scenario in SCENARIOS)
    assert {name for adapter in WAYS for name in outcomes(adapter)} == {scenario.name for scenario in SCENARIOS}


def test_each_model_of_the_catalog_has_its_chat() -> None:
    texts = [(ROOT / one.path).read_text("utf-8") for one in SCENARIOS if one.name.startswith("model-")]
    models = [spec.id for spec in catalog.all_models() if spec.purpose != "embeddings"]
    assert [model for model, text in zip(models, texts, strict=True) if f'"model": "{model}",' not in text] == []


def test_each_adapter_has_all_of_it() -> None:
    names = {adapter: {one.name for one in SCENARIOS if one.adapter == adapter} for adapter in WAYS}
    wanted = {"chat", "stream", "tools", "structured", "reasoning", "image", "embeddings", *ERRORS}
    assert all(wanted <= found for found in names.values())


def test_nobody_has_edited_a_cassette() -> None:
    assert (ROOT / SUMS).read_text("utf-8") == seal(), "cassettes are recorded (make record), not written"


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_what_is_in_it(file: Any) -> None:
    text = file.read_text("utf-8")
    data = yaml.safe_load(text)

    assert {"date", "server", "by", "against", "text"} == data["recorded"].keys()
    if is_of_the_emulator(text):
        wire.check(data)
    assert not [word for word in (KEY, WRONG_KEY, "authorization", "x-stainless", "user-agent") if word in text.lower()]
    for row in data["interactions"]:
        bodies = [row["request"]["body"], row["response"]["body"]["string"]]
        assert all(body.startswith(("{\n", "data: ")) for body in bodies), "not laid out"
        assert all(f"{line}\n" in text for body in bodies for line in body.splitlines()), "not a block"


def test_the_network_is_blocked() -> None:
    with pytest.raises((APIConnectionError, pytest_socket.SocketBlockedError), match=r"getaddrinfo|SocketBlocked"):
        Transport(KlusterConfig(api_key=KEY, base_url="http://127.0.0.1:9/v1", max_retries=0)).get("/models")
    with pytest.raises(pytest_socket.SocketBlockedError):
        socket.socket(socket.AF_INET)
