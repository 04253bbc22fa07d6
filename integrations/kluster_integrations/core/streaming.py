"""Server-sent events -> deltas: one state machine for sync and async streams and for whole answers.

    bytes -> EventSplitter -> JSON -> ChatStream -> Delta

Servers differ, but the result is the same (reference/kluster-api.md, Streaming): reasoning in `reasoning_content`,
`reasoning` or inline `<think>`; tool-call fragments without `index`; usage in any chunk, also with `choices: []`;
comments, CRLF, characters split over reads, no `[DONE]`. A stream that stops early raises an error.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jiter import from_json

from kluster_integrations.core import tokens
from kluster_integrations.core.errors import (
    APIConnectionError,
    APITimeoutError,
    InternalServerError,
    TruncatedStreamError,
    from_body,
    shortened,
)
from kluster_integrations.core.json_text import compact
from kluster_integrations.core.prompting import ToolCallSplitter
from kluster_integrations.core.splitters import Segment, StopMatcher, ThoughtSplitter
from kluster_integrations.core.sse import EventSplitter, loads
from kluster_integrations.core.types import ChatRequest, Delta, ToolCallDelta, Usage

__all__ = ["ChatStream", "EventSplitter", "loads", "read_usage"]


class ToolCallAssembler:
    """Corrects the index and id of tool-call fragments, which some servers omit or get wrong.

    A fragment with a new id begins a call, even if its index is already used. A fragment without an id continues the
    call with its index, or without an index the latest call (langchain issue 35782, ollama issue 7881).
    """

    __slots__ = ("_at", "_ids", "_named", "parts")

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._named: list[bool] = []
        self._at: dict[object, int] = {}
        self.parts: list[str] = []  # names and arguments, to estimate their tokens

    def feed(self, fragments: object, *, whole: bool = False) -> list[ToolCallDelta]:
        """Return the corrected fragments of one event, in order; with `whole` each fragment is a complete call."""
        if not fragments:
            return []
        if isinstance(fragments, dict):  # one call, not in a list
            fragments = [fragments]
        if not isinstance(fragments, list) or not all(isinstance(f, dict) for f in fragments):
            raise ValueError(f"tool_calls is {shortened(fragments)}")
        if len(fragments) == 1:
            return [self._one(fragments[0], whole=whole)]
        deltas: dict[int, list[ToolCallDelta]] = {}
        for fragment in fragments:
            delta = self._one(fragment, whole=whole)
            deltas.setdefault(delta.index, []).append(delta)
        # One of each call: langchain-core takes two fragments in one chunk for two calls.
        return [_joined(parts) for parts in deltas.values()]

    def add(self, name: str, arguments: str, id_: str | None = None) -> ToolCallDelta:
        """Begin a call."""
        self._ids.append(id_ or f"call_{uuid.uuid4().hex}")
        self._named.append(bool(name))
        self.parts += (name, arguments)
        return ToolCallDelta(len(self._ids) - 1, self._ids[-1], name, arguments)

    def _one(self, fragment: Mapping[str, Any], *, whole: bool) -> ToolCallDelta:
        function = fragment.get("function")
        if function is None:  # some servers leave the object out
            function = fragment
        name = function.get("name") if isinstance(function, dict) else function
        if name is not None and not isinstance(name, str):
            raise ValueError(f"a tool call has the name {shortened(name)}")
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
        """Return the index of the call that a fragment continues; -1 if it begins a call."""
        if key is not None:
            at = self._at.get(key, -1)
            return -1 if at >= 0 and id_ and id_ != self._ids[at] else at
        if id_:
            return self._at.get(id_, -1)
        return -1 if name and (not self._named or self._named[-1]) else len(self._ids) - 1


def _joined(parts: list[ToolCallDelta]) -> ToolCallDelta:
    name = next((part.name for part in parts if part.name), parts[0].name)
    return replace(parts[0], name=name, arguments="".join(part.arguments for part in parts))


def _text_or_none(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


class ChatStream:
    """The state of one answer, streamed or whole: takes bytes, returns deltas.

    Args:
        request: The request, which decides about reasoning, stop sequences and prompted tools.

    Attributes:
        done: Whether nothing more needs to be read.
        headers: The HTTP headers of the answer, once it has begun.
    """

    def __init__(self, request: ChatRequest) -> None:
        spec = request.spec
        self.done = False
        self._request = request
        self.headers: Mapping[str, str] = {}
        self._events = EventSplitter()
        self._thoughts = ThoughtSplitter(
            opens_in_thought=spec.opens_in_thought,
            thinks=spec.reasoning or not spec.known,
            stops=request.client_stops,
        )
        self._calls = ToolCallAssembler()
        self._has_calls = False
        self._tools = (
            ToolCallSplitter(request.tool_names, prompted=bool(request.tools))
            if request.tools or request.tool_names
            else None
        )
        self._stops = StopMatcher(request.client_stops) if request.client_stops else None
        self._own_field = False  # the server separates reasoning itself
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._halves: dict[object, str] = {}  # of surrogate pairs, by the field whose next text has the other half
        self._usage: Mapping[str, Any] | None = None
        self._finish: str | None = None
        self._meta: Mapping[str, Any] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the finish reason has come; usage and `[DONE]` may follow."""
        return self._finish is not None

    def feed(self, data: bytes | None) -> list[Delta]:
        """Return the deltas of the events that these bytes complete; None means the end of the body.

        Raises:
            KlusterError: An event is an error, or cannot be read.
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
        """Return the delta of a last event without a blank line; one that lacks more was cut off."""
        self.done = True
        rest = self._events.rest()
        with contextlib.suppress(ValueError):
            if self._meta is None and rest.lstrip()[:1] == b"{":  # a whole answer, or an error, not called JSON
                return self._take_whole(loads(rest))
            return [delta for payload in self._events.close() if (delta := self.take(loads(payload)))]
        return []

    def broken(self, error: APIConnectionError) -> None:
        """Accept a connection that broke after the finish reason, because the answer is complete.

        Raises:
            APIConnectionError: The connection broke before; a `TruncatedStreamError` unless it was a timeout.
        """
        if self._finish is None:
            raise error if isinstance(error, APITimeoutError) else self._truncated(error.message)

    def close(self) -> list[Delta]:
        """Return the last delta, with the usage, after everything is read.

        Raises:
            TruncatedStreamError: If there was no finish reason: the answer is not complete.
        """
        if self._finish is None:
            raise self._truncated("The stream ended before the answer was complete.")
        return [Delta(usage=self.usage())]

    def whole(self, data: object) -> list[Delta]:
        """Return the deltas of a whole answer, from its decoded JSON.

        Raises:
            KlusterError: It is an error inside a 200, or has no choices.
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
        """Return the delta of one decoded chunk, or of a whole answer, which has `message` in place of `delta`.

        Raises:
            KlusterError: It is an error, or cannot be read.
        """
        try:
            return self._take(chunk)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as err:
            raise InternalServerError(f"The answer has a form that cannot be read: {err}.") from err

    def _take(self, chunk: Any) -> Delta | None:
        if type(chunk) is not dict:
            raise InternalServerError(f"The answer is not a JSON object: {shortened(chunk)}.")
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
        if len(choices) != 1 or ((index := choice.get("index")) and index != "0"):
            raise InternalServerError("The server sends more than one answer, but one was requested.")
        part = choice.get("delta") or choice.get("message") or _other_shape(choice)
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
            if self._tools is not None:
                self._tools.lines.add(content)
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
        if finish and not isinstance(finish, str):
            raise ValueError(f"finish_reason is {shortened(finish)}")
        segments: list[Segment] = []
        text, thought = _texts(content)
        if refusal := part.get("refusal"):
            text += _texts(refusal)[0]
        if own := part.get("reasoning_content") or part.get("reasoning"):
            if not isinstance(own, str):
                raise ValueError(f"the reasoning is {shortened(own)}")
            thought = own
        if thought:
            self._own_field = True
            segments += self._thoughts.take_reasoning(thought)
        if text:
            take = self._thoughts.take_content if self._own_field else self._thoughts.feed
            segments += take(text)
        calls = self._calls.feed(part.get("tool_calls"), whole="message" in choice)
        if not calls and (call := part.get("function_call")):  # OpenAI's form before tools
            calls = self._calls.feed([{"function": call, "index": 0}], whole="message" in choice)
        if self._finish is not None:
            finish = None  # some servers say it twice
        stop = choice.get("matched_stop")
        stop = choice.get("stop_reason") if stop is None else stop
        if finish in _FAILED:
            raise InternalServerError(f"The server ended the answer with finish_reason {finish!r}: it is not complete.")
        if finish == "function_call":
            finish = "tool_calls"
        if finish:
            segments += self._thoughts.close(is_cut=finish == "length" or isinstance(stop, str))
        reopened = self._thoughts.reopened if finish else ""
        if self._stops is not None:  # before calls are looked for: a server ends there, too
            segments, reopened = self._before_stop(self._stops, segments, reopened, is_last=bool(finish))
            if self._stops.hit is not None:
                finish, self.done, calls = "stop", True, []
        text = "".join(t for is_thought, t in segments if not is_thought)
        if self._tools is not None:
            text, prompted = self._take_calls(text, finish)
            calls += prompted
        content_out = text + reopened
        reasoning_out = "".join(t for is_thought, t in segments if is_thought)
        self._content.append(content_out)
        self._reasoning.append(reasoning_out)
        self._has_calls = self._has_calls or bool(calls)
        # vLLM says `stop` behind calls of a named tool_choice, as OpenAI does (vllm pull 25054); but many a client runs
        # tools by this word alone, and Anthropic's API has `tool_use` for all calls.
        if finish and ((self._tools is not None and self._tools.found) or (finish == "stop" and self._has_calls)):
            finish = "tool_calls"
        headers = self.headers if self._meta is None else None
        meta = self._take_meta(chunk, finish, stop)
        if finish:
            self._finish = finish
        logprobs = _check_logprobs(choice.get("logprobs"))
        if not (content_out or reasoning_out or calls or finish or meta or logprobs or headers):
            return None
        return Delta(content_out, reasoning_out, tuple(calls), finish, None, logprobs, meta, headers or None)

    @staticmethod
    def _before_stop(
        stops: StopMatcher, segments: list[Segment], reopened: str, *, is_last: bool
    ) -> tuple[list[Segment], str]:
        """Return what comes before a stop sequence. Everything after it is dropped, also reasoning."""
        kept: list[Segment] = []
        for is_thought, text in segments:
            kept.append((is_thought, text if is_thought else stops.feed(text)))
            if stops.hit is not None:
                return kept, ""
        if reopened:
            reopened = stops.feed(reopened)
            return kept, reopened + stops.close()
        if is_last:
            kept.append((False, stops.close()))
        return kept, ""

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
            meta = {k: v for k, kinds in _META.items() if isinstance(v := chunk.get(k), kinds)}
            if "id" in meta:
                meta["id"] = str(meta["id"])
            with contextlib.suppress(OverflowError, ValueError):  # of infinity, of NaN
                meta |= {"created": int(meta.pop("created"))} if "created" in meta else {}
            self._meta = meta
        if finish:
            if self._stops and self._stops.hit is not None:
                stop = self._stops.hit
            if isinstance(stop, int | str):
                meta = {**meta, "matched_stop": stop}
        return meta or None

    def _decode(self, payload: bytes) -> Any:
        try:
            try:
                data = from_json(payload)
                if not self._halves:
                    return data
            except ValueError:
                data = loads(payload, halves=True)
            return json.loads(compact(self._joined(data)))
        except (ValueError, RecursionError) as err:
            text = payload[:200].decode("utf-8", "replace")
            if self._events.failed:
                raise from_body(text) from None
            raise InternalServerError(f"An event of the stream is not JSON ({err}): {text!r}.") from None

    def _joined(self, chunk: Any) -> Any:
        r"""Join surrogate pairs that are split over two chunks.

        Some servers cut an escaped `\ud83d\ude00` in two. The caller replaces halves that remain.
        """
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        part = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(part, dict):
            return chunk
        owners: list[tuple[object, dict[str, Any], str]] = [(key, part, key) for key in _TEXT_FIELDS]
        calls = part.get("tool_calls")
        for at, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict) and isinstance(function := call.get("function"), dict):
                owners.append((("call", str(call.get("index", at))), function, "arguments"))
        for name, owner, key in owners:
            text = owner.get(key) or ""
            if not isinstance(text, str) or not (text or choice.get("finish_reason")):
                continue
            text = self._halves.pop(name, "") + text
            if "\ud800" <= text[-1:] <= "\udbff" and not choice.get("finish_reason"):
                text, self._halves[name] = text[:-1], text[-1]
            if key in owner or text:
                owner[key] = text
        return chunk

    def usage(self) -> Usage:
        """Return the server's usage or an estimate; reasoning tokens are estimated if the server omits them."""
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


