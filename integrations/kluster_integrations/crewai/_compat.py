"""What differs between CrewAI's versions from 1.14.7 on, and the private names of CrewAI that this package uses.

Only this module uses `PRIVATE_NAMES`. tests/crewai/test_compat.py looks for each of them in the installed CrewAI. If a
new version lacks one, the test fails with the name and its purpose.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final, NamedTuple

import httpx
from crewai.agents.agent_builder import base_agent
from crewai.llms.base_llm import BaseLLM
from crewai.llms.hooks.base import BaseInterceptor
from crewai.llms.hooks.transport import AsyncHTTPTransport, HTTPTransport
from crewai.rag.embeddings.factory import PROVIDER_PATHS
from crewai.utilities.i18n import get_i18n

try:
    from crewai.llms.context_window import CONTEXT_WINDOW_USAGE_RATIO
except ImportError:  # until 1.15.17
    from crewai.llm import CONTEXT_WINDOW_USAGE_RATIO  # type: ignore[attr-defined, no-redef]
try:
    from crewai.hooks.dispatch import HookAborted
except ImportError:  # 1.14: there a hook can refuse a call only by returning False

    class HookAborted(Exception):  # type: ignore[no-redef]  # noqa: N818
        """Stands for CrewAI's, which nothing raises there."""


try:
    from crewai.llms.base_llm import LLMCallBlockedError
except ImportError:  # until 1.15.17

    class LLMCallBlockedError(ValueError):  # type: ignore[no-redef]
        """A hook has refused the call."""


__all__ = [
    "CONTEXT_WINDOW_USAGE_RATIO",
    "EMBEDDER_PROVIDER",
    "LITELLM_MODULE",
    "PRIVATE_NAMES",
    "PROMPTS",
    "HookAborted",
    "LLMCallBlockedError",
    "PortableLLM",
    "PrivateName",
    "cut_at_stops",
    "emit_chunk",
    "emit_completed",
    "emit_denied",
    "emit_failed",
    "emit_started",
    "emit_thinking",
    "format_messages",
    "intercepted",
    "is_copy_for_memory",
    "is_counted_already",
    "own_embedder_provider",
    "prompt",
    "register_embedder",
    "register_images",
    "register_type",
    "run_after_hooks",
    "run_before_hooks",
    "run_function",
    "streams",
]


class PrivateName(NamedTuple):
    """A private name of CrewAI: where it is, what we use it for, and the first version that has it."""

    module: str
    name: str
    purpose: str
    since: tuple[int, ...] = (1, 14, 7)


_LLM = "crewai.llms.base_llm"
PRIVATE_NAMES: Final = (
    PrivateName(_LLM, "BaseLLM._emit_call_started_event", "the events of a call, which traces and listeners read"),
    PrivateName(_LLM, "BaseLLM._emit_call_completed_event", "the same"),
    PrivateName(_LLM, "BaseLLM._emit_call_failed_event", "the same"),
    PrivateName(_LLM, "BaseLLM._emit_call_denied_event", "the same, where a hook refuses the call", (1, 15, 30)),
    PrivateName(_LLM, "BaseLLM._emit_stream_chunk_event", "the text of a stream, and its tool calls"),
    PrivateName(_LLM, "BaseLLM._emit_thinking_chunk_event", "the reasoning of a model"),
    PrivateName(_LLM, "BaseLLM._effective_stream", "whether this call streams: `llm.stream_events()`", (1, 15, 17)),
    PrivateName(_LLM, "BaseLLM._format_messages", "CrewAI's messages with `input_files` as OpenAI's content parts"),
    PrivateName(_LLM, "BaseLLM._invoke_before_llm_call_hooks", "the user's hooks"),
    PrivateName(_LLM, "BaseLLM._invoke_after_llm_call_hooks", "the same"),
    PrivateName(_LLM, "BaseLLM._apply_stop_words", "an answer of a server that does not know `stop`"),
    PrivateName(_LLM, "BaseLLM._handle_tool_execution", "functions that are run by the LLM, with their events"),
    PrivateName(_LLM, "BaseLLM._wrap_call_method", "CrewAI's retries around ours, overridden", (1, 15, 30)),
    PrivateName(_LLM, "BaseLLM._multimodal_formatter_name", "the form of `input_files`, overridden", (1, 15, 17)),
    PrivateName(
        "crewai_files.processing.constraints",
        "_PROVIDER_CONSTRAINTS_MAP",
        "which of `input_files` go along with the messages, and are not offered through a tool",
    ),
    PrivateName(
        "crewai.agents.agent_builder.base_agent",
        "_LLM_TYPE_REGISTRY",
        "the class of an LLM that is rebuilt from its dump",
    ),
    PrivateName("crewai.rag.embeddings.factory", "PROVIDER_PATHS", "the embedder: see register_embedder"),
    PrivateName("crewai.agent.core", "Agent._check_execution_error", "which errors end a task: see LITELLM_MODULE"),
    PrivateName("crewai.crew", "Crew.calculate_usage_metrics", "its callers ask for tokens: see is_counted_already"),
    PrivateName(
        "crewai.memory.unified_memory",
        "_non_streaming_analysis_llm",
        "copies whose tokens are the crew's: see is_copy_for_memory",
        (1, 15, 17),
    ),
)

