"""The account's limits: requests per minute and concurrent requests of one key, whoever sends them."""

from kluster_integrations.core.limits import Limiter, Limits, Ticket, aadmitted, admitted, apaid, paid, shared

__all__ = ["Limiter", "Limits", "Ticket", "aadmitted", "admitted", "apaid", "paid", "shared"]
