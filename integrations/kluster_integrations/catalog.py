"""What each kluster.ai model can do, how much it takes and what it costs.

Ids that are not in the catalog work, too (a fine-tuned model, a dedicated deployment). They get the conservative
defaults of `ModelSpec`. Your own file (`KLUSTER_CATALOG`), `add` and `refresh` tell more about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kluster_integrations.core.plans import PLANS, Plan, PlanLimits
from kluster_integrations.core.specs import NATIVE, ModelSpec, Prices, add, suggest

if TYPE_CHECKING:
    from kluster_integrations.core.own_models import all_models, get, read, select
    from kluster_integrations.core.refresh import load, refresh

__all__ = [
    "NATIVE",
    "PLANS",
    "ModelSpec",
    "Plan",
    "PlanLimits",
    "Prices",
    "add",
    "all_models",
    "get",
    "load",
    "read",
    "refresh",
    "select",
    "suggest",
]


def __getattr__(name: str) -> Any:
    # Both take long to import: the one brings pydantic, the other the HTTP client.
    if name in ("all_models", "get", "read", "select"):
        from kluster_integrations.core import own_models as home
    elif name in ("load", "refresh"):
        from kluster_integrations.core import refresh as home  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(home, name))
