"""The gateway in front of a server of one's own: what the catalog says of it is sent, and its odd answers are read."""

from __future__ import annotations

import gzip
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kluster_integrations import KlusterConfig
from kluster_integrations.gateway import Gateway, answers

from ..raw_server import Gate as SlowGate
from ..raw_server import RawServer, Reply, sse, whole
from .conftest import PARIS, WEATHER, user

CATALOG = """
[[models]]
id = "mine"
context_window = 8_192
supports_tools = true
supports_vision = true
native = ["reasoning_effort", "verbosity", "user", "service_tier", "store"]

[[models]]
id = "plain"
context_window = 8_192
supports_tools = true
"""


@pytest.fixture
def upstream() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


@pytest.fixture
def gate(upstream: RawServer, tmp_path: Path) -> Iterator[httpx.Client]:
    catalog = tmp_path / "models.toml"
    catalog.write_text(CATALOG, "utf-8")
    config = KlusterConfig(base_url=upstream.base_url, catalog=str(catalog), max_retries=0)
    with (
        Gateway(config, grace=1) as server,
        httpx.Client(base_url=server.base_url, trust_env=False, timeout=20) as client,
    ):
        yield client


FIELDS = {"user": "ada", "service_tier": "flex", "store": True}
CHAT: dict[str, Any] = {"messages": user("Hello!"), "reasoning_effort": "low", "verbosity": "low", **FIELDS}
RESPONSE: dict[str, Any] = {"input": "Hello!", "reasoning": {"effort": "low"}, "text": {"verbosity": "low"}, **FIELDS}
MESSAGE: dict[str, Any] = {"messages": user("Hello!"), "max_tokens": 9, "output_config": {"effort": "low"}}


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/chat/completions", CHAT, {"reasoning_effort", "verbosity", "user", "service_tier", "store"}),
        # What is stored of responses, the gateway stores.
        ("/responses", RESPONSE, {"reasoning_effort", "verbosity", "user", "service_tier"}),
        ("/messages", MESSAGE, {"reasoning_effort"}),
    ],
)
@pytest.mark.parametrize("model", ["mine", "plain"])
def test_what_only_says_how_is_sent_where_it_is_native(
    gate: httpx.Client, upstream: RawServer, path: str, body: dict[str, Any], names: set[str], model: str
) -> None:
    assert gate.post(path, json={"model": model, **body}).status_code == 200
    sent = upstream.requests[0].json
    assert sent.keys() - {"model", "messages", "max_completion_tokens"} == (names if model == "mine" else set())
    assert {sent.get(name) for name in ("reasoning_effort", "verbosity")} <= {"low", None}


CALL = {
    "index": 0,
    "id": "a",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_ends_with_stop_is_a_use_of_a_tool(gate: httpx.Client, upstream: RawServer, stream: bool) -> None:
    message = {"content": None, "tool_calls": [CALL]}
    upstream.answer = lambda _: Reply(sse(message)) if stream else whole(message)
    tool = {"name": "get_weather", "input_schema": WEATHER}
    asked = {"model": "plain", "max_tokens": 50, "messages": user(PARIS), "tools": [tool], "stream": stream}
    answer = gate.post("/messages", json={**asked, "tool_choice": {"type": "tool", "name": "get_weather"}})
    assert '"stop_reason":"tool_use"' in answer.text


LIST = {"type": "function", "name": "list", "parameters": {"type": "object", "properties": {}}}
PATCH = {"type": "custom", "name": "patch"}
SPACES = [("mcp__github", LIST, "mcp__github__list"), ("functions", PATCH, "patch")]


@pytest.mark.parametrize(("space", "tool", "name"), SPACES)
@pytest.mark.parametrize("later", [False, True])
def test_tools_of_a_namespace_are_called_by_both_names(
    gate: httpx.Client, upstream: RawServer, space: str, tool: dict[str, Any], name: str, later: bool
) -> None:
    tools = [{"type": "namespace", "name": space, "description": "Codex sends these.", "tools": [tool]}]
    items: list[Any] = user("Go!")
    if later:
        items.append({"type": "additional_tools", "role": "developer", "tools": tools})
    asked = {"model": "plain", "tools": [] if later else tools, "store": False}
    function = {"name": name, "arguments": '{"input": "x"}' if tool is PATCH else "{}"}
    called = {"content": None, "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    upstream.script(whole(called, finish="tool_calls"))
    found = gate.post("/responses", json={**asked, "input": items}).json()["output"][0]
    assert (found["namespace"], found["name"]) == (space, tool["name"])

    output = {"type": found["type"] + "_output", "call_id": "a", "output": "Done."}
    assert gate.post("/responses", json={**asked, "input": [*items, found, output]}).status_code == 200
    sent = upstream.requests[1].json
    assert [offered["function"]["name"] for offered in sent["tools"]] == [name]
    assert sent["messages"][1]["tool_calls"][0]["function"]["name"] == name


F: dict[str, Any] = {"name": "f", "parameters": {"type": "object", "properties": {}}}
NESTED = {"type": "function", "function": F}
OTHER = {"type": "function", "function": {**F, "name": "other"}}
ONLY_F = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NESTED]}}


