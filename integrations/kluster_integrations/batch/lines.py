"""A request as a line of a batch file, and what its answers say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kluster_integrations.core import repair, specs, tokens
from kluster_integrations.core.errors import BadRequestError, KlusterError
from kluster_integrations.core.response import read
from kluster_integrations.core.types import ChatRequest, Completion

__all__ = ["BATCH_PATH", "Line", "Replayed", "as_bytes", "dump", "pack", "repack", "replay", "unpack"]

BATCH_PATH = "/v1/chat/completions"
_ASSUMED_COMPLETION = 500  # tokens, where a request sets no limit; stated in CostEstimate

_KEPT = tuple(
    f for f in dataclasses.fields(ChatRequest) if f.name not in ("body", "spec", "check", "options")
)  # what reading an answer needs, beside the body


class Line(NamedTuple):
    """A request as the journal keeps it.

    Attributes:
        custom_id: The input's index and a hash of the body: the same input has the same id.
        body: JSON, as it is sent.
        extra: JSON of what reading the answer needs; None where the body is enough.
        size: Bytes of the line in a file.
        prompt_tokens: Estimated.
        completion_tokens: The most, or an assumption.
        assumed: Whether it is an assumption.
    """

    custom_id: str
    body: str
    extra: str | None
    model: str
    size: int
    prompt_tokens: int
    completion_tokens: int
    assumed: bool


def pack(index: int, request: ChatRequest) -> Line:
    """Return a request as the line of an input.

    Raises:
        BadRequestError: If it has a `check`, which a journal cannot keep.
    """
    if request.check is not None:
        raise BadRequestError(
            f"requests[{index}] has a check: a function cannot wait in a file for its answer.",
            hint="leave it out, and check the results.",
        )
    kept: dict[str, Any] = {}
    for field in _KEPT:
        value = getattr(request, field.name)
        if value != (field.default_factory() if callable(field.default_factory) else field.default):
            kept[field.name] = sorted(value) if isinstance(value, frozenset) else value
    extra = json.dumps(kept, ensure_ascii=False) if kept else None
    return repack(index, request)._replace(extra=extra)


def repack(index: int, request: ChatRequest) -> Line:
    """Return the line of a repair; what reading its answer needs is kept already."""
    body = dump(request.body)
    encoded = body.encode()
    custom_id = f"{index:08d}-{hashlib.sha256(encoded).hexdigest()[:12]}"
    most = request.body.get("max_completion_tokens")
    return Line(
        custom_id,
        body,
        None,
        request.spec.id,
        len(as_bytes(custom_id, "")) + len(encoded),
        tokens.estimate_prompt(request.body["messages"], request.body.get("tools", ())),
        most or min(_ASSUMED_COMPLETION, request.spec.max_output_tokens),
        not most,
    )


def dump(body: Mapping[str, Any]) -> str:
    """Return a body as JSON; where a model has written half of a surrogate pair, in ASCII: UTF-8 cannot say it."""
    text = json.dumps(body, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(body)
    return text


def unpack(body: str, extra: str | None) -> ChatRequest:
    """Return the request that `pack` was given."""
    read_body = json.loads(body)
    request = ChatRequest(read_body, specs.get(str(read_body.get("model"))))
    for name, value in json.loads(extra or "{}").items():
        default = getattr(request, name)
        setattr(request, name, type(default)(value) if isinstance(default, (tuple, frozenset)) else value)
    return request


def as_bytes(custom_id: str, body: str) -> bytes:
    """Return the line of a batch file."""
    head = f'{{"custom_id": {json.dumps(custom_id)}, "method": "POST", "url": "{BATCH_PATH}", "body": '
    return f"{head}{body}}}\n".encode()


class Replayed(NamedTuple):
    """What the answers to an input come to: the next request (a repair), a completion, or an error."""

    request: ChatRequest | None
    completion: Completion | None
    error: KlusterError | None
    tokens: int


def replay(request: ChatRequest, answers: Iterable[Mapping[str, Any]]) -> Replayed:
    """Go through the answers to an input once more: the same answers always come to the same.

    Raises:
        KlusterError: If an answer cannot be read.
    """
    attempts, used = repair.attempts(request), 0
    current = next(attempts)
    for answer in answers:
        completion = read(answer, current)
        used += completion.usage.total_tokens
        try:
            current = attempts.send(completion)
        except StopIteration as done:
            return Replayed(None, done.value, None, used)
        except KlusterError as err:
            return Replayed(None, None, err, used)
    return Replayed(current, None, None, used)
