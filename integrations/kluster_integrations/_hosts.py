"""Which host names an attacker's web page cannot have. Servers on this machine check them against DNS rebinding."""

from __future__ import annotations

import ipaddress

__all__ = ["is_registrable"]

_OWN_DOMAINS = frozenset({"localhost", "local", "internal"})


def is_registrable(name: str) -> bool:
    """Whether a stranger could register a host name that points to this machine.

    Nobody can register an IP address, a name without a dot (containers, machines of a local network), or a name below a
    reserved domain (RFC 6761, RFC 6762, ICANN's `.internal`).
    """
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." in name and name.rpartition(".")[2].lower() not in _OWN_DOMAINS
    return False