@pytest.mark.parametrize(
    ("tools", "choice", "sent", "names"),
    [
        ([{"type": "function", **F}, OTHER], "auto", "auto", ["f", "other"]),
        ([NESTED, OTHER], {"type": "auto"}, "auto", ["f", "other"]),
        ([NESTED, OTHER], {"type": "none"}, "none", ["f", "other"]),
        ([NESTED, OTHER], ONLY_F, "auto", ["f"]),
        ([NESTED], None, None, ["f"]),
    ],
)
def test_tools_and_choices_in_the_form_of_other_apis(
    gate: httpx.Client, upstream: RawServer, tools: list[Any], choice: object, sent: object, names: list[str]
) -> None:
    asked = {"model": "plain", "messages": user("Hello!"), "tools": tools, "tool_choice": choice, "top_logprobs": 0}
    assert gate.post("/chat/completions", json=asked).status_code == 200
    body = upstream.requests[0].json
    assert (body.get("tool_choice"), [tool["function"]["name"] for tool in body["tools"]]) == (sent, names)
    assert body["tools"][0] == NESTED


def test_a_choice_that_allows_no_tool_is_refused(gate: httpx.Client) -> None:
    asked = {"model": "plain", "messages": user("Hello!"), "tools": [OTHER], "tool_choice": ONLY_F}
    answer = gate.post("/chat/completions", json=asked)
    assert (answer.status_code, "['f']" in answer.text) == (400, True)


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/messages", "/v1//responses", "/nope"])
def test_a_wrong_base_url_is_said(gate: httpx.Client, path: str) -> None:
    answer = gate.post(str(gate.base_url.copy_with(raw_path=path.encode())), json={})
    assert answer.status_code == 404
    right = {
        "/chat/completions": "/v1/chat/completions",
        "/v1/v1/messages": "/v1/messages",
        "/v1//responses": "/v1/resp",
    }
    assert f"It has {right.get(path)}" in answer.text or path not in right


