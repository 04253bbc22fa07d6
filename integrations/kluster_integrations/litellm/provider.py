"""`kluster/<model id>` in LiteLLM: the handler, and `register`, which installs it."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, closing
from typing import Any

import litellm
from litellm.llms.custom_llm import CustomLLM
from litellm.types.utils import EmbeddingResponse, ImageResponse, ModelResponse

from kluster_integrations import errors
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import warn
from kluster_integrations.core.forks import free_in_forks
from kluster_integrations.core.types import ChatRequest
from kluster_integrations.limits import Limits
from kluster_integrations.litellm import _compat, _models, _versions
from kluster_integrations.litellm._answers import ChunkMaker, fill, fill_vectors
from kluster_integrations.litellm._calls import Call, Connections
from kluster_integrations.litellm._errors import to_litellm
from kluster_integrations.litellm._models import PROVIDER

__all__ = ["KlusterLLM", "register"]


class KlusterLLM(CustomLLM):
    """LiteLLM's handler for kluster.ai. `register` makes and installs one.

    Args:
        config: The connection; the arguments of a call (`api_key`, `api_base`, `timeout`, …) win over it. Default: from
            the environment, at each call.
        limits: The account's limits for all calls with the same key. Default: those of the plan.

    Raises:
        BadRequestError: If `limits` is not a `Limits`.
        KlusterError: From a call. Each class is also LiteLLM's exception class.
    """

    def __init__(self, config: KlusterConfig | None = None, *, limits: Limits | None = None) -> None:
        super().__init__()
        self._connections = Connections(config, limits)

    # LiteLLM passes everything by name, and adds names from version to version.

    def completion(self, *_: Any, **kwargs: Any) -> ModelResponse:
        """Answer `litellm.completion`."""
        with Call(kwargs, self._connections) as call:
            completion = call.client.complete(call.build(several=True))
            return fill(kwargs["model_response"], call.spec, completion)

    async def acompletion(self, *_: Any, **kwargs: Any) -> ModelResponse:
        """Answer `litellm.acompletion`."""
        with Call(kwargs, self._connections) as call:
            completion = await call.client.acomplete(call.build(several=True))
            return fill(kwargs["model_response"], call.spec, completion)

    def streaming(self, *_: Any, **kwargs: Any) -> Iterator[Any]:
        """Answer `litellm.completion(stream=True)`. Errors before the first chunk are raised at once."""
        chunks = self._chunks(kwargs)
        next(chunks)
        return chunks

    def _chunks(self, kwargs: Mapping[str, Any]) -> Iterator[Any]:
        """Yield None when the first chunk has come, then the chunks."""
        with (
            Call(kwargs, self._connections) as call,
            closing(call.client.stream(call.build(stream=True))) as deltas,  # type: ignore[type-var]
        ):
            chunks = filter(None, map(ChunkMaker(call.spec, merges_reasoning=call.merges_reasoning).make, deltas))
            first = next(chunks)
            yield None
            yield first
            yield from chunks

    def astreaming(self, *_: Any, **kwargs: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        """Answer `litellm.acompletion(stream=True)`.

        Errors before the request are raised here. LiteLLM needs the stream before anything is awaited. `_compat` then
        waits for the first chunk, so that errors of the server are also raised by the call.
        """
        with Call(kwargs, self._connections) as call:
            return _compat.AsyncChunks(self._achunks(call, call.build(stream=True)))

    async def _achunks(self, call: Call, request: ChatRequest) -> AsyncIterator[Any]:
        maker = ChunkMaker(call.spec, merges_reasoning=call.merges_reasoning)
        with call:
            stream: Any = call.client.astream(request)
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    if (chunk := maker.make(delta)) is not None:
                        yield chunk

    def embedding(self, *_: Any, **kwargs: Any) -> EmbeddingResponse:
        """Answer `litellm.embedding`."""
        with Call(kwargs, self._connections) as call:
            vectors = call.client.embed(**call.embedding(kwargs["input"]))
            return fill_vectors(kwargs["model_response"], call.spec, vectors)

    async def aembedding(self, *_: Any, **kwargs: Any) -> EmbeddingResponse:
        """Answer `litellm.aembedding`."""
        with Call(kwargs, self._connections) as call:
            vectors = await call.client.aembed(**call.embedding(kwargs["input"]))
            return fill_vectors(kwargs["model_response"], call.spec, vectors)

    def image_generation(self, *_: Any, **kwargs: Any) -> ImageResponse:
        """Refuse `litellm.image_generation` and `image_edit`: kluster.ai makes no images.

        Raises:
            BadRequestError: Always. LiteLLM's own method raises a server error, "not implemented yet".
        """
        error = errors.BadRequestError("kluster.ai makes no images.", hint="use another provider for them.")
        raise to_litellm(error, kwargs["model"], kwargs.get("api_base") or "")

    async def aimage_generation(self, *_: Any, **kwargs: Any) -> ImageResponse:
        """As `image_generation`."""
        return self.image_generation(**kwargs)

    image_edit = image_generation
    aimage_edit = aimage_generation


_lock = free_in_forks(threading.Lock())


def register(config: KlusterConfig | None = None, *, limits: Limits | None = None) -> KlusterLLM:
    """Make `kluster/<model id>` known to LiteLLM, with its models, prices and limits.

    Calling it again replaces the configuration and adds new models of the catalog.

    Args:
        config: The connection; the arguments of a call win over it. Default: from the environment, at each call.
        limits: The account's limits. Default: those of the plan, if one is known.

    Returns:
        The handler that is now installed.

    Raises:
        BadRequestError: If an argument is of another type.
        ValueError: If the value of an environment variable is not acceptable.
    """
    _warn_about(_versions.installed() or "")
    known = KlusterConfig.of(config)
    Limits.of(known.plan)  # refuses a wrong environment here, and not at the first call
    handler = KlusterLLM(config, limits=limits)
    with _lock:
        install(handler)
        litellm.register_model(_models.table(known))
        # Counting the tokens of a Llama would fetch a tokenizer, for half a minute where there is no network.
        litellm.disable_hf_tokenizer_download = True
        # LiteLLM looks for the provider of an answer by its bare model id, and prints a red line if it finds none.
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
    _compat.install()


@functools.cache  # once per version
def _warn_about(version: str) -> None:
    if problem := _versions.problem(version):
        warn(problem, RuntimeWarning, stacklevel=3)
