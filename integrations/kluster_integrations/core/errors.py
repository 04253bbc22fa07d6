"""What can go wrong, by cause (the tree is in `kluster_integrations.errors`), and what maps everything else into it.

An HTTP error is judged by its status alone: kluster.ai has answered a 500 with `"type": "invalid_request_error"` and
`errorCode` in place of `code` (reference/kluster-api.md, Errors). Keys never enter: the HTTP library's exceptions,
which hold the request, are replaced, and a key that a server echoes is masked.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BatchExpiredError",
    "BatchFailedError",
    "BudgetExceededError",
    "ContextWindowExceededError",
    "CostLimitError",
    "InternalServerError",
    "JobLockedError",
    "KlusterError",
    "NotFoundError",
    "OutputValidationError",
    "PermissionDeniedError",
    "RateLimitError",
    "SubmissionUnclearError",
    "TruncatedStreamError",
    "UnsupportedParameterError",
    "from_body",
    "is_refusal",
    "mapped",
    "masked",
    "shortened",
]

# vLLM (old and new), SGLang, OpenAI and llama.cpp say it in these words.
_OVERFLOW = re.compile(
    r"maximum context length|model's context length|context_length_exceeded|maximum model length"
    r"|exceeds? the (?:model's |available )?(?:maximum )?context|exceeds the maximum allowed length"
    r"|too long to fit into the model|max(?:imum)? (?:allowed )?input length",
    re.IGNORECASE,
)
_UNKNOWN_HOST = (
    "the host name was not found: check the base URL (KLUSTER_BASE_URL) and the network. If it is api.kluster.ai, the "
    'service may be gone: see "Status of the service" in the README, and set KLUSTER_BASE_URL to another server with '
    "the same API."
)
_REFUSED = (
    "nothing listens at that address: check the base URL (KLUSTER_BASE_URL). If the server is one of yours, such as "
    "`kluster emulator`, start it. For https, check HTTPS_PROXY, too."
)
# The messages of the json module, which any library may call.
_NOT_JSON = re.compile(r"not JSON (?:serializable|compliant)|^Circular reference")
# No tag holds a `<`: a page of `<a ` alone would otherwise take a pass for each.
_TITLE = re.compile(r"<title[^<>]*>([^<]*)</title>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]+>")
_MAX_MESSAGE = 2_000
_LEVELS = 50
Secret = str | Collection[str] | None
"""A text that must be shown nowhere, or several."""

_SHORTEST_KEY = 8  # a shorter one is a placeholder for a local server; masking "k" would garble every message


class KlusterError(Exception):
    """Base of every error of this package.

    Args:
        message: What happened.
        status_code: The HTTP status, None if there was no answer.
        code: The server's error code (`code` or `errorCode` in the body), as text.
        request_id: The server's id of the request.
        retry_after: Seconds to wait before another try, if the server said so.
        hint: What to do; each class has a default.
        body: The decoded error body.
        headers: The answer's headers, with names in lower case, without cookies.
    """

    default_hint: str | None = None
    status_code: Any  # int | None: adapters mix in openai's classes, which declare a Literal

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        hint: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        Exception.__init__(self, message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.hint = hint if hint is not None else self.default_hint
        self.body = body
        self.headers = {k.lower(): v for k, v in (headers or {}).items() if k.lower() != "set-cookie"}

    def __str__(self) -> str:
        status = f" (HTTP {self.status_code})" if self.status_code else ""
        return f"{self.message}{status}" + (f" Hint: {self.hint}" if self.hint else "")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own would call the class with `args` alone and lose the rest.
        return (_rebuild, (type(self), self.message, self.__dict__.copy()))

    def mask(self, secret: Secret) -> None:
        """Mask one or several keys in the whole error, in case a server has echoed one."""
        self.__dict__.update({name: masked(value, secret) for name, value in self.__dict__.items()})
        self.args = (self.message,)

    @classmethod
    def like(cls, other: KlusterError) -> Self:
        """Return an error of this class with the content of `other`; for the adapters' own classes."""
        error = cls(other.message)
        error.__dict__.update(other.__dict__)
        return error


def is_refusal(err: KlusterError) -> bool:
    """Whether the server has certainly refused a request; False if it may have carried it out."""
    return not isinstance(err, (APIConnectionError, InternalServerError)) and err.status_code != 409


