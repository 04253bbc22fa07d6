"""This package's errors as CrewAI understands them.

    ContextWindowExceededError -> also `LLMContextLengthExceededError`: the executor shortens the conversation
    whatever was retried often enough, or cannot succeed -> also `HookAborted`, while an agent is at work

CrewAI runs a whole task again, `Agent.max_retry_limit` (2) times, after any error but its own deliberate stops, of
which `HookAborted` is the public one. The transport has already retried by then, so without that mark one rate limit
costs three times the configured requests, and a wrong key three. Calls that no agent makes (memory analysis, a plain
`llm.call`) raise the same errors without the mark: there CrewAI goes on without what it could not get.
"""

from __future__ import annotations

from typing import Self

from crewai.hooks.dispatch import HookAborted
from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError

from kluster_integrations import errors

__all__ = [
    "KlusterAPIConnectionError",
    "KlusterAPITimeoutError",
    "KlusterAuthenticationError",
    "KlusterBadRequestError",
    "KlusterBudgetExceededError",
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
    """Ends the task: the agent does not run it again."""

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
    """Too many requests, after all configured retries."""


class KlusterInternalServerError(_Stops, errors.InternalServerError):
    """The server failed, after all configured retries."""


class KlusterAPIConnectionError(_Stops, errors.APIConnectionError):
    """No connection, after all configured retries."""


class KlusterAPITimeoutError(errors.APITimeoutError, KlusterAPIConnectionError):
    """Nothing came in time, after all configured retries."""


class KlusterBudgetExceededError(_Stops, errors.BudgetExceededError):
    """A budget is spent, or cannot count the model."""


def for_crewai(error: errors.KlusterError, *, by_agent: bool) -> errors.KlusterError:
    """Return the error that CrewAI is to see; `by_agent` says that an agent made the call.

    Two errors have no class here that ends the task: nothing has retried after a `TruncatedStreamError` yet, and after
    an `OutputValidationError` another run of the task may well bring a better answer.
    """
    if type(error) is errors.ContextWindowExceededError:
        return KlusterContextWindowError.like(error)
    may_pass = isinstance(error, errors.InternalServerError | errors.RateLimitError)
    # Nothing has retried after an error inside a 200, which has no headers of its own.
    is_untried = may_pass and (error.status_code == 200 or not error.headers)
    stops: type[_Stops] | None = globals().get(f"Kluster{type(error).__name__}")
    return stops.like(error) if stops and by_agent and not is_untried else error
