"""The account's limits: requests per minute and concurrent requests of one key, in process or over Redis."""

from kluster_integrations.core.limits.account import shared
from kluster_integrations.core.limits.limiter import (
    Limiter,
    Limits,
    Ticket,
    aadmitted,
    admitted,
    await_for_rate_limit,
    wait_for_rate_limit,
)

__all__ = [
    "Limiter",
    "Limits",
    "Ticket",
    "aadmitted",
    "admitted",
    "await_for_rate_limit",
    "shared",
    "wait_for_rate_limit",
]