def _rebuild(cls: type[KlusterError], message: str, state: dict[str, Any]) -> KlusterError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class AuthenticationError(KlusterError):
    """The key is missing or not accepted."""

    default_hint = (
        "check the key (KLUSTER_API_KEY, or api_key=…) and the base URL: a key of one server does not work with "
        "another. `kluster doctor` shows which are used."
    )


class PermissionDeniedError(KlusterError):
    """The key is valid, but it does not permit this request."""

    default_hint = "use a key whose account may use this model or endpoint, or choose another model."


class NotFoundError(KlusterError):
    """No such model, file, job or path."""

    default_hint = "`kluster models --refresh` lists what the server has; check base_url too."


class BadRequestError(KlusterError):
    """The request is not acceptable; sending it again will not help."""


class UnsupportedParameterError(BadRequestError):
    """A parameter that kluster.ai does not take, and that this package cannot imitate."""


class ContextWindowExceededError(BadRequestError):
    """The prompt, or prompt and answer together, are longer than the model's context window."""

    default_hint = "shorten the messages, lower max_completion_tokens, or use a model with a longer window."


class RateLimitError(KlusterError):
    """Too many requests a minute, or at the same time."""

    default_hint = "send fewer requests at once, raise max_retries, or set plan=… so that requests wait their turn."


class InternalServerError(KlusterError):
    """The server failed, or its answer cannot be read."""


class APIConnectionError(KlusterError):
    """There was no connection to the server, or it broke before the answer was complete."""

    default_hint = "check base_url and the network; `kluster doctor` tries them."


class APITimeoutError(APIConnectionError):
    """The server did not answer within `timeout`."""

    default_hint = "raise timeout=… (in seconds), or stream the answer."


class TruncatedStreamError(APIConnectionError):
    """A stream ended without a finish reason; the text so far is in `partial`."""

    default_hint = "send the request again; the text so far is in .partial."
    partial: str = ""


class OutputValidationError(KlusterError):
    """The model's answer is not what the schema or the tools ask for.

    Attributes:
        raw_text: What the model wrote.
        completion: The last answer (a `core.types.Completion`), with the tokens of all attempts.
    """

    raw_text: str = ""
    completion: Any = None


class BudgetExceededError(KlusterError):
    """A budget refuses a request: it is spent, or the model has no price to count. Nothing was sent."""

    default_hint = "pass a higher usd=… to budget(), or send the request outside of the budget."
    spent_usd: float = 0.0
    limit_usd: float = 0.0


class BatchFailedError(KlusterError):
    """The service refused a batch job as a whole: none of its lines ran.

    Attributes:
        lines: The service's errors, each with `code`, `message`, `line` (in the file, from 1) and `index` (of the
            input, from 0). `line` and `index` are None if the service names no line.
    """

    default_hint = (
        "change the requests that .lines names (too many lines: set plan=…), then create a job in another folder."
    )
    lines: Sequence[Mapping[str, Any]] = ()


class BatchExpiredError(KlusterError):
    """The window of a batch job ended before all of its inputs were answered.

    Attributes:
        done: The indexes of the inputs that have a result.
        missing: The indexes of the inputs that have none.
    """

    default_hint = "read the finished answers with results(), and send the inputs in .missing in a new job."
    done: Sequence[int] = ()
    missing: Sequence[int] = ()


class JobLockedError(KlusterError):
    """Another process, thread or task works on the batch job of this folder."""

    default_hint = "wait until it has ended, or stop it: a job is driven by one process, thread or task at a time."


class SubmissionUnclearError(KlusterError):
    """A batch job may or may not have been created, and creating it again could cost more than `max_cost`."""

    default_hint = (
        "call submit() again: it looks for the job in the account's list. If the job is not there, pass a higher "
        "max_cost=… to create it again."
    )


class CostLimitError(KlusterError):
    """The estimated cost is above `max_cost`, or cannot be known because a model has no price."""

    default_hint = "raise max_cost=…, or send fewer requests; the answers so far are kept."


