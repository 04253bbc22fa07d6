"""The core's errors in each API's own form, with the status that its clients expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kluster_integrations import errors
from kluster_integrations.errors import KlusterError
from kluster_integrations.gateway.wording import hint_of, reworded

__all__ = [
    "NO_THREADS",
    "anthropic_error",
    "body_of",
    "headers_of",
    "message_of",
    "openai_error",
    "refusal",
    "status_of",
]

NO_THREADS = "thread_unsupported_request"
"""Anthropic's SDKs see by this code that the server does not store conversations."""

# For errors without a status, by class: nothing was sent, or the response could not be read.
_STATUS: Mapping[type[KlusterError], int] = {
    errors.AuthenticationError: 401,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    errors.BadRequestError: 400,
    errors.RateLimitError: 429,
    errors.BudgetExceededError: 402,
    errors.APITimeoutError: 504,
}
_OPENAI: Mapping[int, str] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


def refusal(status: int, message: str, code: str | None = None) -> KlusterError:
    """Return the error of a request that the gateway itself refuses."""
    err = errors.from_body({"message": message, "code": code}, status_code=status)
    err.hint = None
    return err


def status_of(err: KlusterError) -> int:
    """Return the HTTP status of an error: the server's own, else by its class; 502 if the server redirects."""
    if isinstance(err.status_code, int):
        return err.status_code if 400 <= err.status_code < 600 else 502
    return next((status for cls in type(err).__mro__ if (status := _STATUS.get(cls))), 502)


def message_of(err: KlusterError, path: str) -> str:
    """Return what happened and what to do, in the words of the API that is served at a path."""
    message, hint = reworded(err.message, path, quotes=err.status_code is None), hint_of(err, path)
    return f"{message.rstrip('. ')}. Hint: {hint}" if hint else message


def headers_of(err: KlusterError) -> dict[str, str]:
    """Return the headers of an error. The gateway has retried already: a client must not multiply that."""
    after = {"retry-after": f"{err.retry_after:g}"} if err.retry_after is not None else {}
    return {"x-should-retry": "false", **after}


def openai_error(err: KlusterError, path: str) -> dict[str, Any]:
    """Return the object `error` of OpenAI's API, for a request to a path."""
    status = status_of(err)
    code = "context_length_exceeded" if isinstance(err, errors.ContextWindowExceededError) else err.code
    kind = _OPENAI.get(status, "invalid_request_error" if status < 500 else "server_error")
    detail = err.body.get("error", err.body) if isinstance(err.body, dict) else None
    param = detail.get("param") if isinstance(detail, dict) else None
    return {"message": message_of(err, path), "type": kind, "param": param, "code": code}


def anthropic_error(err: KlusterError, path: str) -> dict[str, Any]:
    """Return the object `error` of Anthropic's API, for a request to a path."""
    status = status_of(err)
    kind = _ANTHROPIC.get(status, "invalid_request_error" if status < 500 else "api_error")
    details = {"details": {"error_code": err.code}} if err.code == NO_THREADS else {}
    return {"type": kind, "message": message_of(err, path), **details}


def body_of(err: KlusterError, path: str, *, anthropic: bool) -> dict[str, Any]:
    """Return the body of an error, for a request to a path."""
    if anthropic:
        return {"type": "error", "error": anthropic_error(err, path)}
    return {"error": openai_error(err, path)}
