"""The core's errors in the words of a client that sends HTTP.

The core names the fields of a chat request, and its hints are for Python programs (`pass max_cost=…`). A client of the
gateway has sent fields of its own API, and can only follow hints about those, or tell the gateway's operator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kluster_integrations import errors
from kluster_integrations.errors import KlusterError

__all__ = ["hint_of", "place", "reworded"]

_Words = Sequence[tuple[str, str]]
"""Regular expressions, and what stands in the place of what they match."""

_BUDGET = "start the gateway with a higher --budget"
_CATALOG = "the gateway's catalog file (KLUSTER_CATALOG)"
# The default hints, by the class that has them.
_HINTS: Mapping[type[KlusterError], str] = {
    errors.AuthenticationError: "set KLUSTER_API_KEY where the gateway runs; see `kluster doctor` there.",
    errors.NotFoundError: "GET /v1/models lists what the server has; check KLUSTER_BASE_URL where the gateway runs.",
    errors.RateLimitError: "send fewer requests at once, or start the gateway with --plan: then they wait.",
    errors.APIConnectionError: "check KLUSTER_BASE_URL and the network where the gateway runs, with `kluster doctor`.",
    errors.APITimeoutError: "stream the answer, or start the gateway with a higher KLUSTER_TIMEOUT (in seconds).",
    errors.TruncatedStreamError: "send the request again.",
    errors.BudgetExceededError: f"{_BUDGET}.",
}
_PYTHON: _Words = (
    (r"; the text so far is in \.raw_text", ""),
    (r"look at \.raw_text; then simplify (.*), raise max_repairs,", r"simplify \1,"),
    (r"use KlusterEmbeddings", "use /v1/embeddings"),
    (r"use batch\.submit_async\(…\)", "create a batch job (POST /v1/batches)"),
    (r"the model's `native`(?: in your catalog)?", f"the model's `native` in {_CATALOG}"),
    (r'set unsupported="drop"', "start the gateway with --unsupported drop"),
    (r"of the tools in tools=…", "of the tools"),
    (r"pass a higher usd=… to budget\(\), or send the rest outside of it", _BUDGET),
    (
        r"pass allow_unpriced=True to budget\(\), or give the model its prices with catalog\.add\(ModelSpec\(…\)\)",
        f"use a model that has a price, or write its prices into {_CATALOG}",
    ),
    (r"raise max_wait, or take a higher plan", "or start the gateway with a longer --max-wait or a higher --plan"),
    (r"`kluster models --refresh` lists", "GET /v1/models lists"),
    (r"set KLUSTER_API_KEY, or pass api_key=…", "set KLUSTER_API_KEY where the gateway runs"),
    (r"neither api_key nor (.+) is set", r"none of \1 is set where the gateway runs"),
    (r"check base_url and", "check KLUSTER_BASE_URL where the gateway runs, and"),
    (r"set base_url to where the API is", "set KLUSTER_BASE_URL where the gateway runs to where the API is"),
    (r"longer than max_response_bytes=", "longer than KLUSTER_MAX_RESPONSE_BYTES="),
    (r"raise total_timeout=… \(seconds; (\w+)\)", r"start the gateway with a higher \1 (in seconds)"),
    (r"raise max_response_bytes=… \((\w+)\)", r"start the gateway with a higher \1"),
    (r"set a lower max_response_bytes=…", "start the gateway with a lower KLUSTER_MAX_RESPONSE_BYTES"),
    (r"insecure_http=True \(KLUSTER_INSECURE_HTTP=1\)", "KLUSTER_INSECURE_HTTP=1 where the gateway runs,"),
    (
        r"pass http_async_client=httpx\.AsyncClient\(\), with httpx\[socks\] installed, or set NO_PROXY",
        "set NO_PROXY where the gateway runs, or name a proxy of http:// there",
    ),
    (r'text\.encode\("utf-8", "replace"\)\.decode\(\)', r"one is half of a pair, such as \\ud83d alone"),
    (r"\b(logprobs)=True", r"\1=true"),
    (r"\bTrue or False\b", "true or false"),
)
_TOOL_CHOICE = re.compile(
    r"^tool_choice=\{'type': 'function', 'function': \{'name': (.+?)\}\} must be auto, none, required or"
)
# What an error of the core quotes of a request: values as `repr` writes them, also if they are cut, and names of tools.
_QUOTED = re.compile(
    r"""(?<!\w)'(?:[^'\\]|\\.)*?(?:'(?!\w)|…(?=;| must| needs))|(?<==)"[^"']*'[^"]*"|(?<=one of the tools: ).+"""
)
_MARK = "\0"  # `repr` escapes it
_RESPONSES: _Words = (
    (r"\bmax_completion_tokens\b", "max_output_tokens"),
    (r"\bresponse_format\.json_schema\b", "text.format"),
    (r"\bresponse_format\b", "text.format"),
    (r'"json_schema": \{"schema": \{…\}\}', '"name": "…", "schema": {…}'),
    (r"^messages=", "input="),
    (r"^messages have", "input has"),
    (r"\bshorten the messages\b", "shorten the input"),
    (r"^instructions\.content\b", "instructions"),
    (r"^((?:tools|input)\S*)\.function\.", r"\1."),
    (r"^(input\[\d+\])\.id=", r"\1.call_id="),
    (r"of the call from tool_calls of the assistant message before it", "of the function_call before it"),
    (r"\btool_call_id\b", "call_id"),
    (r"copy the id of the function_call", "copy the call_id of the function_call"),
)
_MESSAGES: _Words = (
    (r"\bmax_completion_tokens\b", "max_tokens"),
    (r"\bresponse_format\.json_schema\b", "output_config.format"),
    (r'(add "schema": \{…\}), or use .*', r"\1."),
    (r"^system\.content\b", "system"),
    (r"^(tools\S*)\.function\.parameters\b", r"\1.input_schema"),
    (r"\.function\.name\b", ".name"),
    (r"\btool_call_id\b", "tool_use_id"),
    (r"of the call from tool_calls of the assistant message before it", "of the tool_use block before it"),
    (r"\.image_url=", ".source.url="),
    (r"\bimage_url\b", "image"),
    (r'\bstop="END"', 'stop_sequences=["END"]'),
    (r"\bstop=", "stop_sequences="),
)


