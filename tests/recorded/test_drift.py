"""The emulator is asked anew, and must answer in the shape of the cassettes: keys, types, headers, statuses, order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..features.adapters import usable
from ..tree import ROOT
from .recorder import against_emulator, record
from .scenarios import SCENARIOS, Scenario
from .shape import shape_of

HERE = [one for one in SCENARIOS if one.adapter == "core" or usable(one.adapter)]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


@pytest.mark.parametrize("scenario", HERE, ids=lambda scenario: scenario.id)
def test_the_shape_is_as_recorded(scenario: Scenario, tmp_path: Path) -> None:
    with against_emulator(scenario) as base_url:
        record(scenario, base_url, {}, tmp_path)

    assert shape_of(load(tmp_path / scenario.path)) == shape_of(load(ROOT / scenario.path))


def recorded(name: str) -> Any:
    return load(ROOT / "cassettes" / "core" / f"{name}.yaml")


def first(data: Any) -> Any:
    return data["interactions"][0]["response"]


def body(data: Any, change: Callable[[Any], None]) -> None:
    row = first(data)["body"]
    value = json.loads(row["string"])
    change(value)
    row["string"] = json.dumps(value)


def events(data: Any, change: Callable[[list[str]], None]) -> None:
    row = first(data)["body"]
    lines = row["string"].split("\n\n")
    change(lines)
    row["string"] = "\n\n".join(lines)


CHANGES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "a key is gone": ("chat", lambda data: body(data, lambda answer: answer.pop("prompt_logprobs"))),
    "a key is new": ("chat", lambda data: body(data, lambda answer: answer.update(new=1))),
    "a number is a text": ("chat", lambda data: body(data, lambda answer: answer.update(created="1764000000"))),
    "null is a list": ("tools", lambda data: body(data, lambda answer: answer["choices"][0].update(logprobs=[]))),
    "a status": ("error-404", lambda data: first(data)["status"].update(code=400)),
    "a header is gone": ("error-429", lambda data: first(data)["headers"].pop("retry-after")),
    "a content type": (
        "chat",
        lambda data: first(data)["headers"].update({"content-type": ["text/plain"]}),
    ),
    "events in another order": (
        "reasoning-streamed",
        lambda data: events(data, lambda lines: lines.insert(0, lines.pop(2))),
    ),
    "no [DONE]": ("stream", lambda data: events(data, lambda lines: lines.remove("data: [DONE]"))),
    "an answer less": ("tools", lambda data: data["interactions"].pop()),
    "another request": ("chat", lambda data: data["interactions"][0]["request"].update(body="{}")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_shape_is_seen(change: str) -> None:
    name, apply = CHANGES[change]
    changed = recorded(name)
    apply(changed)
    assert shape_of(changed) != shape_of(recorded(name))


def test_another_text_is_no_change_of_shape() -> None:
    changed, streamed = recorded("chat"), recorded("stream")
    body(changed, lambda answer: answer["choices"][0]["message"].update(content="Quite another text."))
    events(streamed, lambda lines: lines.insert(2, lines[2]))

    assert shape_of(changed) == shape_of(recorded("chat"))
    assert shape_of(streamed) == shape_of(recorded("stream"))
