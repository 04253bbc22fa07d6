"""kluster.ai for LiteLLM: `kluster/<model id>` as a provider, a router and a proxy.

```python
import litellm
from kluster_integrations.litellm import register

register()
litellm.completion("kluster/klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", messages=[…])
```

LiteLLM takes seconds to import; it loads when a name of this module is first used. By default it then downloads its
table of prices. This package has its own prices, so importing it first prevents the download.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kluster_integrations._extras import needs

if TYPE_CHECKING:
    from kluster_integrations.litellm.batches import (
        acancel_batch,
        acreate_batch,
        acreate_file,
        afile_content,
        alist_batches,
        aretrieve_batch,
        cancel_batch,
        create_batch,
        create_file,
        file_content,
        list_batches,
        retrieve_batch,
    )
    from kluster_integrations.litellm.provider import KlusterLLM, register
    from kluster_integrations.litellm.routing import model_list, router

__all__ = [
    "KlusterLLM",
    "acancel_batch",
    "acreate_batch",
    "acreate_file",
    "afile_content",
    "alist_batches",
    "aretrieve_batch",
    "cancel_batch",
    "create_batch",
    "create_file",
    "file_content",
    "list_batches",
    "model_list",
    "register",
    "retrieve_batch",
    "router",
]

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

_HOMES = {"KlusterLLM": "provider", "register": "provider", "model_list": "routing", "router": "routing"}
_HOMES |= {name: "batches" for name in __all__ if name not in _HOMES}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    with needs("litellm"):
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
