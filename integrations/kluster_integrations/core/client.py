"""The one way to kluster.ai: adapters and the command line send every request through `Client`.

    build -> budget -> limits -> transport -> streaming, response -> repair -> Completion, Delta

Everything that depends on the service or on a model happens here; an adapter only translates its framework's objects.
The sync and the async methods differ only in how they wait.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kluster_integrations.core import budget, deferral, embeddings, own_models, prompting, repair, request, tokens
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.embeddings import DEFAULT_MODEL as DEFAULT_EMBEDDING_MODEL
from kluster_integrations.core.embeddings import MAX_BATCH as MAX_EMBEDDING_BATCH
from kluster_integrations.core.errors import BadRequestError, KlusterError, shortened
from kluster_integrations.core.json_text import find_json, read_arguments
from kluster_integrations.core.limits import Limiter, Limits, aadmitted, admitted, shared
from kluster_integrations.core.notices import warn
from kluster_integrations.core.prompting import find_calls
from kluster_integrations.core.repair import repair_text
from kluster_integrations.core.request import asks_nothing
from kluster_integrations.core.response import read
from kluster_integrations.core.schemas import schema_error
from kluster_integrations.core.specs import ModelSpec
from kluster_integrations.core.streaming import ChatStream, read_usage
from kluster_integrations.core.tokens import estimate
from kluster_integrations.core.transport import CHAT_PATH, Answer, Transport
from kluster_integrations.core.types import (
    ChatRequest,
    Check,
    Completion,
    Delta,
    ToolCallDelta,
    ToolCalling,
    Usage,
    collect,
    spread,
)

# The functions are for adapters, which import nothing else of the core.
__all__ = [
    "DEFAULT_EMBEDDING_MODEL",
    "MAX_EMBEDDING_BATCH",
    "Client",
    "Vectors",
    "asks_nothing",
    "estimate",
    "find_calls",
    "find_json",
    "read_arguments",
    "repair_text",
    "schema_error",
    "warn",
]

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Vectors:
    """The vectors of some texts.

    Attributes:
        rows: One vector per text, in the order of the texts.
        usage: Tokens of all requests together.
        headers: The HTTP headers of the last answer.
    """

    rows: list[list[float]]
    usage: Usage
    headers: Mapping[str, str]


class Client:
    """Sends requests for one configuration. A new client is cheap: it connects at the first request.

    Args:
        config: The address, the key and the plan.
        limits: The account's limits; default: those of the plan. All clients of a key share them.
        http_client: An `httpx.Client` (or httpx2's) of the caller's own, in place of the shared connections.
        http_async_client: The same for async calls.
        adapt: An adapter's error class for each of `errors`.

    Raises:
        BadRequestError: If an argument is not acceptable.

    Attributes:
        config: The configuration.
        errors: A context manager that turns every error inside into the adapter's errors.
    """

    def __init__(
        self,
        config: KlusterConfig,
        *,
        limits: Limits | None = None,
        http_client: Any = None,
        http_async_client: Any = None,
        adapt: Mapping[type[KlusterError], type[KlusterError]] | None = None,
    ) -> None:
        self.config = config = KlusterConfig.of(config)
        own_models.check(config)
        Limits.check(limits)
        self._transport = Transport(config, http_client=http_client, http_async_client=http_async_client, adapt=adapt)
        self.errors = self._transport.errors
        self.limits = limits or Limits.of(config.plan)
        self._known_limiter: tuple[int, Limiter | None] = (0, None)

    def spec(self, model: str) -> ModelSpec:
        """Return the spec, under the account's plan, of the model that answers requests for `model`."""
        return own_models.for_request(model, self.config, warn=False)

    @property
    def limiter(self) -> Limiter | None:
        """The limiter that keeps the account's limits; None without limits."""
        process, limiter = self._known_limiter
        if process != os.getpid():  # a child process has limiters of its own
            limiter = shared(self.limits, self.config)
            self._known_limiter = (os.getpid(), limiter)
        return limiter

    def build(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        params: Mapping[str, Any],
        *,
        stream: bool = False,
        tool_calling: ToolCalling = "auto",
        extra_body: Mapping[str, Any] | None = None,
        max_repairs: int = 2,
        check: Check | None = None,
        options: Mapping[str, Any] | None = None,
        several: bool = False,
    ) -> ChatRequest:
        """Build a request from OpenAI-shaped messages and parameters.

        Args:
            model: The model's id, sent as it is.
            messages: OpenAI's message objects.
            params: OpenAI's parameters by name; None values are left out.
            stream: Whether it is for `stream` and `astream`.
            tool_calling: How `tools` are handled.
            extra_body: Sent as it is, for fields that OpenAI's API does not know.
            max_repairs: How often a wrong answer is asked for again; below 0 answers are not checked.
            check: A further check of the answer; see `core.types.Check`.
            options: `timeout` and `total_timeout` (seconds), `headers` and `max_retries` of this request.
            several: Whether the caller takes more than one answer (`n`), in `Completion.others`. Only for servers that
                have `n`.

        Raises:
            UnsupportedParameterError: kluster.ai does not take a parameter, and `config.unsupported` is `error`.
            ContextWindowExceededError: The messages cannot fit the model's window.
            BadRequestError: Any other input that the server would refuse.
        """
        with self.errors:
            made = request.build(
                model,
                messages,
                params,
                config=self.config,
                stream=stream,
                tool_calling=tool_calling,
                extra_body=extra_body,
                several=several,
            )
            if not isinstance(max_repairs, int) or isinstance(max_repairs, bool):
                raise BadRequestError(
                    f"max_repairs={shortened(max_repairs)} must be a whole number.",
                    hint="write max_repairs=2, say, or leave it out.",
                )
            made.max_repairs, made.check, made.options = max_repairs, check, options or {}
            return made

    def complete(self, request: ChatRequest) -> Completion:
        """Return the answer to a request.

        Raises:
            OutputValidationError: If the answer is not what was asked for, after `request.max_repairs` repairs.
            KlusterError: Whatever else goes wrong.
        """
        done: Completion = self._drive(self._completing(request))
        return done

    async def acomplete(self, request: ChatRequest) -> Completion:
        """As `complete`."""
        done: Completion = await self._adrive(self._completing(request))
        return done

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        """Yield the answer to a request as it comes.

        JSON and tool calls are checked first, and then come in one piece. Together, the deltas are what `complete`
        returns.

        Raises:
            OutputValidationError: If the answer is not what was asked for, after `request.max_repairs` repairs.
            KlusterError: Whatever else goes wrong, also after some deltas.
        """
        if deferral.current() is not None:
            yield from spread(self.complete(_whole(request)))
            return
        with self.errors:
            outlet = _Outlet(request)
            while (current := outlet.request) is not None:
                reader = ChatStream(current)
                budgets: tuple[budget.Budget, ...] = ()
                ticket = self.limiter.enter() if self.limiter else None
                try:
                    budgets = budget.check(current.spec)
                    sent: Any = self._transport.stream(current.body, reader, **current.options)
                    with closing(sent) as deltas:
                        with ticket or nullcontext():  # while the request is sent; the slot is kept until the end
                            delta = next(deltas, None)
                        while delta is not None:
                            if (shown := outlet.take(delta)) is not None:
                                yield shown
                            delta = next(deltas, None)
                finally:
                    if budgets and reader.headers:  # also a stream that was left early
                        budget.count(budgets, current.spec, reader.usage())
                    if ticket is not None:
                        ticket.leave()
                yield from outlet.end()

    async def astream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        """As `stream`."""
        if deferral.current() is not None:
            for piece in spread(await self.acomplete(_whole(request))):
                yield piece
            return
        with self.errors:
            outlet = _Outlet(request)
            while (current := outlet.request) is not None:
                reader = ChatStream(current)
                budgets: tuple[budget.Budget, ...] = ()
                ticket = await self.limiter.aenter() if self.limiter else None
                try:
                    budgets = budget.check(current.spec)
                    sent: Any = self._transport.astream(current.body, reader, **current.options)
                    async with aclosing(sent) as deltas:
                        with ticket or nullcontext():
                            delta = await anext(deltas, None)
                        while delta is not None:
                            if (shown := outlet.take(delta)) is not None:
                                yield shown
                            delta = await anext(deltas, None)
                finally:
                    if budgets and reader.headers:
                        budget.count(budgets, current.spec, reader.usage())
                    if ticket is not None:
                        await ticket.aleave()
                for delta in outlet.end():
                    yield delta

    def embed(self, model: str, texts: Sequence[str], **options: Any) -> Vectors:
        """Return the vectors of some texts.

        Args:
            model: The model's id.
            texts: What to embed; not empty.
            options: `chunk_size` (texts per request), `dimensions` (refused unless it is the model's own length),
                `timeout` and `total_timeout` (seconds), `headers` and `max_retries`.

        Raises:
            BadRequestError: A text is empty or too long.
            KlusterError: Whatever else goes wrong.
        """
        done: Vectors = self._drive(self._embedding(model, texts, **options))
        return done

    async def aembed(self, model: str, texts: Sequence[str], **options: Any) -> Vectors:
        """As `embed`."""
        done: Vectors = await self._adrive(self._embedding(model, texts, **options))
        return done

    def get(self, path: str, *, query: Mapping[str, object] | None = None) -> Answer:
        """Get a path below the base URL. The key is sent if there is one.

        Raises:
            KlusterError: Whatever goes wrong.
        """
        return self._transport.get(path, query=query)

    async def aget(self, path: str, *, query: Mapping[str, object] | None = None) -> Answer:
        """As `get`."""
        return await self._transport.aget(path, query=query)

    def close(self) -> None:
        """Close the connections of this base URL, in this process; a later request opens new ones."""
        self._transport.close()

    async def aclose(self) -> None:
        """Close the async connections of this base URL, in this event loop."""
        await self._transport.aclose()

    def estimate_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        count: Callable[[str], int] = estimate,
    ) -> int:
        """Return about how many tokens messages and tools have; `count` counts those of a text."""
        return tokens.estimate_prompt(messages, tools, count)

    def _drive(self, steps: _Steps) -> Any:
        """Send what the steps yield, until they return."""
        with self.errors:
            try:
                step = next(steps)
                while True:
                    if step.deferral is not None:  # no limiter: what waits here is not sent one by one
                        with budget.waiting(step.spec, _expected(step)) as budgets:
                            answer = step.deferral.ask(step.body, self.config).result()
                            step = steps.send((answer, budgets))
                    else:
                        with admitted(self.limiter):
                            budgets = budget.check(step.spec)  # again, because others may have spent it meanwhile
                            answer = self._transport.post(step.path, step.body, **step.options)
                        step = steps.send((answer, budgets))
            except StopIteration as done:
                return done.value

    async def _adrive(self, steps: _Steps) -> Any:
        with self.errors:
            try:
                step = next(steps)
                while True:
                    if step.deferral is not None:
                        with budget.waiting(step.spec, _expected(step)) as budgets:
                            answer = await asyncio.wrap_future(step.deferral.ask(step.body, self.config))
                            step = steps.send((answer, budgets))
                    else:
                        async with aadmitted(self.limiter):
                            budgets = budget.check(step.spec)
                            answer = await self._transport.apost(step.path, step.body, **step.options)
                        step = steps.send((answer, budgets))
            except StopIteration as done:
                return done.value

    def _completing(self, request: ChatRequest) -> _Steps:
        if (later := deferral.current()) is not None:
            request = replace(request, spec=later.priced(request.spec))
        tries = repair.attempts(request)
        current = next(tries)
        while True:
            answer, budgets = yield _Post(CHAT_PATH, current.body, current.options, current.spec, later)
            try:
                found = read(answer.data, current, answer.headers)
            except KlusterError:
                if usage := _usage_in(answer.data):  # it was paid for
                    budget.count(budgets, current.spec, usage)
                raise
            budget.count(budgets, current.spec, found.usage)
            try:
                current = tries.send(found)
            except StopIteration as done:
                completion: Completion = done.value
                if later is not None:
                    for each in (completion, *completion.others):
                        each.priced = request.spec
                has_answer = bool(completion.text or completion.tool_calls)
                _note_empty(completion.finish_reason, has_answer=has_answer)
                return completion

    def _embedding(
        self, model: str, texts: Sequence[str], *, chunk_size: int = 256, dimensions: int | None = None, **options: Any
    ) -> _Steps:
        rows: list[list[float]] = []
        used, estimated = 0, False
        headers: Mapping[str, str] = {}
        bodies = embeddings.build(model, texts, config=self.config, chunk_size=chunk_size, dimensions=dimensions)
        spec = self.spec(model)
        for body in bodies:
            answer, budgets = yield _Post(embeddings.EMBEDDINGS_PATH, body, options, spec)
            about = sum(map(tokens.estimate, body["input"]))
            usage = _usage_in(answer.data, completion_tokens=0) or Usage(about, 0, about, estimated=True)
            budget.count(budgets, spec, usage)
            rows += embeddings.read(answer.data, body)
            used, estimated, headers = used + usage.prompt_tokens, estimated or usage.estimated, answer.headers
        return Vectors(rows, Usage(used, 0, used, estimated=estimated), headers)


