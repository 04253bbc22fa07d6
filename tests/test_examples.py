"""Every example runs on its own against the emulator, and says what it is there to say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kluster_integrations.emulator import Emulator

ROOT = Path(__file__).parent.parent
LANGCHAIN = ROOT / "examples" / "langchain"

# Patterns that must be in the output, in this order.
SAYS = {
    "quickstart": [
        r"Answer:  \S.*breakfast sandwich",
        r"Model:   klusterai/Meta-Llama-3\.3-70B-Instruct-Turbo",
        r"Tokens:  [1-9]\d*",
        r"Cost:    US\$ 0\.0000[1-9]",
        r"Stream:  \S.*breakfast sandwich",
    ],
    "conversation": [r"You: .*San Francisco", r"Guide: \S", r"You: .*Which city", r"Guide: .*San Francisco in June"],
    "agent": [
        r"\[thinks\] \S",
        r"get_(weather: 18 degrees and light rain in Lisbon|time: quarter past nine in Tokyo)",  # in any order
        r"get_(weather: 18 degrees and light rain in Lisbon|time: quarter past nine in Tokyo)",
        r"\[says\] .*light rain in Lisbon.*quarter past nine in Tokyo",
    ],
    "extraction": [r"Thought:  \S", r"Grace Hopper owes 1250\.50 USD", r"Thursday, 31 July 2025"],
    "rag": [
        r"How do bees",
        r"Retrieved: Honey bees",
        r"Answer:  .*dance",
        r"When did",
        r"Retrieved: The Golden Gate",
        r"Answer:  .*1937",
    ],
    "image": [r"Answer: .*image/png, 2x2 pixels"],
}


def run(name: str, **environ: str) -> str:
    """Return what an example prints; `check` makes a traceback a failure."""
    path = os.pathsep.join(filter(None, [str(ROOT / "integrations"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-m", f"examples.langchain.{name}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **environ},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    assert {path.stem for path in LANGCHAIN.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str) -> None:
    out = run(name)

    assert re.search(".*".join(SAYS[name]), out, re.DOTALL), out


def test_with_a_key_the_service_is_asked() -> None:
    with Emulator(api_keys=["own-key"]) as server:
        run("quickstart", KLUSTER_API_KEY="own-key", KLUSTER_BASE_URL=server.base_url)

        assert [request.path for request in server.requests] == ["/v1/chat/completions"] * 2
