from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from kluster_integrations.emulator import Fault

from .conftest import LLAMA, NEMO, QWEN, Api, tool, user


class LlamaCpp(BaseHTTPRequestHandler):
    """A server that answers as llama.cpp does."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(b'{"object": "list", "data": [{"id": "smol.gguf"}]}', "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        self.server.may_answer.wait(30)  # type: ignore[attr-defined]
        deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": None}, None)]
        deltas += [({"reasoning_content": "hmm"}, None)]
        deltas += [({"content": part}, None) for part in ("Real ", "text", ".")]
        deltas += [({}, "stop")]
        rows = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "timings": {"x": 1}}
            for delta, reason in deltas
        ]
        rows.append({"choices": [], "usage": {"prompt_tokens": 17, "completion_tokens": 3, "total_tokens": 20}})
        events = "".join(f"data: {json.dumps(row)}\n\n" for row in rows) + "data: [DONE]\n\n"
        self.reply(events.encode(), "text/event-stream")

    def reply(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def llama() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), LlamaCpp)
    server.bodies, server.may_answer = [], threading.Event()  # type: ignore[attr-defined]
    server.may_answer.set()  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{server.server_port}/v1"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_text_is_the_upstreams_and_the_shape_klusters(serve, llama) -> None:
    _, api = serve(upstream=llama.url, usage_in_stream=True)
    messages = [{"role": "system", "content": "Be short."}, *user("Hi")]
    body = api.chat(messages, temperature=0.3, seed=5, stop=["x"], max_completion_tokens=9, logit_bias={}).json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Real text.", "tool_calls": []}
    assert body["model"] == LLAMA
    assert body["usage"] == {"prompt_tokens": 17, "total_tokens": 20, "completion_tokens": 3}
    assert "timings" not in body
    assert llama.bodies[0] == {
        "model": "smol.gguf",
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.3,
        "seed": 5,
        "stop": ["x"],
    }
    chunks = api.chunks()
    assert [c["choices"][0]["delta"].get("content") for c in chunks[:-1]] == ["", "Real ", "text", ".", ""]
    assert chunks[-1]["usage"]["total_tokens"] == 20
    assert api.choice(model=QWEN)["message"]["reasoning_content"] == "hmm"


def test_rules_come_first(serve, llama) -> None:
    _, api = serve(upstream=llama.url, upstream_model="other")
    assert api.refused(n=2)["param"] == "n"
    assert api.refused(model=NEMO, tools=[tool("t")])["param"] == "tools"
    assert llama.bodies == []
    api.chat()
    assert llama.bodies[0]["model"] == "other"


def test_slow_upstream_does_not_block_others(serve, llama) -> None:
    llama.may_answer.clear()
    server, api = serve(upstream=llama.url, upstream_model="m")
    thread = threading.Thread(target=api.chat)
    thread.start()
    while not llama.bodies:
        time.sleep(0.005)
    assert Api(server.base_url).http.get("/models").status_code == 200
    assert thread.is_alive()
    llama.may_answer.set()
    thread.join()


def test_tool_calls_pass_through(serve) -> None:
    upstream, _ = serve(strict=False)
    upstream.reply(tool_calls=[{"name": "get_weather", "arguments": {"city": "Paris"}}], times=2)
    _, api = serve(upstream=upstream.base_url, upstream_model=LLAMA)
    weather = tool("get_weather", "Get the weather", city={"type": "string"})
    ask = user("weather in Paris")
    assert api.calls(ask, tools=[weather]) == [("get_weather", {"city": "Paris"})]
    assert api.choice(ask, tools=[weather])["finish_reason"] == "tool_calls"
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert api.calls(user("Hello"), tools=[weather], tool_choice=named)[0][0] == "get_weather"
    assert upstream.requests[-1].body["tool_choice"] == named


def test_upstream_that_is_not_there(serve) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    _, api = serve(upstream=url)
    for stream in (False, True):
        error = api.refused(status=502, stream=stream)
        assert url in error["message"]
        assert error["code"] == "upstream_error"


@pytest.mark.parametrize("kind", ["status", "cut", "end", "error_event"])
def test_upstream_that_fails(serve, kind: str) -> None:
    upstream, _ = serve(strict=False)
    _, api = serve(upstream=upstream.base_url, upstream_model=LLAMA)
    upstream.add_fault(Fault(kind, times=2, chunks=3))
    assert api.refused(status=502)["code"] == "upstream_error"
    answer = api.chat(stream=True)
    if kind == "status":
        assert answer.status_code == 502
    else:
        last = answer.text.rstrip().rsplit("data: ", 1)[1]
        assert json.loads(last)["error"]["code"] == "upstream_error"


def test_upstream_that_speaks_something_else(serve, llama) -> None:
    _, api = serve(upstream=f"{llama.url}/models?")
    llama.RequestHandlerClass = type("Odd", (LlamaCpp,), {"do_GET": lambda self: self.reply(b"<html>", "text/html")})
    assert api.refused(status=502)["code"] == "upstream_error"
