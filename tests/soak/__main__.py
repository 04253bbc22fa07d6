"""`python -m tests.soak`: ten minutes, or `KLUSTER_SOAK_SECONDS`."""

from __future__ import annotations

import os
import sys

from tests.soak.checks import faults_of
from tests.soak.run import soak


def main() -> int:
    """Run it, show the numbers, and return 1 if something is wrong."""
    report = soak(float(os.environ.get("KLUSTER_SOAK_SECONDS", "600")))
    print(report.line())
    faults = faults_of(report, growth=1.05)
    print(*faults, *report.wrong[:20], sep="\n")
    return 1 if faults else 0


sys.exit(main())
