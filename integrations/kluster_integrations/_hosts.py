"""Which host names a page of another site cannot have: what servers on this machine check against DNS rebinding."""

from __future__ import annotations

import ipaddress

__all__ = ["is_registrable"]

_OWN_DOMAINS = frozenset({"localhost", "local", "internal"})


def is_registrable(name: str) -> bool:
    """Whether a stranger could register a host name that points to this machine.

    Addresses, names without a dot (containers, machines of a network) and those below domains that nobody can register
    (RFC 6761, RFC 6762, `.internal` of ICANN) lead only to where this side's own name service says.
    """
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." in name and name.rpartition(".")[2].lower() not in _OWN_DOMAINS
    return False
