"""The tool search that Codex runs itself: its tools are offered once they are found, and called by their own names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from ..raw_server import RawServer, Reply, sse, whole
from .conftest import user
from .test_other_servers import gate, upstream

__all__ = ["gate", "upstream"]

QUERY = {"type": "object", "properties": {"query": {"type": "string"}}}
SEARCH = {"type": "tool_search", "execution": "client", "description": "Find more tools.", "parameters": QUERY}
SHELL = {"type": "function", "name": "shell", "parameters": {"type": "object", "properties": {}}}
LATER = {"type": "function", "name": "list_issues", "parameters": QUERY, "defer_loading": True}
SPACE = {"type": "namespace", "name": "mcp__github", "description": "GitHub.", "tools": [LATER]}
FLAT = "mcp__github__list_issues"


@pytest.fixture
def client(gate: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=str(gate.base_url), api_key="any", max_retries=0) as made:
        yield made


def call(name: str, arguments: str = '{"query": "issues"}') -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"content": None, "tool_calls": [{"index": 0, "id": "a", "type": "function", "function": function}]}


def names(body: Any) -> list[str]:
    return [tool["function"]["name"] for tool in body["tools"]]


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_search_and_the_call_of_what_it_has_found(
    client: openai.OpenAI, upstream: RawServer, stream: bool, remembers: bool
) -> None:
    def reply(message: dict[str, Any]) -> Reply:
        return Reply(sse(message, finish="tool_calls")) if stream else whole(message, finish="tool_calls")

    def ask(**more: Any) -> Any:
        create: Any = client.responses.create
        answer = create(model="plain", tools=[SEARCH, SHELL, SPACE], stream=stream, **more)
        return list(answer)[-1].response if stream else answer

    upstream.script(reply(call("tool_search")), reply(call(FLAT)))
    first = ask(input=user("Which issues are open?"))
    [found] = first.output
    assert (found.type, found.execution, found.status) == ("tool_search_call", "client", "completed")
    assert (found.call_id, found.arguments) == ("a", {"query": "issues"})
    offered = upstream.requests[0].json
    assert names(offered) == ["tool_search", "shell"]
    assert offered["tools"][0]["function"] == {k: v for k, v in SEARCH.items() if k not in ("type", "execution")} | {
        "name": "tool_search"
    }

    output = {"type": "tool_search_output", "call_id": "a", "execution": "client", "tools": [SPACE]}
    if remembers:
        second = ask(input=[output], previous_response_id=first.id)
    else:
        second = ask(input=[*user("Which issues are open?"), found.model_dump(exclude_none=True), output])
    [made] = second.output
    assert (made.type, made.namespace, made.name) == ("function_call", "mcp__github", "list_issues")
    body = upstream.requests[1].json
    assert names(body) == ["tool_search", "shell", FLAT]
    asked, result = body["messages"][1:]
    assert asked["tool_calls"][0]["function"] == {"name": "tool_search", "arguments": '{"query": "issues"}'}
    assert result == {"role": "tool", "tool_call_id": "a", "content": f"These tools can be called now: {FLAT}."}


def test_the_events_are_those_of_an_item(gate: httpx.Client, upstream: RawServer) -> None:
    upstream.script(Reply(sse(call("tool_search"), finish="tool_calls")))
    body = {"model": "plain", "input": "Hi", "tools": [SEARCH], "stream": True}
    kinds = [line[7:] for line in gate.post("/responses", json=body).text.splitlines() if line.startswith("event: ")]
    assert kinds[2:] == ["response.output_item.added", "response.output_item.done", "response.completed"]


def test_a_search_that_found_nothing(gate: httpx.Client, upstream: RawServer) -> None:
    items = [
        *user("Hi"),
        {"type": "tool_search_call", "call_id": "a", "execution": "client", "arguments": {}},
        {"type": "tool_search_output", "call_id": "a", "execution": "client", "tools": []},
    ]
    assert gate.post("/responses", json={"model": "plain", "input": items, "tools": [SEARCH]}).status_code == 200
    assert upstream.requests[0].json["messages"][-1]["content"] == "No tool was found."


@pytest.mark.parametrize("tools", [[{"type": "tool_search"}, SHELL, SPACE], [SHELL, SPACE]])
def test_without_a_search_of_the_client_all_tools_are_offered(
    gate: httpx.Client, upstream: RawServer, tools: list[Any]
) -> None:
    # Records of a search on OpenAI's servers, which has no call id.
    record = [{"type": "tool_search_call", "arguments": {}}, {"type": "tool_search_output", "tools": [SPACE]}]
    body = {"model": "plain", "input": [*user("Hi"), *record], "tools": tools}
    assert gate.post("/responses", json=body).status_code == 200
    sent = upstream.requests[0].json
    assert names(sent) == ["shell", FLAT]
    assert len(sent["messages"]) == 1


def test_a_search_alone_on_openais_servers_is_refused(gate: httpx.Client) -> None:
    answer = gate.post("/responses", json={"model": "plain", "input": "Hi", "tools": [{"type": "tool_search"}]})
    assert (answer.status_code, "that OpenAI runs itself (tool_search)" in answer.text) == (400, True)


def test_a_tool_that_is_offered_twice_is_sent_once(gate: httpx.Client, upstream: RawServer) -> None:
    again = {"type": "additional_tools", "role": "developer", "tools": [{**SHELL, "description": "Run it."}]}
    body = {"model": "plain", "input": [*user("Hi"), again], "tools": [SHELL]}
    assert gate.post("/responses", json=body).status_code == 200
    [sent] = upstream.requests[0].json["tools"]
    assert sent["function"]["description"] == "Run it."


SEARCHED = {
    "type": "search_result",
    "source": "https://oslo.example",
    "title": "Oslo",
    "content": [{"type": "text", "text": "It is small."}, {"type": "text", "text": "It is green."}],
    "citations": {"enabled": True},
}


@pytest.mark.parametrize("in_result", [False, True])
def test_search_results_of_anthropics_clients(gate: httpx.Client, upstream: RawServer, in_result: bool) -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": [SEARCHED]}
    messages = user([result if in_result else SEARCHED])
    body = {"model": "plain", "max_tokens": 9, "messages": messages}
    assert gate.post("/messages", json=body).status_code == 200
    [sent] = upstream.requests[0].json["messages"]
    assert sent["content"] == "Oslo\nhttps://oslo.example\nIt is small.\nIt is green."


@pytest.mark.parametrize("content", [5, None, "text", [5], [{"type": "image"}], [{"type": "text", "text": None}]])
@pytest.mark.parametrize("kind", ["search_result", "document"])
def test_what_a_tool_returns_is_never_refused(
    gate: httpx.Client, upstream: RawServer, content: object, kind: str
) -> None:
    part: dict[str, Any] = {"type": kind, "title": "Oslo"}
    part |= {"content": content} if kind == "search_result" else {"source": {"type": "content", "content": content}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [part]}
    body = {"model": "plain", "max_tokens": 9, "messages": user([result])}
    assert gate.post("/messages", json=body).status_code == 200
    assert upstream.requests[0].json["messages"][0]["content"].startswith("Oslo")


def test_what_a_user_sends_is_refused_with_its_place(gate: httpx.Client) -> None:
    part = {"type": "document", "source": {"type": "content", "content": [{"type": "image"}]}}
    answer = gate.post("/messages", json={"model": "plain", "max_tokens": 9, "messages": user([part])})
    assert "messages[0].content[0].source.content[0].type='image' must be text" in answer.text
    part = {**SEARCHED, "content": [SEARCHED["content"][0], {"type": "image"}]}  # type: ignore[index]
    answer = gate.post("/messages", json={"model": "plain", "max_tokens": 9, "messages": user([part])})
    assert "messages[0].content[0].content[1].type='image' must be text" in answer.text
