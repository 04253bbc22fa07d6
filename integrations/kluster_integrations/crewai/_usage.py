"""The tokens of an LLM, counted so that no call is in no sum and none is in two."""

from __future__ import annotations

import threading
from typing import Any

from crewai.types.usage_metrics import UsageMetrics

from kluster_integrations.core.types import Usage

__all__ = ["Tally"]


class Tally:
    """Counts tokens; safe over threads.

    A copy of an LLM counts for itself, as `kickoff_for_each` needs, which copies the crew for each input. CrewAI's
    memory works on a copy, too, which belongs to no agent: what that has used goes to whichever LLM of the family (the
    first and its copies) is asked next, and so into the sum of its crew, once.

    Args:
        origin: The tally of the LLM that this one's is a copy of.
        is_memorys: Whether the copy is memory's.
    """

    def __init__(self, origin: Tally | None = None, *, is_memorys: bool = False) -> None:
        self._lock: Any = origin._lock if origin else threading.Lock()
        self._of_memory: UsageMetrics = origin._of_memory if origin else UsageMetrics()
        self._own = self._of_memory if is_memorys else UsageMetrics()

    def __getstate__(self) -> UsageMetrics:
        return self.summary()

    def __setstate__(self, counted: UsageMetrics) -> None:
        self._lock, self._of_memory, self._own = threading.Lock(), UsageMetrics(), counted

    def add(self, usage: Usage) -> None:
        """Count a call with its repairs."""
        counted = UsageMetrics(
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_prompt_tokens=usage.cached_tokens or 0,
            reasoning_tokens=usage.reasoning_tokens or 0,
            successful_requests=usage.requests,
        )
        with self._lock:
            self._own.add_usage_metrics(counted)

    def summary(self) -> UsageMetrics:
        """Return the tokens so far."""
        with self._lock:
            if self._own is not self._of_memory:
                self._own.add_usage_metrics(self._of_memory)
                for name in type(self._of_memory).model_fields:
                    setattr(self._of_memory, name, 0)
            return self._own.model_copy()
