"""This package's errors for LiteLLM: each is also LiteLLM's class, for users, router and proxy.

Every version of LiteLLM passes its own classes on. It converts other errors, and the rules change: before 1.100 a 401
from a custom provider became an `APIConnectionError`.
"""

from __future__ import annotations

from typing import Any

from litellm import exceptions as lite

from kluster_integrations import errors
from kluster_integrations._openai import response_of
from kluster_integrations.litellm._models import PROVIDER

__all__ = ["to_litellm"]

# LiteLLM's proxy passes an error's `headers` on to browsers: only what a client needs for a retry.
_SHOWN_HEADERS = ("retry-after", "retry-after-ms", "x-request-id")


class _Shown:
    """Shows the message and the hint, without a status: LiteLLM sets one even if no server has answered."""

    message: str
    hint: str | None

    def __str__(self) -> str:
        return self.message + (f" Hint: {self.hint}" if self.hint else "")


class AuthenticationError(_Shown, errors.AuthenticationError, lite.AuthenticationError):
    """No key, or one that the server does not accept."""


class PermissionDeniedError(_Shown, errors.PermissionDeniedError, lite.PermissionDeniedError):
    """The key may not do this."""


class NotFoundError(_Shown, errors.NotFoundError, lite.NotFoundError):
    """No such model or path."""


class BadRequestError(_Shown, errors.BadRequestError, lite.BadRequestError):
    """The request is not acceptable."""


class UnprocessableEntityError(_Shown, errors.BadRequestError, lite.UnprocessableEntityError):
    """The request is not acceptable, in the words of status 422."""


class UnsupportedParamsError(_Shown, errors.UnsupportedParameterError, lite.UnsupportedParamsError):
    """A parameter that kluster.ai does not take."""


class ContextWindowExceededError(_Shown, errors.ContextWindowExceededError, lite.ContextWindowExceededError):
    """The prompt does not fit the model's context window."""


class RateLimitError(_Shown, errors.RateLimitError, lite.RateLimitError):
    """Too many requests."""

    headers: Any


class InternalServerError(_Shown, errors.InternalServerError, lite.InternalServerError):
    """The server failed, or its answer cannot be read."""


class BadGatewayError(_Shown, errors.InternalServerError, lite.BadGatewayError):
    """Status 502."""


class ServiceUnavailableError(_Shown, errors.InternalServerError, lite.ServiceUnavailableError):
    """Status 503."""


class APIConnectionError(_Shown, errors.APIConnectionError, lite.APIConnectionError):
    """No connection, or it broke."""


class Timeout(_Shown, errors.APITimeoutError, lite.Timeout):
    """Nothing came in time."""

    headers: Any


class TruncatedStreamError(_Shown, errors.TruncatedStreamError, lite.APIConnectionError):
    """The stream stopped before the answer was complete."""


class JSONSchemaValidationError(_Shown, errors.OutputValidationError, lite.JSONSchemaValidationError):
    """The model's answer is not what was asked for."""


class BudgetExceededError(_Shown, errors.BudgetExceededError, lite.BudgetExceededError, lite.BadRequestError):
    """A budget is spent. It is also a `BadRequestError`, which LiteLLM passes on and its Router does not retry."""

    current_cost: Any = property(lambda self: self.spent_usd)
    max_budget: Any = property(lambda self: self.limit_usd)
    entity_type = entity_id = None


_BY_CLASS: dict[Any, Any] = {
    kind.__bases__[1]: kind
    for kind in (
        *(AuthenticationError, PermissionDeniedError, NotFoundError, BadRequestError, UnsupportedParamsError),
        *(ContextWindowExceededError, RateLimitError, InternalServerError, APIConnectionError, Timeout),
        *(TruncatedStreamError, JSONSchemaValidationError, BudgetExceededError),
    )
}
_BY_STATUS: dict[int, Any] = {422: UnprocessableEntityError, 502: BadGatewayError, 503: ServiceUnavailableError}


def to_litellm(err: errors.KlusterError, model: str, base_url: str) -> errors.KlusterError:
    """Return an error as one of these classes, with the attributes of both bases.

    Args:
        err: The error.
        model: The model's id, without the provider.
        base_url: The address of the request.
    """
    kind = next((_BY_CLASS[cls] for cls in type(err).__mro__ if cls in _BY_CLASS), InternalServerError)
    if kind in (BadRequestError, InternalServerError):
        kind = _BY_STATUS.get(err.status_code or 0, kind)
    error: errors.KlusterError = kind.like(err)
    ours = error.__dict__.copy()
    theirs: Any = kind.__bases__[-1]
    response = response_of(err, base_url)
    arguments: dict[str, Any] = {"message": err.message}
    if isinstance(err, errors.OutputValidationError):
        arguments = {"raw_response": err.raw_text, "schema": err.message}
    elif theirs not in (lite.APIConnectionError, lite.Timeout):
        arguments["response"] = response
    # LiteLLM's own initializer, because the attributes differ from version to version.
    theirs.__init__(error, model=model, llm_provider=PROVIDER, **arguments)
    status = err.status_code
    if status is None:  # no server has answered: then the status and the response that LiteLLM makes up
        status, response = error.status_code, getattr(error, "response", None)
    detail = err.body.get("error", err.body) if isinstance(err.body, dict) else None
    error.__dict__.update(
        ours,
        message=f"litellm.{kind.__bases__[2].__name__}: {err.message}",
        status_code=status,
        response=response,
        headers={k: v for k, v in err.headers.items() if k in _SHOWN_HEADERS},
        **{name: detail.get(name) if isinstance(detail, dict) else None for name in ("param", "type")},
    )
    return error
