"""What the routes share: the client, the key, the memory of responses; JSON in and out."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from kluster_integrations import Budget
from kluster_integrations.core.client import Client
from kluster_integrations.core.types import ChatRequest
from kluster_integrations.errors import BadRequestError, UnsupportedParameterError
from kluster_integrations.files import Files
from kluster_integrations.gateway.errors import refusal
from kluster_integrations.gateway.jobs import Jobs
from kluster_integrations.gateway.memory import Memory
from kluster_integrations.gateway.wording import place

__all__ = ["Json", "Log", "Service", "body_of", "dump", "log_of", "one_answer", "service_of"]


_HINTS = frozenset(
    {
        *("store", "user", "service_tier", "safety_identifier", "prediction"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "reasoning_effort", "verbosity"),
    }
)
"""Parameters of OpenAI's API that do not change what may be answered: left out, for kluster.ai does not take them."""


@dataclass(slots=True)
class Log:
    """What is logged of one request; never what it says."""

    model: str | None = None
    stream: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_ms: float | None = None
    error: str | None = None


@dataclass(slots=True, eq=False)
class Service:
    """The state of one gateway.

    Attributes:
        client: Asks kluster.ai.
        files: Asks for files and batch jobs.
        key: What clients must send; None lets any in.
        origins: The origins of web pages that may ask; `*` is any.
        aliases: Model ids by the names that clients know; a name may have a `*`.
        budget: Counts and limits what all requests cost.
        max_body: The largest body in bytes; of files 100 MB and a little are always taken.
        memory: The answers of `/v1/responses`.
        jobs: What files of batch jobs are expected to take; read where there is a budget.
    """

    client: Client
    files: Files
    jobs: Jobs
    key: str | None = None
    origins: Sequence[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    budget: Budget | None = None
    max_body: int = 64 * 2**20
    memory: Memory = field(default_factory=Memory)

    def model(self, name: object) -> str:
        """Return the id that a client's name for a model stands for.

        Raises:
            BadRequestError: If it is not a name.
        """
        if not isinstance(name, str) or not name.strip():
            raise BadRequestError(f"model={name!r} must be a model id.", hint="GET /v1/models lists them.")
        return next((id_ for alias, id_ in self.aliases.items() if fnmatch.fnmatchcase(name, alias)), name)

    def build(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        params: Mapping[str, Any],
        *,
        stream: bool,
        n: int = 1,
        placed: bool = True,
    ) -> ChatRequest:
        """Build a request; what OpenAI's API does not know goes to the server as it is.

        With `unsupported="drop"` that is left out, too. `n`, and what only says how to answer, is sent where the server
        has it. Where a message or a tool has a `where`, errors name that, unless it is the client's (not `placed`).
        """
        native = self.client.spec(model).native
        params = {name: value for name, value in params.items() if name not in _HINTS or name in native}
        several = n > 1 and "n" in native
        if several:
            params = {**params, "n": n}
        known, extra = params, None
        if self.client.config.unsupported != "drop":
            # In extra_body it would be sent to a server that may not have it.
            known = {"response_format": params.get("response_format")}
            extra = {name: value for name, value in params.items() if name not in known}
        try:
            return self.client.build(model, messages, known, stream=stream, extra_body=extra, several=several)
        except BadRequestError as err:
            if placed:
                place(err, messages, params.get("tools"))
            raise

    def counted(self) -> AbstractContextManager[object]:
        """Return the context in which requests count for the budget."""
        return self.budget or nullcontext()


def service_of(request: Request) -> Service:
    """Return the service that a request is for."""
    service: Service = request.app.state.service
    return service


def log_of(request: Request) -> Log:
    """Return what is noted of a request."""
    log: Log = request.scope["kluster.log"]
    return log


async def body_of(request: Request) -> dict[str, Any]:
    """Return the decoded body of a request.

    Raises:
        BadRequestError: If it is not one JSON object.
    """
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise refusal(415, f"The body is encoded (Content-Encoding: {encoding[:50]}). Send plain JSON.")
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise BadRequestError("The body is not JSON.", hint='send one JSON object: {"model": "…", …}.') from None
    if not isinstance(body, dict):
        raise BadRequestError(
            f"The body is a {type(body).__name__}, not an object.", hint='send one JSON object: {"model": "…", …}.'
        )
    log = log_of(request)
    log.model = str(body.get("model"))[:200]
    stream = body.get("stream")
    if not isinstance(stream, bool | None):
        raise BadRequestError(f"stream={stream!r:.80} must be true or false.", hint="leave it out for false.")
    log.stream = stream is True
    return body


def one_answer(body: Mapping[str, Any]) -> None:
    """Raise if a request asks for several answers, of an API that gives one.

    Raises:
        UnsupportedParameterError: If it does.
    """
    if (n := body.get("n")) not in (None, 1):
        raise UnsupportedParameterError(
            f"n={str(n)[:80]} is not supported by this API, which gives one answer; allowed is 1.",
            hint="send the request n times, or to /v1/chat/completions, which takes n.",
        )


_dumps = json.JSONEncoder(separators=(",", ":")).encode  # ASCII, so that half a surrogate pair passes, too


def dump(value: object) -> bytes:
    """Return compact JSON."""
    return _dumps(value).encode()


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Return the body."""
        return dump(content)