def reworded(text: str, path: str, *, quotes: bool = False) -> str:
    """Return a message or a hint of the core in the words of the API that is served at a path.

    Args:
        text: The message or the hint.
        path: The path.
        quotes: Whether it quotes the request: what it quotes stays as it is. A server's message may quote a field.
    """
    names = _RESPONSES if path.startswith("/v1/responses") else _MESSAGES if path.startswith("/v1/messages") else ()
    quoted: list[str] = []
    if names:
        text = _TOOL_CHOICE.sub(r"tool_choice.name=\1 must be", text)
    if quotes:
        quoted = _QUOTED.findall(text)
        text = _QUOTED.sub(_MARK, text)
    for pattern, instead in (*_PYTHON, *names):
        text = re.sub(pattern, instead, text)
    for value in quoted:
        text = text.replace(_MARK, value, 1)
    return text


def hint_of(err: KlusterError, path: str) -> str | None:
    """Return the hint of an error for the client that has sent a request to a path."""
    if err.hint is None:
        return None
    for cls, hint in _HINTS.items():
        if err.hint == cls.default_hint:
            return hint
    return reworded(err.hint, path)


def place(err: KlusterError, messages: Sequence[Any], tools: object) -> None:
    """Let the message of an error name what the client has sent, and not the chat message or tool made of it.

    Args:
        err: What the core says of a chat request.
        messages: Its messages. Where one has a `where`, that is its place in the client's request, and its `parts` are
            those of its content's parts. Calls may have a `where`, too.
        tools: Its tools, which may have a `where`, too.
    """
    found = re.match(r"(messages|tools)\[(\d+)\](?:\.(content|tool_calls)\[(\d+)\])?", err.message)
    if found is None:
        return
    kind, at, part, number = found[1], int(found[2]), found[3], found[4]
    item = messages[at] if kind == "messages" else tools[at] if isinstance(tools, Sequence) else None
    if not isinstance(item, Mapping):
        return
    where = item.get("where")
    if part == "tool_calls":
        call = item["tool_calls"][int(number)]
        where = call.get("where") if isinstance(call, Mapping) else None
    elif part and where is not None:
        parts = item.get("parts")
        if isinstance(parts, list) and int(number) < len(parts):  # a client may send such a field of its own
            where = parts[int(number)]
        else:
            where = f"{where}.content[{number}]"
    if where is not None:
        err.message = f"{where}{err.message[found.end() :]}"
