"""Every example runs on its own against the emulator, and says what it is there to say."""

from __future__ import annotations

import re

import pytest

from tests.programs import ROOT, chosen, run_examples

pytest.importorskip("crewai")

EXAMPLES = ROOT / "examples" / "crewai"

# Patterns that must be in the output, in this order.
SAYS = {
    "hello": [r"Greeting: Ahoy, reader", r"Tokens:   [1-9]\d*"],
    "research": [r"\[thinks\] \S", r"population\('Lisbon'\)", r"Found:   .*545796", r"Written: \S", r"Requests: 3"],
    "report": [r"Object: Weather\(city='Lisbon', temperature=18\)", r"JSON:   {'city': 'Tokyo', 'temperature': 18}"],
    "briefing": [r"Lisbon: 545,796 people, 24 degrees", r"Oslo: 717,710 people, 11 degrees", r"Advice: Go to Lisbon\."],
    "hierarchical": [r"get_price\('.*'\)", r"Answer:   .*12 euros", r"Requests: 4"],
    "memory": [r"Answer: The library opens at nine", r"Remembered: The library opens at nine"],
    "project": [r"Greeter: \S.*Greet the reader", r"Reviewer: \S"],
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.iterdir() if not path.name.startswith("__")} == set(SAYS)


@pytest.fixture(scope="module")
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_examples(*(f"crewai.{name}" for name in chosen(request)), cwd=tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("name", SAYS)
def test_example(printed: dict[str, str], name: str) -> None:
    out = printed[f"crewai.{name}"]
    assert re.search(".*".join(SAYS[name]), out, re.DOTALL), out
    assert "Traceback" not in out
    if name == "briefing":
        out, *_ = out.partition("\n\n")  # CrewAI 1.14.7 goes on with a hint of its own
        assert out in (ROOT / "docs" / "crewai.md").read_text("utf-8"), "the page shows what it prints"
