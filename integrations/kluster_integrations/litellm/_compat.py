"""Every private name of LiteLLM that this package uses, its purpose, and what LiteLLM's versions lack.

`install` wraps each of them; only calls to `kluster/…` are changed. If a version lacks a name, there is a warning, and
its purpose is not fulfilled. `tests/litellm/test_compat.py` checks all names with the installed version.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import litellm
from litellm.types.llms.openai import GenericEvent
from litellm.utils import custom_llm_setup

from kluster_integrations.config import KlusterConfig, env_value
from kluster_integrations.core.client import Client, warn
from kluster_integrations.errors import KlusterError
from kluster_integrations.litellm import _versions
from kluster_integrations.litellm._errors import to_litellm
from kluster_integrations.litellm._models import PROVIDER

__all__ = ["EMBEDDING_ARGUMENTS", "NAMES", "AsyncChunks", "install"]

EMBEDDING_ARGUMENTS = "kluster_embedding"
"""The optional parameter through which `embedding` gets arguments that LiteLLM does not pass to handlers."""


class AsyncChunks(AsyncIterator[Any]):
    """An async stream whose request can be sent before anybody reads it."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = chunks
        self._first: list[Any] = []

    async def begin(self) -> None:
        """Wait for the first chunk. Errors before it are raised here."""
        self._first.append(await anext(self._chunks))

    async def __anext__(self) -> Any:
        return self._first.pop() if self._first else await anext(self._chunks)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._chunks.aclose()


