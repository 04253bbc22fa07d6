"""Does anything that a model, a server or a stranger's schema says take more than linear time?

Each row doubles an input and fails where the time grows by more than 2.6, or where the first size takes over a second.
What is measured is the processor time of this process, a small server in it included, so a busy machine changes little.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client, find_json, schema_error
from kluster_integrations.errors import KlusterError

_MOST_GROWTH = 2.6
_MOST_SECONDS = 1.0
_NOISE = 0.02  # seconds; what takes less is not judged by its growth
NEMO, LLAMA, R1 = (
    "mistralai/Mistral-Nemo-Instruct-2407",
    "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo",
    "deepseek-ai/DeepSeek-R1",
)
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_ANY: dict[str, Any] = {"type": "object", "title": "Any", "properties": {"a": {"type": "array"}}}
Task = Callable[[], object]
Row = Callable[[int], Task]


class _Server:
    """Answers every request with the same bytes."""

    def __init__(self) -> None:
        self.status, self.kind, self.body = 200, "", b""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(server.status)
                self.send_header("Content-Type", server.kind)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def config(self) -> KlusterConfig:
        return KlusterConfig(api_key="no-key-is-needed", base_url=self.base_url, max_retries=0)

    def whole(self, message: dict[str, Any]) -> None:
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.status, self.kind = 200, "application/json"
        self.body = json.dumps({"id": "1", "choices": [choice]}).encode()

    def stream(self, pieces: list[dict[str, Any]], **more: Any) -> None:
        self.status, self.kind = 200, "text/event-stream"
        events = [{"id": "1", "choices": [{"index": 0, "delta": delta, **more}]} for delta in pieces]
        events.append({"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.body = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


_server = _Server()


def _in_pieces(text: str, size: int = 4) -> list[dict[str, Any]]:
    return [{"content": text[at : at + size]} for at in range(0, len(text), size)]


def _asking(model: str, pieces: list[dict[str, Any]] | None, **params: Any) -> Task:
    """Return a call of the core that reads the answer, streamed where it comes in `pieces`."""
    client = Client(_server.config())
    messages = [{"role": "user", "content": "hi"}]
    request = client.build(model, messages, params, stream=pieces is not None, max_repairs=0)

    def run() -> None:
        with contextlib.suppress(KlusterError):
            if pieces is None:
                client.complete(request)
            else:
                for _ in client.stream(request):
                    pass

    return run


def _says(text: Callable[[int], str], *, model: str = NEMO, size: int | None = 4, **params: Any) -> Row:
    """A row whose model says a text, in pieces of a size or (None) whole."""

    def row(n: int) -> Task:
        said = text(n)
        if size is None:
            _server.whole({"role": "assistant", "content": said})
            return _asking(model, None, **params)
        _server.stream(pieces := _in_pieces(said, size))
        return _asking(model, pieces, **params)

    return row


def _error_page(text: str) -> Row:
    def row(n: int) -> Task:
        _server.status, _server.kind, _server.body = 502, "text/html", (text * n).encode()
        return _asking(NEMO, None)

    return row


def _checks(value: Callable[[int], Any], schema: dict[str, Any]) -> Row:
    def row(n: int) -> Task:
        made = value(n)
        return lambda: schema_error(made, schema)

    return row


def _logprobs(n: int) -> Task:
    token = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
    _server.stream(pieces := [{"content": "a"}] * n, logprobs={"content": [token]})
    client = Client(_server.config())
    request = client.build(LLAMA, [{"role": "user", "content": "hi"}], {"logprobs": True}, stream=True, max_repairs=0)
    from kluster_integrations.core.types import collect

    assert len(pieces) == n
    return lambda: collect(client.stream(request))


def _structured(text: Callable[[int], str], schema: Any = None, method: Any = "prompted") -> Row:
    """A row of LangChain's streamed structured output."""

    def row(n: int) -> Task:
        from kluster_integrations.langchain import ChatKluster

        said = text(n)
        pieces = _in_pieces(said)
        if method == "function_calling":
            function = [{"arguments": said[at : at + 32]} for at in range(0, len(said), 32)]
            calls = [{"index": 0, "function": f} for f in function]
            calls[0] |= {"id": "c", "function": {"name": "Any", **function[0]}}
            pieces = [{"tool_calls": [call]} for call in calls]
        _server.stream(pieces)
        model = ChatKluster(model=LLAMA, config=_server.config(), max_repairs=0)
        bound = model.with_structured_output(schema or _ANY, method=method)

        def run() -> None:
            with contextlib.suppress(KlusterError):
                for _ in bound.stream("hi"):
                    pass

        return run

    return row


