"""Record calls of kluster.ai's API into a YAML file, and replay them without a network, a server or a key.

```python
with cassette("cassettes/answer.yaml"):
    ChatKluster(model="google/gemma-3-27b-it").invoke("Hello!")
```

The first run records, later ones replay. It records the traffic of openai 2.x (httpx), 3.x (httpx2) and aiohttp: sync,
async and streamed. So it works for LangChain, LiteLLM and CrewAI, and each SDK replays the recordings of the others.
Keys and all headers about the sender are left out. In pytest, the fixture `kluster_cassette` does this for each test.

Needs vcrpy: `pip install "kluster-integrations[recording]"`. Importing this package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kluster_integrations._extras import needs

if TYPE_CHECKING:
    from kluster_integrations.recording._cassette import CassetteError, Mode, cassette
    from kluster_integrations.recording._cassette import playing as playing

__all__ = ["CassetteError", "Mode", "cassette"]


def __getattr__(name: str) -> object:
    if name not in {*__all__, "playing"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    with needs("recording"):
        return getattr(import_module(f"{__name__}._cassette"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
