"""The account's plans, and what each of them allows."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal, cast, get_args

__all__ = ["PLANS", "Plan", "PlanLimits", "parse_plan"]

Plan = Literal["trial", "core", "scale", "enterprise"]


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """What a plan allows. None means unlimited; for the two windows it means those of the model.

    Source: the rate-limit table of kluster.ai's docs, 2025-07-31.
    """

    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    max_batch_requests: int | None = None
    fine_tuned_models: int | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None


def _read() -> dict[str, PlanLimits]:
    text = resources.files(__package__).joinpath("plans.toml").read_text("utf-8")
    return {name: PlanLimits(**limits) for name, limits in tomllib.loads(text).items()}


PLANS: Mapping[str, PlanLimits] = _read()


def parse_plan(name: object) -> Plan:
    """Return a plan by its name; upper case and spaces around it do not matter.

    Raises:
        ValueError: If no plan has that name.
    """
    plan = name.strip().lower() if isinstance(name, str) else name
    if plan not in get_args(Plan):
        raise ValueError(f"plan={name!r} must be one of {', '.join(get_args(Plan))}.")
    return cast("Plan", plan)
