"""What the examples share: where they ask, and the option `--model`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kluster_integrations.config import env_source


@contextmanager
def service(*replies: dict[str, object], line_time: float = 0) -> Iterator[None]:
    """Ask kluster.ai if `KLUSTER_API_KEY` is set, else an emulator on this machine, for as long as this lasts.

    Args:
        replies: What the emulator answers; it echoes what no reply is stated for.
        line_time: Seconds that the emulator takes for a line of a batch job.
    """
    if env_source("api_key"):
        yield
        return
    from kluster_integrations.emulator import BatchBehavior, Emulator

    print("(no KLUSTER_API_KEY: a local emulator answers what the example states)", file=sys.stderr)
    before = dict(os.environ)
    with Emulator(replies=replies) as server, tempfile.TemporaryDirectory() as jobs:
        server.batches.behavior = BatchBehavior(line_time=line_time)
        # Its batch jobs take no hours; and the folders of real ones are not for what a script answers.
        ours = {"KLUSTER_BATCH_POLL": "0.05", "EXAMPLES_JOBS": jobs}
        os.environ.update(KLUSTER_BASE_URL=server.base_url, KLUSTER_API_KEY="emulator", **ours)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def job_folder(name: str) -> Path:
    """Return where an example keeps its batch job: `batch-jobs/NAME` here, where it goes on when it runs again."""
    return Path(os.environ.get("EXAMPLES_JOBS", "batch-jobs"), name)


def model_parser(default: str) -> argparse.ArgumentParser:
    """Return a parser with `--model ID`."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=default, metavar="ID", help="an id that `kluster models` lists, or your own")
    return parser


def model_option(default: str) -> str:
    """Return the model that the command line names, else the default."""
    return str(model_parser(default).parse_args().model)