def _bound_tools(arguments: Callable[[int], str]) -> Row:
    """A row of a call with these arguments in LangChain, streamed."""

    def row(n: int) -> Task:
        from kluster_integrations.langchain import ChatKluster

        call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": arguments(n)}}
        _server.stream([{"tool_calls": [call]}])
        model = ChatKluster(model=LLAMA, config=_server.config(), max_repairs=0).bind_tools([_TOOL])

        def run() -> None:
            with contextlib.suppress(KlusterError):
                for _ in model.stream("hi"):
                    pass

        return run

    return row


def _reacts(text: Callable[[int], str]) -> Row:
    """A row of CrewAI's text format: what this package lets pass, and CrewAI's own parser behind it."""

    def row(n: int) -> Task:
        from crewai.agents.parser import OutputParserError, parse

        from kluster_integrations.crewai import _react

        said = text(n)

        def run() -> None:
            reply = _react.first_action(said)
            if _react.problem(reply, is_cut=False) is None:
                with contextlib.suppress(OutputParserError):
                    parse(reply)

        return run

    return row


_CALL = '<tool_call>{"name": "f", "arguments": {"a": "'
_END = '"}}</tool_call>'
_LINES = 'x = a > b and "c" or <d>\\n'


def _object(n: int) -> str:
    return json.dumps({"a": [{"name": f"name {i}", "size": i} for i in range(n)]})


