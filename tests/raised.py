"""What the tests of errors have in common."""

from __future__ import annotations

import pickle
import socket
import traceback
from typing import Any

import httpx
import pytest

from kluster_integrations import errors
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.errors import KlusterError

KEY = "kk-the-key-of-these-tests"


# The tree of the module's docstring, typed out once more.
PARENTS: dict[str, str] = {
    "AuthenticationError": "KlusterError",
    "PermissionDeniedError": "KlusterError",
    "NotFoundError": "KlusterError",
    "BadRequestError": "KlusterError",
    "UnsupportedParameterError": "BadRequestError",
    "ContextWindowExceededError": "BadRequestError",
    "RateLimitError": "KlusterError",
    "InternalServerError": "KlusterError",
    "APIConnectionError": "KlusterError",
    "APITimeoutError": "APIConnectionError",
    "TruncatedStreamError": "APIConnectionError",
    "OutputValidationError": "KlusterError",
    "BudgetExceededError": "KlusterError",
    "BatchFailedError": "KlusterError",
    "BatchExpiredError": "KlusterError",
    "JobLockedError": "KlusterError",
    "SubmissionUnclearError": "KlusterError",
    "CostLimitError": "KlusterError",
}


CLASSES = [errors.KlusterError, *(getattr(errors, name) for name in PARENTS)]


BY_STATUS = [
    (400, errors.BadRequestError),
    (401, errors.AuthenticationError),
    (402, errors.BadRequestError),
    (403, errors.PermissionDeniedError),
    (404, errors.NotFoundError),
    (405, errors.BadRequestError),
    (408, errors.APITimeoutError),
    (409, errors.BadRequestError),
    (413, errors.BadRequestError),
    (415, errors.BadRequestError),
    (422, errors.BadRequestError),
    (429, errors.RateLimitError),
    (500, errors.InternalServerError),
    (501, errors.InternalServerError),
    (502, errors.InternalServerError),
    (503, errors.InternalServerError),
    (504, errors.InternalServerError),
    (529, errors.InternalServerError),
]


def _full(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "status_code": 429,
        "code": "4290",
        "request_id": "req-1",
        "retry_after": 1.5,
        "hint": "wait",
        "body": {"error": {"message": "slow down"}},
        "headers": {"X-Request-Id": "req-1"},
    }
    return {**values, **changes}


def _shown(err: BaseException) -> str:
    """Return all that a logger, a crash reporter or a debugger shows of an error, its locals and its chain."""
    parts = [str(err), repr(err), repr(vars(err)), pickle.dumps(err).decode("latin-1")]
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [err]
    while queue:
        link = queue.pop()
        if link is None or link in seen:
            continue
        seen.append(link)
        tb = link.__traceback__
        if link is err and tb is not None:
            tb = tb.tb_next  # the first frame is the test's own, which knows the key
        exception = traceback.TracebackException(type(link), link, tb, capture_locals=True)
        parts += [*exception.format(), repr(getattr(link, "__notes__", ""))]
        for name in ("request", "response", "body"):
            part = getattr(link, name, None)
            headers = getattr(part, "headers", None)
            parts.append(str(dict(headers)) if headers is not None else repr(part))
        queue += [link.__cause__, link.__context__]  # also what `from None` only hides
    return "".join(parts)


def _closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _post_and_show(base_url: str, timeout: float = 5) -> str:
    config = KlusterConfig(api_key=KEY, base_url=base_url, max_retries=0, timeout=timeout)
    transport = Transport(config)
    body = {"model": "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo", "messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(KlusterError) as caught:
        transport.post(CHAT_PATH, body)
    err = caught.value
    tb = err.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    return _shown(err.with_traceback(tb))


def _request() -> httpx.Request:
    return httpx.Request("POST", "http://127.0.0.1/v1/x", headers={"Authorization": f"Bearer {KEY}"})


def _refusal(base_url: str) -> KlusterError:
    """Return the error that a request ends with."""
    with pytest.raises(KlusterError) as caught:
        Transport(KlusterConfig(api_key=KEY, base_url=base_url, max_retries=0)).post(CHAT_PATH, {"model": "m"})
    return caught.value


class _AdaptedTimeoutError(errors.APITimeoutError, TimeoutError):
    pass
