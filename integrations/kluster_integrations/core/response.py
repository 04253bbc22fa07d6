"""Whole answers. The state machine of streams reads them, too, so that the results are the same."""

from __future__ import annotations

from collections.abc import Mapping

from kluster_integrations.core.errors import InternalServerError
from kluster_integrations.core.streaming import ChatStream, read_usage
from kluster_integrations.core.types import NO_USAGE, ChatRequest, Completion, Usage, collect

__all__ = ["read"]


def read(data: object, request: ChatRequest, headers: Mapping[str, str] | None = None) -> Completion:
    """Return the completion of a whole answer; with `n`, the first one, with the rest in `others`.

    Args:
        data: The decoded JSON of the answer.
        request: The request.
        headers: The HTTP headers of the answer.

    Raises:
        KlusterError: The answer is an error inside a 200, has no choices, or has another number of them than `n`.
    """
    choices = data.get("choices") if isinstance(data, dict) else None
    if request.n == 1 or not isinstance(data, dict) or not isinstance(choices, list) or not choices:
        return _one(data, request, headers)
    if len(choices) != request.n:
        raise InternalServerError(
            f"The server gives {len(choices)} answers where n={request.n} asked for as many.",
            hint='take "n" out of the model\'s `native` in your catalog: the server does not keep to it.',
        )
    shared = {name: value for name, value in data.items() if name not in ("choices", "usage")}
    alone = [{**choice, "index": 0} if isinstance(choice, dict) else choice for choice in _in_order(choices)]
    first, *others = (_one({**shared, "choices": [choice]}, request, headers) for choice in alone)
    first.usage = _together([first.usage, *(other.usage for other in others)], read_usage(data.get("usage")))
    first.others = others
    for other in others:
        other.usage = NO_USAGE
    return first


def _in_order(choices: list[object]) -> list[object]:
    """Return the choices in the order of their index; unchanged if one has no index."""
    at = [choice.get("index") if isinstance(choice, dict) else None for choice in choices]
    return [choices[at.index(i)] for i in range(len(at))] if set(at) == set(range(len(at))) else choices


def _together(each: list[Usage], said: Usage | None) -> Usage:
    """Return the usage of several answers to one prompt: the server's, else the sum of the estimates."""
    completion = sum(usage.completion_tokens for usage in each)
    reasoning = sum(usage.reasoning_tokens or 0 for usage in each)
    if said is None:
        prompt = each[0].prompt_tokens
        said = Usage(prompt, completion, prompt + completion, reasoning or None, None, True, bool(reasoning))
    elif reasoning and said.reasoning_tokens is None and said.completion_tokens:
        share = max(1, round(said.completion_tokens * reasoning / completion))
        said = said._replace(reasoning_tokens=min(share, said.completion_tokens), reasoning_estimated=True)
    return said


def _one(data: object, request: ChatRequest, headers: Mapping[str, str] | None) -> Completion:
    reader = ChatStream(request)
    reader.headers = headers or {}
    return collect(reader.whole(data))
