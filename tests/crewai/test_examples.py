"""Every example runs on its own against the emulator, and says what it is there to say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("crewai")

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples" / "crewai"

# Patterns that must be in the output, in this order.
SAYS = {
    "hello": [r"Greeting: \S.*Greet the reader", r"Tokens:   [1-9]\d*"],
    "research": [r"\[thinks\] \S", r"population\('Lisbon'\)", r"Found:   .*545796", r"Written: \S", r"Requests: 3"],
    "report": [r"Object: Weather\(city='Lisbon', temperature=18\)", r"JSON:   {'city': 'Tokyo', 'temperature': 18}"],
    "hierarchical": [r"get_price\('.*'\)", r"Answer:   .*12 euros", r"Requests: 4"],
    "memory": [r"Answer: \S", r"Remembered: \S"],
    "project": [r"Greeter: \S.*Greet the reader", r"Reviewer: \S"],
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.iterdir() if not path.name.startswith("__")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT / "integrations"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", f"examples.crewai.{name}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.search(".*".join(SAYS[name]), done.stdout, re.DOTALL), done.stdout
