"""An OpenAI-compatible server in front of kluster.ai, for programs that send what kluster.ai does not take.

`with Gateway() as server:` serves `server.base_url` from a thread of this process; `kluster gateway` does so in the
foreground. It takes the chat completions, responses and embeddings of OpenAI's API and the messages of Anthropic's, and
answers them with the core's client: what the service lacks is done here.

    gate        who may come in, from where, and how large; what is logged
    chat, responses, messages, embeddings, models, files      one API each: its requests in, its answers out
    answers     how an answer goes out: whole, or event by event
    errors      the core's errors in each API's own form; wording has their words
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kluster_integrations._extras import needs

if TYPE_CHECKING:
    from kluster_integrations.gateway.app import create_app
    from kluster_integrations.gateway.server import Gateway

__all__ = ["Gateway", "create_app"]

_HOMES = {"Gateway": "server", "create_app": "app"}
LOGGER = "kluster_integrations.gateway"
"""The logger that gets one record per request, with what happened in its `request`: never a prompt or an answer."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    with needs("gateway"):
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
