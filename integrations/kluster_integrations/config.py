"""How to reach kluster.ai: the key, the address and the few choices that hold for every call."""

from kluster_integrations.core.config import (
    DEFAULT_BASE_URL,
    ENVIRONMENT,
    Headers,
    KlusterConfig,
    Unsupported,
    env_source,
    env_value,
    env_values,
    environment,
    known_plan,
    normalize_base_url,
    scrubbed,
)

__all__ = [
    "DEFAULT_BASE_URL",
    "ENVIRONMENT",
    "Headers",
    "KlusterConfig",
    "Unsupported",
    "env_source",
    "env_value",
    "env_values",
    "environment",
    "known_plan",
    "normalize_base_url",
    "scrubbed",
]
