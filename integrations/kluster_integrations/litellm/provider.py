"""`kluster/<model id>` in LiteLLM: the handler, and `register`, which installs it."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import litellm
from litellm.llms.custom_llm import CustomLLM
from litellm.types.utils import EmbeddingResponse, ImageResponse, ModelResponse
from litellm.types.utils import Usage as LiteUsage
from litellm.utils import custom_llm_setup

from kluster_integrations import errors, limits
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import embeddings, prompting
from kluster_integrations.core.response import read
from kluster_integrations.core.streaming import ChatStream, read_usage
from kluster_integrations.core.tokens import estimate
from kluster_integrations.core.transport import CHAT_PATH, Answer
from kluster_integrations.core.types import ChatRequest, Completion, Usage
from kluster_integrations.limits import Limits
from kluster_integrations.litellm import _models, _versions
from kluster_integrations.litellm._answers import ChunkMaker, as_deltas, fill, headers_of, usage_of
from kluster_integrations.litellm._calls import Call, Connections
from kluster_integrations.litellm._errors import to_litellm
from kluster_integrations.litellm._models import PROVIDER

__all__ = ["KlusterLLM", "register"]


class KlusterLLM(CustomLLM):
    """LiteLLM's handler for kluster.ai. `register` makes and installs one.

    Args:
        config: The connection; what a call itself says (`api_key`, `api_base`, `timeout`, …) wins. Default: from the
            environment, at each call.
        limits: The account's limits, kept over all calls with the same key. Default: those of the plan.

    Raises:
        KlusterError: At calls; each is LiteLLM's exception class, too.
    """

    def __init__(self, config: KlusterConfig | None = None, *, limits: Limits | None = None) -> None:
        super().__init__()
        self._connections = Connections(config, limits)

    # LiteLLM passes everything by name, and adds names from version to version.

    def completion(self, *_: Any, **call: Any) -> ModelResponse:
        """Answer `litellm.completion`."""
        with self._connections.call(call) as of:
            return fill(call["model_response"], of.model, *self._ask(of))

    async def acompletion(self, *_: Any, **call: Any) -> ModelResponse:
        """Answer `litellm.acompletion`."""
        with self._connections.call(call) as of:
            return fill(call["model_response"], of.model, *await self._aask(of))

    def streaming(self, *_: Any, **call: Any) -> Iterator[Any]:
        """Answer `litellm.completion(stream=True)`. What goes wrong before the first chunk is raised here."""
        chunks = self._chunks(call)
        next(chunks)
        return chunks

    def astreaming(self, *_: Any, **call: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        """Answer `litellm.acompletion(stream=True)`.

        LiteLLM awaits nothing before it hands the stream out: what this side refuses is raised here, and what the
        server refuses with the first chunk.
        """
        with self._connections.call(call) as of:
            of.transport.config.require_key()
            sent = of.request(stream=True)
            of.hand_out()
            return self._achunks(of, sent)

    async def _achunks(self, of: Call, sent: ChatRequest) -> AsyncIterator[Any]:
        with of.errors():
            if _is_checked(sent):
                answer = await self._aask(of)
                of.unawaited = False
                for chunk in _replay(of.model, answer):
                    yield chunk
                return
            reader, maker = _reader(of, sent)
            of.announce(sent.body)
            ticket = await of.limiter.aenter() if of.limiter else None
            stream: Any = of.transport.astream(sent.body, reader, **of.options)
            try:
                with ticket or contextlib.nullcontext():
                    first = await anext(stream)
                of.unawaited = False
                if (chunk := maker.make(first)) is not None:
                    yield chunk
                async for delta in stream:
                    if (chunk := maker.make(delta)) is not None:
                        yield chunk
            finally:
                await stream.aclose()
                if ticket is not None:
                    await ticket.aleave()

    def _chunks(self, call: Any) -> Iterator[Any]:
        """Yield None once the stream is open, and then the chunks."""
        with self._connections.call(call) as of:
            sent = of.request(stream=True)
            if _is_checked(sent):
                answer = self._ask(of)
                yield None
                yield from _replay(of.model, answer)
                return
            reader, maker = _reader(of, sent)
            of.announce(sent.body)
            ticket = of.limiter.enter() if of.limiter else None
            stream: Any = of.transport.stream(sent.body, reader, **of.options)
            try:
                with ticket or contextlib.nullcontext():
                    first = next(stream)
                yield None
                if (chunk := maker.make(first)) is not None:
                    yield chunk
                for delta in stream:
                    if (chunk := maker.make(delta)) is not None:
                        yield chunk
            finally:
                stream.close()
                if ticket is not None:
                    ticket.leave()

    def _ask(self, of: Call) -> tuple[Completion, Mapping[str, str]]:
        """Return the first answer that is what was asked for, and its HTTP headers."""
        tries = prompting.attempts(of.request(stream=False), of.max_repairs)
        sent = next(tries)
        of.announce(sent.body)
        while True:
            with limits.admitted(of.limiter):
                answer = of.transport.post(CHAT_PATH, sent.body, **of.options)
            try:
                sent = tries.send(read(answer.data, sent))
            except StopIteration as done:
                return done.value, answer.headers

    async def _aask(self, of: Call) -> tuple[Completion, Mapping[str, str]]:
        tries = prompting.attempts(of.request(stream=False), of.max_repairs)
        sent = next(tries)
        of.announce(sent.body)
        while True:
            async with limits.aadmitted(of.limiter):
                answer = await of.transport.apost(CHAT_PATH, sent.body, **of.options)
            try:
                sent = tries.send(read(answer.data, sent))
            except StopIteration as done:
                return done.value, answer.headers

    def embedding(self, *_: Any, **call: Any) -> EmbeddingResponse:
        """Answer `litellm.embedding`."""
        with self._connections.call(call) as of:
            vectors = _Vectors()
            for body in of.embedding_bodies(call["input"]):
                of.announce(body)
                with limits.admitted(of.limiter):
                    answer = of.transport.post(embeddings.EMBEDDINGS_PATH, body, **of.options)
                vectors.add(answer, body)
            return vectors.into(call["model_response"], of.model)

    async def aembedding(self, *_: Any, **call: Any) -> EmbeddingResponse:
        """Answer `litellm.aembedding`."""
        with self._connections.call(call) as of:
            vectors = _Vectors()
            for body in of.embedding_bodies(call["input"]):
                of.announce(body)
                async with limits.aadmitted(of.limiter):
                    answer = await of.transport.apost(embeddings.EMBEDDINGS_PATH, body, **of.options)
                vectors.add(answer, body)
            return vectors.into(call["model_response"], of.model)

    def image_generation(self, *_: Any, **call: Any) -> ImageResponse:
        """Refuse `litellm.image_generation`: kluster.ai makes no images.

        Raises:
            BadRequestError: Always. LiteLLM's own says that something is not implemented yet, as a server's failure.
        """
        raise to_litellm(
            errors.BadRequestError("kluster.ai makes no images.", hint="take another provider for them."),
            call["model"],
            call.get("api_base") or "",
        )

    async def aimage_generation(self, *_: Any, **call: Any) -> ImageResponse:
        """Refuse `litellm.aimage_generation`."""
        return self.image_generation(**call)

    def image_edit(self, *_: Any, **call: Any) -> ImageResponse:
        """Refuse `litellm.image_edit`."""
        return self.image_generation(**call)

    async def aimage_edit(self, *_: Any, **call: Any) -> ImageResponse:
        """Refuse `litellm.aimage_edit`."""
        return self.image_generation(**call)


def _is_checked(sent: ChatRequest) -> bool:
    """Whether the answer is to be checked before anybody sees it: then it cannot be passed on while it comes."""
    return sent.schema is not None or bool(sent.must_call)


def _replay(model: str, asked: tuple[Completion, Mapping[str, str]]) -> Iterator[Any]:
    answer, headers = asked
    maker = ChunkMaker(model, headers)
    return (chunk for delta in as_deltas(answer) if (chunk := maker.make(delta)) is not None)


def _reader(of: Call, sent: ChatRequest) -> tuple[ChatStream, ChunkMaker]:
    reader = ChatStream(sent)
    return reader, ChunkMaker(of.model, lambda: reader.headers)


class _Vectors:
    """Collects the answers to the parts of one embedding call."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []
        self._tokens = 0
        self._estimated = False
        self._headers: Mapping[str, str] = {}

    def add(self, answer: Answer, body: Mapping[str, Any]) -> None:
        self._rows += embeddings.read(answer.data, body)
        usage = read_usage(answer.data.get("usage") or {})
        self._tokens += usage.prompt_tokens if usage else sum(map(estimate, body["input"]))
        self._estimated = self._estimated or usage is None
        self._headers = answer.headers

    def into(self, response: EmbeddingResponse, model: str) -> EmbeddingResponse:
        usage = Usage(self._tokens, 0, self._tokens, estimated=self._estimated)
        response.model = model
        response.data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(self._rows)]
        response.usage = LiteUsage(**usage_of(usage))
        response._hidden_params["additional_headers"] = headers_of(self._headers)
        return response


