"""`Gateway`: the application on uvicorn, in a thread of this process."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from kluster_integrations import Budget
from kluster_integrations._serving import ThreadServer
from kluster_integrations.config import KlusterConfig
from kluster_integrations.gateway.app import create_app
from kluster_integrations.gateway.gate import is_loopback
from kluster_integrations.limits import Limits

__all__ = ["Gateway"]


class Gateway(ThreadServer):
    """An OpenAI-compatible server in front of kluster.ai. A context manager; also `start()` and `stop()`.

    Args:
        config: The connection to kluster.ai; default: from the environment.
        host: The address to listen on.
        port: The port, 0 for any free one.
        key: What clients must send. Default: on a loopback address anything will do, elsewhere a random one is made.
        limits: The account's limits; default: those of the plan.
        budget: Counts and limits what all requests cost; batch jobs by an estimate, when they are created.
        origins: Origins of web pages that may ask without a key; `*` is any, and lets every site spend your key.
        aliases: Model ids by the names that clients know; a name may have a `*`, as in `claude-*`.
        max_body: The largest body, in bytes.
        grace: Seconds that running requests get to end when it stops.

    Attributes:
        key: What clients must send, None if anything will do.

    Raises:
        ValueError: If an argument or an environment variable is not acceptable.
    """

    _what = "gateway"
    _thread_name = "kluster-gateway"

    def __init__(
        self,
        config: KlusterConfig | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str | None = None,
        limits: Limits | None = None,
        budget: Budget | None = None,
        origins: Sequence[str] = (),
        aliases: Mapping[str, str] | None = None,
        max_body: int = 64 * 2**20,
        grace: float = 10.0,
    ) -> None:
        if key is None and not is_loopback(str(host)):
            key = f"kg-{secrets.token_urlsafe(24)}"
        self.key = key
        self._grace = grace
        app = create_app(
            config, limits=limits, budget=budget, key=key, origins=origins, aliases=aliases, max_body=max_body
        )
        super().__init__(app, host, port)

    def __repr__(self) -> str:
        where = f"port={self._port}" if self._port else "not running"
        return f"Gateway({where})"
