"""What LiteLLM's proxy loads: `custom_handler: kluster_integrations.litellm.proxy.handler` in its `config.yaml`.

The key, the address and the plan come from the environment (`KLUSTER_API_KEY`, `KLUSTER_BASE_URL`, `KLUSTER_PLAN`) or
from the deployments of the `config.yaml` that `kluster export litellm` writes. With `KLUSTER_REDIS_URL` several
instances share the plan's limits. `KLUSTER_MAX_WAIT` is the most seconds that a request waits for them.
"""

from __future__ import annotations

from kluster_integrations.litellm.provider import register

__all__ = ["handler"]

handler = register()
