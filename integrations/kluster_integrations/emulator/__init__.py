"""A local look-alike of the kluster.ai HTTP API, for tests, demos and development without a key.

`with Emulator() as server:` serves `server.base_url` from a thread of this process. It follows the service's
documentation. A test states its answers, or another OpenAI-compatible server writes them; without either, a small
generic engine answers. Importing this package is cheap: the server's dependencies load when a name of it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kluster_integrations._extras import needs

if TYPE_CHECKING:
    from kluster_integrations.emulator.app import create_app
    from kluster_integrations.emulator.engine import ChatRequest
    from kluster_integrations.emulator.faults import Fault
    from kluster_integrations.emulator.instances import instance
    from kluster_integrations.emulator.jobs import BatchBehavior
    from kluster_integrations.emulator.records import RecordedRequest
    from kluster_integrations.emulator.replies import Reply
    from kluster_integrations.emulator.server import Emulator
    from kluster_integrations.emulator.settings import Settings

__all__ = [
    "BatchBehavior",
    "ChatRequest",
    "Emulator",
    "Fault",
    "RecordedRequest",
    "Reply",
    "Settings",
    "create_app",
    "instance",
]

_HOMES = {
    "BatchBehavior": "jobs",
    "ChatRequest": "engine",
    "Emulator": "server",
    "Fault": "faults",
    "RecordedRequest": "records",
    "Reply": "replies",
    "Settings": "settings",
    "create_app": "app",
    "instance": "instances",
}
THREAD = "kluster-emulator"
"""The name of the thread that an `Emulator` runs in."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    with needs("emulator"):
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
