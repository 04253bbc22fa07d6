"""The emulator's error answers: OpenAI's error body, and kluster.ai's variant of it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["VENDOR_BODY", "ApiError", "error_body"]

Body = dict[str, object]

#: HTTP 500 as the docs' notebooks show it: `errorCode` for `code`, and a type that contradicts the status.
VENDOR_BODY: Body = {
    "error": {"message": "Unexpected error occurred", "errorCode": 4000, "type": "invalid_request_error"}
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    429: "rate_limit_exceeded",
    502: "upstream_error",
}


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> Body:
    """Return OpenAI's error body for a status."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = code or _CODES.get(status, "invalid_request" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ApiError(Exception):
    """An answer with an error status, raised anywhere below a route.

    Args:
        status: The HTTP status.
        message: The message for the client.
        param: The wrong field, such as `messages[0].name`; None if there is none.
        code: OpenAI's `error.code`; default: by status.
        headers: Further headers, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.headers = dict(headers or {})
        self.body: object = error_body(status, message, param=param, code=code)
