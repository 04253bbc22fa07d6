"""The catalog in LiteLLM's form: limits, capabilities and prices of each model. Does not import LiteLLM."""

from __future__ import annotations

from typing import Any

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig

__all__ = ["PROVIDER", "info", "table"]

PROVIDER = "kluster"


def info(spec: ModelSpec) -> dict[str, Any]:
    """Return LiteLLM's description of a model. An unknown price is left out: LiteLLM counts it as 0."""
    chat = spec.purpose != "embeddings"
    entry: dict[str, Any] = {
        "litellm_provider": PROVIDER,
        "mode": "chat" if chat else "embedding",
        "max_input_tokens": spec.context_window,
        "max_tokens": spec.max_output_tokens if chat else spec.context_window,
    }
    if chat:
        # Tools and JSON answers work on every model: through the prompt where a model has none of its own. No
        # `supports_reasoning`: by it LiteLLM (and DSPy, which asks LiteLLM) means that a model takes reasoning_effort.
        entry |= {
            "max_output_tokens": spec.max_output_tokens,
            "supports_system_messages": True,
            "supports_function_calling": True,
            "supports_tool_choice": True,
            "supports_parallel_function_calling": True,
            "supports_response_schema": True,
            "supports_vision": spec.supports_vision,
        }
    elif spec.embedding_dimensions is not None:
        entry["output_vector_size"] = spec.embedding_dimensions
    price = spec.prices
    if price is not None:
        entry |= {"input_cost_per_token": price.input / 1_000_000, "output_cost_per_token": price.output / 1_000_000}
    # Cached tokens cost what others do; left out, LiteLLM warns that it does not know.
    cached = entry.get("input_cost_per_token", 0.0)
    entry |= {"cache_read_input_token_cost": cached, "cache_creation_input_token_cost": cached}
    return entry


def table(config: KlusterConfig) -> dict[str, dict[str, Any]]:
    """Return LiteLLM's descriptions of all models of the catalog, under the account's plan, by `kluster/<id>`."""
    return {f"{PROVIDER}/{spec.id}": info(spec.for_plan(config.plan)) for spec in catalog.all_models(config)}
