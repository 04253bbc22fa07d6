"""The input and output types of the core: a request, the deltas of its answer, and the whole completion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from kluster_integrations.core.specs import ModelSpec

__all__ = [
    "NO_USAGE",
    "ChatRequest",
    "Check",
    "Completion",
    "Delta",
    "Message",
    "ToolCall",
    "ToolCallDelta",
    "ToolCalling",
    "Usage",
    "collect",
    "spread",
]

Message = dict[str, Any]
"""A message in OpenAI's shape, as it is sent."""

ToolCalling = Literal["auto", "native", "prompted"]
"""`native` sends tools, `prompted` describes them in the prompt, `auto` prefers native where the model has it."""


class Usage(NamedTuple):
    """The tokens of a request and its repairs.

    `estimated` is True if the server sent no numbers. `reasoning_estimated` is True if only `reasoning_tokens` is an
    estimate: most servers do not count it.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    estimated: bool = False
    reasoning_estimated: bool = False
    requests: int = 1

    def plus(self, other: Usage) -> Usage:
        """Return the tokens of both requests."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            _sum(self.reasoning_tokens, other.reasoning_tokens),
            _sum(self.cached_tokens, other.cached_tokens),
            self.estimated or other.estimated,
            self.reasoning_estimated or other.reasoning_estimated,
            self.requests + other.requests,
        )


NO_USAGE = Usage(0, 0, 0, requests=0)
"""The usage of an answer whose tokens are counted in another answer."""


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None and b is None else (a or 0) + (b or 0)


@dataclass(slots=True)
class ToolCall:
    """A tool call.

    Attributes:
        id: The server's id, or one that this package made.
        name: The tool's name.
        arguments: The text of one JSON object; `{}` if the model wrote nothing. If `error` is set, the text that the
            model wrote.
        error: Why the arguments are not one JSON object. Such a call must not be run. None if they are.
    """

    id: str
    name: str
    arguments: str
    error: str | None = None


@dataclass(slots=True)
class ToolCallDelta:
    """A fragment of a tool call. The first fragment has `id` and `name`; `index` counts calls from 0.

    `error` is that of `ToolCall`, if the call has been checked.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str
    error: str | None = None


class Delta(NamedTuple):
    """What one event adds to an answer. The last delta has `usage`, `priced` and `earlier`.

    The first delta of each attempt has `meta` (id, model, …) and `headers`. If an answer was repaired, those of the
    last attempt count.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    logprobs: Mapping[str, Any] | None = None
    meta: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    priced: ModelSpec | None = None
    earlier: str = ""


@dataclass(slots=True)
class Completion:
    """A whole answer.

    Attributes:
        text: The answer, without reasoning. It begins with `earlier`.
        reasoning: The model's reasoning in all attempts, "" if there is none.
        tool_calls: The tool calls, in the model's order.
        usage: Tokens of all attempts.
        finish_reason: `stop`, `length`, `tool_calls`, or another word of the server.
        id: The server's id of the answer.
        model: The model that the server names.
        meta: Other fields of the answer: `created`, `system_fingerprint`, `matched_stop`.
        logprobs: Log probabilities in OpenAI's form, if they were asked for.
        headers: The HTTP headers of the answer.
        priced: Inside `deferred`: the model's spec with the prices of the batch window.
        earlier: The text of wrong attempts that a stream had already shown. "" if there is none.
        others: The further answers to a request with `n`. Their `usage` is `NO_USAGE`; the first answer's counts all.
    """

    text: str
    reasoning: str
    tool_calls: list[ToolCall]
    usage: Usage
    finish_reason: str
    id: str | None = None
    model: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    logprobs: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    priced: ModelSpec | None = None
    earlier: str = ""
    others: list[Completion] = field(default_factory=list)

    @property
    def is_cut(self) -> bool:
        """Whether the server stopped the answer at its limit of tokens."""
        return self.finish_reason == "length"


Check = Callable[[Completion], str | None]
"""A function that returns what is wrong with a completion, in words for the model, or None."""