# What issue 15 measured, at its sizes, and more of the kind.
ROWS: dict[str, tuple[int, Row]] = {
    "closing tags behind a bad call, whole": (
        1_600,
        _says(lambda n: "<tool_call>{bad" + "</tool_call>" * n, size=None, tools=[_TOOL]),
    ),
    "closing tags behind a bad call": (
        1_600,
        _says(lambda n: "<tool_call>{bad" + "</tool_call>" * n, tools=[_TOOL]),
    ),
    "closing tags in an argument": (3_200, _says(lambda n: _CALL + "</tool_call>" * n + _END, tools=[_TOOL])),
    "bad calls, one per line": (3_200, _says(lambda n: "<tool_call>{bad</tool_call>\n" * n, tools=[_TOOL])),
    "opening tags, one per line": (6_400, _says(lambda n: "<tool_call>\n" * n, tools=[_TOOL])),
    "opening tags in one line, whole": (16_000, _says(lambda n: "x <tool_call>{" * n, size=None, tools=[_TOOL])),
    "calls, one per line, whole": (3_200, _says(lambda n: (_CALL + _END + "\n") * n, size=None, tools=[_TOOL])),
    "128 kB of arguments, prompted": (128_000, _says(lambda n: _CALL + "a" * n + _END, tools=[_TOOL])),
    "128 kB of code as an argument": (
        5_000,
        _says(lambda n: _CALL + _LINES.replace('"', "'") * n + _END, tools=[_TOOL]),
    ),
    "fences before a mention": (8_000, _says(lambda n: "```\n<tool_call>\n" * n, tools=[_TOOL])),
    "white space behind a call": (32_000, _says(lambda n: _CALL + _END + " " * n, size=1, tools=[_TOOL])),
    "white space before an end token": (
        64_000,
        _says(lambda n: '{"name": "f", "parameters": {}}' + " " * n + "x", model=LLAMA, size=None, tools=[_TOOL]),
    ),
    "Mistral's mark, again and again": (
        16_000,
        _says(lambda n: "[TOOL_CALLS]" * n, model=LLAMA, size=None, tools=[_TOOL]),
    ),
    "64k tokens of white space": (64_000, _says(lambda n: " " * n, size=1)),
    "64k tokens of white space, prompted tools": (32_000, _says(lambda n: " " * n, size=1, tools=[_TOOL])),
    "thoughts, again and again, whole": (16_000, _says(lambda n: "<think>a</think>" * n, model=R1, size=None)),
    "opening thoughts": (16_000, _says(lambda n: "a<think>" * n, model=R1)),
    "a long stop sequence that never ends": (
        16_000,
        _says(lambda n: "a" * n, model=R1, size=1, stop=["a" * 500 + "b"]),
    ),
    "logprobs": (8_000, _logprobs),
    "a fence and 64k newlines": (64_000, lambda n: (lambda text: lambda: find_json(text))("```json" + "\n" * n)),
    "brackets in prose": (64_000, lambda n: (lambda text: lambda: find_json(text))("[1] {x} " * n)),
    "open brackets": (64_000, lambda n: (lambda text: lambda: find_json(text))("{[" * n)),
    "an error page of 160k open tags": (160_000, _error_page("<a ")),
    "an error page of titles": (60_000, _error_page("<title ")),
    "a schema's pattern": (32_000, _checks(lambda n: "a" * n + "!", {"pattern": "^(a+)+$"})),
    "a schema's patterns for keys": (
        2_000,
        _checks(lambda n: {f"{'a' * 30}{i}!": 1 for i in range(n)}, {"patternProperties": {"^(a+)+$": False}}),
    ),
    "unique items": (16_000, _checks(lambda n: [{"a": i} for i in range(n)] + [1], {"uniqueItems": True})),
    "unique numbers of one hash": (
        16_000,
        _checks(lambda n: [i * (2**61 - 1) for i in range(n)] + [""], {"uniqueItems": True}),
    ),
    "references": (4_000, _checks(lambda n: [{"a": []}] * n, {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": _ANY}})),
}
_OF_LANGCHAIN: dict[str, tuple[int, Row]] = {
    "LangChain: an object of 40 kB, streamed": (1_100, _structured(_object)),
    "LangChain: the same as arguments": (1_100, _structured(_object, method="function_calling")),
    "LangChain: an object that fails": (16_000, _structured(lambda n: '{"a": ' + "x " * n)),
    "LangChain: arguments that fail": (
        16_000,
        _structured(lambda n: '{"a": 1 ' + "x " * n, method="function_calling"),
    ),
    "LangChain: a call that fails": (16_000, _bound_tools(lambda n: '{"a": 1 ' + "x " * n)),
    "LangChain: two objects as arguments": (16_000, _bound_tools(lambda n: '{"a": 1}{"b": "' + "x " * n + '"')),
}
_OF_CREWAI: dict[str, tuple[int, Row]] = {
    "CrewAI: an action and 1,600 newlines": (1_600, _reacts(lambda n: "Thought: a\nAction:" + "\n" * n + "x")),
    "CrewAI: 16k newlines behind an action": (
        16_000,
        _reacts(lambda n: "Thought: a\nAction: f\nAction Input: {}" + "\n" * n + "x"),
    ),
    "CrewAI: newlines within an action": (
        16_000,
        _reacts(lambda n: "Thought: a\nAction: f" + "\n" * n + "Action Input: {}"),
    ),
    "CrewAI: newlines in a final answer": (16_000, _reacts(lambda n: "Action: a\nFinal Answer:" + "\n" * n + "x")),
    "CrewAI: actions without end": (8_000, _reacts(lambda n: "Action: a\n" * n)),
    "CrewAI: actions in a final answer": (8_000, _reacts(lambda n: "Final Answer: " + "Action: a\n" * n)),
    "CrewAI: actions and spaces": (8_000, _reacts(lambda n: "Action " + " " * n + "Final Answer: a")),
    "CrewAI: thoughts in a line": (8_000, _reacts(lambda n: "Action: a\nAction Input: " + "Thought: a " * n)),
}


def rows() -> Iterator[tuple[str, int, Row]]:
    """Yield the rows of what is installed here."""
    found = dict(ROWS)
    if importlib.util.find_spec("langchain_core"):
        found |= _OF_LANGCHAIN
    if importlib.util.find_spec("crewai"):
        found |= _OF_CREWAI
    for name, (size, row) in found.items():
        yield name, size, row


def _seconds(row: Row, size: int) -> float:
    run = row(size)
    run()  # imports, and what is cached
    times = []
    while len(times) < 3 and sum(times) < _MOST_SECONDS:
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times)


def measure(row: Row, size: int) -> tuple[float, float]:
    """Return the seconds for a size, and by how much they grow for the double; the least of three tries."""
    tries = []
    for _ in range(3):
        once, twice = _seconds(row, size), _seconds(row, 2 * size)
        tries.append((once, twice / once if twice > _NOISE else 1.0))
        if tries[-1][1] <= _MOST_GROWTH:
            break
    return min(tries, key=lambda one: one[1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="only rows whose name holds this")
    only = parser.parse_args().only
    failed = 0
    for name, size, row in rows():
        if only in name:
            seconds, growth = measure(row, size)
            is_fine = seconds < _MOST_SECONDS and growth <= _MOST_GROWTH
            failed += not is_fine
            print(
                f"{'ok  ' if is_fine else 'FAIL'}  {seconds * 1_000:8.1f} ms  x{growth:.1f}  {name} ({size:,})",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