_BY_STATUS: Mapping[int, type[KlusterError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: APITimeoutError,
    429: RateLimitError,
}


# OpenAI's words, for errors inside a 200, which have no status.
_STATUS_OF_CODE: Mapping[str, int] = {
    "invalid_api_key": 401,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
}


def _class_for(status: int | None, text: str) -> type[KlusterError]:
    if status is not None and status in _BY_STATUS:
        return _BY_STATUS[status]
    if (
        status is None or 300 <= status < 500
    ):  # some gateways answer an overflow with 413; inside a 200 there is no status
        if _OVERFLOW.search(text):
            return ContextWindowExceededError
        return InternalServerError if status is None else BadRequestError
    return InternalServerError


def _int_or_none(value: object) -> int | None:
    try:
        return int(value) if isinstance(value, (int, str)) else None
    except ValueError:
        return None


def from_body(
    body: object,
    *,
    status_code: int | None = None,
    headers: Mapping[str, str] | None = None,
    secret: Secret = None,
) -> KlusterError:
    """Return the error for an error body, of an HTTP error or inside a 200.

    Args:
        body: The decoded JSON, or text. `{"error": {…}}`, the inner object alone, and vLLM's flat
            `{"object": "error", …}` are all read.
        status_code: The HTTP status. For an error inside a 200 leave it out: a numeric `code` in the body takes its
            place.
        headers: The answer's headers, for the request id and `Retry-After`.
        secret: One or several keys to mask, in case the server echoes one.
    """
    body = masked(body, secret)
    said = {k.lower(): masked(v, secret) for k, v in (headers or {}).items()}
    inner = (body.get("error") or body) if isinstance(body, dict) else body
    detail: Mapping[Any, Any] = inner if isinstance(inner, dict) else {"message": inner}
    code = detail.get("code")
    if code is None:
        code = detail.get("errorCode")
    message = detail.get("message") or detail.get("detail")
    text = "" if message is None else _plain(message)
    if not text or text in ("null", "{}", "[]"):
        text = f"HTTP {status_code} without a message." if status_code else "An error without a message."
    if status_code is None:
        found = _STATUS_OF_CODE.get(str(code)) or _int_or_none(code)
        status_code = found if found is not None and 400 <= found < 600 else None
    cls = _class_for(status_code, f"{text} {code}")
    return cls(
        text,
        status_code=status_code,
        code=None if code is None else _plain(code),
        request_id=said.get("x-request-id"),
        retry_after=_retry_after(said),
        body=body,
        headers=said,
    )


def _plain(message: object) -> str:
    """Return a message in one line; for a gateway's HTML page, its title or its text."""
    if isinstance(message, (bytes, bytearray)):
        message = message.decode("utf-8", "replace")
    text = message if isinstance(message, str) else str(message)
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair, which cannot be printed
    if text.lstrip()[:1] == "<":
        title = _TITLE.search(text)
        text = title.group(1) if title else _TAG.sub(" ", text)
    text = " ".join(text.split())
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"


def masked(value: Any, secret: Secret) -> Any:
    """Recursively replace `secret`, one or several, by `***`; under 8 characters they are ignored as placeholders."""
    known = [secret] if isinstance(secret, str) else sorted(secret or (), key=len, reverse=True)
    known = [one for one in known if len(one) >= _SHORTEST_KEY]
    return _masked(value, known) if known else value


def shortened(value: object) -> str:
    """Return a value as messages show it: its `repr`, cut after 120 characters."""
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + "…"


def _masked(value: Any, secrets: Sequence[str], levels: int = _LEVELS) -> Any:
    if isinstance(value, dict | list | tuple) and not levels:
        return "…"  # a body of a thousand levels has nothing to say, and could not be pickled or shown
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value)
        for secret in secrets:
            value = value.replace(secret.encode(), b"***")
        return value
    if isinstance(value, dict):
        return {_masked(k, secrets): _masked(v, secrets, levels - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(v, secrets, levels - 1) for v in value]
    return value


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date (RFC 9110, 10.2.3)."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        if (value := headers.get(name)) is None:
            continue
        try:
            seconds = float(value) / divisor
        except ValueError:
            seconds = _seconds_until(value)
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _seconds_until(date: str) -> float:
    try:
        when = email.utils.parsedate_tz(date)
        return math.nan if when is None else email.utils.mktime_tz(when) - time.time()
    except (ValueError, OverflowError, TypeError):
        return math.nan


def _translate(err: Exception, io: bool) -> KlusterError | None:
    chain = _causes(err)
    if isinstance(err, MemoryError):
        return InternalServerError("The answer does not fit into memory.", hint="set a lower max_response_bytes=….")
    names = {cls.__name__ for link in chain for cls in type(link).__mro__}
    if names & {"DecodingError", "ContentEncodingError"}:  # httpx's, aiohttp's
        return InternalServerError("The answer cannot be read: its compression is broken.")
    if "PoolTimeout" in names:
        return APITimeoutError(
            "No connection of http_client was free in time.",
            hint="give it more connections (limits=httpx.Limits(max_connections=…)), or send fewer requests at once.",
        )
    libraries = {cls.__module__.partition(".")[0] for cls in type(err).__mro__}
    if io or isinstance(err, OSError) or libraries & {"httpx", "httpx2", "aiohttp"}:
        # Judge by the cause: the library's own exception on top of it says less.
        if any(isinstance(link, TimeoutError) for link in chain) or "TimeoutException" in names:
            return APITimeoutError("The server did not answer in time.")
        said = _plain(f"{type(chain[-1]).__name__}: {chain[-1]}").rstrip(".: ")
        # httpcore keeps the resolver's and the socket's error in its own's arguments, and not as its cause.
        parts = [part for link in chain for part in (link, *link.args)]
        hints = {socket.gaierror: _UNKNOWN_HOST, ConnectionRefusedError: _REFUSED}
        hint = next((hint for cause, hint in hints.items() if any(isinstance(part, cause) for part in parts)), None)
        said = re.sub(r"//[^/@\s]*@", "//", said)  # aiohttp quotes a proxy's address, credentials included
        return APIConnectionError(f"The connection failed: {said}.", hint=hint)
    if isinstance(err, UnicodeEncodeError):
        return BadRequestError(
            f"The messages hold text that is not valid Unicode ({err.reason}).",
            hint='replace the bad characters: text.encode("utf-8", "replace").decode().',
        )
    if isinstance(err, (json.JSONDecodeError, UnicodeDecodeError)):
        return InternalServerError(f"The answer cannot be read: {_plain(err)}")
    if isinstance(err, (TypeError, ValueError)) and _NOT_JSON.search(str(err)):
        return BadRequestError(
            f"The request holds a value that JSON cannot hold ({_plain(err).rstrip('.')}).",
            hint="replace that value by text, numbers, lists or dicts; look in tool arguments, schemas and metadata.",
        )
    return None


def _causes(err: BaseException) -> list[BaseException]:
    """Return an exception and its causes. Not `__context__`: that may be what the caller was handling."""
    chain = [err]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    return chain


class mapped:  # noqa: N801
    """A context manager that turns every error inside into a `KlusterError`. It can be used several times.

    Args:
        secret: The key in use and other credentials, which are masked if a server echoes them.
        adapt: An adapter's own class for each class of this module, which inherits from it and from the framework's.
        io: Whether the block does nothing but I/O, so that any unknown exception is a failed connection.
    """

    __slots__ = ("_adapt", "_io", "_secret")

    def __init__(
        self,
        *,
        secret: Secret = None,
        adapt: Mapping[type[KlusterError], type[KlusterError]] | None = None,
        io: bool = False,
    ) -> None:
        self._secret = secret
        self._adapt = adapt or {}
        self._io = io

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, _: TracebackType | None) -> None:
        if not isinstance(err, Exception):
            if err is not None:
                err.__traceback__ = None  # a cancelled call's frames hold the headers, with the key
            return
        known = err if isinstance(err, KlusterError) else _translate(err, self._io)
        if known is not None and self._secret:
            known.mask(self._secret)
        if known is not None and (adapted := self._adapt.get(type(known))):
            known = adapted.like(known)
        if known is None:
            return
        if known is err:
            if self._io or self._secret:
                known.__traceback__ = None  # its frames hold the answer, in which a server may echo the key
            if known.__suppress_context__:
                known.__context__ = None  # what could not be read may hold an echoed key
            return
        try:
            raise known from None
        finally:
            # An HTTP library's exception holds the request, its frames the headers, with the key: nothing leads there.
            known.__context__ = None
            del err
