"""The tokens of an LLM. Every call is in exactly one sum."""

from __future__ import annotations

import threading
from typing import Any

from crewai.types.usage_metrics import UsageMetrics

from kluster_integrations.core.types import Usage

__all__ = ["Tally"]


class Tally:
    """Counts tokens; thread-safe.

    A copy of an LLM has its own count, because `kickoff_for_each` copies the crew for each input. CrewAI's memory also
    uses a copy, but no crew asks for its count. Its tokens go to the first LLM of the family (the original and its
    copies) whose count is read next, and so once into the sum of a crew.

    Args:
        origin: The count of the LLM that was copied; None for an original.
        is_memorys: Whether CrewAI's memory uses the copy.
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
