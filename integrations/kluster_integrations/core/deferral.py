"""Where chat requests go inside `batch.deferred`: they are not sent at once, and their answers come later."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.scope import Scope
from kluster_integrations.core.specs import ModelSpec
from kluster_integrations.core.transport import Answer

__all__ = ["Deferral", "current", "deferrals"]


class Deferral(Protocol):
    """Takes chat requests in place of the transport. Used from any thread."""

    def priced(self, spec: ModelSpec) -> ModelSpec:
        """Return a model's spec with the prices of the batch job."""

    def ask(self, body: Mapping[str, Any], config: KlusterConfig) -> Future[Answer]:
        """Take a request's body and configuration; the future gets the answer or the error later."""


# Not over forks: the thread that fetches the answers is not in the child.
deferrals: Scope[Deferral] = Scope("kluster_deferrals", over_forks=False)


def current() -> Deferral | None:
    """Return what takes the chat requests of this context; None if they are sent at once."""
    found = deferrals.current()
    return found[-1] if found else None
