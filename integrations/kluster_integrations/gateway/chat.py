"""`POST /v1/chat/completions`: OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.core.types import Completion, Delta, Usage
from kluster_integrations.errors import BadRequestError, KlusterError, UnsupportedParameterError
from kluster_integrations.gateway.answers import PING, completed, streamed
from kluster_integrations.gateway.chat_tools import ChatTools
from kluster_integrations.gateway.errors import openai_error
from kluster_integrations.gateway.service import Json, body_of, dump, service_of

__all__ = ["ROUTES"]

_OWN = frozenset({"model", "messages", "stream", "stream_options", "n"})
_MAX_N = 16


async def _chat(request: Request) -> Response:
    body = await body_of(request)
    service = service_of(request)
    stream = body.get("stream") is True
    options = body.get("stream_options")
    n = _count(body.get("n"), stream=stream)
    tools = ChatTools(body)
    chat = service.build(
        service.model(body.get("model")),
        tools.messages,
        {**{name: value for name, value in body.items() if name not in _OWN}, **tools.params},
        stream=stream,
        n=n,
        placed=False,
    )
    if stream:
        include_usage = isinstance(options, Mapping) and options.get("include_usage") is True
        return await streamed(request, chat, _Chunks(str(body["model"]), tools, include_usage=include_usage))
    if n == chat.n:
        answer = await completed(request, chat)
        return Json(_whole(str(body["model"]), [answer, *answer.others], tools))
    work = [asyncio.ensure_future(completed(request, chat)) for _ in range(n)]
    try:
        answers = await asyncio.gather(*work)
    finally:  # one that fails, or a client that leaves, ends them all
        for task in work:
            task.cancel()
    return Json(_whole(str(body["model"]), answers, tools))


def _count(n: object, *, stream: bool) -> int:
    """Return the number of answers to make. kluster.ai gives one answer per request, so each needs its own request."""
    if n is None:
        return 1
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= _MAX_N:
        raise BadRequestError(
            f"n={n!r} must be a whole number from 1 to {_MAX_N}.", hint="write n=2, say, or leave it out."
        )
    if stream and n > 1:
        raise UnsupportedParameterError(
            f"n={n} does not work with stream=true; a stream has one answer, so allowed is 1.",
            hint="leave out stream to get several answers, or send the request n times.",
        )
    return n


def _id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _whole(model: str, answers: Sequence[Completion], tools: ChatTools) -> dict[str, Any]:
    usage = answers[0].usage
    for other in answers[1:]:
        usage = usage.plus(other.usage)
    return {
        "id": answers[0].id or _id(),
        "object": "chat.completion",
        "created": answers[0].meta.get("created") or int(time.time()),
        "model": model,
        "choices": [_choice(i, answer, tools) for i, answer in enumerate(answers)],
        "usage": _usage(usage),
    }


def _choice(index: int, answer: Completion, tools: ChatTools) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = [tools.call(call) for call in answer.tool_calls]
    elif not answer.text:
        message["content"] = ""  # many a client takes null for a call
    return {"index": index, "message": message, "logprobs": answer.logprobs, "finish_reason": answer.finish_reason}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
    }


class _Chunks:
    """Makes the chunks of a stream.

    Args:
        model: The model's name, as the client has said it.
        tools: The tools of the request.
        include_usage: Whether the last chunk has the usage, for which clients ask with `stream_options`.
    """

    def __init__(self, model: str, tools: ChatTools, *, include_usage: bool) -> None:
        self._tools = tools
        self._include_usage = include_usage
        self._head = {"id": _id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
        self._usage: Usage | None = None
        self._begun = False
        # Most chunks are a piece of text and nothing else: only that is encoded.
        rest = {"logprobs": None, "finish_reason": None}
        template = self._chunk([{"index": 0, "delta": {"content": "\0"}, **rest}])
        self._before, self._after = template.decode().split('"\\u0000"')

    def _chunk(self, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, Any] | None = None) -> bytes:
        more = {"usage": usage} if self._include_usage else {}
        return b"data: " + dump({**self._head, "choices": choices, **more}) + b"\n\n"

    def begin(self) -> bytes:
        return b""

    def take(self, delta: Delta) -> bytes:
        content, reasoning, calls, finish, usage, logprobs = delta[:6]
        if self._begun and content and not (reasoning or calls or finish or logprobs):
            return f"{self._before}{json.dumps(content)}{self._after}".encode()
        self._usage = usage or self._usage
        added: dict[str, Any] = {} if self._begun else {"role": "assistant", "content": ""}
        if reasoning:
            added["reasoning_content"] = reasoning
        if content:
            added["content"] = content
        if calls:
            added["tool_calls"] = [
                {"index": call.index, "function": {"arguments": call.arguments}}
                if call.id is None
                else {"index": call.index, **self._tools.call(call)}
                for call in calls
            ]
        if not (added or finish or logprobs):
            return b""
        self._begun = True
        return self._chunk([{"index": 0, "delta": added, "logprobs": logprobs, "finish_reason": finish}])

    def end(self) -> bytes:
        usage = self._chunk([], _usage(self._usage)) if self._include_usage and self._usage else b""
        return usage + b"data: [DONE]\n\n"

    def fail(self, err: KlusterError) -> bytes:
        return b"data: " + dump({"error": openai_error(err, "/v1/chat/completions")}) + b"\n\n"

    def ping(self) -> bytes:
        return PING


ROUTES = [Route("/chat/completions", _chat, methods=["POST"])]
