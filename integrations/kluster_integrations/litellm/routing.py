"""Deployments for LiteLLM's `Router` and proxy, made from the catalog: groups, fallbacks, limits, prices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kluster_integrations.catalog import PLANS, ModelSpec, Plan, select
from kluster_integrations.config import KlusterConfig, known_plan
from kluster_integrations.litellm._models import PROVIDER, info

if TYPE_CHECKING:
    from litellm.router import Router

__all__ = ["GROUPS", "cooldowns", "fallbacks", "model_list", "retries", "router"]

_CHEAP = 3
_MAX_FALLBACKS = 2


def _price(spec: ModelSpec) -> float:
    return spec.prices.input + spec.prices.output if spec.prices else float("inf")


GROUPS: Mapping[str, Callable[[Sequence[ModelSpec]], list[ModelSpec]]] = {
    "tools": lambda specs: [spec for spec in specs if spec.supports_tools],
    "vision": lambda specs: [spec for spec in specs if spec.supports_vision],
    "reasoning": lambda specs: [spec for spec in specs if spec.reasoning],
    "cheap": lambda specs: sorted((spec for spec in specs if spec.prices), key=_price)[:_CHEAP],
}
"""The chat models of each group: those with native tools, vision or reasoning, and the three cheapest."""


def model_list(
    models: Iterable[str] | None = None,
    *,
    plan: Plan | None = None,
    api_keys: Sequence[str] = (),
    base_url: str | None = None,
    groups: bool = True,
) -> list[dict[str, Any]]:
    """Return deployments for `litellm.Router(model_list=…)`.

    Each model is a group under its own id, and also belongs to the groups of `GROUPS` that it fits. A key's limits
    apply to all its deployments together; `rpm` and `max_parallel_requests` repeat them for LiteLLM's strategies.

    Args:
        models: Ids; default: all current chat and embedding models.
        plan: The account's plan. Default: `KLUSTER_PLAN`, else unknown.
        api_keys: API keys; each model gets one deployment per key. Default: the key of the configuration.
        base_url: The address of the API. Default: that of the configuration.
        groups: Whether to add the groups of `GROUPS`.

    Raises:
        ValueError: If no plan has that name.
    """
    plan = known_plan(plan)
    keys: Sequence[str | None] = api_keys or (None,)
    return [
        _deployment(name, spec, plan, number, key, base_url)
        for name, members in _named(select(models, plan), groups=groups)
        for spec in members
        for number, key in enumerate(keys, 1)
    ]


def _named(specs: Sequence[ModelSpec], *, groups: bool) -> list[tuple[str, list[ModelSpec]]]:
    """Return the name and the members of each group: each model alone, then the groups of `GROUPS` with members."""
    chat = [spec for spec in specs if spec.purpose == "chat"]
    named = [(name, pick(chat)) for name, pick in GROUPS.items()] if groups else []
    return [*((spec.id, [spec]) for spec in specs), *((name, members) for name, members in named if members)]


def _deployment(
    name: str, spec: ModelSpec, plan: Plan | None, number: int, key: str | None, base_url: str | None
) -> dict[str, Any]:
    limits = PLANS[plan] if plan else None
    params = {
        "model": f"{PROVIDER}/{spec.id}",
        "api_key": key,
        "api_base": base_url,
        "rpm": limits.requests_per_minute if limits else None,
        "max_parallel_requests": limits.concurrent_requests if limits else None,
    }
    # The same on each instance, so that instances that share a Redis mean the same deployment. No colon is in it: some
    # of the Router's strategies would cut it there.
    id_ = f"{PROVIDER}/{spec.id}" + (f"#{number}" if number > 1 else "")
    return {
        "model_name": name,
        "litellm_params": {k: v for k, v in params.items() if v is not None},
        "model_info": {"id": id_ if name == spec.id else f"{name}/{id_}", **info(spec)},
    }


def fallbacks(
    models: Iterable[str] | None = None, *, plan: Plan | None = None, groups: bool = True
) -> tuple[list[dict[str, list[str]]], list[dict[str, list[str]]]]:
    """Return `fallbacks` and `context_window_fallbacks` for the groups of `model_list`.

    A model falls back to models that have all its capabilities, the nearest in price first. If its context window is
    too short, it falls back to models with a longer one, the shortest of them first.
    """
    specs = [spec for spec in select(models, known_plan(plan)) if spec.purpose == "chat"]
    general: list[dict[str, list[str]]] = []
    longer: list[dict[str, list[str]]] = []
    for name, members in _named(specs, groups=groups):
        others = [spec for spec in specs if spec not in members and all(_can_replace(spec, m) for m in members)]
        price = min(map(_price, members))
        near = sorted(others, key=lambda spec: _distance(_price(spec), price))
        window = min(member.context_window for member in members)
        wide = [s for s in specs if s.context_window > window and any(_can_replace(s, m) for m in members)]
        if near and len(members) == 1:
            general.append({name: [spec.id for spec in near[:_MAX_FALLBACKS]]})
        if wide:
            wide.sort(key=lambda spec: (spec.context_window, _price(spec)))
            longer.append({name: [spec.id for spec in wide[:_MAX_FALLBACKS]]})
    return general, longer


def _can_replace(spec: ModelSpec, other: ModelSpec) -> bool:
    return (
        spec.supports_tools >= other.supports_tools
        and spec.supports_vision >= other.supports_vision
        and spec.reasoning >= other.reasoning
    )


def _distance(a: float, b: float) -> float:
    return abs(a - b) if a != b else 0.0  # inf - inf is not a number


def router(
    models: Iterable[str] | None = None,
    *,
    plan: Plan | None = None,
    api_keys: Sequence[str] = (),
    base_url: str | None = None,
    redis_url: str | None = None,
    max_wait: float | None = None,
    groups: bool = True,
    **settings: Any,
) -> Router:
    """Return a `litellm.Router` over kluster.ai's models, and register the provider with the plan's limits.

    With one key there is no cooldown, because one error would stop all requests. With several keys, a key that fails is
    not used for 30 seconds.

    Args:
        models: As in `model_list`.
        plan: As in `model_list`.
        api_keys: As in `model_list`.
        base_url: As in `model_list`.
        redis_url: The Redis through which several processes share limits and cooldowns.
        max_wait: The most seconds that a request waits for the limits; after that it fails with `RateLimitError`.
            Default: no limit.
        groups: As in `model_list`.
        settings: Arguments of `litellm.Router`; they win over those that are set here.
    """
    from litellm.router import Router

    from kluster_integrations.limits import Limits
    from kluster_integrations.litellm.provider import register

    models = None if models is None else list(models)
    plan = known_plan(plan)
    limits = Limits.of(plan, max_wait=max_wait, redis_url=redis_url)
    register(KlusterConfig.merged(plan=plan, base_url=base_url), limits=limits)
    general, longer = fallbacks(models, plan=plan, groups=groups)
    ours: dict[str, Any] = {
        "model_list": model_list(models, plan=plan, api_keys=api_keys, base_url=base_url, groups=groups),
        "fallbacks": general,
        "context_window_fallbacks": longer,
        **retries(max_wait),
        **cooldowns(len(api_keys)),
    }
    if limits.redis_url:
        ours["redis_url"] = limits.redis_url
    return Router(**{**ours, **settings})


def retries(max_wait: float | None) -> dict[str, Any]:
    """Return the Router's settings for retries.

    The Router waits as long as a refusal says, which may be a minute. So with `max_wait` it does not retry.
    """
    settings: dict[str, Any] = {"num_retries": 2}
    if max_wait is not None:
        settings["retry_policy"] = {"RateLimitErrorRetries": 0}
    return settings


def cooldowns(keys: int) -> dict[str, Any]:
    """Return the Router's settings for cooldowns, by the number of keys."""
    if keys <= 1:
        return {"disable_cooldowns": True}
    # Without `allowed_fails`: the Router's own rule rests a key that is not accepted after its first error. The
    # failover asks another key before another model, also for an async stream that one key was refused.
    return {"cooldown_time": 30, "enable_weighted_failover": True}
