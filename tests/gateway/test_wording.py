"""An error names the fields that an HTTP client has sent, and hints at what the client or its operator can do."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kluster_integrations import Budget, KlusterConfig, errors
from kluster_integrations.errors import KlusterError
from kluster_integrations.gateway import Gateway, wording
from kluster_integrations.gateway.errors import message_of
from kluster_integrations.limits import Limits

from ..raw_server import Gate as SlowGate
from ..raw_server import RawServer, Reply, chunk, event, whole
from .conftest import LLAMA, user
from .test_other_servers import gate, upstream

__all__ = ["gate", "upstream"]

CHAT, RESPONSES, MESSAGES = "/chat/completions", "/responses", "/messages"
HELLO = user("Hello!")
NAMED = {"type": "function", "name": "look"}
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
SEARCH = {"type": "web_search"}


def refused(gate: httpx.Client, path: str, **body: Any) -> str:
    answer = gate.post(path, json={"model": "plain", **({"max_tokens": 9} if path == MESSAGES else {}), **body})
    assert answer.status_code == 400, answer.text
    message: str = answer.json()["error"]["message"]
    return message


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (CHAT, {"messages": HELLO, "max_tokens": 0}, "max_tokens=0 ", "set max_tokens to"),
    (RESPONSES, {"input": "Hi", "max_output_tokens": 0}, "max_output_tokens=0 ", "set max_output_tokens to"),
    (RESPONSES, {"input": [{"type": "reasoning", "summary": []}]}, "input=[] ", "add a user message"),
    (RESPONSES, {"input": "word " * 9_000}, "input has at least ", "shorten the input, lower max_output_tokens"),
    (
        RESPONSES,
        {"input": "Hi", "tools": [NAMED], "parallel_tool_calls": 5},
        "parallel_tool_calls=5 must be true or false",
        "set parallel_tool_calls to true or false",
    ),
    (RESPONSES, {"input": HELLO, "instructions": 5}, "instructions=5 ", ""),
    (RESPONSES, {"input": [{"role": "x", "content": ""}], "instructions": "Be brief."}, "input[0].role='x' ", ""),
    (
        RESPONSES,
        {"input": user([{"type": "input_image", "image_url": "ftp://a"}]), "instructions": "Be brief."},
        "input[0].content[0].image_url='ftp://a' ",
        "",
    ),
    (
        RESPONSES,
        {"input": [*HELLO, {"type": "function_call", "call_id": "a", "name": ""}]},
        "input[1].name ",
        "",
    ),
    (
        RESPONSES,
        {"input": [*HELLO, {"type": "function_call", "name": "look"}]},
        "input[1].call_id=None ",
        "repeat that text as call_id",
    ),
    (
        RESPONSES,
        {"input": [*HELLO, {"type": "function_call_output", "output": "x"}]},
        "input[1].call_id is missing",
        "copy the call_id of the function_call before it",
    ),
    (RESPONSES, {"input": "Hi", "text": {"format": "json"}}, "text.format='json' ", '"name": "…", "schema": {…}}'),
    (RESPONSES, {"input": "Hi", "text": {"format": {"type": "json_schema"}}}, "text.format.schema is missing", ""),
    (RESPONSES, {"input": "Hi", "tools": [SEARCH, {"type": "function"}]}, "tools[1].name is missing", ""),
    (RESPONSES, {"input": "Hi", "tools": [SEARCH, {**NAMED, "parameters": 5}]}, "tools[1].parameters=5 ", ""),
    (
        RESPONSES,
        {"input": "Hi", "tools": [{"type": "namespace", "name": "a", "tools": [NAMED, {"type": "function"}]}]},
        "tools[0].tools[1].name is missing",
        "",
    ),
    (
        RESPONSES,
        {"input": [*HELLO, {"type": "additional_tools", "tools": [{"type": "function"}]}], "tools": [NAMED]},
        "input[1].tools[0].name is missing",
        "",
    ),
    (RESPONSES, {"input": "Hi", "tools": [NAMED, 5]}, "tools[1] must be a tool object", ""),
    (
        RESPONSES,
        {"input": "Hi", "tools": [NAMED], "tool_choice": {"type": "function", "name": "go"}},
        "tool_choice.name='go' must be one of the tools: look",
        "",
    ),
    (
        RESPONSES,
        {"input": "Hi", "tools": [NAMED], "tool_choice": SEARCH},
        "tool_choice.type='web_search' must be function, custom or allowed_tools",
        "",
    ),
    (RESPONSES, {"input": "Hi", "tool_choice": "required"}, "tool_choice='required' needs tools", ""),
    (MESSAGES, {"messages": HELLO, "max_tokens": 0}, "max_tokens=0 ", "set max_tokens to"),
    (MESSAGES, {"messages": HELLO, "stop_sequences": 5}, "stop_sequences=5 ", 'stop_sequences=["END"]'),
    (MESSAGES, {"messages": HELLO, "system": [{"type": "image"}]}, "system[0].type='image' must be text", ""),
    (MESSAGES, {"messages": [{"role": "x", "content": ""}], "system": "Be brief."}, "messages[0].role='x' ", ""),
    (
        MESSAGES,
        {
            "messages": user([{"type": "thinking"}, {"type": "image", "source": {"type": "url", "url": "ftp://a"}}]),
            "system": "Be brief.",
        },
        "messages[0].content[1].source.url='ftp://a' ",
        "",
    ),
    (
        MESSAGES,
        {"messages": [*HELLO, {"role": "assistant", "content": [{"type": "tool_use", "name": "look"}]}]},
        "messages[1].content[0].id=None ",
        "as tool_use_id",
    ),
    (
        MESSAGES,
        {"messages": user([{"type": "tool_result", "content": "x"}])},
        "messages[0].content[0].tool_use_id is missing",
        "copy the id of the tool_use block before it",
    ),
    (MESSAGES, {"messages": HELLO, "tools": [{**TOOL, "input_schema": 5}]}, "tools[0].input_schema=5 ", ""),
    (MESSAGES, {"messages": HELLO, "tools": [{**SEARCH, "name": "w"}, {}]}, "tools[1].name is missing", ""),
    (
        MESSAGES,
        {"messages": HELLO, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "go"}},
        "tool_choice.name='go' must be one of the tools: look",
        "",
    ),
    (MESSAGES, {"messages": HELLO, "tools": [TOOL], "tool_choice": "auto"}, "tool_choice=auto ", '{"type": "auto"}'),
    (MESSAGES, {"messages": HELLO, "output_config": {"format": "json"}}, "output_config.format=json ", "json_schema"),
    (
        MESSAGES,
        {"messages": HELLO, "output_config": {"format": {"type": "json_schema"}}},
        "output_config.format.schema is missing",
        'add "schema": {…}.',
    ),
    *((path, {key: HELLO, "stream": "yes"}, "stream='yes' must be true or false", "") for path, key in (
        (CHAT, "messages"), (RESPONSES, "input"), (MESSAGES, "messages"))),
    # n, in each API
    (CHAT, {"messages": HELLO, "n": 2, "stream": True}, "n=2 does not work with stream=true; a stream has one",
        "leave out stream to get several answers"),
    (RESPONSES, {"input": "Hi", "n": 2}, "n=2 is not supported by this API, which gives one answer; allowed is 1",
        "to /v1/chat/completions"),
    (MESSAGES, {"messages": HELLO, "n": 2}, "n=2 is not supported by this API, which gives one answer; allowed is 1",
        "to /v1/chat/completions"),
    # Hints for Python programs
    (CHAT, {"messages": HELLO, "top_logprobs": 3}, "top_logprobs=3 needs logprobs=true", "set logprobs=true"),
    (CHAT, {"messages": HELLO, "functions": [{}]}, "", "start the gateway with --unsupported drop"),
    (CHAT, {"model": "mine", "messages": HELLO, "logprobs": True}, "", "in the gateway's catalog file"),
    (CHAT, {"messages": HELLO, "metadata": {"@kluster.ai": {"async": True}}}, "", "(POST /v1/batches)"),
    (CHAT, {"model": "BAAI/bge-m3", "messages": HELLO}, "", "use /v1/embeddings"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "begin", "hint"), REFUSED)
def test_a_refusal_names_what_was_sent(
    gate: httpx.Client, upstream: RawServer, path: str, body: dict[str, Any], begin: str, hint: str
) -> None:
    message = refused(gate, path, **body)
    assert message.startswith(begin)
    assert hint in message.partition("Hint: ")[2]
    assert not upstream.requests


LONG_NAME = "mcp__a_server_with_a_long_name__list_all_of_its_pages"
QUOTES: list[tuple[str, dict[str, Any], str]] = [
    (
        RESPONSES,
        {
            "input": "Hi",
            "tools": [{**NAMED, "name": "tool_call_id"}, {**NAMED, "name": "max_completion_tokens"}],
            "tool_choice": {"type": "function", "name": "response_format"},
        },
        "tool_choice.name='response_format' must be one of the tools: tool_call_id, max_completion_tokens.",
    ),
    (
        RESPONSES,
        {"input": "Hi", "tools": [NAMED], "tool_choice": {"type": "function", "name": LONG_NAME}},
        f"tool_choice.name='{LONG_NAME}' must be one of the tools: look.",
    ),
    (
        MESSAGES,
        {"messages": HELLO, "tools": [{**TOOL, "name": "image_url"}], "tool_choice": {"type": "tool", "name": "stop="}},
        "tool_choice.name='stop=' must be one of the tools: image_url.",
    ),
    (RESPONSES, {"input": "Hi", "temperature": "use KlusterEmbeddings"}, "temperature='use KlusterEmbeddings' "),
    (RESPONSES, {"input": "Hi", "temperature": "no 'response_format'"}, "temperature=\"no 'response_format'\" "),
    (RESPONSES, {"input": "Hi", "temperature": "response_format " * 9}, "temperature='response_format response_format"),
    (MESSAGES, {"messages": [{"role": "stop=\\'", "content": ""}]}, 'messages[0].role="stop=\\\\\'" must be'),
]


@pytest.mark.parametrize(("path", "body", "start"), QUOTES)
def test_what_an_error_quotes_stays_as_it_is(gate: httpx.Client, path: str, body: dict[str, Any], start: str) -> None:
    message = refused(gate, path, **body)
    assert message.startswith(start)
    assert "'type'" not in message


def test_a_field_of_the_client_is_not_taken_for_a_place(gate: httpx.Client) -> None:
    message = {"role": "x", "content": "", "where": "nowhere"}
    assert refused(gate, CHAT, messages=[message]).startswith("messages[0].role='x' ")


@pytest.mark.parametrize(
    ("item", "start"),
    [
        ({"role": "x", "content": ""}, "input[1].role='x' "),
        ({"type": "unheard_of"}, "input[1].type='unheard_of' "),
        ({"type": "additional_tools", "tools": [5]}, "input[1].tools[0] must be a tool object"),
    ],
)
def test_the_input_is_counted_without_that_of_earlier_responses(
    gate: httpx.Client, upstream: RawServer, item: dict[str, Any], start: str
) -> None:
    upstream.script(whole({"content": "Hi"}))
    first = gate.post(RESPONSES, json={"model": "plain", "input": HELLO}).json()["id"]
    assert refused(gate, RESPONSES, previous_response_id=first, input=[*HELLO, item]).startswith(start)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT, {"messages": HELLO, "max_completion_tokens": 9}, "max_completion_tokens"),
        (RESPONSES, {"input": "Hi", "max_output_tokens": 9}, "max_output_tokens"),
        (MESSAGES, {"messages": HELLO, "max_tokens": 9}, "max_tokens"),
    ],
)
def test_what_the_server_says_comes_back_in_those_words_too(
    gate: httpx.Client, upstream: RawServer, path: str, body: dict[str, Any], field: str, stream: bool
) -> None:
    said = {"error": {"message": "max_completion_tokens is too large for this model", "code": 400}}
    slow = SlowGate()
    if stream:
        upstream.script(Reply([event(chunk({"content": "so far"})), event(said)], gate=slow))
    else:
        upstream.script(Reply([json.dumps(said).encode()], 400, content_type="application/json", framing="length"))
    text = ""
    with gate.stream("POST", path, json={"model": "plain", "stream": stream, **body}) as answer:
        for piece in answer.iter_text():
            text += piece
            if "so far" in piece:
                slow.release()
                slow.release()
    assert answer.status_code == (200 if stream else 400)
    assert f"{field} is too large for this model" in text


def test_an_answer_that_stays_wrong(gate: httpx.Client, upstream: RawServer) -> None:
    upstream.answer = lambda _: whole({"content": "no"})
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    answer = gate.post(CHAT, json={"model": "plain", "messages": HELLO, "response_format": form})
    hint = answer.json()["error"]["message"].partition("Hint: ")[2]
    assert hint == "simplify the prompt or the schema, or use a larger model."


@pytest.mark.filterwarnings("ignore:model=.* is not in the catalog")
def test_a_model_that_the_server_does_not_have(gate: httpx.Client, upstream: RawServer) -> None:
    upstream.answer = lambda _: Reply([b"{}"], 404, content_type="application/json", framing="length")
    answer = gate.post(CHAT, json={"model": f"{LLAMA}x", "messages": HELLO})
    hint = answer.json()["error"]["message"].partition("Hint: ")[2]
    assert hint == f"did you mean {LLAMA!r}? GET /v1/models lists what the server has."


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_a_redirect_is_for_the_operator(gate: httpx.Client, upstream: RawServer, path: str) -> None:
    upstream.answer = lambda _: Reply([b""], 302, headers={"location": "https://a.example/v1"}, framing="length")
    body = {"model": "plain", "input": "Hi"} if path == RESPONSES else {"model": "plain", "messages": HELLO}
    answer = gate.post(path, json={**body, **({"max_tokens": 9} if path == MESSAGES else {})})
    assert answer.status_code == 502
    assert "redirects to https://a.example/v1; set KLUSTER_BASE_URL where the gateway runs" in answer.text


def test_a_missing_key_is_for_the_operator() -> None:
    with Gateway(KlusterConfig(), grace=1) as server:
        answer = httpx.post(f"{server.base_url}{CHAT}", json={"model": "any/any", "messages": HELLO}, trust_env=False)
    assert answer.status_code == 401
    message = answer.json()["error"]["message"]
    assert message.startswith("No kluster.ai API key: none of KLUSTER_API_KEY, ")
    assert " is set where the gateway runs. Hint: set KLUSTER_API_KEY where the gateway runs" in message
    assert "api_key" not in message


def test_a_budget(upstream: RawServer) -> None:
    config = KlusterConfig(base_url=upstream.base_url, max_retries=0)
    with Gateway(config, grace=1, budget=Budget(1.0)) as server:
        answer = httpx.post(
            f"{server.base_url}{CHAT}", json={"model": "anyone/any", "messages": HELLO}, trust_env=False
        )
    assert answer.status_code == 402
    assert "write its prices into the gateway's catalog file" in answer.json()["error"]["message"]


def test_limits(upstream: RawServer) -> None:
    config = KlusterConfig(base_url=upstream.base_url, max_retries=0)
    upstream.answer = lambda _: whole({"content": "Hi"})
    with Gateway(config, grace=1, limits=Limits(requests=1, period=600, max_wait=0)) as server:
        url = f"{server.base_url}{CHAT}"
        asked = {"model": "anyone/any", "messages": HELLO}
        assert httpx.post(url, json=asked, trust_env=False).status_code == 200
        answer = httpx.post(url, json=asked, trust_env=False)
    assert answer.status_code == 429
    assert "start the gateway with a longer --max-wait" in answer.json()["error"]["message"]


# All hints of what the gateway calls

PACKAGE = Path(wording.__file__).parents[1]
CALLED = [
    *(PACKAGE / "core").glob("*.py"),
    PACKAGE / "files.py",
    PACKAGE / "batch" / "foreign.py",
    PACKAGE / "batch" / "lines.py",
]
CALLED += (PACKAGE / "core" / "limits").glob("*.py")
PYTHON = re.compile(
    r"\w=…|\w\(|\(\)|`?\.(?:raw_text|partial|lines|missing)\b|\bpass \w+=|=True\b|\w=\{|Kluster\w|\bbase_url\b"
)
# What a client of the gateway cannot cause: arguments of Python calls, and what a gateway refuses to start with.
NOT_CAUSED = (
    "limits=Limits(requests=30", "config=KlusterConfig(", "limits=httpx.Limits(", "a dedicated deployment takes it in",
    "use tool_calling='auto'", "check=", "results()", "submit()", "max_cost=", "set plan=…",
)  # fmt: skip


def hints() -> Iterator[tuple[str, str]]:
    for path in CALLED:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.arg] if isinstance(node, ast.keyword) else []
            names += map(ast.unparse, node.targets) if isinstance(node, ast.Assign) else []
            if any("hint" in str(name).lower() for name in names) and isinstance(node, ast.keyword | ast.Assign):
                yield from ((path.name, text) for text in texts(node.value))


def texts(node: ast.expr) -> Iterator[str]:
    """Yield what an expression may be, without what it is made of only at run time."""
    if isinstance(node, ast.IfExp):
        yield from (*texts(node.body), *texts(node.orelse))
    elif isinstance(node, ast.BinOp):
        yield from (*texts(node.left), *texts(node.right))
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def test_no_hint_is_for_python_alone() -> None:
    found = list(hints())
    assert len(found) > 80
    wrong = []
    for name, hint in found:
        err = KlusterError("It failed.", hint=hint)
        shown = message_of(err, "/v1/chat/completions")
        if PYTHON.search(shown) and not any(words in hint for words in NOT_CAUSED):
            wrong.append(f"{name}: {shown}")
    assert not wrong, "\n".join(wrong)


def test_each_replacement_is_of_a_hint_that_there_is() -> None:
    everything = [hint for _, hint in hints()]
    everything += [path.read_text("utf-8") for path in CALLED]  # some are of messages
    unused = [pattern for pattern, _ in wording._PYTHON if not any(re.search(pattern, text) for text in everything)]
    assert not unused


@pytest.mark.parametrize("kind", wording._HINTS)
def test_default_hints(kind: type[KlusterError]) -> None:
    message = message_of(kind("It failed."), "/v1/chat/completions")
    assert kind.default_hint is not None
    assert kind.default_hint not in message
    assert "Hint: " in message


def test_other_hints_stay() -> None:
    err = errors.ContextWindowExceededError("It is too long.")
    assert message_of(err, "/v1/responses").endswith("lower max_output_tokens, or use a model with a longer window.")


ODD_TYPE: Any = ["x"]  # cannot be hashed
ODD: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": HELLO, "tools": [{"type": "custom", "name": ODD_TYPE}]}),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [5]}]}),
    (CHAT, {"messages": HELLO, "tools": [{"type": "custom", "name": "", "description": 5}]}),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": ODD_TYPE}}]}]}),
    (CHAT, {"messages": [{"role": "user", "content": [5], "where": "here", "parts": []}]}),
    (RESPONSES, {"input": [{"type": ODD_TYPE}]}),
    (RESPONSES, {"input": "Hi", "tools": [{"type": ODD_TYPE, "name": "look"}]}),
    (RESPONSES, {"input": "Hi", "tools": [{**NAMED, "name": ODD_TYPE}]}),
    (RESPONSES, {"input": "Hi", "tools": [{"type": "namespace", "name": "a", "tools": 5}]}),
    (RESPONSES, {"input": [{"type": "tool_search_output", "call_id": "a", "tools": 5}]}),
    (MESSAGES, {"messages": user([{"type": ODD_TYPE}])}),
    (MESSAGES, {"messages": HELLO, "tools": [{**TOOL, "name": ODD_TYPE}]}),
    (MESSAGES, {"messages": HELLO, "tools": [{**TOOL, "type": ODD_TYPE}]}),
    (MESSAGES, {"messages": HELLO, "tools": [TOOL], "tool_choice": {"type": ODD_TYPE}}),
]


@pytest.mark.parametrize(("path", "body"), ODD)
def test_no_form_of_a_request_breaks_the_gateway(gate: httpx.Client, path: str, body: dict[str, Any]) -> None:
    refused(gate, path, **body)
