from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest

from kluster_integrations.emulator import Emulator

LLAMA = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
R1 = "deepseek-ai/DeepSeek-R1-0528"
GEMMA = "google/gemma-3-27b-it"
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"
BGE = "BAAI/bge-m3"


def user(text: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def tool(name: str, description: str = "", required: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    names = list(fields) if required is None else required
    parameters = {"type": "object", "properties": fields, "required": names}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


class Api:
    """A bare HTTP client of one emulator."""

    opened: ClassVar[list[httpx.Client]] = []

    def __init__(self, base_url: str, key: str | None = "test-key") -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=base_url, headers=headers, timeout=10, trust_env=False)
        self.opened.append(self.http)

    def chat(self, messages: object = None, *, model: str = LLAMA, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": user("Hello there") if messages is None else messages}
        return self.http.post("/chat/completions", json={**body, **fields})

    def choice(self, messages: object = None, **fields: Any) -> dict[str, Any]:
        answer = self.chat(messages, **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]

    def text(self, messages: object = None, **fields: Any) -> str:
        return self.choice(messages, **fields)["message"]["content"]

    def calls(self, messages: object = None, **fields: Any) -> list[tuple[str, Any]]:
        calls = self.choice(messages, **fields)["message"]["tool_calls"] or []
        return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]

    def chunks(self, messages: object = None, **fields: Any) -> list[dict[str, Any]]:
        answer = self.chat(messages, stream=True, **fields)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.text.split("\n\n") if line]
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    def refused(self, messages: object = None, status: int = 400, **fields: Any) -> dict[str, Any]:
        answer = self.chat(messages, **fields)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


@pytest.fixture(autouse=True)
def _close_clients() -> Iterator[None]:
    before = len(Api.opened)
    yield
    while len(Api.opened) > before:
        Api.opened.pop().close()


@pytest.fixture
def serve() -> Iterator[Any]:
    """Start emulators with any settings; they stop after the test."""
    running: list[tuple[Emulator, Api]] = []

    def start(**settings: Any) -> tuple[Emulator, Api]:
        server = Emulator(**settings).start()
        running.append((server, Api(server.base_url)))
        return running[-1]

    yield start
    for server, api in running:
        api.http.close()
        server.stop()


@pytest.fixture(scope="package")
def api() -> Iterator[Api]:
    """A client of one emulator with default settings, shared by all tests that change nothing of it."""
    with Emulator() as server:
        client = Api(server.base_url)
        yield client
        client.http.close()
