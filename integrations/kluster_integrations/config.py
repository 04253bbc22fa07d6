"""How to reach kluster.ai: the key, the address and the few choices that hold for every call."""

from kluster_integrations.core.config import (
    DEFAULT_BASE_URL,
    ENVIRONMENT,
    Headers,
    KlusterConfig,
    Unsupported,
    env_source,
    environment,
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
    "environment",
    "normalize_base_url",
    "scrubbed",
]
