"""`/v1/messages`: Anthropic's messages, by way of a chat, and their count of tokens."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.core.types import Delta, ToolCallDelta, Usage, spread
from kluster_integrations.errors import (
    BadRequestError,
    ContextWindowExceededError,
    KlusterError,
    UnsupportedParameterError,
)
from kluster_integrations.gateway.answers import completed, streamed
from kluster_integrations.gateway.errors import NO_THREADS, anthropic_error, refusal
from kluster_integrations.gateway.message_blocks import effort_of, messages_of, output_format, tool_choice_of, tools_of
from kluster_integrations.gateway.service import Json, body_of, dump, one_answer, service_of

__all__ = ["ROUTES"]

# Parameters that OpenAI's API has, too. What else there is only says how (thinking, cache_control, …), or cannot be
# had (top_k).
_SAME = ("temperature", "top_p")
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


async def _create(request: Request) -> Response:
    body = await body_of(request)
    service = service_of(request)
    _refuse(body)
    if body.get("max_tokens") is None:
        raise BadRequestError("max_tokens is missing.", hint='add the limit of the answer, such as "max_tokens": 1024.')
    messages, tools = messages_of(body), tools_of(body)
    stream = body.get("stream") is True
    chat = service.build(
        service.model(body.get("model")),
        messages,
        {
            **{name: body.get(name) for name in _SAME},
            "max_tokens": body["max_tokens"],
            "stop": body.get("stop_sequences"),
            "response_format": output_format(body),
            "reasoning_effort": effort_of(body),
            "tools": tools or None,
            **tool_choice_of(body.get("tool_choice"), tools),
        },
        stream=stream,
    )
    thinking = body.get("thinking")
    writer = _Events(
        str(body["model"]),
        service.client.estimate_prompt(chat.body["messages"], chat.body.get("tools") or ()) if stream else 0,
        frozenset(body.get("stop_sequences") or ()),
        shows_thinking=isinstance(thinking, Mapping) and thinking.get("type") in ("enabled", "adaptive"),
    )
    if stream:
        return await streamed(request, chat, writer)
    for delta in spread(await completed(request, chat)):
        writer.take(delta)
    writer.end()
    return Json(writer.message)


def _refuse(body: Mapping[str, Any]) -> None:
    if body.get("thread"):
        # The tool_runner of anthropic 2.14 asks for one, and on this error goes on with whole conversations.
        raise refusal(
            400, "thread is not supported by the gateway. Send the whole conversation, without thread.", NO_THREADS
        )
    for name, instead in (
        ("compaction", "leave it out, and ask for a summary in a message"),
        ("mcp_servers", "leave them out, connect to them yourself, and offer their tools"),
    ):
        if body.get(name):
            raise UnsupportedParameterError(f"{name} is not supported by the gateway.", hint=f"{instead}.")
    one_answer(body)


async def _count(request: Request) -> Response:
    body = await body_of(request)
    service = service_of(request)
    messages, tools = messages_of(body), tools_of(body)
    try:
        chat = service.build(service.model(body.get("model")), messages, {"tools": tools or None}, stream=False)
        messages, tools = chat.body["messages"], chat.body.get("tools") or []
    except ContextWindowExceededError:
        pass  # clients ask to find that out: they want the number
    count = service.client.estimate_prompt(messages, tools)
    return Json({"input_tokens": count})


class _Events:
    """Makes the events of a message.

    Args:
        model: The model's name, as the client has said it.
        input_tokens: An estimate of the prompt, for the first event.
        stops: The stop sequences that were asked for.
        shows_thinking: Whether the client has asked for thinking; else it does not expect blocks of it.

    Attributes:
        message: The message object, as far as it has come.
    """

    def __init__(self, model: str, input_tokens: int, stops: frozenset[str], *, shows_thinking: bool) -> None:
        self.message: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Usage(input_tokens, 0, input_tokens)),
        }
        self._stops = stops
        self._shows_thinking = shows_thinking
        self._open: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._finish = "stop"

    def begin(self) -> bytes:
        return _event("message_start", message=self.message) + _event("ping")

    def take(self, delta: Delta) -> bytes:
        content, reasoning, usage = delta.content, delta.reasoning, delta.usage
        events = b""
        if reasoning and self._shows_thinking:
            events += self._turn_to("thinking") + self._add("thinking_delta", thinking=reasoning)
            self._pieces.append(reasoning)
        if content:
            events += self._turn_to("text") + self._add("text_delta", text=content)
            self._pieces.append(content)
        for call in delta.tool_calls:
            events += self._call(call)
        self._finish = delta.finish_reason or self._finish
        if delta.meta and (stop := delta.meta.get("matched_stop")) in self._stops:
            self.message["stop_sequence"] = stop
        if usage:
            self.message["usage"] = _usage(usage)
        return events

    def end(self) -> bytes:
        events = self._close()
        reason = _STOP_REASONS.get(self._finish) or ("stop_sequence" if self.message["stop_sequence"] else "end_turn")
        self.message["stop_reason"] = reason
        delta = {"stop_reason": reason, "stop_sequence": self.message["stop_sequence"]}
        return events + _event("message_delta", delta=delta, usage=self.message["usage"]) + _event("message_stop")

    def fail(self, err: KlusterError) -> bytes:
        return _event("error", error=anthropic_error(err, "/v1/messages"))

    def ping(self) -> bytes:
        return _event("ping")

    def _add(self, kind: str, **fields: Any) -> bytes:
        return _event("content_block_delta", index=len(self.message["content"]), delta={"type": kind, **fields})

    def _start(self, block: dict[str, Any]) -> bytes:
        events = self._close()
        self._open = block
        return events + _event("content_block_start", index=len(self.message["content"]), content_block=block)

    def _turn_to(self, kind: str) -> bytes:
        if self._open is not None and self._open["type"] == kind:
            return b""
        # Nobody checks the signature: thinking that is sent back is left out.
        return self._start({"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})})

    def _call(self, call: ToolCallDelta) -> bytes:
        events = b""
        if call.id is not None:
            events = self._start({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        self._pieces.append(call.arguments)
        return events + self._add("input_json_delta", partial_json=call.arguments)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        block, text = self._open, "".join(self._pieces)
        if block["type"] == "tool_use":
            block["input"] = json.loads(text or "{}")  # the core returns one JSON object
        else:
            block[block["type"]] = text
        events = _event("content_block_stop", index=len(self.message["content"]))
        self.message["content"].append(block)
        self._open, self._pieces = None, []
        return events


def _event(kind: str, /, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + dump({"type": kind, **fields}) + b"\n\n"


def _usage(usage: Usage) -> dict[str, Any]:
    cached = usage.cached_tokens or 0
    return {
        "input_tokens": max(usage.prompt_tokens - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    }


ROUTES = [
    Route("/messages", _create, methods=["POST"]),
    Route("/messages/count_tokens", _count, methods=["POST"]),
]