_lock = threading.Lock()
_checked: set[str] = set()


def register(config: KlusterConfig | None = None, *, limits: Limits | None = None) -> KlusterLLM:
    """Make `kluster/<model id>` known to LiteLLM, with its models, prices and limits.

    Calling it again replaces the configuration, and takes over what has come to the catalog since.

    Args:
        config: The connection; what a call itself says wins. Default: from the environment, at each call.
        limits: The account's limits. Default: those of the plan, where one is known.

    Returns:
        The handler that is now installed.

    Raises:
        ValueError: If an environment variable holds what is not acceptable.
    """
    _check_version()
    plan = (config or KlusterConfig()).plan
    Limits.of(plan)  # what is wrong with the environment is said here, and not at the first call
    handler = KlusterLLM(config, limits=limits)
    with _lock:
        install(handler)
        litellm.register_model(_models.table(plan))
        # Counting the tokens of a Llama would fetch a tokenizer, for half a minute where there is no network.
        litellm.disable_hf_tokenizer_download = True
        # LiteLLM looks for providers of answers by their bare model ids, and prints a red line where it finds none.
        litellm.suppress_debug_info = True
    return handler


def install(handler: KlusterLLM) -> None:
    """Put a handler into LiteLLM's table of providers, in place of an earlier one."""
    for item in litellm.custom_provider_map:
        if item["provider"] == PROVIDER:
            item["custom_handler"] = handler
            break
    else:
        litellm.custom_provider_map.append({"provider": PROVIDER, "custom_handler": handler})
    custom_llm_setup()  # type: ignore[no-untyped-call]  # up to 1.100 a router does not know the provider without it


def _check_version() -> None:
    version = _versions.installed() or ""
    if version not in _checked:
        _checked.add(version)
        if problem := _versions.problem(version):
            warnings.warn(problem, RuntimeWarning, stacklevel=3)
