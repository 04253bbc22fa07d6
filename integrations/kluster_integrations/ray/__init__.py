"""Ray Data: a chat request per row.

dataset.map_batches(KlusterRows, fn_constructor_kwargs={"model": …, "prompt": "review"}, concurrency=2)
"""

from kluster_integrations.ray.rows import KlusterRows

__all__ = ["KlusterRows"]