_MOST_TOKENS = 10**12
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning")
# vLLM and SGLang end a request so that was aborted or failed on their side.
_FAILED = ("abort", "error")
_META: Mapping[str, Any] = {"id": (str, int), "model": str, "created": (int, float), "system_fingerprint": str}


def _texts(content: object) -> tuple[str, str]:
    """Return text and reasoning of `content`, which a few servers send as a list of parts.

    Raises:
        ValueError: If it is anything else, which would be lost.
    """
    if isinstance(content, str) or content is None:
        return content or "", ""
    text, thought = "", ""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            text += part
        elif isinstance(part, dict) and "thinking" in part:  # Mistral's, a text or a list of parts
            thought += _texts(part["thinking"])[0]
        elif isinstance(part, dict) and isinstance(more := part.get("text", part.get("refusal")), str):
            text += more
        else:
            raise ValueError(f"content is {shortened(part)}")
    return text, thought


def _other_shape(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the text of a choice without `delta` and `message`, as in OpenAI's older completions API."""
    return {"content": choice["text"]} if "text" in choice else {}


def _check_logprobs(logprobs: Any) -> Mapping[str, Any] | None:
    """Return logprobs if they have OpenAI's structure, which frameworks need: lists of tokens, or null.

    Raises:
        ValueError: If they have another structure.
    """
    for tokens_of in (logprobs or {}).values():
        if not isinstance(tokens_of, list | None):
            raise ValueError(f"logprobs hold {shortened(tokens_of)}")
        for token in tokens_of or ():
            top = token.get("top_logprobs") or ()
            for one in (token, *top):
                if not isinstance(one["token"], str) or not isinstance(one["logprob"], int | float):
                    raise ValueError(f"logprobs hold {shortened(one)}")
    return logprobs or None


def read_usage(raw: object) -> Usage | None:
    """Read the `usage` of an answer; None if numbers are missing. `*_details` may be null or absent.

    Absurd numbers (10**400) count as missing. Two of prompt, completion and total give the third. The usage of
    embeddings may have only prompt tokens.
    """

    def number(source: object, key: str) -> int | None:
        value = source.get(key) if isinstance(source, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _MOST_TOKENS:
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
