"""What differs between versions of langchain-core and langchain, and each of their private names that we call.

langchain-core is supported from 1.2. This module supplies what older versions lack, so that the rest of the adapter can
be written for the newest. `tests/langchain/test_compat.py` checks each private name, and that no other module uses one.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from langchain_core.exceptions import LangChainException
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage

__all__ = [
    "ContextOverflowError",
    "ModelAPIError",
    "ModelAuthenticationError",
    "ModelConnectionError",
    "ModelError",
    "ModelInvalidRequestError",
    "ModelNotFoundError",
    "ModelPermissionDeniedError",
    "ModelRateLimitError",
    "ModelTimeoutError",
    "add_version",
    "provider_table",
    "to_messages",
]

try:
    from langchain_core.exceptions import ContextOverflowError
except ImportError:  # before 1.2.10

    class ContextOverflowError(LangChainException):  # type: ignore[no-redef]
        """The prompt is too long; no middleware of such a langchain looks for it."""


try:
    from langchain_core.exceptions import (
        ModelAPIError,
        ModelAuthenticationError,
        ModelConnectionError,
        ModelError,
        ModelInvalidRequestError,
        ModelNotFoundError,
        ModelPermissionDeniedError,
        ModelRateLimitError,
        ModelTimeoutError,
    )
except ImportError:  # before 1.6; `is_retryable` stays, for a `retry_on` of the user's own

    class ModelError(LangChainException):  # type: ignore[no-redef]
        """A request to a model failed."""

        is_retryable = False

    class _RetryableError(ModelError):
        is_retryable = True

    ModelAuthenticationError = ModelPermissionDeniedError = ModelError  # type: ignore[misc, assignment]
    ModelInvalidRequestError = ModelNotFoundError = ModelError  # type: ignore[misc, assignment]
    ModelRateLimitError = ModelAPIError = ModelConnectionError = ModelTimeoutError = _RetryableError  # type: ignore[misc, assignment]


def add_version(model: BaseChatModel, package: str, version: str) -> None:
    """Add a package's version to a model's traces; before langchain-core 1.5 traces have no versions."""
    if hasattr(model, "_add_version"):
        model._add_version(package, version)


def to_messages(model: BaseChatModel, input: LanguageModelInput) -> list[BaseMessage]:
    """Return the messages of a model's input, which may be a text, messages, or a prompt."""
    return model._convert_input(input).to_messages()


def provider_table(module_name: str) -> dict[str, Any]:
    """Return langchain's table of providers for `init_chat_model` or `init_embeddings`.

    Raises:
        ImportError: If the package `langchain` is not installed.
        RuntimeError: If this version of it has no such table.
    """
    try:
        module = import_module(module_name)
    except ImportError as err:
        raise ImportError(f"{module_name} cannot be imported; pip install langchain.") from err
    table = getattr(module, "_BUILTIN_PROVIDERS", None)  # before langchain 1.2.10 a chain of ifs
    if not isinstance(table, dict):
        raise RuntimeError(f"{module_name} of this version of langchain has no table of providers")
    return table
