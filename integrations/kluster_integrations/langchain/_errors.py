"""This package's errors for LangChain: each is also openai's class and langchain-core's `ModelError` class.

So `except openai.RateLimitError` and `except ModelRateLimitError` both work, retry and fallback middleware find
`is_retryable`, and summarization middleware finds `ContextOverflowError`. Unlike openai's own errors they have no
request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import openai
from langchain_core.exceptions import OutputParserException

from kluster_integrations import errors
from kluster_integrations._openai import response_of
from kluster_integrations.langchain._compat import (
    ContextOverflowError,
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

__all__ = [
    "LANGCHAIN_ERRORS",
    "KlusterAPIConnectionError",
    "KlusterAPITimeoutError",
    "KlusterAuthenticationError",
    "KlusterBadRequestError",
    "KlusterBudgetExceededError",
    "KlusterContextOverflowError",
    "KlusterInternalServerError",
    "KlusterNotFoundError",
    "KlusterOutputValidationError",
    "KlusterPermissionDeniedError",
    "KlusterRateLimitError",
    "KlusterTruncatedStreamError",
    "KlusterUnsupportedParameterError",
]


class _OpenAIShape(errors.KlusterError):
    """Adds the attributes of openai's own errors; `request` is None, because it would contain the key."""

    @classmethod
    def like(cls, other: errors.KlusterError) -> Self:
        error = super().like(other)
        inner = other.body.get("error", other.body) if isinstance(other.body, dict) else None
        detail = inner if isinstance(inner, dict) else {}
        shape = {"request": None, "response": response_of(other)}
        error.__dict__.update(shape | {name: detail.get(name) for name in ("param", "type")})
        return error


class KlusterAuthenticationError(
    _OpenAIShape, errors.AuthenticationError, openai.AuthenticationError, ModelAuthenticationError
):
    """No key, or one that the server does not accept."""


class KlusterPermissionDeniedError(
    _OpenAIShape, errors.PermissionDeniedError, openai.PermissionDeniedError, ModelPermissionDeniedError
):
    """The key may not do this."""


class KlusterNotFoundError(_OpenAIShape, errors.NotFoundError, openai.NotFoundError, ModelNotFoundError):
    """No such model or path."""


class KlusterBadRequestError(_OpenAIShape, errors.BadRequestError, openai.BadRequestError, ModelInvalidRequestError):
    """The request is not acceptable."""


class KlusterUnsupportedParameterError(errors.UnsupportedParameterError, KlusterBadRequestError):
    """A parameter that kluster.ai does not take."""


class KlusterContextOverflowError(errors.ContextWindowExceededError, KlusterBadRequestError, ContextOverflowError):
    """The prompt does not fit the model's context window."""


class KlusterRateLimitError(_OpenAIShape, errors.RateLimitError, openai.RateLimitError, ModelRateLimitError):
    """Too many requests."""


class KlusterInternalServerError(_OpenAIShape, errors.InternalServerError, openai.InternalServerError, ModelAPIError):
    """The server failed, or its answer cannot be read."""


class KlusterAPIConnectionError(
    _OpenAIShape, errors.APIConnectionError, openai.APIConnectionError, ModelConnectionError
):
    """No connection, or it broke."""


class KlusterAPITimeoutError(
    errors.APITimeoutError, KlusterAPIConnectionError, openai.APITimeoutError, ModelTimeoutError
):
    """Nothing came in time."""


class KlusterTruncatedStreamError(errors.TruncatedStreamError, KlusterAPIConnectionError):
    """The stream stopped before the answer was complete."""


class KlusterOutputValidationError(errors.OutputValidationError, OutputParserException):
    """The model's answer is not what was asked for."""


class KlusterBudgetExceededError(errors.BudgetExceededError, ModelError):
    """A budget refuses the request."""


LANGCHAIN_ERRORS: Mapping[type[errors.KlusterError], type[errors.KlusterError]] = {
    errors.AuthenticationError: KlusterAuthenticationError,
    errors.PermissionDeniedError: KlusterPermissionDeniedError,
    errors.NotFoundError: KlusterNotFoundError,
    errors.BadRequestError: KlusterBadRequestError,
    errors.UnsupportedParameterError: KlusterUnsupportedParameterError,
    errors.ContextWindowExceededError: KlusterContextOverflowError,
    errors.RateLimitError: KlusterRateLimitError,
    errors.InternalServerError: KlusterInternalServerError,
    errors.APIConnectionError: KlusterAPIConnectionError,
    errors.APITimeoutError: KlusterAPITimeoutError,
    errors.TruncatedStreamError: KlusterTruncatedStreamError,
    errors.OutputValidationError: KlusterOutputValidationError,
    errors.BudgetExceededError: KlusterBudgetExceededError,
}
