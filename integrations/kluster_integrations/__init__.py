"""kluster.ai for LangChain, LiteLLM and CrewAI.

Importing this package loads no framework; each adapter is a module of its own: `kluster_integrations.langchain`,
`kluster_integrations.litellm`, `kluster_integrations.crewai`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kluster_integrations._version import __version__

if TYPE_CHECKING:
    from kluster_integrations.catalog import ModelSpec
    from kluster_integrations.config import KlusterConfig
    from kluster_integrations.core.budget import Budget, budget
    from kluster_integrations.errors import KlusterError

__all__ = ["Budget", "KlusterConfig", "KlusterError", "ModelSpec", "__version__", "budget", "catalog", "errors"]

# There is no module `budget` here: once imported it would take the function's place.
_HOMES = {
    "Budget": "core.budget",
    "KlusterConfig": "config",
    "KlusterError": "errors",
    "ModelSpec": "catalog",
    "budget": "core.budget",
}
_MODULES = frozenset({"catalog", "config", "errors"})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
