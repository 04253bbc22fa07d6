"""What programs with a page of their own were seen to send: Open WebUI 0.12, n8n 2.41, and a page by `fetch`.

Each request has the fields, the headers and the order of the program's; only the words are others.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from kluster_integrations.emulator import Emulator
from kluster_integrations.gateway import Gateway
from tests.emulator.browser import need_browser

from .conftest import GEMMA, LLAMA, R1, SQUARE, bodies, user

SMALL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"  # Open WebUI's "task model" in what `kluster export` writes
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SQUARE}"}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_time", "description": "Now.", "parameters": {"properties": {}, "type": "object"}},
    },
    {
        "type": "function",
        "function": {
            "name": "ask_user",
            "description": "Ask back.",
            "parameters": {
                "properties": {
                    "questions": {
                        "description": "1-3 questions",
                        "items": {"additionalProperties": True, "type": "object"},
                        "type": "array",
                    },
                    "timeout_ms": {"default": 120_000, "description": "How long", "type": "integer"},
                },
                "required": ["questions"],
                "type": "object",
            },
        },
    },
]


def deltas(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def text_of(answer: httpx.Response, field: str = "content") -> str:
    return "".join(delta.get(field) or "" for delta in deltas(answer))


def test_open_webui_shows_reasoning_apart(http: httpx.Client, emulator: Emulator) -> None:
    emulator.reply("Bacon, egg and cheese.", reasoning="Bread first.", when=R1)
    # It offers its tools to every model, also to those that have none.
    body = {"stream": True, "model": R1, "messages": user("What is the best sandwich?"), "tools": TOOLS}
    answer = http.post("/chat/completions", json=body)
    assert text_of(answer) == "Bacon, egg and cheese."
    assert text_of(answer, "reasoning_content") == "Bread first."


def test_open_webui_shows_an_image_and_runs_a_tool(http: httpx.Client, emulator: Emulator) -> None:
    emulator.reply(tool_calls=[{"name": "get_time", "arguments": {}}], when="What is it?", times=1)
    question = user([{"type": "text", "text": "<attached_files/>"}, {"type": "text", "text": "What is it?"}, IMAGE])
    body = {"stream": True, "model": GEMMA, "messages": question, "tools": TOOLS}
    said = deltas(http.post("/chat/completions", json=body))
    [call] = [call for delta in said for call in delta.get("tool_calls", ())]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_time", {})
    call = {"id": call["id"], "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": call["id"], "content": '{"current_timestamp":1795720149}'}
    history = [*question, {"role": "assistant", "content": "", "tool_calls": [call]}, result]
    assert "1795720149" in text_of(http.post("/chat/completions", json={**body, "messages": history}))
    assert IMAGE in bodies(emulator)[1]["messages"][-3]["content"]


def test_open_webui_without_tools_shows_an_image(http: httpx.Client) -> None:
    question = user([{"type": "text", "text": "What is it?"}, IMAGE])
    answer = http.post("/chat/completions", json={"stream": True, "model": GEMMA, "messages": question})
    assert text_of(answer) == "Echo: What is it?\n[image/png]"


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ('JSON format: { "title": "your concise title here" }', {"stream": False, "max_tokens": 1000}),
        ('JSON format: { "follow_ups": ["Message 1", "Message 2"] }', {"stream": False}),
        ('JSON format: { "tags": ["tag1", "tag2"] }', {"stream": False}),
    ],
)
def test_open_webui_has_titles_follow_ups_and_tags(
    http: httpx.Client, emulator: Emulator, task: str, more: dict[str, Any]
) -> None:
    answer = http.post("/chat/completions", json={"model": SMALL, "messages": user(task), **more})
    assert (answer.status_code, answer.json()["choices"][0]["finish_reason"]) == (200, "stop")
    assert task in answer.json()["choices"][0]["message"]["content"]
    assert bodies(emulator)[0].get("max_completion_tokens") == more.get("max_tokens")


def test_open_webui_says_which_models_see(http: httpx.Client, emulator: Emulator) -> None:
    """It lets images be attached to every model, and shows the message."""
    question = user([{"type": "text", "text": "What is it?"}, IMAGE])
    answer = http.post("/chat/completions", json={"stream": True, "model": R1, "messages": question})
    assert answer.status_code == 400
    assert GEMMA in answer.json()["error"]["message"]
    assert not emulator.requests


def test_open_webui_embeds_documents(http: httpx.Client) -> None:
    answer = http.post("/embeddings", json={"input": ["Bacon costs 8 dollars."], "model": "BAAI/bge-m3"})
    assert [len(row["embedding"]) for row in answer.json()["data"]] == [1024]


def test_n8n_tests_its_credential_and_asks(http: httpx.Client) -> None:
    headers = {"Authorization": "Bearer any", "OpenAI-Organization": ""}
    assert http.get("/models", headers=headers).status_code == 200
    body = {"model": LLAMA, "stream": False, "messages": user("Hello!")}
    message = http.post("/chat/completions", json=body, headers=headers).json()["choices"][0]["message"]
    assert (message["content"], message.get("tool_calls")) == ("Echo: Hello!", None)


def test_the_newer_node_of_n8n_asks_for_a_response(http: httpx.Client, emulator: Emulator) -> None:
    emulator.reply("Bacon, egg and cheese.", reasoning="Bread first.", when=R1)
    question = [{"type": "message", "role": "user", "content": "What is the best sandwich?"}]
    response = http.post("/responses", json={"input": question, "model": R1, "stream": False, "text": {}}).json()
    [message] = [item for item in response["output"] if item["type"] == "message"]
    assert [part["text"] for part in message["content"]] == ["Bacon, egg and cheese."]


FETCH = """(async () => {
  const headers = {"Authorization": "Bearer any", "Content-Type": "application/json"};
  const ask = body => fetch(URL, {method: "POST", headers, body: JSON.stringify(body)});
  const stream = await ask({model: MODEL, stream: true, messages: [{role: "user", content: "Hello from a page"}]});
  const text = await stream.text();
  const error = await ask({model: MODEL, stream: true, messages: []});
  return [text, stream.headers.get("x-request-id"), error.status, error.headers.get("x-should-retry")];
})()"""


def test_a_page_of_another_origin_asks(gateway: Gateway) -> None:
    """A real browser asks first (OPTIONS) whether the page may, and hides what is not exposed to it."""
    with need_browser() as browser:
        # Another name is another origin; it is of this machine, so let in without a key.
        browser.open(f"http://localhost:{gateway.port}/health")
        values = {"URL": f"{gateway.base_url}/chat/completions", "MODEL": GEMMA}
        script = FETCH
        for name, value in values.items():
            script = script.replace(name, json.dumps(value))
        text, request_id, status, should_retry = browser.js(script)
    said = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    content = "".join(choice["delta"].get("content", "") for chunk in said for choice in chunk["choices"])
    assert content == "Echo: Hello from a page"
    assert request_id.startswith("req_")
    assert (status, should_retry) == (400, "false")
