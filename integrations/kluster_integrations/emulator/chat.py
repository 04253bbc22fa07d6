"""`POST /v1/chat/completions`, whole or streamed: check the request, write the answer, give it the server's shape."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kluster_integrations.emulator import rules
from kluster_integrations.emulator.engine import CallDelta, ChatRequest, Delta, Finish, Stream
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.records import RecordedRequest
from kluster_integrations.emulator.service import (
    DONE,
    ClientConnection,
    Json,
    Service,
    connection_of,
    event,
    record_of,
    service_of,
)
from kluster_integrations.emulator.shapes import SHAPES, Fields, call_fields
from kluster_integrations.emulator.writing import begin

__all__ = ["ROUTES"]


async def _chat(request: Request) -> Response:
    service = service_of(request)
    body = rules.parse_json(await request.body())
    checked = rules.check_chat(body, service.settings)
    metadata = body.get("metadata")
    options = metadata.get("@kluster.ai") if isinstance(metadata, dict) else None
    if isinstance(options, dict) and options.get("async") is True:
        return Json(service.batches.queue(body, options, functools.partial(complete, service)))
    fault = request.scope.get("kluster.fault")
    form = fault.form if fault is not None and fault.kind == "text_calls" else None
    headers, stream = await begin(service.replies, service.engine, checked, form)
    deltas = _deltas(service, checked, stream, record_of(request.scope))
    if not checked.stream:
        return Json(await _whole(service, checked, deltas, connection_of(request)), headers=headers)
    # The first delta is fetched before the 200 goes out, so that an engine's failure is still a status.
    return _EventStream(service, checked, await anext(deltas), deltas, headers)


async def complete(service: Service, body: Fields) -> Fields:
    """Answer a chat request outside HTTP, as batches and asynchronous requests do.

    Raises:
        ApiError: If the rules or the engine refuse it.
    """
    checked = rules.check_chat(body, service.settings)
    _, stream = await begin(service.replies, service.engine, checked, None)
    return await _whole(service, checked, _deltas(service, checked, stream, None), None)


async def _whole(service: Service, request: ChatRequest, deltas: Stream, connection: ClientConnection | None) -> Fields:
    answer = _Answer()
    async with aclosing(deltas):
        async for delta in deltas:
            if connection is not None:
                connection.check()
            answer.add(delta, request)
    assert answer.finish is not None
    shape = SHAPES[service.settings.shape]
    calls = [call_fields(call) for call in answer.calls]
    for call in calls:
        del call["index"]
    extra: Fields = {}
    if answer.reasoning:
        extra[_field(service)] = answer.reasoning
    message = shape.message(answer.content or (None if calls or extra else ""), calls, extra)
    logprobs = {"content": answer.logprobs} if request.top_logprobs is not None else None
    choice: Fields = {"message": message, "logprobs": logprobs}
    return shape.completion(shape.new_id(), request.spec.id, choice, answer.finish)


@dataclass(slots=True)
class _Answer:
    """The sum of an answer's deltas."""

    reasoning: str = ""
    content: str = ""
    calls: list[CallDelta] = field(default_factory=list)
    logprobs: list[Fields] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, delta: Delta, request: ChatRequest) -> None:
        self.reasoning += delta.reasoning
        self.content += delta.content
        self.finish = delta.finish or self.finish
        if delta.content and request.top_logprobs is not None:
            self.logprobs.append(_logprob(delta.content, request.top_logprobs))
        if (call := delta.call) is not None and call.id is not None:
            self.calls.append(call)
        elif call is not None:
            known = self.calls[call.index]
            self.calls[call.index] = replace(known, arguments=known.arguments + call.arguments)


def _field(service: Service) -> str:
    return "reasoning" if service.settings.reasoning == "reasoning" else "reasoning_content"