PROMPTS: Final = (
    ("errors", "force_final_answer"),
    ("planning", "system_prompt"),
    ("planning", "step_executor_system_prompt"),
)
"""CrewAI's prompts, which tell what a call is for."""

EMBEDDER_PROVIDER: Final = "text2vec"  # see register_embedder

LITELLM_MODULE: Final = "litellm (retried already)"
"""The `__module__` of errors that were already retried.

CrewAI runs a whole task again, `Agent.max_retry_limit` times, after any error except its own deliberate stops and
errors of LiteLLM, which retries by itself. It knows the latter by the beginning of their class's module
(`Agent._check_execution_error`, in all versions from 1.14.7 to 1.15.30). A deliberate stop (`HookAborted`) would also
end tasks whose optional calls fail, and leave events of the agent open.
"""

_FILE_FORMAT: Final = (
    "azure"  # OpenAI's form; under "openai" crewai_files sends images above 5 MB to OpenAI's file store
)
_sums = threading.local()  # the sum that a `Crew` is adding up in this thread, and the LLMs that it holds so far


class PortableLLM(BaseLLM):
    """A `BaseLLM` whose calls no version of CrewAI retries."""

    @classmethod
    def _wrap_call_method(cls, method_name: str) -> None:
        """Stop CrewAI from adding its own retries to those of the transport."""

    def _multimodal_formatter_name(self) -> str:
        return _FILE_FORMAT


def prompt(kind: str, name: str) -> str:
    """Return one of CrewAI's prompts, or "" if this version has no prompt of that name."""
    try:
        return str(get_i18n().retrieve(kind, name))  # type: ignore[arg-type]
    except Exception:  # CrewAI raises no narrower one
        return ""


def register_type(llm_type: str, path: str) -> None:
    """Tell CrewAI the class for dumps with this `llm_type`. Its table is private."""
    if isinstance(types := getattr(base_agent, "_LLM_TYPE_REGISTRY", None), dict):
        types[llm_type] = path


def register_embedder(path: str) -> None:
    """Let CrewAI make embedders with the function that `path` names.

    CrewAI's spec of an embedder must name one of CrewAI's providers. The provider `custom` needs a class in the spec,
    which no checkpoint can contain. So our spec has the name of a provider whose settings are text.
    """
    PROVIDER_PATHS[EMBEDDER_PROVIDER] = path


def own_embedder_provider(**config: Any) -> Any:
    """Return CrewAI's own provider whose name we use."""
    from crewai.rag.embeddings.providers.text2vec.text2vec_provider import Text2VecProvider

    return Text2VecProvider(**config)


def register_images(provider: str) -> None:
    """Tell crewai_files, if it is installed, that the provider's vision models take images and no other files."""
    if constraints := sys.modules.get("crewai_files.processing.constraints"):  # CrewAI has imported it by now
        images = constraints.ImageConstraints(max_size_bytes=20_971_520)
        known = constraints.ProviderConstraints(name=provider, image=images, supports_url_references=True)
        constraints._PROVIDER_CONSTRAINTS_MAP[provider] = known


def intercepted(interceptor: Any) -> dict[str, Any]:
    """Return HTTP clients whose requests and answers go through a `BaseInterceptor`, as in CrewAI's own classes."""
    if not isinstance(interceptor, BaseInterceptor):
        raise ValueError(f"interceptor={interceptor!r} must be a BaseInterceptor of crewai.llms.hooks.")
    return {
        "http_client": httpx.Client(transport=HTTPTransport(interceptor)),
        "http_async_client": httpx.AsyncClient(transport=AsyncHTTPTransport(interceptor)),
    }


