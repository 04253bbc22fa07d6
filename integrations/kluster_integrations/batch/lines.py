"""A request as a line of a batch file, and what its answers say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kluster_integrations.core import own_models, repair, tokens
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import BadRequestError, KlusterError
from kluster_integrations.core.response import read
from kluster_integrations.core.sse import loads
from kluster_integrations.core.types import ChatRequest, Completion

__all__ = [
    "BATCH_PATH",
    "Line",
    "Replayed",
    "as_bytes",
    "dump",
    "not_a_line",
    "pack",
    "read_foreign",
    "repack",
    "replay",
    "unpack",
]

BATCH_PATH = "/v1/chat/completions"

_KEPT = tuple(
    f for f in dataclasses.fields(ChatRequest) if f.name not in ("body", "spec", "check", "options")
)  # what reading an answer needs, beside the body


class Line(NamedTuple):
    """A request as the journal keeps it.

    Attributes:
        custom_id: The input's index and a hash of the body, so that the same input has the same id.
        body: The body, as JSON.
        extra: JSON with what is needed to read the answer besides the body; None if nothing is.
        size: Bytes of the line in a file.
        prompt_tokens: The estimated tokens of the prompt.
        completion_tokens: The request's limit of tokens, or 500.
        assumed: Whether the request has no limit of tokens.
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
            f"requests[{index}] has a check: a function cannot be kept in a file.",
            hint="leave check out, and check the results in your own code.",
        )
    kept: dict[str, Any] = {}
    for field in _KEPT:
        value = getattr(request, field.name)
        if value != (field.default_factory() if callable(field.default_factory) else field.default):
            kept[field.name] = sorted(value) if isinstance(value, frozenset) else value
    extra = json.dumps(kept, ensure_ascii=False) if kept else None
    return repack(index, request)._replace(extra=extra)


def repack(index: int, request: ChatRequest) -> Line:
    """Return the line of a repair; the journal already has its `extra`."""
    body = dump(request.body)
    encoded = body.encode()
    custom_id = f"{index:08d}-{hashlib.sha256(encoded).hexdigest()[:12]}"
    prompt, completion = tokens.estimate_request(request.body, request.spec.max_output_tokens)
    return Line(
        custom_id,
        body,
        None,
        request.spec.id,
        len(as_bytes(custom_id, "")) + len(encoded),
        prompt,
        completion,
        not request.max_tokens,
    )


def dump(body: Mapping[str, Any]) -> str:
    """Return a body as JSON. Half a surrogate pair, which UTF-8 cannot encode, makes it ASCII with escapes."""
    text = json.dumps(body, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(body)
    return text


def unpack(body: str, extra: str | None, config: KlusterConfig) -> ChatRequest:
    """Return the request that `pack` stored; the catalog of `config` knows its model."""
    read_body = json.loads(body)
    request = ChatRequest(read_body, own_models.get(str(read_body.get("model")), config=config))
    for name, value in json.loads(extra or "{}").items():
        default = getattr(request, name)
        setattr(request, name, type(default)(value) if isinstance(default, (tuple, frozenset)) else value)
    return request


def as_bytes(custom_id: str, body: str) -> bytes:
    """Return the line of a batch file."""
    head = f'{{"custom_id": {json.dumps(custom_id)}, "method": "POST", "url": "{BATCH_PATH}", "body": '
    return f"{head}{body}}}\n".encode()


_ADOPTED = "this job cannot be adopted: download its output file, and read it yourself."


def read_foreign(raw: bytes, where: str, hint: str = _ADOPTED) -> tuple[str, dict[str, Any]]:
    """Return custom id and body of a line that another program wrote; `where` begins the error.

    Raises:
        BadRequestError: It is not a line of a batch file of chat requests.
    """
    try:
        line = loads(raw)
    except (ValueError, RecursionError):
        raise not_a_line(where, f"is not JSON: {raw.strip()[:100]!r}", hint) from None
    if not isinstance(line, dict):
        raise not_a_line(where, f"is not a JSON object: {raw.strip()[:100]!r}", hint)
    custom_id = line.get("custom_id")
    body = found if isinstance(found := line.get("body"), dict) else {}
    if not isinstance(custom_id, str) or not custom_id:
        raise not_a_line(where, f"has custom_id={custom_id!r}, which must be a text that is not empty", hint)
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise not_a_line(where, f"has no list of messages in its body: body={str(found)[:100]}", hint)
    return custom_id, body


def not_a_line(where: str, why: str, hint: str = _ADOPTED) -> BadRequestError:
    """Return the error for a line that cannot be matched with its answer, or not be read."""
    return BadRequestError(f"{where} {why}.", hint=hint)


class Replayed(NamedTuple):
    """The result of an input's answers: the next request (a repair), a completion, or an error."""

    request: ChatRequest | None
    completion: Completion | None
    error: KlusterError | None
    tokens: int


def replay(request: ChatRequest, answers: Iterable[Mapping[str, Any]]) -> Replayed:
    """Check the answers to an input again. The same answers always give the same result.

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
