"""What a server does itself is sent to it by every adapter, and by none to a server that does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kluster_integrations.config import KlusterConfig

from .agreeing import SCHEMA, TOOLS, WAYS, City, Question, Way
from .raw_server import RawRequest, RawServer, Reply
from .test_adapters_agree import GOOD, OSLO, Answer

NATIVE = """
[[models]]
id = "mine"
context_window = 8_192
native = ["response_format", "stream_usage", "tools", "max_tokens"]

[[models]]
id = "plain"
context_window = 8_192
native = []
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(NATIVE, "utf-8")
    return path


def ask(way: Way, catalog: Path, question: Question, *answers: Answer) -> tuple[object, list[RawRequest]]:
    with RawServer() as server:

        def answer(request: RawRequest) -> Reply:
            return answers[len(server.requests) - 1].reply(stream=bool(request.json.get("stream")))

        server.answer = answer
        config = KlusterConfig(base_url=server.base_url, catalog=catalog, max_retries=0, timeout=20)
        return way.ask(config, question), server.requests


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_schema_is_sent_and_its_answer_checked_and_repaired(way: Way, catalog: Path) -> None:
    wrong = Answer('{"name": "Oslo"}')
    seen, requests = ask(way, catalog, Question("mine", city=True, params={"max_tokens": 50}), wrong, Answer(GOOD))
    assert getattr(seen, "city", None) == OSLO, seen
    assert len(requests) == 2
    for request in requests:
        body = request.json
        sent = body["response_format"]
        assert sent["type"] == "json_schema"
        assert sent["json_schema"]["name"]
        assert sent["json_schema"]["schema"].keys() >= City.model_json_schema().keys()
        assert "<schema>" not in json.dumps(body["messages"])
        assert (body.get("max_tokens"), "max_completion_tokens" in body) == (50, False)
        assert body.get("stream_options") == ({"include_usage": True} if way.stream else None)
        assert "authorization" not in {name.lower() for name in request.headers}  # loopback, and no key


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_elsewhere_nothing_of_it_is_sent(way: Way, catalog: Path) -> None:
    question = Question("plain", city=True, params={"max_tokens": 50})
    seen, [request] = ask(way, catalog, question, Answer(GOOD))
    assert getattr(seen, "city", None) == OSLO, seen
    assert request.json.keys() <= {"model", "messages", "stream", "max_completion_tokens"}
    assert "<schema>" in json.dumps(request.json["messages"])


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("model", ["mine", "plain"])
def test_tools(way: Way, catalog: Path, model: str) -> None:
    call = Answer(None, "tool_calls", calls=(("create_city", "{}"),))
    prompted = Answer('<tool_call>\n{"name": "create_city", "arguments": {}}\n</tool_call>')
    native = model == "mine"
    seen, [request] = ask(way, catalog, Question(model, tools=True), call if native else prompted)
    assert getattr(seen, "calls", None) == (("create_city", "{}"),), seen
    assert ("tools" in request.json) == native
    if native:
        assert [t["function"]["name"] for t in request.json["tools"]] == [t["function"]["name"] for t in TOOLS]


@pytest.mark.parametrize("way", [w for w in WAYS if w.adapter in ("langchain", "litellm")], ids=str)
def test_in_extra_body_a_schema_is_the_callers_word(way: Way, catalog: Path) -> None:
    question = Question("plain", params={"extra_body": {"response_format": SCHEMA}})
    seen, [request] = ask(way, catalog, question, Answer(GOOD))
    assert json.loads(getattr(seen, "text", "")) == json.loads(GOOD), seen
    assert request.json["response_format"] == SCHEMA
    assert "<schema>" not in json.dumps(request.json["messages"])