def streams(llm: BaseLLM) -> bool:
    """Return whether this call streams."""
    effective = getattr(llm, "_effective_stream", None)
    return bool(effective() if effective else llm.stream)


def emit_started(llm: BaseLLM, **fields: Any) -> None:
    """Emit the first event of a call."""
    llm._emit_call_started_event(**fields)


def emit_completed(llm: BaseLLM, **fields: Any) -> None:
    """Emit the last event of a call."""
    llm._emit_call_completed_event(**fields)


def emit_failed(llm: BaseLLM, error: str, **whom: Any) -> None:
    """Emit the last event of a call that failed."""
    llm._emit_call_failed_event(error, **whom)


def emit_denied(llm: BaseLLM, error: Exception, **whom: Any) -> None:
    """Emit the last event of a call that a hook refused."""
    denied = getattr(llm, "_emit_call_denied_event", None)
    if denied is None:
        llm._emit_call_failed_event(f"LLM call denied by hook: {error}", **whom)
    else:
        denied(error, **whom)


def emit_chunk(llm: BaseLLM, text: str, **fields: Any) -> None:
    """Emit what a stream adds to the answer."""
    llm._emit_stream_chunk_event(text, **fields)


def emit_thinking(llm: BaseLLM, text: str, **fields: Any) -> None:
    """Emit reasoning."""
    llm._emit_thinking_chunk_event(text, **fields)


def format_messages(llm: BaseLLM, messages: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return CrewAI's messages as OpenAI's. CrewAI's own are not changed."""
    given: Any = messages
    if not isinstance(messages, str | Sequence):
        return given  # the core says what is wrong
    if not isinstance(messages, str):
        given = [dict(message) if isinstance(message, Mapping) else message for message in messages]
        for message in given:
            if isinstance(files := message.get("files"), Mapping):
                message["files"] = {n: file for n, file in files.items() if file.content_type.startswith("image/")}
                if not hasattr(BaseLLM, "_multimodal_formatter_name"):  # until 1.14.7 the provider decides
                    llm = llm.model_copy(update={"provider": _FILE_FORMAT})
    formatted: list[Any] = llm._format_messages(given)
    return formatted


def run_before_hooks(llm: BaseLLM, messages: list[dict[str, Any]], agent: Any) -> None:
    """Let the user's hooks see and change the messages.

    Raises:
        LLMCallBlockedError: A hook refuses the call.
        HookAborted: A hook raises this itself.
    """
    allowed = llm._invoke_before_llm_call_hooks(messages, agent)  # type: ignore[arg-type]
    if not allowed:  # until 1.15.17; newer versions raise
        raise LLMCallBlockedError("LLM call blocked by before_llm_call hook")


def run_after_hooks(llm: BaseLLM, messages: list[dict[str, Any]], text: str, agent: Any) -> str:
    """Return the answer after the user's hooks have changed it."""
    return llm._invoke_after_llm_call_hooks(messages, text, agent)  # type: ignore[arg-type]


def cut_at_stops(llm: BaseLLM, text: str) -> str:
    """Return a text up to the first stop word."""
    return llm._apply_stop_words(text)


def run_function(llm: BaseLLM, name: str, arguments: dict[str, Any], **fields: Any) -> Any:
    """Run a function as CrewAI's own classes do, with the events of its call."""
    return llm._handle_tool_execution(name, arguments, **fields)


def is_counted_already(llm: object) -> bool:
    """Return whether the sum that asks for an LLM's tokens, two functions above, already has them.

    `Crew.calculate_usage_metrics` adds up the LLMs of its agents. An LLM that several agents share is counted once per
    agent (crewAI issue 7259).
    """
    caller = sys._getframe(2)
    if caller.f_code.co_name != "calculate_usage_metrics":
        return False
    total = caller.f_locals.get("total_usage_metrics")
    if total is None or total is not getattr(_sums, "total", None):
        _sums.total, _sums.counted = total, set()
    counted: set[int] = _sums.counted
    if id(llm) in counted:
        return True
    counted.add(id(llm))
    return False


def is_copy_for_memory() -> bool:
    """Return whether CrewAI's memory is copying the LLM; no sum would count the copy's tokens.

    Versions before 1.15.17 use the LLM itself.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(4):  # this function, __copy__, copy.copy, memory's own
        if frame is not None and frame.f_code.co_name == "_non_streaming_analysis_llm":
            return True
        frame = frame and frame.f_back
    return False
