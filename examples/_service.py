"""What the examples share: where they ask, and the option `--model`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kluster_integrations.config import env_source


@contextmanager
def service(*replies: dict[str, object]) -> Iterator[None]:
    """Ask kluster.ai if `KLUSTER_API_KEY` is set, else an emulator on this machine, for as long as this lasts.

    Args:
        replies: What the emulator answers; it echoes what no reply is stated for.
    """
    if env_source("api_key"):
        yield
        return
    from kluster_integrations.emulator import Emulator

    print("(no KLUSTER_API_KEY: a local emulator answers what the example states)", file=sys.stderr)
    before = os.environ.get("KLUSTER_BASE_URL")
    with Emulator(replies=replies) as server:
        os.environ.update(KLUSTER_BASE_URL=server.base_url, KLUSTER_API_KEY="emulator")
        try:
            yield
        finally:
            del os.environ["KLUSTER_API_KEY"], os.environ["KLUSTER_BASE_URL"]
            if before is not None:
                os.environ["KLUSTER_BASE_URL"] = before


def model_parser(default: str) -> argparse.ArgumentParser:
    """Return a parser with `--model ID`."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=default, metavar="ID", help="an id that `kluster models` lists, or your own")
    return parser


def model_option(default: str) -> str:
    """Return the model that the command line names, else the default."""
    return str(model_parser(default).parse_args().model)
