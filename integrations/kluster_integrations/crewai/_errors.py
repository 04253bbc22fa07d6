"""This package's errors, as classes that CrewAI handles well.

    ContextWindowExceededError -> also `LLMContextLengthExceededError`: the executor shortens the conversation
    errors that were retried, or cannot succeed -> a class that CrewAI takes for one of LiteLLM's

CrewAI runs a whole task again, `Agent.max_retry_limit` (2) times, after any error except its own deliberate stops and
errors of LiteLLM, which has already retried. Our transport has retried, too: without that mark a rate limit would cost
three times the configured requests, and a wrong key three requests. If CrewAI does not need the answer (a plan, an
observation, memory), it continues without it, as after any error.

After an error in a step of a plan CrewAI would continue with the next step, and answer "(no result)" in the end. There
the errors are also its `HookAborted`, which ends the task (with CrewAI 1.15.30; older versions continue).
"""

from __future__ import annotations

import sys
from typing import Any, Self

from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError

from kluster_integrations import errors
from kluster_integrations.crewai._compat import LITELLM_MODULE, HookAborted

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
        """Return the error with the words that CrewAI looks for."""
        error = super().like(other)
        error.original_error_message = other.message
        error.message = f"LLM context length exceeded. {other.message}"
        return error


class _EndsTask(errors.KlusterError):
    """Ends the task: the agent does not run it again."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__module__ = LITELLM_MODULE

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle by name: it would look for the class in the module that `__module__` names.
        return (_restored, (type(self).__name__, self.message, self.__dict__.copy()))


class KlusterAuthenticationError(_EndsTask, errors.AuthenticationError):
    """No key, or one that the server does not accept."""


class KlusterPermissionDeniedError(_EndsTask, errors.PermissionDeniedError):
    """The key may not do this."""


class KlusterNotFoundError(_EndsTask, errors.NotFoundError):
    """No such model or path."""


class KlusterBadRequestError(_EndsTask, errors.BadRequestError):
    """The request is not acceptable."""


class KlusterUnsupportedParameterError(errors.UnsupportedParameterError, KlusterBadRequestError):
    """A parameter that kluster.ai does not take."""


class KlusterRateLimitError(_EndsTask, errors.RateLimitError):
    """Too many requests, after all configured retries."""


class KlusterInternalServerError(_EndsTask, errors.InternalServerError):
    """The server failed, after all configured retries."""


class KlusterAPIConnectionError(_EndsTask, errors.APIConnectionError):
    """No connection, after all configured retries."""


class KlusterAPITimeoutError(errors.APITimeoutError, KlusterAPIConnectionError):
    """Nothing came in time, after all configured retries."""


class KlusterBudgetExceededError(_EndsTask, errors.BudgetExceededError):
    """A budget is spent, or cannot count the model."""


def for_crewai(error: errors.KlusterError, *, is_step: bool) -> errors.KlusterError:
    """Return the error for CrewAI; `is_step` says that the call belongs to a step of an agent's plan.

    Two errors do not end the task: a `TruncatedStreamError` was not retried yet, and after an `OutputValidationError`
    another run of the task may give a better answer.
    """
    if type(error) is errors.ContextWindowExceededError:
        return KlusterContextWindowError.like(error)
    may_pass = isinstance(error, errors.InternalServerError | errors.RateLimitError)
    # An error inside a 200 has no headers of its own, and nothing has retried it yet.
    is_untried = may_pass and (error.status_code == 200 or not error.headers)
    ends: type[_EndsTask] | None = globals().get(f"Kluster{type(error).__name__}")
    if ends is None or is_untried:
        return error
    return _ending_plan(ends, error) if is_step else ends.like(error)


def _ending_plan(ends: type[_EndsTask], error: errors.KlusterError) -> errors.KlusterError:
    """Return an error that is also CrewAI's deliberate stop."""
    both: Any = type(ends.__name__, (ends, HookAborted), {"__doc__": ends.__doc__})
    stop = both.like(error)
    stop.reason, stop.source = str(error), "kluster.ai"
    return stop  # type: ignore[no-any-return]


def _restored(name: str, message: str, state: dict[str, Any]) -> errors.KlusterError:
    kind: type[errors.KlusterError] = getattr(sys.modules[__name__], name)
    error = kind(message)
    error.__dict__.update(state)
    return error
