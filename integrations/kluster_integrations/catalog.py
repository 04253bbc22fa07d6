"""What each kluster.ai model can do, how much it takes and what it costs.

Ids that are not in the catalog are legal (a fine-tuned model, a dedicated deployment) and get the conservative defaults
of `ModelSpec`, until `add` or `refresh` says more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kluster_integrations.core.plans import PLANS, Plan, PlanLimits
from kluster_integrations.core.specs import ModelSpec, Prices, add, all_models, get, select, suggest

if TYPE_CHECKING:
    from kluster_integrations.core.refresh import load, refresh

__all__ = [
    "PLANS",
    "ModelSpec",
    "Plan",
    "PlanLimits",
    "Prices",
    "add",
    "all_models",
    "get",
    "load",
    "refresh",
    "select",
    "suggest",
]


def __getattr__(name: str) -> Any:
    if name not in ("load", "refresh"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kluster_integrations.core import refresh as home  # brings the HTTP client, which takes long to import

    return getattr(home, name)
