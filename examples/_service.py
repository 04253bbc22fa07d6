"""Where the examples ask: kluster.ai if `KLUSTER_API_KEY` is set, else an emulator on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kluster_integrations.config import env_source


@contextmanager
def service() -> Iterator[None]:
    """Point the environment to the emulator for as long as this lasts, unless it has a key."""
    if env_source("api_key"):
        yield
        return
    from kluster_integrations.emulator import Emulator

    print("(no KLUSTER_API_KEY: a local emulator answers, from a script)", file=sys.stderr)
    before = os.environ.get("KLUSTER_BASE_URL")
    with Emulator() as server:
        os.environ.update(KLUSTER_BASE_URL=server.base_url, KLUSTER_API_KEY="emulator")
        try:
            yield
        finally:
            del os.environ["KLUSTER_API_KEY"], os.environ["KLUSTER_BASE_URL"]
            if before is not None:
                os.environ["KLUSTER_BASE_URL"] = before
