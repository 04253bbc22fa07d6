"""Check the wheel and the sdist in a folder, then install each extra alone and use it as a newcomer does."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from release import contents, extras


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    parser.add_argument("dist", type=Path, help="the folder with one wheel and one sdist, as `make dist` leaves it")
    parser.add_argument("--only", metavar="EXTRA", action="append", help="only this extra; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="environments made at the same time (2)")
    parser.add_argument("--constraint", type=Path, metavar="FILE", help="pins; default: what a newcomer would get")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    wheel, sdist = contents.found(arguments.dist)
    problems = contents.check(wheel, sdist)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    print(f"{wheel.name} and {sdist.name}: contents and metadata are right", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        bench = extras.Bench(Path(folder), wheel, sdist, arguments.constraint)
        with bench.emulator() as base_url:
            names = [name for name in extras.names(wheel) if not arguments.only or name in arguments.only]
            runs = [(name, pool.submit(_timed, bench, name, base_url)) for name in names]
            for name, run in runs:
                seconds, problem = run.result()
                print(f"{name:10} {seconds:4.0f} s  {problem or 'ok'}", flush=True)
                problems += [name] if problem else []
    return 1 if problems else 0


def _timed(bench: extras.Bench, name: str, base_url: str) -> tuple[float, str | None]:
    began = time.monotonic()
    try:
        bench.check(name, base_url)
    except extras.Failed as err:
        return time.monotonic() - began, str(err)
    return time.monotonic() - began, None


if __name__ == "__main__":
    sys.exit(main())