def _begin_stream(original: Callable[..., Any]) -> Callable[..., Any]:
    # acompletion runs this in a thread, and awaits the result if it is a coroutine.
    @functools.wraps(original)
    def completion(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        chunks = getattr(result, "completion_stream", None)
        return _begun(result, chunks) if kwargs.get("acompletion") and isinstance(chunks, AsyncChunks) else result

    return completion


async def _begun(result: Any, chunks: AsyncChunks) -> Any:
    await chunks.begin()
    return result


def _is_ours(kwargs: Mapping[str, Any], args: Sequence[Any] = ()) -> bool:
    model = kwargs.get("model", args[0] if args else None)
    return kwargs.get("custom_llm_provider") == PROVIDER or str(model).startswith(f"{PROVIDER}/")


def _check_first(original: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def acompletion(*args: Any, **kwargs: Any) -> Any:
            _check(args, kwargs)
            return await original(*args, **kwargs)

        return acompletion

    @functools.wraps(original)
    def completion(*args: Any, **kwargs: Any) -> Any:
        _check(args, kwargs)
        return original(*args, **kwargs)

    return completion


def _check(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise the core's error of arguments of a wrong type: LiteLLM fails on them in the middle, or drops them."""
    if not _is_ours(kwargs, args):
        return
    messages = kwargs.get("messages", args[1] if len(args) > 1 else [])
    tools, form, metadata = kwargs.get("tools"), kwargs.get("response_format"), kwargs.get("metadata")
    if (
        _are_objects(messages)
        and (tools is None or _are_objects(tools))
        and (form is None or isinstance(form, (dict, type, Mapping)))
        and (metadata is None or isinstance(metadata, (dict, Mapping)))
    ):
        return
    model = str(kwargs.get("model", args[0] if args else "")).removeprefix(f"{PROVIDER}/")
    if isinstance(messages, list):
        messages = [m.model_dump() if hasattr(m, "model_dump") else m for m in messages]
    try:
        Client(KlusterConfig()).build(model, messages, {"tools": tools, "response_format": form, "metadata": metadata})
    except KlusterError as err:
        raise to_litellm(err, model, "") from None


def _are_objects(value: object) -> bool:
    """Whether a value is a list of objects, whose `content`, if they have one, is a text or a list."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(item.get("content"), (str, list, tuple, type(None)))
        if isinstance(item, (dict, Mapping))
        else hasattr(item, "model_dump")
        for item in value
    )


def _pass_on(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def embedding(*args: Any, **kwargs: Any) -> Any:
        if _is_ours(kwargs, args):
            headers = {**(kwargs.get("headers") or {}), **(kwargs.get("extra_headers") or {})}
            kwargs[EMBEDDING_ARGUMENTS] = {"headers": headers, "dimensions": kwargs.pop("dimensions", None)}
        return original(*args, **kwargs)

    return embedding


def _without_ours(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def infer(*args: Any, **kwargs: Any) -> Any:
        return [provider for provider in original(*args, **kwargs) if provider != PROVIDER]

    return infer


def _with_ours(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_valid_models(*args: Any, **kwargs: Any) -> list[str]:
        named = kwargs.get("custom_llm_provider", args[1] if len(args) > 1 else None)
        found = [] if named == PROVIDER else original(*args, **kwargs)
        has_key = kwargs.get("api_key") or env_value("api_key")
        ours = [name for name in litellm.model_cost if name.startswith(f"{PROVIDER}/")]
        return [*found, *(ours if named == PROVIDER or (named is None and has_key) else [])]

    return get_valid_models


def _fit_response(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def transform(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        chat = kwargs.get("chat_completion_response", args[-1] if args else None)
        if (getattr(chat, "_hidden_params", None) or {}).get("custom_llm_provider") == PROVIDER:
            _fit_output(made.output)
        return made

    return staticmethod(transform)


def _fit_output(items: Sequence[Any]) -> None:
    """Give reasoning items OpenAI's form: a `summary`, and `content` of the type `reasoning_text`."""
    for item in items:
        if item.type == "reasoning" and not getattr(item, "summary", None):
            parts = getattr(item, "content", None) or []
            item.summary = [{"type": "summary_text", "text": part.text} for part in parts]
            for part in parts:
                part.type = "reasoning_text"


class _Events:
    """Corrects LiteLLM's stream of `responses` for OpenAI's clients: each item is announced, and keeps its id.

    Up to 1.110 LiteLLM does not announce the part of a summary. Up to 1.100 each delta of reasoning has an id of its
    own, and a message after reasoning is not announced, so that clients drop its text.
    """

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._has_part = False
        self._number = 0

    def fit(self, event: Any) -> Iterator[Any]:
        """Yield what to send in place of an event."""
        for one in self._fit(event):
            one.sequence_number = self._number
            self._number += 1
            yield one

    def _fit(self, event: Any) -> list[Any]:
        kind = str(getattr(event.type, "value", event.type)).removeprefix("response.")
        if kind == "output_item.done" and event.item.type in ("reasoning", "message"):
            event.item.id = self._ids.get(event.item.type, event.item.id)
        if kind == "output_item.added":
            self._ids.setdefault(event.item.type, event.item.id)
            if event.item.type == "reasoning":
                event.item.summary = []
        elif kind.startswith("reasoning_summary_text.delta"):
            return [*self._announce_part(event), event]
        elif kind.startswith(("output_text.", "content_part.")):
            return [*self._announce_message(event), event]
        elif getattr(event, "response", None) is not None:
            self._fit_end(event.response.output)
        return [event]

    def _announce_part(self, event: Any) -> Iterator[Any]:
        event.item_id, event.summary_index = self._ids.get("reasoning", event.item_id), 0
        if not self._has_part:
            self._has_part = True
            part = {"type": "summary_text", "text": ""}
            yield _event("reasoning_summary_part.added", event, summary_index=0, part=part)

    def _announce_message(self, event: Any) -> Iterator[Any]:
        known = "message" in self._ids
        event.item_id = self._ids.setdefault("message", event.item_id)
        if not known:
            item = {"id": event.item_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
            yield _event("output_item.added", event, item=item)
            part = {"type": "output_text", "text": "", "annotations": []}
            yield _event("content_part.added", event, content_index=0, part=part)

    def _fit_end(self, items: Sequence[Any]) -> None:
        _fit_output(items)
        for item in items:
            item.id = self._ids.get(item.type, item.id) if item.type in ("reasoning", "message") else item.id


def _event(kind: str, beside: Any, **fields: Any) -> Any:
    index = beside.output_index
    if "item" not in fields:
        fields["item_id"] = beside.item_id
    return GenericEvent(type=f"response.{kind}", output_index=index, **fields)


def _fitted(iterator: Any) -> tuple[_Events, list[Any]]:
    """Return the state of a stream's events, and the list of events that wait."""
    state: tuple[_Events, list[Any]] | None = iterator.__dict__.get("_kluster")
    if state is None:
        state = iterator.__dict__["_kluster"] = (_Events(), [])
    return state


def _fit_next(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def fitted(self: Any) -> Any:
        if self.litellm_custom_stream_wrapper.custom_llm_provider != PROVIDER:
            return original(self)
        events, waiting = _fitted(self)
        if not waiting:
            waiting.extend(events.fit(original(self)))
        return waiting.pop(0)

    return fitted


def _fit_anext(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def fitted(self: Any) -> Any:
        if self.litellm_custom_stream_wrapper.custom_llm_provider != PROVIDER:
            return await original(self)
        events, waiting = _fitted(self)
        if not waiting:
            waiting.extend(events.fit(await original(self)))
        return waiting.pop(0)

    return fitted


_BRIDGE = "litellm.responses.litellm_completion_transformation"
_CONFIG = f"{_BRIDGE}.transformation:LiteLLMCompletionResponsesConfig"
_STREAM = f"{_BRIDGE}.streaming_iterator:LiteLLMCompletionStreamingIterator"
_FOR_RESPONSES = "the reasoning in an answer of `responses` has the form that OpenAI's clients read"

NAMES: Mapping[str, tuple[Callable[..., Any], str]] = {
    "litellm.main:completion": (
        _begin_stream,
        "what the server refuses of an async stream is raised at the call, for fallbacks, retries and statuses",
    ),
    "litellm:completion": (_check_first, "arguments of a wrong type are refused by name"),
    "litellm:acompletion": (_check_first, "arguments of a wrong type are refused by name"),
    "litellm.main:embedding": (_pass_on, "aembedding heeds extra_headers= and dimensions="),
    "litellm:embedding": (_pass_on, "embedding heeds extra_headers= and dimensions="),
    "litellm.utils:_infer_valid_provider_from_env_vars": (
        _without_ours,
        "get_valid_models, which knows no custom provider, does not end at a KLUSTER_API_KEY",
    ),
    "litellm.utils:get_valid_models": (_with_ours, "get_valid_models names the models of kluster.ai"),
    "litellm:get_valid_models": (_with_ours, "get_valid_models names the models of kluster.ai"),
    f"{_CONFIG}.transform_chat_completion_response_to_responses_api_response": (_fit_response, _FOR_RESPONSES),
    f"{_STREAM}.__next__": (_fit_next, _FOR_RESPONSES),
    f"{_STREAM}.__anext__": (_fit_anext, _FOR_RESPONSES),
}
"""The wrapper for each private name, and its purpose."""


@functools.cache  # once in a process
def _replace_names() -> None:
    for path, (wrap, purpose) in NAMES.items():
        module, _, name = path.partition(":")
        holder, _, attribute = name.rpartition(".")
        try:
            owner = pkgutil.resolve_name(f"{module}:{holder}")
            original = getattr(owner, attribute)
        except (ImportError, AttributeError):
            missing = (
                f"litellm {_versions.installed()} has no {path.replace(':', '.')}, so this does not hold: {purpose}."
            )
            warn(f'{missing} pip install "{_versions.RECOMMENDED}"', RuntimeWarning, stacklevel=4)
            continue
        setattr(owner, attribute, wrap(original))


def install() -> None:
    """Wrap LiteLLM's private names, and register the provider with LiteLLM.

    Up to 1.100 a router does not find a custom provider without `custom_llm_setup`.
    """
    custom_llm_setup()  # type: ignore[no-untyped-call]
    _replace_names()
