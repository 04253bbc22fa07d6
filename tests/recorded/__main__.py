"""`python -m tests.recorded`: record all cassettes anew; `make record` and `make record-live` run it.

Against the emulator, with a real model where one can write the text; with `--live` against the service, with the key in
`KLUSTER_API_KEY`. What only an emulator can be made to answer (a 429, the vendor's 500) stays as it is then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from kluster_integrations import __version__
from kluster_integrations.cli import _local_llm
from kluster_integrations.config import KlusterConfig
from kluster_integrations.errors import KlusterError

from ..features.adapters import usable
from ..tree import ROOT
from .drivers import DRIVERS
from .recorder import against_emulator, record, write_outcomes, write_seal
from .scenarios import KEY, SCENARIOS, Scenario


@contextmanager
def _model(*, scripted: bool) -> Iterator[tuple[str | None, str]]:
    """Serve the model that writes the text, and give its URL and name."""
    if scripted:
        yield None, "scripted"
        return
    file = _local_llm.find_model(None)
    with _local_llm.serve(file) as url:
        yield url, f"{file.stem} by llama.cpp (xllamacpp {version('xllamacpp')})"


def against_emulators(root: Path, *, scripted: bool) -> int:
    """Record every scenario, and return how many have changed."""
    changed = 0
    with _model(scripted=scripted) as (upstream, name):
        for scenario in SCENARIOS:
            engine = name if scenario.real else "scripted"
            about = {"against": f"the emulator of kluster-integrations {__version__}, not the service", "text": engine}
            with against_emulator(scenario, upstream) as base_url:
                changed += _report(scenario, record(scenario, base_url, about, root))
    return changed


def can_be_asked(scenario: Scenario) -> bool:
    """Whether the service can answer a scenario as it is meant: it takes no orders, but it knows a wrong key."""
    return scenario.fault is None and not scenario.server.keys() - {"api_keys"}


def against_service(root: Path, config: KlusterConfig) -> int:
    """Record what the service can be asked, and return how many cassettes have changed.

    Raises:
        KlusterError: If there is no key.
    """
    key = config.require_key()
    about = {"against": f"the service at {config.base_url}", "text": "the model named in each answer"}
    changed = 0
    for scenario in filter(can_be_asked, SCENARIOS):
        own = key if scenario.key == KEY else scenario.key
        changed += _report(scenario, record(scenario, config.base_url, about, root, own))
    return changed


def _report(scenario: Scenario, changed: bool) -> int:
    print(f"{'recorded' if changed else 'the same'}  {scenario.path}", flush=True)
    return int(changed)


def main(arguments: list[str]) -> int:
    """Record."""
    parser = argparse.ArgumentParser(prog="python -m tests.recorded", description=__doc__)
    parser.add_argument("--live", action="store_true", help="against the service; wants KLUSTER_API_KEY")
    parser.add_argument("--scripted", action="store_true", help="without a real model")
    parser.add_argument("--into", type=Path, default=ROOT, help="another folder, to try it out")
    options = parser.parse_args(arguments)
    missing = [name for name in DRIVERS if name != "core" and not usable(name)]
    if missing:
        parser.error(f"{', '.join(missing)}: not installed; `make record` installs all that it needs")
    try:
        if options.live:
            changed = against_service(options.into, KlusterConfig())
        else:
            changed = against_emulators(options.into, scripted=options.scripted)
    except KlusterError as err:
        print(f"Error: {err}", file=sys.stderr)
        return 1
    write_outcomes(options.into)
    write_seal(options.into)
    print(f"{changed} cassettes have changed.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
