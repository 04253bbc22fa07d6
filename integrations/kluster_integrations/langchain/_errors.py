"""This package's errors as LangChain's users know them: also openai's, and langchain-core's `ModelError` kinds.

So `except openai.RateLimitError` and `except ModelRateLimitError` both catch, agents' retry and fallback middleware see
`is_retryable`, and summarization middleware sees `ContextOverflowError`. Unlike openai's own they hold no request.
"""

from __future__ import annotations

from collections.abc import Mapping

import openai
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
    OutputParserException,
)

from kluster_integrations import errors

__all__ = [
    "LANGCHAIN_ERRORS",
    "KlusterAPIConnectionError",
    "KlusterAPITimeoutError",
    "KlusterAuthenticationError",
    "KlusterBadRequestError",
    "KlusterContextOverflowError",
    "KlusterInternalServerError",
    "KlusterNotFoundError",
    "KlusterOutputValidationError",
    "KlusterPermissionDeniedError",
    "KlusterRateLimitError",
    "KlusterTruncatedStreamError",
    "KlusterUnsupportedParameterError",
]


class KlusterAuthenticationError(errors.AuthenticationError, openai.AuthenticationError, ModelAuthenticationError):
    """No key, or one that the server does not accept."""


class KlusterPermissionDeniedError(
    errors.PermissionDeniedError, openai.PermissionDeniedError, ModelPermissionDeniedError
):
    """The key may not do this."""


class KlusterNotFoundError(errors.NotFoundError, openai.NotFoundError, ModelNotFoundError):
    """No such model or path."""


class KlusterBadRequestError(errors.BadRequestError, openai.BadRequestError, ModelInvalidRequestError):
    """The request is not acceptable."""


class KlusterUnsupportedParameterError(errors.UnsupportedParameterError, KlusterBadRequestError):
    """A parameter that kluster.ai does not take."""


class KlusterContextOverflowError(errors.ContextWindowExceededError, KlusterBadRequestError, ContextOverflowError):
    """The prompt does not fit the model's context window."""


class KlusterRateLimitError(errors.RateLimitError, openai.RateLimitError, ModelRateLimitError):
    """Too many requests."""


class KlusterInternalServerError(errors.InternalServerError, openai.InternalServerError, ModelAPIError):
    """The server failed, or its answer cannot be read."""


class KlusterAPIConnectionError(errors.APIConnectionError, openai.APIConnectionError, ModelConnectionError):
    """No connection, or it broke."""


class KlusterAPITimeoutError(
    errors.APITimeoutError, KlusterAPIConnectionError, openai.APITimeoutError, ModelTimeoutError
):
    """Nothing came in time."""


class KlusterTruncatedStreamError(errors.TruncatedStreamError, KlusterAPIConnectionError):
    """The stream stopped before the answer was complete."""


class KlusterOutputValidationError(errors.OutputValidationError, OutputParserException):
    """The model's answer is not what the schema asks for."""


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
}
