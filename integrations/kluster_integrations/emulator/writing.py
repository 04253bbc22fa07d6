"""How an answer is written: by a reply or an engine, with tool calls as text if necessary, up to the answer's end."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from kluster_integrations.emulator import tokens
from kluster_integrations.emulator.engine import CallDelta, ChatRequest, Delta, Engine, Finish, Stream
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.faults import Form
from kluster_integrations.emulator.generic import generic_reply, prompted_tools
from kluster_integrations.emulator.replies import Call, Replies, Reply
from kluster_integrations.emulator.shapes import new_call_id
from kluster_integrations.emulator.upstream import UpstreamEngine

__all__ = ["begin", "stated"]

#: What a model writes behind its reasoning. vLLM and SGLang look for stop strings in it, too, as in the reasoning.
_CLOSE, _GAP = "\n</think>", "\n\n"
_CLOSED, _SILENT = Delta(), Delta()


async def begin(
    replies: Replies, engine: Engine | UpstreamEngine | None, request: ChatRequest, form: Form | None = None
) -> tuple[Mapping[str, str], Stream]:
    """Return the headers and the deltas of the answer: the stated reply, else the engine's, else the generic one.

    With `form`, from a fault, tool calls are written as text.

    Raises:
        ApiError: If the reply is an error, or the engine fails.
    """
    said = await stated(replies, engine, request)
    # A model behind another server would go on with a conversation that it is to judge.
    if said is None and isinstance(engine, UpstreamEngine) and request.spec.purpose != "verification":
        return {}, engine.run(request)
    if said is None:
        said = generic_reply(request)
    if isinstance(said, Reply):
        return said.headers or {}, _written(request, _one(said), form)
    return {}, _written(request, said, form)


async def stated(
    replies: Replies, engine: Engine | UpstreamEngine | None, request: ChatRequest
) -> Reply | AsyncIterator[object] | None:
    """Return the reply to a request, from a stated reply or the user's engine; None if there is none.

    Raises:
        ApiError: The stated error; 500 if the engine raises an error or returns something else than a reply.
    """
    try:
        said: object = replies.take(request)
        if said is None and engine is not None and not isinstance(engine, UpstreamEngine):
            # In a thread: a function that waits must not keep other requests waiting.
            said = await run_in_threadpool(engine, request)
            said = await said if inspect.isawaitable(said) else said
        if said is None or isinstance(said, AsyncIterator):
            return said
        if isinstance(said, Iterator):
            return iterate_in_threadpool(said)
        return _good(Reply.of(said))
    except ApiError:
        raise
    except Exception as exc:
        raise _failed(exc) from exc


def _good(reply: Reply) -> Reply:
    if reply.status < 400:
        return reply
    error = ApiError(reply.status, reply.text or f"Stated error: HTTP {reply.status}", headers=reply.headers)
    error.body = error.body if reply.json is None else reply.json
    raise error


def _failed(exc: Exception) -> ApiError:
    what = f"The engine, or the `when` of a reply, failed: {type(exc).__name__}: {exc}"
    return ApiError(500, what, code="engine_error")


async def _one(reply: Reply) -> AsyncIterator[Reply]:
    yield reply


async def _written(request: ChatRequest, said: AsyncIterator[object], form: Form | None) -> Stream:
    """Yield the deltas of an answer, up to a stop string or the token limit; the finish reason is last."""
    native = bool(request.tools) or (request.spec.supports_tools and not prompted_tools(request))
    writer = _Writer(request, form or (None if native else "hermes"))
    last = Reply("")
    try:
        async for item in said:
            reply = _good(Reply.of(item))
            reason, usage = reply.finish_reason or last.finish_reason, reply.usage or last.usage
            last = replace(last, finish_reason=reason, usage=usage)
            # A string is one chunk, so that a test can say where chunks begin.
            for delta in [Delta(content=item)] if isinstance(item, str) else writer.deltas(reply):
                for certain in writer.take(delta):
                    yield certain
                if writer.ended:
                    break
            if writer.ended:
                break
    except ApiError:
        raise
    except Exception as exc:
        raise _failed(exc) from exc
    for certain in writer.rest():
        yield certain
    yield Delta(finish=writer.finish(last))


class _Writer:
    """Writes one answer: counts tokens, looks for stop strings, and writes calls as text if there is a `form`."""

    def __init__(self, request: ChatRequest, form: Form | None) -> None:
        self.ended: tuple[str, str | None] | None = None  # why it has ended early, and the stop string that did it
        self._request = request
        self._form = form
        self._used = 0
        self._calls = 0
        self._thinking = False  # as far as is written
        self._in_thought = False  # as far as is sent
        self._held: list[tuple[Delta, str]] = []  # held back, because a stop string may have begun in it

    def deltas(self, reply: Reply) -> Iterator[Delta]:
        """Yield the deltas of a reply, one per token."""
        text, calls = reply.text or "", reply.calls
        if calls and self._form:
            text, calls = "\n\n".join(filter(None, (text, _as_text(calls, self._form)))), []
        for token in tokens.split(reply.reasoning):
            yield Delta(reasoning=token)
        for token in tokens.split(text):
            yield Delta(content=token)
        for call in calls:
            index, self._calls = self._calls, self._calls + 1
            yield Delta(call=CallDelta(index, call.id or new_call_id(), call.name))
            for token in tokens.split(call.arguments):
                yield Delta(call=CallDelta(index, arguments=token))

    def take(self, delta: Delta) -> Iterator[Delta]:
        """Yield the deltas that can be sent now."""
        text = delta.reasoning or delta.content
        size, left = 1 if delta.call else tokens.count(text), self._request.max_tokens - self._used
        if size > left:
            self.ended = ("length", None)
            text = "".join(tokens.split(text)[:left])
        self._used += min(size, left)
        if (size > left and not text) or not (text or delta.call):
            return
        if self._thinking and not delta.reasoning:
            yield from self._hold(_CLOSED, _CLOSE)
            yield from self._hold(_SILENT, _GAP)
        self._thinking = bool(delta.reasoning)
        if delta.call is not None:
            yield from self.rest()
            yield delta
        elif not self._stopped:
            yield from self._hold(delta, text)

    def rest(self) -> Iterator[Delta]:
        """Yield the held deltas."""
        yield from self._send(sum(len(text) for _, text in self._held))

    def finish(self, reply: Reply) -> Finish:
        """Return the finish; what the reply states wins."""
        reason, stop = self.ended or (reply.finish_reason or ("tool_calls" if self._calls else "stop"), None)
        usage: dict[str, Any] = dict(reply.usage or {})
        prompt = usage.get("prompt_tokens", self._request.prompt_tokens)
        written = usage.get("completion_tokens", self._used)
        in_thought = self._in_thought and (self._stopped or reason == "length")
        return Finish(reason, stop, prompt, written, in_thought, usage)

    @property
    def _stopped(self) -> bool:
        return self.ended is not None and self.ended[0] == "stop"

    def _hold(self, delta: Delta, text: str) -> Iterator[Delta]:
        """Hold a delta, and yield the text before a stop string or before the possible beginning of one."""
        if self._stopped:
            return
        self._held.append((delta, text))
        raw, stops = "".join(text for _, text in self._held), self._request.stop
        if found := [(at, -len(stop), stop) for stop in stops if (at := raw.find(stop)) >= 0]:
            at, _, stop = min(found)
            self.ended = ("stop", stop)
            yield from self._send(at, torn=True)
            self._held.clear()
            return
        yield from self._send(len(raw) - max((_begun(raw, stop) for stop in stops), default=0))

    def _send(self, size: int, *, torn: bool = False) -> Iterator[Delta]:
        """Yield `size` characters of the held text; with `torn` the last delta may be split."""
        while self._held and size > 0 and (torn or len(self._held[0][1]) <= size):
            delta, text = self._held.pop(0)
            if delta is _CLOSED:
                self._in_thought = len(text) > size
            elif delta.reasoning:
                self._in_thought = True
                yield Delta(reasoning=text[:size])
            elif delta.content:
                yield Delta(content=text[:size])
            size -= len(text)


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may begin a stop string."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def _as_text(calls: Sequence[Call], form: Form) -> str:
    """Return tool calls as the text that models write, for servers that do not read it."""
    blocks = [f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}' for call in calls]
    if form == "hermes":
        return "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)
    if form == "mistral":
        return f"[TOOL_CALLS] [{', '.join(blocks)}]"
    blocks = [
        f'{{"type": "function", "name": {json.dumps(call.name)}, "parameters": {call.arguments}}}' for call in calls
    ]
    return ("<|python_tag|>" if form == "python_tag" else "") + "; ".join(blocks)