def test_an_encoded_body_is_refused_as_such(gate: httpx.Client) -> None:
    answer = gate.post("/chat/completions", content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
    assert (answer.status_code, "Content-Encoding: gzip" in answer.text) == (415, True)


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


@pytest.mark.parametrize(
    ("content", "status", "least"),
    [("Hello!", 200, 1), ([PICTURE], 200, 256), ("word " * 9_000, 200, 9_000), ([5], 400, 0), ([{"text": 5}], 400, 0)],
)
def test_tokens_are_counted_as_they_are_sent(gate: httpx.Client, content: object, status: int, least: int) -> None:
    answer = gate.post("/messages/count_tokens", json={"model": "mine", "messages": user(content)})
    assert answer.status_code == status
    assert answer.json().get("input_tokens", 0) >= least


def test_what_anthropics_clients_name_is_named(gate: httpx.Client) -> None:
    asked = {"model": "plain", "messages": user("Hello!"), "max_tokens": 9}
    for field in ({"max_tokens": "9"}, {"mcp_servers": [{"type": "url", "url": "https://mcp.example"}]}):
        answer = gate.post("/messages", json={**asked, **field})
        (name,) = field
        assert (answer.status_code, answer.json()["error"]["message"].startswith(name)) == (400, True)


@pytest.mark.parametrize("created", [1_795_000_000_000, 10**20, -1, "now", None])
def test_a_model_of_an_impossible_time_is_listed(gate: httpx.Client, upstream: RawServer, created: object) -> None:
    data = json.dumps({"data": [{"id": "mine", "created": created}]}).encode()
    upstream.answer = lambda _: Reply([data], content_type="application/json", framing="length")
    (row,) = gate.get("/models").json()["data"]
    assert (row["created"], row["created_at"]) == (0, "1970-01-01T00:00:00Z")


@pytest.mark.parametrize("field", ["text", "reasoning", "include"])
def test_a_part_of_a_response_that_has_another_type_is_named(gate: httpx.Client, field: str) -> None:
    answer = gate.post("/responses", json={"model": "plain", "input": "Hello!", field: 5})
    assert (answer.status_code, field in answer.json()["error"]["message"]) == (400, True)


def test_a_client_that_leaves_floods_no_log(
    gate: httpx.Client, upstream: RawServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    upstream.answer = lambda _: Reply(sse(*[{"content": "word"}] * 2_000), at_once=True)
    body = json.dumps({"model": "plain", "messages": user("Hello!"), "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    for _ in range(5):
        with socket.create_connection((gate.base_url.host, gate.base_url.port or 0), timeout=20) as connection:
            connection.sendall(head.encode() + body)
            assert connection.recv(4) == b"HTTP"
    assert gate.get("/models").status_code == 502  # it is alive, and the log has come this far
    assert not [record for record in caplog.records if record.name == "asyncio"]


PARTS = [
    {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
    {"index": 0, "function": {"arguments": "}"}},
]
HELD = {
    "/chat/completions": {"messages": user("Go!"), "tools": [NESTED]},
    "/responses": {"input": "Go!", "tools": [{"type": "function", **F}]},
    "/messages": {"messages": user("Go!"), "max_tokens": 9, "tools": [{"name": "f", "input_schema": F["parameters"]}]},
}


@pytest.mark.parametrize("path", HELD)
def test_a_stream_that_holds_a_call_back_pings(
    gate: httpx.Client, upstream: RawServer, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(answers, "_PING_SECONDS", 0.02)
    pieces = sse(*({"tool_calls": [part]} for part in PARTS), finish="tool_calls")
    slow = SlowGate()
    upstream.answer = lambda _: Reply([pieces[0], b"".join(pieces[1:])], gate=slow)
    said = b""
    with gate.stream("POST", path, json={"model": "plain", "stream": True, **HELD[path]}) as answer:
        for data in answer.iter_raw():
            said += data
            if said.count(b": ping\n") > 1:  # Anthropic's streams begin with one
                slow.release()
                slow.release()
    assert answer.status_code == 200
    assert b'"name":"f"' in said
    assert not slow.waited_in_vain
    assert any(word in said for word in (b"[DONE]", b"response.completed", b"message_stop"))


PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/messages", {"max_tokens": 9, "system": "Be kind.", "messages": user([PDF])}, "messages[0].content[0].type="),
        (
            "/responses",
            {"instructions": "Be kind.", "input": [*user("Look:"), *user([{"type": "input_file", "file_id": "f"}])]},
            "input[1].content[0].type=",
        ),
    ],
)
def test_a_part_that_cannot_be_had_is_named_as_it_was_sent(
    gate: httpx.Client, path: str, body: dict[str, Any], said: str
) -> None:
    answer = gate.post(path, json={"model": "mine", **body})
    assert (answer.status_code, answer.json()["error"]["message"].startswith(said)) == (400, True)


def test_an_error_in_the_stream_of_a_response_has_a_code(gate: httpx.Client, upstream: RawServer) -> None:
    """Without one Vercel's AI SDK raises on the type of the event, and does not say what has failed."""
    upstream.answer = lambda _: Reply(sse({"content": "Hel"}, finish=None, done=False))
    text = gate.post("/responses", json={"model": "plain", "input": "Hello!", "stream": True}).text
    (event,) = (json.loads(line[6:]) for line in text.splitlines() if line.startswith('data: {"type":"error"'))
    assert event["code"] == event["error"]["code"] == "server_error"
