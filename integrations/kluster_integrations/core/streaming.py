"""Server-sent events -> deltas: one state machine that the sync and the async loop both feed.

    bytes -> EventSplitter -> JSON -> ChatStream -> Delta

What real servers do, and what comes out the same here (reference/kluster-api.md, Streaming): reasoning in
`reasoning_content`, `reasoning` or inline `<think>`; tool-call fragments without `index`; usage on any chunk, also with
`choices: []`; comments, CRLF, characters split over reads, no `[DONE]`. A stream that stops early raises.
"""

from __future__ import annotations

import contextlib
import json
import math
import uuid
from collections.abc import Mapping
from typing import Any

from kluster_integrations.core import tokens
from kluster_integrations.core.errors import (
    APIConnectionError,
    APITimeoutError,
    InternalServerError,
    TruncatedStreamError,
    from_body,
)
from kluster_integrations.core.prompting import ToolCallSplitter
from kluster_integrations.core.splitters import Segment, StopMatcher, ThoughtSplitter
from kluster_integrations.core.sse import EventSplitter, loads
from kluster_integrations.core.types import ChatRequest, Delta, ToolCallDelta, Usage

__all__ = ["ChatStream", "EventSplitter", "loads", "read_usage"]


class ToolCallAssembler:
    """Gives the fragments of tool calls the index and id that some servers leave out, or get wrong.

    A fragment with an id of its own begins a call, also under an index that is taken; one without an id continues the
    call of its index, or the latest where it has none (langchain issue 35782, ollama issue 7881).
    """

    __slots__ = ("_at", "_ids", "_named", "parts")

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._named: list[bool] = []
        self._at: dict[object, int] = {}
        self.parts: list[str] = []  # names and arguments, to estimate their tokens

    def feed(self, fragments: object, *, whole: bool = False) -> list[ToolCallDelta]:
        """Return the fragments of one event, in order; `whole` says that each is a call of its own."""
        if not isinstance(fragments, list):
            return []
        return [self._one(f, whole=whole) for f in fragments if isinstance(f, dict)]

    def add(self, name: str, arguments: str, id_: str | None = None) -> ToolCallDelta:
        """Begin a call."""
        self._ids.append(id_ or f"call_{uuid.uuid4().hex}")
        self._named.append(bool(name))
        self.parts += (name, arguments)
        return ToolCallDelta(len(self._ids) - 1, self._ids[-1], name, arguments)

    def _one(self, fragment: Mapping[str, Any], *, whole: bool) -> ToolCallDelta:
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        id_, name, key = (_text_or_none(v) for v in (fragment.get("id"), function.get("name"), fragment.get("index")))
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = "" if arguments is None else json.dumps(arguments, ensure_ascii=False)
        at = -1 if whole else self._continued(id_, name, key)
        if at < 0:
            delta = self.add(name or "", "" if arguments == "null" else arguments, id_)
            self._at[key] = self._at[id_] = delta.index
            return delta
        self.parts.append(arguments)
        if name and not self._named[at]:
            self._named[at] = True
            return ToolCallDelta(at, None, name, arguments)
        return ToolCallDelta(at, None, None, arguments)

    def _continued(self, id_: str | None, name: str | None, key: str | None) -> int:
        """Return which call a fragment continues, -1 if it begins one."""
        if key is not None:
            at = self._at.get(key, -1)
            return -1 if at >= 0 and id_ and id_ != self._ids[at] else at
        if id_:
            return self._at.get(id_, -1)
        return -1 if name and (not self._named or self._named[-1]) else len(self._ids) - 1