@dataclass(slots=True)
class ChatRequest:
    """A request that is ready to be sent, and what this package does in place of the server.

    Attributes:
        body: The JSON body.
        spec: The model's spec under the account's plan.
        client_stops: Stop sequences that this package applies, not the server.
        tools: The prompted tools, whose calls must be read from the text; empty if tools are native.
        tool_names: The names of all tools that the model may call, native or prompted.
        must_call: Whether the answer must call a tool: True for any tool, or the name of one.
        schema: The JSON schema that the answer must follow (`{}` for any object); None without `response_format`.
        check: A further check of the answer.
        must_answer: Whether an answer without text and without a call of an offered tool is wrong. Unlike `check`, this
            does not delay a stream.
        max_repairs: How often a wrong answer is asked for again; below 0 nothing is checked.
        returns_invalid_calls: What happens to a call whose arguments are still wrong after the last repair. True: it is
            returned with its `error`. False: `OutputValidationError` is raised.
        options: Options of this request for the transport: `timeout`, `total_timeout` (seconds), `headers`,
            `max_retries`.
    """

    body: dict[str, Any]
    spec: ModelSpec
    client_stops: tuple[str, ...] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    tool_names: frozenset[str] = frozenset()
    must_call: bool | str = False
    schema: Mapping[str, Any] | None = None
    check: Check | None = None
    must_answer: bool = False
    max_repairs: int = 2
    returns_invalid_calls: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_tokens(self) -> Any:
        """The limit of the answer's tokens, under either name; None if there is no limit."""
        return self.body.get("max_completion_tokens") or self.body.get("max_tokens")

    @property
    def n(self) -> int:
        """How many answers the request asks for."""
        n = self.body.get("n")
        return n if isinstance(n, int) else 1

    @property
    def is_checked(self) -> bool:
        """Whether the text of the answer is checked before the caller sees it."""
        return self.max_repairs >= 0 and (self.schema is not None or bool(self.must_call) or self.check is not None)


def collect(deltas: Iterable[Delta]) -> Completion:
    """Put the deltas of one answer together."""
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    arguments: list[list[str]] = []
    finish, usage = "", Usage(0, 0, 0, estimated=True)
    meta: dict[str, Any] = {}
    headers: Mapping[str, str] = {}
    logprobs: dict[str, list[Any] | None] = {}
    priced: ModelSpec | None = None
    earlier = ""
    for delta in deltas:
        text.append(delta.content)
        reasoning.append(delta.reasoning)
        for fragment in delta.tool_calls:
            if fragment.id is not None:
                calls.append(ToolCall(fragment.id, "", ""))
                arguments.append([])
            calls[fragment.index].name += fragment.name or ""
            calls[fragment.index].error = fragment.error or calls[fragment.index].error
            arguments[fragment.index].append(fragment.arguments)
        finish = delta.finish_reason or finish
        usage = delta.usage or usage
        meta.update(delta.meta or {})
        headers, priced, earlier = delta.headers or headers, delta.priced or priced, delta.earlier or earlier
        for key, more in (delta.logprobs or {}).items():  # `content` and `refusal`, lists that may be null
            logprobs[key] = logprobs.get(key)
            if more:
                logprobs[key] = known = logprobs[key] or []
                known += more
    for call, parts in zip(calls, arguments, strict=True):
        call.arguments = "".join(parts) or "{}"
    return Completion(
        text="".join(text),
        reasoning="".join(reasoning),
        tool_calls=calls,
        usage=usage,
        finish_reason=finish,
        id=meta.pop("id", None),
        model=meta.pop("model", None),
        meta=meta,
        logprobs=logprobs or None,
        headers=headers,
        priced=priced,
        earlier=earlier,
    )


def spread(completion: Completion) -> Iterator[Delta]:
    """Yield deltas that `collect` puts together to a completion, the reasoning first."""
    calls = tuple(ToolCallDelta(i, c.id, c.name, c.arguments, c.error) for i, c in enumerate(completion.tool_calls))
    meta = {**completion.meta, "id": completion.id, "model": completion.model}
    yield Delta(reasoning=completion.reasoning, meta=meta, headers=completion.headers)
    yield Delta(completion.text, "", calls, completion.finish_reason, None, completion.logprobs)
    yield Delta(usage=completion.usage, priced=completion.priced, earlier=completion.earlier)