async def _deltas(service: Service, request: ChatRequest, stream: Stream, record: RecordedRequest | None) -> Stream:
    """Yield the deltas of a stream, with reasoning in the text if the settings say so, and count the tokens."""
    style = service.settings.reasoning
    inline = style in {"think", "open"}
    opening = "" if style == "open" and request.spec.opens_in_thought else "<think>"
    thinking = False
    async with aclosing(stream):
        async for delta in stream:
            if record is not None and (finish := delta.finish) is not None:
                record.count(request.spec, finish.prompt_tokens, finish.completion_tokens)
            if not inline:
                yield delta
            elif delta.reasoning:
                if not thinking and opening:
                    # A tag comes in two pieces, as a tokenizer may split it: clients must put it together.
                    yield Delta(content="<th")
                    yield Delta(content="ink>\n")
                thinking = True
                yield Delta(content=delta.reasoning)
            else:
                # An answer that ends inside the reasoning never closes it.
                if thinking and not (finish and finish.in_thought):
                    yield Delta(content="\n</thi")
                    yield Delta(content="nk>\n\n")
                thinking = False
                yield delta


class _EventStream(Response):
    """A streamed answer. One body message is one event, because faults count the messages."""

    def __init__(
        self, service: Service, request: ChatRequest, first: Delta, rest: Stream, headers: Mapping[str, str]
    ) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache", **headers})
        del self.headers["content-length"]
        self._service = service
        self._request = request
        self._first = first
        self._rest = rest
        self._shape = SHAPES[service.settings.shape]
        self._id = self._shape.new_id()
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, with the emulator's delay between them."""
        connection: ClientConnection = scope["kluster.connection"]
        self._record = record_of(scope)
        delay = self._service.settings.delay
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events()) as events:
            first = True
            async for data in events:
                if delay and not first:
                    await connection.pause(delay)
                connection.check()
                first = False
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncGenerator[bytes, None]:
        yield self._chunk({"role": "assistant", "content": ""})
        async with aclosing(self._rest) as rest:
            try:
                for data in self._data(self._first):
                    yield data
                async for delta in rest:
                    for data in self._data(delta):
                        yield data
            except ApiError as exc:
                self._record.reason = exc.message
                yield event(exc.body)
                return
        yield DONE

    def _data(self, delta: Delta) -> list[bytes]:
        shape, model = self._shape, self._request.spec.id
        if delta.finish is None:
            return [self._chunk(self._fields(delta), delta.content)]
        chunks = [shape.finish_chunk(self._id, model, self._created, delta.finish)]
        if self._service.settings.usage_in_stream or delta.finish.usage:
            chunks.append(shape.usage_chunk(self._id, model, self._created, delta.finish))
        return list(map(event, chunks))

    def _fields(self, delta: Delta) -> Fields:
        if delta.call is not None:
            return {"tool_calls": [call_fields(delta.call)]}
        if delta.reasoning:
            return {_field(self._service): delta.reasoning}
        return {"content": delta.content}

    def _chunk(self, delta: Fields, token: str = "") -> bytes:
        top = self._request.top_logprobs
        logprobs = {"content": [_logprob(token, top)]} if token and top is not None else None
        choice: Fields = {"delta": delta, "logprobs": logprobs}
        return event(self._shape.chunk(self._id, self._request.spec.id, self._created, choice))


def _logprob(token: str, top: int) -> Fields:
    """Return invented log probabilities: always the same for a token, and lower for each alternative."""
    digest = hashlib.blake2b(token.encode("utf-8", "replace"), digest_size=8).digest()
    value = -digest[0] / 1024
    named = [(f"{token}{rank or ''}", value - rank) for rank in range(max(top, 1))]
    rows: list[Fields] = [
        {"token": name, "logprob": number, "bytes": list(name.encode("utf-8", "replace"))} for name, number in named
    ]
    return {**rows[0], "top_logprobs": rows[:top]}


ROUTES = [Route("/chat/completions", _chat, methods=["POST"])]
