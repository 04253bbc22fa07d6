"""Reliability checks: is an answer supported by its context, or without a context by general knowledge?

`POST /v1/verify/reliability`, as the docs' guide "Reliability via the Verify API" (2025-07-31) describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import BadRequestError, InternalServerError, shortened
from kluster_integrations.core.limits import Limits, aadmitted, admitted, shared
from kluster_integrations.core.streaming import read_usage
from kluster_integrations.core.transport import Answer, Transport
from kluster_integrations.core.types import Usage

__all__ = ["Verdict", "Verifier"]

_PATH = "/verify/reliability"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The service's verdict on an answer.

    Attributes:
        reliable: False if the service found a hallucination.
        explanation: The reason.
        usage: Tokens of the check. If the service sends none: zeros, with `usage.estimated` set.
        search_results: What the service found on the web (`title`, `snippet`, `link`), with `search=True`.
    """

    reliable: bool
    explanation: str
    usage: Usage
    search_results: tuple[Mapping[str, str], ...] = ()

    def __bool__(self) -> bool:
        return self.reliable


class Verifier:
    """Checks answers for one configuration.

    Args:
        config: The connection; default: from the environment.
    """

    def __init__(self, config: KlusterConfig | None = None) -> None:
        self._config = KlusterConfig.of(config)
        self._transport = Transport(self._config)

    def check(self, prompt: str, output: str, context: str | None = None, *, search: bool = False) -> Verdict:
        """Check an answer.

        Args:
            prompt: The question.
            output: The answer.
            context: The text that the answer must agree with. None: general knowledge, which the service looks up.
            search: Whether the verdict includes what the service found on the web.

        Raises:
            BadRequestError: A text is empty or too long.
            KlusterError: Whatever else goes wrong.
        """
        body = _body(prompt, output, context, search)
        with self._transport.errors, admitted(shared(Limits.of(self._config.plan), self._config)):
            return _read(self._transport.post(_PATH, body))

    async def acheck(self, prompt: str, output: str, context: str | None = None, *, search: bool = False) -> Verdict:
        """As `check`."""
        body = _body(prompt, output, context, search)
        with self._transport.errors:
            async with aadmitted(shared(Limits.of(self._config.plan), self._config)):
                return _read(await self._transport.apost(_PATH, body))


def _body(prompt: str, output: str, context: str | None, search: bool) -> dict[str, Any]:
    for name, text in (("prompt", prompt), ("output", output)):
        if not isinstance(text, str) or not text.strip():
            raise BadRequestError(f"{name}={text!r} must be a text that is not empty.", hint=f"pass the {name}.")
    if context is not None and not isinstance(context, str):
        raise BadRequestError(f"context={str(context)[:100]!r} must be a text, or None.", hint="join texts to one.")
    body: dict[str, Any] = {"prompt": prompt, "output": output, "return_search_results": search}
    return body if context is None else {**body, "context": context}


def _read(answer: Answer) -> Verdict:
    data = answer.data
    if not isinstance(data, dict) or not isinstance(data.get("is_hallucination"), bool):
        raise InternalServerError(f"The answer is not a verdict: {shortened(data)}")
    usage = read_usage(data.get("usage") or {}) or Usage(0, 0, 0, estimated=True)
    results = data.get("search_results")
    found = tuple(
        {name: str(value) for name, value in result.items() if value is not None}
        for result in (results if isinstance(results, list) else ())
        if isinstance(result, dict)
    )
    return Verdict(not data["is_hallucination"], str(data.get("explanation") or ""), usage, found)