class _Post(NamedTuple):
    """A request for the transport: `options` go to it, `spec` gives the price, `deferral` replaces it if set."""

    path: str
    body: Mapping[str, Any]
    options: Mapping[str, Any]
    spec: ModelSpec
    deferral: deferral.Deferral | None = None


def _expected(step: _Post) -> Usage:
    """Estimate the tokens of a request and its answer."""
    prompt, completion = tokens.estimate_request(step.body, step.spec.max_output_tokens)
    return Usage(prompt, completion, prompt + completion, estimated=True)


_Steps = Generator[_Post, tuple[Answer, tuple[budget.Budget, ...]], Any]


class _Outlet:
    """Decides what a caller may see of a streamed answer, and when.

    Reasoning and plain text pass at once. Tool calls, and text that has to be checked as a whole, wait for the end of
    the answer. If the answer is wrong, they come from the repaired one. If an answer must not be empty, white space
    waits for the text after it.

    Attributes:
        request: The request to send next, None once the answer is complete.
    """

    def __init__(self, request: ChatRequest) -> None:
        self._tries = repair.attempts(request)
        self.request: ChatRequest | None = next(self._tries)
        self._prompted, self._names = bool(request.tools), request.tool_names
        self._holds_text = self._holding = request.is_checked
        self._is_checked = request.max_repairs >= 0
        self._must_answer = self._is_blank = request.must_answer and self._is_checked
        self._holds = self._holds_text or self._must_answer or (self._is_checked and bool(request.tool_names))
        self._deltas: list[Delta] = []
        self._held_text: list[str] = []
        self._blank: list[str] = []  # white space, which may be all that there is
        self._has_text = self._has_reasoning = False  # of anything that was shown
        self._new_text = self._new_reasoning = False  # of this attempt
        self._lines = prompting.Lines()  # the text that was shown, of this attempt

    def take(self, delta: Delta) -> Delta | None:
        """Return the part of a delta that may be shown at once."""
        self._deltas.append(delta)
        if not self._holds:
            self._holds = self._is_checked and bool(delta.tool_calls)  # no tools were offered, so the answer is wrong
            if not self._holds:
                self._has_text = self._has_text or bool(delta.content or delta.tool_calls)
                self._has_reasoning = self._has_reasoning or bool(delta.reasoning)
                if delta.finish_reason:
                    _note_empty(delta.finish_reason, has_answer=self._has_text)
                return delta
            self._new_text, self._new_reasoning = self._has_text, self._has_reasoning
        content, reasoning, meta, headers = delta.content, delta.reasoning, delta.meta, delta.headers
        if content:
            content = self._certain(content)
        if content and not self._new_text:
            content = f"\n\n{content}" if self._has_text else content
            self._has_text = self._new_text = True
        if reasoning and not self._new_reasoning:
            reasoning = f"\n\n{reasoning}" if self._has_reasoning else reasoning
            self._has_reasoning = self._new_reasoning = True
        if meta and "matched_stop" in meta:  # of an answer that may not be the last
            meta = {k: v for k, v in meta.items() if k != "matched_stop"}
        logprobs = None if self._holding else delta.logprobs
        if not (content or reasoning or meta or logprobs):
            return None
        return Delta(content, reasoning, (), None, None, logprobs, meta, headers)

    def _certain(self, content: str) -> str:
        """Return the part of a text that may be shown now, and hold the rest."""
        if self._holding:
            self._held_text.append(content)
            return ""
        at = prompting.doubtful_from(content, self._names, prompted=self._prompted, lines=self._lines)
        if at < len(content):
            self._holding = True
            self._held_text.append(content[at:])
            content = content[:at]
        if self._is_blank and not content.strip():
            self._blank.append(content)
            return ""
        if self._blank:
            content = "".join([*self._blank, content])
            self._blank = []
        self._is_blank = False
        return content

    def end(self) -> Iterator[Delta]:
        """Yield what was held if the answer is right; else set the next `request`."""
        if not self._holds:
            self.request = None
            return
        try:
            self.request = self._tries.send(collect(self._deltas))
        except StopIteration as done:
            self.request = None
            yield from self._rest(done.value)
        self._new_text = self._new_reasoning = False
        self._lines = prompting.Lines()
        self._deltas, self._held_text, self._holding = [], [], self._holds_text
        self._is_blank, self._blank = self._must_answer, []

    def _rest(self, completion: Completion) -> Iterator[Delta]:
        text = completion.text if self._holds_text else "".join([*self._blank, *self._held_text])
        if text and self._has_text and not self._new_text:
            text = f"\n\n{text}"
        calls = tuple(ToolCallDelta(i, c.id, c.name, c.arguments, c.error) for i, c in enumerate(completion.tool_calls))
        _note_empty(completion.finish_reason, has_answer=bool(completion.text or calls))
        meta = {"matched_stop": completion.meta["matched_stop"]} if "matched_stop" in completion.meta else None
        logprobs = completion.logprobs if self._holding else None
        yield Delta(text, "", calls, completion.finish_reason, None, logprobs, meta)
        yield Delta(usage=completion.usage, earlier=completion.earlier)


def _whole(request: ChatRequest) -> ChatRequest:
    """Return the same request, for a whole answer and not a stream."""
    body = {name: value for name, value in request.body.items() if name not in ("stream", "stream_options")}
    return replace(request, body=body)


def _usage_in(data: object, **defaults: int) -> Usage | None:
    usage = data.get("usage") if isinstance(data, dict) else None
    return read_usage({**defaults, **usage}) if isinstance(usage, dict) else None


def _note_empty(finish_reason: str, *, has_answer: bool) -> None:
    if finish_reason == "length" and not has_answer:
        _logger.warning(
            "The answer is empty: its limit of tokens was reached before it began. Raise max_completion_tokens."
        )
