"""What must hold of a soak."""

from __future__ import annotations

from kluster_integrations.core.limits.redis import _MOST_CONNECTIONS
from tests.soak.run import Report

__all__ = ["faults_of"]


def faults_of(report: Report, *, growth: float) -> list[str]:
    """Return what does not hold.

    Args:
        report: The numbers.
        growth: How much the memory may grow between the second and the last tenth of the time.
    """
    assert report.before is not None
    assert report.after is not None
    books = report.books
    holds = {
        "each call got its own answer": not report.wrong,
        "no call was sent twice but as a retry": not books["twice"],
        "no call was lost": report.calls - report.left <= books["calls"] <= report.calls,
        "no request carried another's key": not books["wrong_keys"],
        "no request carried a cookie": not books["cookies"],
        "500 streams were open at once": report.most_streams >= 500,
        "Redis was restarted twice": report.restarts == 2,
        "memory is flat": report.growth() <= growth,
        # But for idle connections to Redis, of which one was open before.
        "descriptors are back": report.after.descriptors < report.before.descriptors + _MOST_CONNECTIONS,
        "threads are back": report.after.threads <= report.before.threads,
        "no task is left": report.tasks_left == 0,
    }
    return [f"does not hold: {what}" for what, is_so in holds.items() if not is_so]
