"""`POST /v1/chat/completions`: rules, engine, shape; whole or streamed."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kluster_integrations.emulator import rules
from kluster_integrations.emulator.engine import CallDelta, ChatRequest, Delta, Engine, Finish
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.scripted import ScriptedEngine
from kluster_integrations.emulator.service import Line, Service, line_of, service_of
from kluster_integrations.emulator.shapes import SHAPES, Fields, call_fields
from kluster_integrations.emulator.wire import DONE, Json, event

__all__ = ["ROUTES", "complete"]

_JUDGE = ScriptedEngine()


async def _chat(request: Request) -> Response:
    service = service_of(request)
    body = rules.parse_json(await request.body())
    checked = rules.check_chat(body, service.settings)
    metadata = body.get("metadata")
    options = metadata.get("@kluster.ai") if isinstance(metadata, dict) else None
    if isinstance(options, dict) and options.get("async") is True:
        return Json(service.batches.queue(body, options, functools.partial(complete, service)))
    if not checked.stream:
        return Json(await _whole(service, checked, line_of(request)))
    deltas = _deltas(service, checked)
    # The first delta is fetched before the 200 goes out, so that an engine's failure is still a status.
    return _EventStream(service, checked, await anext(deltas), deltas)


async def complete(service: Service, body: object) -> Fields:
    """Answer a chat request outside HTTP, as batches and async requests do.

    Raises:
        ApiError: If the rules or the engine refuse it.
    """
    return await _whole(service, rules.check_chat(body, service.settings), None)


async def _whole(service: Service, request: ChatRequest, line: Line | None) -> Fields:
    answer = _Answer()
    async with aclosing(_deltas(service, request)) as deltas:
        async for delta in deltas:
            if line is not None:
                line.check()
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
        call = delta.call
        if call is None:
            return
        if call.id is not None:
            self.calls.append(call)
        else:
            known = self.calls[call.index]
            arguments = known.arguments + call.arguments
            self.calls[call.index] = CallDelta(known.index, known.id, known.name, arguments)


def _field(service: Service) -> str:
    return "reasoning" if service.settings.reasoning == "reasoning" else "reasoning_content"


def _engine(service: Service, request: ChatRequest) -> Engine:
    """Return who answers; an upstream's model would go on with a conversation that it is to judge."""
    return _JUDGE if request.spec.purpose == "verification" else service.engine


async def _deltas(service: Service, request: ChatRequest) -> AsyncGenerator[Delta, None]:
    """Yield the engine's deltas, thoughts moved into the text where the settings say so."""
    style = service.settings.reasoning
    inline = style in {"think", "open"}
    opening = "" if style == "open" and request.spec.opens_in_thought else "<think>"
    thinking = False
    async with aclosing(_engine(service, request).run(request)) as deltas:
        async for delta in deltas:
            if delta.reasoning and not request.spec.reasoning:
                continue
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
                # An answer cut inside the thought never closes it.
                cut = delta.finish is not None and delta.finish.reason == "length"
                if thinking and not cut:
                    yield Delta(content="\n</thi")
                    yield Delta(content="nk>\n\n")
                thinking = False
                yield delta


class _EventStream(Response):
    """A streamed answer. One body message is one event, which the faults count on."""

    def __init__(self, service: Service, request: ChatRequest, first: Delta, rest: AsyncGenerator[Delta, None]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
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
        line: Line = scope["kluster.line"]
        delay = self._service.settings.delay
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events()) as events:
            first = True
            async for data in events:
                if delay and not first:
                    await line.pause(delay)
                line.check()
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
                yield event(exc.body)
                return
        yield DONE

    def _data(self, delta: Delta) -> list[bytes]:
        shape, model = self._shape, self._request.spec.id
        if delta.finish is None:
            return [self._chunk(self._fields(delta), delta.content)]
        finish = [event(shape.finish_chunk(self._id, model, self._created, delta.finish))]
        if self._service.settings.usage_in_stream:
            usage = shape.usage_chunk(self._id, model, self._created, delta.finish)
            finish.append(event(usage))
        return finish

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
    """Return made-up log probabilities: the same for the same token, and falling over the alternatives."""
    digest = hashlib.blake2b(token.encode("utf-8", "replace"), digest_size=8).digest()
    value = -digest[0] / 1024
    rows = [_logprob_row(token, value)]
    rows += [_logprob_row(f"{token}{rank}", value - rank) for rank in range(1, top)]
    return {**rows[0], "top_logprobs": rows[:top]}


def _logprob_row(token: str, value: float) -> Fields:
    return {"token": token, "logprob": value, "bytes": list(token.encode("utf-8", "replace"))}


ROUTES = [Route("/chat/completions", _chat, methods=["POST"])]
