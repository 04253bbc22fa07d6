"""`kluster probe` of a real server: what it writes is true of it, and an adapter goes by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.messages import HumanMessage

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.cli import _local_llm
from kluster_integrations.config import KlusterConfig
from kluster_integrations.langchain import ChatKluster

SCHEMA = {
    "title": "City",
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
    "required": ["name", "size"],
}
OSLO = '{"name": "Oslo", "size": 7}'
ASK = ("user", f"Repeat this text exactly:\n{OSLO}")


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """Two answers at once: then llama.cpp (2026-10) takes `n` up to 2."""
    with _local_llm.serve(_local_llm.find_model(None), n_parallel=2, n_ctx=8_192) as url:
        yield url


@pytest.fixture(scope="module")
def probed(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that the command writes of the server's own model, the first in its list."""
    path = tmp_path_factory.mktemp("probe") / "models.toml"
    command = [sys.executable, "-m", "kluster_integrations.cli", "probe", "--base-url", llama]
    env = {name: value for name, value in os.environ.items() if not name.startswith("KLUSTER")}
    done = subprocess.run(
        [*command, "--output", str(path), "--yes", "--json"],
        env=env,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert not [finding for finding in summary["findings"].values() if "HTTP 599" in finding["detail"]], summary
    return path


@pytest.fixture
def spec(probed: Path) -> ModelSpec:
    [found] = catalog.read(probed)
    return found


def test_it_writes_what_is_true(spec: ModelSpec) -> None:
    """llama.cpp has grammars, logprobs, and usage in streams where it is asked for; this model sees nothing."""
    assert spec.native >= {"response_format", "stream_usage", "logprobs", "n"}
    assert "max_tokens" not in spec.native  # it knows max_completion_tokens, too
    assert (spec.context_window, spec.max_output_tokens) == (4_096, 4_096)  # of each answer
    assert (spec.supports_vision, spec.reasoning, spec.strict_roles) == (False, False, False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("uses_file", [True, False])
def test_langchain_goes_by_it(llama: str, probed: Path, spec: ModelSpec, uses_file: bool, stream: bool) -> None:
    bodies: list[dict[str, Any]] = []
    config = KlusterConfig(base_url=llama, catalog=probed if uses_file else None, max_retries=0, timeout=120)
    hooks = {"request": [lambda request: bodies.append(json.loads(request.content))]}
    with httpx.Client(event_hooks=hooks, trust_env=False) as http:
        model = ChatKluster(
            model=spec.id, config=config, http_client=http, temperature=0, max_completion_tokens=60, streaming=stream
        )
        found = model.with_structured_output(SCHEMA).invoke([ASK, ("ai", OSLO), ASK, ("ai", OSLO), ASK])
    assert found["name"] == "Oslo"
    for body in bodies:
        sent = body.get("response_format")
        assert (sent is not None) is uses_file
        assert ("<schema>" in json.dumps(body["messages"])) is not uses_file
        assert ("stream_options" in body) is (uses_file and stream)
        if sent is not None:
            assert sent["json_schema"]["schema"]["required"] == ["name", "size"]


def test_several_answers_to_one_request(llama: str, probed: Path, spec: ModelSpec) -> None:
    config = KlusterConfig(base_url=llama, catalog=probed, max_retries=0, timeout=120)
    model = ChatKluster(model=spec.id, config=config, temperature=1.0, seed=4, max_completion_tokens=8)
    result = model.generate([[HumanMessage("Say hello.")]], n=2)
    assert len(result.generations[0]) == 2
    assert all(generation.text for generation in result.generations[0])
