"""This package's errors as CrewAI understands them.

    ContextWindowExceededError -> also `LLMContextLengthExceededError`: the executor shortens the conversation
    whatever was tried often enough, or cannot succeed -> also `HookAborted`, while an agent is at work

CrewAI runs a whole task again, `Agent.max_retry_limit` (2) times, after any error but its own deliberate stops, of
which `HookAborted` is the public one. The transport has already made its tries by then, so without that mark one rate
limit costs three times the configured requests, and a wrong key three. Calls that no agent makes (memory analysis, a
plain `llm.call`) raise the same errors without the mark: there CrewAI goes on without what it could not get.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from crewai.hooks.dispatch import HookAborted
from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError

from kluster_integrations import errors

__all__ = [
    "KlusterAPIConnectionError",
    "KlusterAPITimeoutError",
    "KlusterAuthenticationError",
    "KlusterBadRequestError",
    "KlusterContextWindowError",
    "KlusterInternalServerError",
    "KlusterNotFoundError",
    "KlusterPermissionDeniedError",
    "KlusterRateLimitError",
    "KlusterUnsupportedParameterError",
    "for_crewai",
]


class KlusterContextWindowError(errors.ContextWindowExceededError, LLMContextLengthExceededError):
    """The prompt does not fit the model's context window."""

    @classmethod
    def like(cls, other: errors.KlusterError) -> Self:
        """Return it in the words by which CrewAI knows it."""
        error = super().like(other)
        error.original_error_message = other.message
        error.message = f"LLM context length exceeded. {other.message}"
        return error


class _Stops(errors.KlusterError, HookAborted):
    """Ends the task: not to be tried again by the agent."""

    @classmethod
    def like(cls, other: errors.KlusterError) -> Self:
        error = super().like(other)
        error.reason, error.source = str(other), "kluster.ai"
        return error


class KlusterAuthenticationError(_Stops, errors.AuthenticationError):
    """No key, or one that the server does not accept."""


class KlusterPermissionDeniedError(_Stops, errors.PermissionDeniedError):
    """The key may not do this."""


class KlusterNotFoundError(_Stops, errors.NotFoundError):
    """No such model or path."""


class KlusterBadRequestError(_Stops, errors.BadRequestError):
    """The request is not acceptable."""


class KlusterUnsupportedParameterError(errors.UnsupportedParameterError, KlusterBadRequestError):
    """A parameter that kluster.ai does not take."""


class KlusterRateLimitError(_Stops, errors.RateLimitError):
    """Too many requests, after all configured tries."""


class KlusterInternalServerError(_Stops, errors.InternalServerError):
    """The server failed, after all configured tries."""


class KlusterAPIConnectionError(_Stops, errors.APIConnectionError):
    """No connection, after all configured tries."""


class KlusterAPITimeoutError(errors.APITimeoutError, KlusterAPIConnectionError):
    """Nothing came in time, in any of the configured tries."""


# Not here: TruncatedStreamError (nothing has tried that again yet) and OutputValidationError (another run of the task
# may well bring a better answer).
_STOPPING: Mapping[type[errors.KlusterError], type[errors.KlusterError]] = {
    errors.AuthenticationError: KlusterAuthenticationError,
    errors.PermissionDeniedError: KlusterPermissionDeniedError,
    errors.NotFoundError: KlusterNotFoundError,
    errors.BadRequestError: KlusterBadRequestError,
    errors.UnsupportedParameterError: KlusterUnsupportedParameterError,
    errors.RateLimitError: KlusterRateLimitError,
    errors.InternalServerError: KlusterInternalServerError,
    errors.APIConnectionError: KlusterAPIConnectionError,
    errors.APITimeoutError: KlusterAPITimeoutError,
}


def for_crewai(error: errors.KlusterError, *, by_agent: bool) -> errors.KlusterError:
    """Return the error that CrewAI is to see; `by_agent` says that an agent made the call."""
    if type(error) is errors.ContextWindowExceededError:
        return KlusterContextWindowError.like(error)
    cls = _STOPPING.get(type(error)) if by_agent else None
    return cls.like(error) if cls and not _is_untried(error) else error


def _is_untried(error: errors.KlusterError) -> bool:
    """Return whether an error may pass but came inside a 200, which the transport does not try again."""
    if not isinstance(error, errors.InternalServerError | errors.RateLimitError):
        return False
    return error.status_code == 200 or not error.headers  # an HTTP error has headers