def _text_or_none(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


class ChatStream:
    """The state of one answer, streamed or whole: takes bytes, gives deltas.

    Args:
        request: What was asked; decides how thoughts begin, which stops and which tools are handled here.

    Attributes:
        done: Nothing more is to be read.
        headers: The HTTP headers of the answer, once it has begun.
    """

    def __init__(self, request: ChatRequest) -> None:
        spec = request.spec
        self.done = False
        self._request = request
        self.headers: Mapping[str, str] = {}
        self._events = EventSplitter()
        self._thoughts = ThoughtSplitter(
            opens_in_thought=spec.opens_in_thought, thinks=spec.reasoning or not spec.known
        )
        self._calls = ToolCallAssembler()
        self._tools = (
            ToolCallSplitter(request.tool_names, prompted=bool(request.tools))
            if request.tools or request.tool_names
            else None
        )
        self._stops = StopMatcher(request.client_stops) if request.client_stops else None
        self._own_field = False  # the server separates reasoning itself
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._usage: Mapping[str, Any] | None = None
        self._finish: str | None = None
        self._meta: Mapping[str, Any] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the finish reason has come; usage and `[DONE]` may follow."""
        return self._finish is not None

    def feed(self, data: bytes | None) -> list[Delta]:
        """Return the deltas of the events that these bytes complete; None is the end of the body.

        Raises:
            KlusterError: An error event, or one that cannot be read.
        """
        if data is None:
            return self._end()
        deltas = []
        for payload in self._events.feed(data):
            if payload.startswith(b"[DONE]"):
                self.done = True
                break
            if delta := self.take(self._decode(payload)):
                deltas.append(delta)
                if self.done:
                    break
        return deltas

    def _end(self) -> list[Delta]:
        """Return the delta of an event that lacks its blank line; one that lacks more has been cut off."""
        self.done = True
        rest = self._events.rest()
        with contextlib.suppress(ValueError):
            if self._meta is None and rest.lstrip()[:1] == b"{":  # a whole answer, or an error, not called JSON
                return self._take_whole(loads(rest))
            return [delta for payload in self._events.close() if (delta := self.take(loads(payload)))]
        return []

    def broken(self, error: APIConnectionError) -> None:
        """Accept a connection that broke behind the finish reason, for then the answer is complete.

        Raises:
            APIConnectionError: Elsewhere; a `TruncatedStreamError` unless it was a timeout.
        """
        if self._finish is None:
            raise error if isinstance(error, APITimeoutError) else self._truncated(error.message)

    def close(self) -> list[Delta]:
        """Return the last delta, which has the usage, once nothing more is to be read.

        Raises:
            TruncatedStreamError: If no finish reason has come: the answer is not complete.
        """
        if self._finish is None:
            raise self._truncated("The stream ended before the answer was complete.")
        return [Delta(usage=self.usage())]

    def whole(self, data: object) -> list[Delta]:
        """Return the deltas of a whole answer: the decoded JSON of one.

        Raises:
            KlusterError: An error inside a 200, or an answer without choices.
        """
        return [*self._take_whole(data), *self.close()]

    def _take_whole(self, data: object) -> list[Delta]:
        deltas = [self.take(data)]
        if self._meta is None:
            raise InternalServerError("The answer has no choices.", body=data)
        if self._finish is None:  # some servers leave it out where nothing is wrong
            deltas.append(self.take({"choices": [{"finish_reason": "stop"}]}))
        return [*filter(None, deltas)]

    def _truncated(self, message: str) -> TruncatedStreamError:
        error = TruncatedStreamError(message)
        error.partial = "".join(self._content)
        return error

    def take(self, chunk: Any) -> Delta | None:
        """Return what one decoded chunk adds; also a whole answer, which has `message` where chunks have `delta`.

        Raises:
            KlusterError: An error in place of a chunk, or a chunk of a form that cannot be read.
        """
        try:
            return self._take(chunk)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as err:
            raise InternalServerError(f"The answer has a form that cannot be read: {err}.") from err

    def _take(self, chunk: Any) -> Delta | None:
        if type(chunk) is not dict:
            raise InternalServerError(f"The answer is not a JSON object: {str(chunk)[:200]!r}.")
        if chunk.get("error") or self._events.failed or chunk.get("object") == "error":
            raise from_body(chunk)
        if usage := chunk.get("usage"):
            self._usage = usage
        choices = chunk.get("choices")
        if not choices:
            if choices is None and (chunk.get("message") or chunk.get("detail")):  # FastAPI's errors, and gateways'
                raise from_body(chunk)
            return None
        choice = choices[0]
        if choice.get("index"):  # of a second answer, which nobody has asked for
            return None
        part = choice.get("delta") or choice.get("message") or {}
        content = part.get("content")
        finish = choice.get("finish_reason")
        if (
            self._meta is not None
            and content
            and type(content) is str
            and "<" not in content
            and self._stops is None
            and (self._tools is None or (self._tools.idle and "[" not in content))
            and len(part) <= 2
            and not finish
            and not choice.get("logprobs")
            and self._thoughts.idle
            and not part.get("tool_calls")
            and not part.get("reasoning_content")
            and not part.get("reasoning")
        ):
            self._thoughts.before = content
            self._content.append(content)
            return Delta(content)
        return self._parse_chunk(chunk, choice, part, content, finish)

    def _parse_chunk(
        self,
        chunk: Mapping[str, Any],
        choice: Mapping[str, Any],
        part: Mapping[str, Any],
        content: object,
        finish: str | None,
    ) -> Delta | None:
        segments: list[Segment] = []
        text, thought = _texts(content)
        if thought := part.get("reasoning_content") or part.get("reasoning") or thought:
            self._own_field = True
            segments += self._thoughts.take_reasoning(str(thought))
        if text:
            take = self._thoughts.take_content if self._own_field else self._thoughts.feed
            segments += take(text)
        calls = self._calls.feed(part.get("tool_calls"), whole="message" in choice)
        if self._finish is not None:
            finish = None  # some servers say it twice
        stop = choice.get("matched_stop")
        stop = choice.get("stop_reason") if stop is None else stop
        if finish in _FAILED:
            raise InternalServerError(f"The server ended the answer with finish_reason {finish!r}: it is not complete.")
        if finish:
            segments += self._thoughts.close(is_cut=finish == "length" or isinstance(stop, str))
        text = "".join(t for is_thought, t in segments if not is_thought)
        if self._stops is not None:  # before calls are looked for: a server ends there, too
            text = self._stops.feed(text)
            if self._stops.hit is not None:
                finish, self.done, calls = "stop", True, []
            elif finish:
                text += self._stops.close()
        if self._tools is not None:
            text, prompted = self._take_calls(text, finish)
            calls += prompted
        if finish and (self._stops is None or self._stops.hit is None):
            text += self._thoughts.reopened
        content_out = text
        reasoning_out = "".join(t for is_thought, t in segments if is_thought)
        self._content.append(content_out)
        self._reasoning.append(reasoning_out)
        if finish and self._tools is not None and self._tools.found:
            finish = "tool_calls"
        headers = self.headers if self._meta is None else None
        meta = self._take_meta(chunk, finish, stop)
        if finish:
            self._finish = finish
        logprobs = choice.get("logprobs")
        if not (content_out or reasoning_out or calls or finish or meta or logprobs or headers):
            return None
        return Delta(content_out, reasoning_out, tuple(calls), finish, None, logprobs, meta, headers or None)

    def _take_calls(self, text: str, finish: str | None) -> tuple[str, list[ToolCallDelta]]:
        """Take the tool calls out of a text."""
        assert self._tools is not None
        text, found = self._tools.feed(text)
        if finish:
            rest, more = self._tools.close()
            text, found = text + rest, [*found, *more]
        return text, [self._calls.add(call.name, call.arguments) for call in found]

    def _take_meta(self, chunk: Mapping[str, Any], finish: str | None, stop: object) -> Mapping[str, Any] | None:
        meta: dict[str, Any] = {}
        if self._meta is None:
            meta = {k: chunk[k] for k in _META if chunk.get(k) is not None}
            self._meta = meta
        if finish:
            if self._stops and self._stops.hit is not None:
                stop = self._stops.hit
            if stop is not None:
                meta = {**meta, "matched_stop": stop}
        return meta or None

    def _decode(self, payload: bytes) -> Any:
        try:
            return loads(payload)
        except ValueError as err:
            text = payload[:200].decode("utf-8", "replace")
            if self._events.failed:
                raise from_body(text) from None
            raise InternalServerError(f"An event of the stream is not JSON ({err}): {text!r}.") from None

    def usage(self) -> Usage:
        """Return the server's usage, or an estimate; the reasoning's share is estimated where the server is silent."""
        request = self._request
        reasoning = "".join(self._reasoning)
        rest = tokens.estimate("".join([*self._content, *self._calls.parts]))
        thought = tokens.estimate(reasoning)
        usage = read_usage(self._usage) if self._usage is not None else None
        if usage is None:
            prompt = tokens.estimate_prompt(request.body["messages"], request.body.get("tools") or ())
            completion = thought + rest
            if isinstance(most := request.max_tokens, int):
                completion = min(completion, most)
            usage = Usage(prompt, completion, prompt + completion, estimated=True)
        if thought and usage.reasoning_tokens is None and usage.completion_tokens:
            share = max(1, round(usage.completion_tokens * thought / (thought + rest)))
            usage = usage._replace(reasoning_tokens=min(share, usage.completion_tokens), reasoning_estimated=True)
        return usage


# vLLM and SGLang end a request so that was aborted or failed on their side.
_FAILED = ("abort", "error")
_META = ("id", "model", "created", "system_fingerprint")


def _texts(content: object) -> tuple[str, str]:
    """Return text and thoughts of `content`, which a few servers send as a list of parts."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        return "", ""
    parts = [p for p in content if isinstance(p, dict)]
    text = "".join(p["text"] for p in parts if isinstance(p.get("text"), str))
    thought = "".join(p["thinking"] for p in parts if isinstance(p.get("thinking"), str))
    return text, thought


def read_usage(raw: object) -> Usage | None:
    """Read the `usage` of an answer; None where numbers are missing. `*_details` may be null or absent.

    Of prompt, completion and total any two give the third. An embedding's usage may have the prompt's tokens alone.
    """

    def number(source: object, key: str) -> int | None:
        value = source.get(key) if isinstance(source, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            return None
        return int(value)

    def details(kind: str) -> object:
        return raw.get(f"{kind}_tokens_details") if isinstance(raw, dict) else None

    prompt, completion, total = (number(raw, f"{k}_tokens") for k in ("prompt", "completion", "total"))
    if prompt is None and completion is not None and total is not None:
        prompt = max(total - completion, 0)
    if completion is None and prompt is not None and total is not None:
        completion = max(total - prompt, 0)
    if prompt is None or completion is None:
        return None
    return Usage(
        prompt,
        completion,
        total if total is not None else prompt + completion,
        number(details("completion"), "reasoning_tokens"),
        number(details("prompt"), "cached_tokens"),
    )
