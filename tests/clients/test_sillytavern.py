"""SillyTavern's real server, asked as its page asks it, with the preset that is written for it.

The page itself is not run: what it sends is put together here from the preset, field by field as the page of
SillyTavern 1.19 was seen to do it in a browser; what leaves for kluster.ai is its server's work.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.emulator import Emulator
from tests.litellm.proxy_server import MASTER_KEY

from .conftest import CLIENTS, KEY, LLAMA, SQUARE, bodies, export, need

_SECONDS = 180.0  # at its first start it builds its page
Post = Callable[[str, Any], str]


@pytest.fixture(scope="module")
def tavern(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """SillyTavern's server: `post(path, body)`."""
    program = need(CLIENTS / "node" / "node_modules" / "sillytavern" / "server.js")
    folder = tmp_path_factory.mktemp("tavern")
    (folder / "data").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "dataRoot": folder / "data",
        "configPath": folder / "config.yaml",
        "port": port,
        "browserLaunchEnabled": "false",
        "disableCsrf": "true",
    }
    command = [str(need("node")), str(program), *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def post(path: str, body: Any) -> str:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), headers)
        try:
            return str(urllib.request.urlopen(request, timeout=60).read().decode())
        except urllib.error.HTTPError as err:  # what the server behind it says is passed on with its status
            return err.read().decode()

    try:
        _wait_for(url, process, folder / "log")
        yield post
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(int(_SECONDS / 0.5)):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{url}/csrf-token", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"SillyTavern does not answer: {log.read_text('utf-8', 'replace')[-3000:]}")


def sent_by_the_page(preset: dict[str, Any], messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    names = ("custom_url", "custom_include_body", "custom_exclude_body", "custom_prompt_post_processing")
    return {
        "type": "normal",
        "messages": messages,
        "model": preset["custom_model"],
        "temperature": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "top_p": 1,
        "max_tokens": preset["openai_max_tokens"],
        "stream": preset["stream_openai"],
        "stop": [],
        "chat_completion_source": preset["chat_completion_source"],
        "user_name": "Guest",
        "char_name": "Cook",
        "group_names": [],
        "include_reasoning": True,
        "enable_web_search": False,
        "request_images": False,
        "request_image_resolution": "",
        "request_image_aspect_ratio": "",
        "custom_include_headers": "",
        **{name: preset[name] for name in names},
        **more,
    }


SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"


def conversation(question: Any) -> list[dict[str, Any]]:
    """Return what a chat with example messages looks like: those have names."""
    return [
        {"role": "system", "content": "Write Cook's next reply in a fictional chat between Cook and Guest."},
        {"role": "system", "content": "Is this a diner?", "name": "example_user"},
        {"role": "system", "content": "It is.", "name": "example_assistant"},
        {"role": "assistant", "content": "Welcome!"},
        {"role": "user", "content": question},
    ]


def preset_of(url: str, *options: str) -> dict[str, Any]:
    return dict(json.loads(export("sillytavern", "--base-url", url, *options)))


def ask(post: Post, preset: dict[str, Any], question: Any, **more: Any) -> str:
    """Connect, ask, and return the streamed text."""
    body = sent_by_the_page(preset, conversation(question), **more)
    connection = {name: body[name] for name in ("chat_completion_source", "custom_url")}
    found = json.loads(post("/api/backends/chat-completions/status", connection))["data"]
    assert body["model"] in [model["id"] for model in found]
    lines = post("/api/backends/chat-completions/generate", body).splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert lines[-2:] == ["data: [DONE]", ""] or "data: [DONE]" in lines
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))


@pytest.fixture
def with_key(tavern: Post) -> Callable[[str], Post]:
    def log_in(key: str) -> Post:
        tavern("/api/secrets/write", {"key": "api_key_custom", "value": key, "label": "kluster.ai"})
        return tavern

    return log_in


def test_connect_and_chat(with_key: Callable[[str], Post], emulator: Emulator) -> None:
    preset = preset_of(emulator.base_url)
    assert "any breakfast" in ask(with_key(KEY), preset, "Is there any breakfast?")
    [body] = bodies(emulator)
    assert (body["model"], body["max_completion_tokens"]) == (LLAMA, 2_000)
    assert "max_tokens" not in body
    assert [set(message) for message in body["messages"]] == [{"role", "content"}] * len(body["messages"])
    assert [request.path for request in emulator.requests] == ["/v1/models", "/v1/chat/completions"]


def test_an_image(with_key: Callable[[str], Post], emulator: Emulator) -> None:
    preset = preset_of(emulator.base_url, "--models", SCOUT)  # Gemma's template takes no such conversation
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SQUARE}", "detail": "auto"}}
    answer = ask(with_key(KEY), preset, [{"type": "text", "text": "What is this?"}, image])
    assert "[image/png]" in answer


def test_tools(with_key: Callable[[str], Post], emulator: Emulator) -> None:
    function = {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    tools = [{"type": "function", "function": function}]
    ask(with_key(KEY), preset_of(emulator.base_url), "Weather in Lisbon?", tools=tools, tool_choice="auto")
    assert bodies(emulator)[0]["tools"] == tools


def test_without_the_preset_it_is_refused(with_key: Callable[[str], Post], emulator: Emulator) -> None:
    """Why the preset has what it has."""
    bare = {"custom_include_body": "", "custom_exclude_body": "", "custom_prompt_post_processing": ""}
    preset = {**preset_of(emulator.base_url), **bare}
    answer = with_key(KEY)("/api/backends/chat-completions/generate", sent_by_the_page(preset, conversation("Hi")))
    assert "Unsupported parameter: 'max_tokens'" in answer


def test_a_lenient_server_takes_it_without_the_preset(with_key: Callable[[str], Post], lenient: Emulator) -> None:
    bare = {"custom_include_body": "", "custom_exclude_body": "", "custom_prompt_post_processing": ""}
    assert "Hi" in ask(with_key(KEY), {**preset_of(lenient.base_url), **bare}, "Hi")


def test_through_the_proxy(with_key: Callable[[str], Post], proxy: tuple[str, Emulator]) -> None:
    url, server = proxy
    assert "any breakfast" in ask(with_key(MASTER_KEY), preset_of(url, "--proxy"), "Is there any breakfast?")
    assert bodies(server)[0]["max_completion_tokens"] == 2_000
