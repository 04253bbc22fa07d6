from __future__ import annotations

import json

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.emulator import Emulator

from ..raw_server import RawServer, Reply
from .conftest import LLAMA, QWEN, Run

IDS = [spec.id for spec in catalog.all_models()]


def test_a_pipe_gets_a_line_a_model(kluster: Run) -> None:
    done = kluster("models")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    names = ["id", "context", "output", "tools", "vision", "reasoning", "$", "in", "$", "out", "status"]
    assert head.split() == names
    assert [row.split()[0] for row in rows] == IDS
    qwen = next(row for row in rows if row.startswith(QWEN))
    assert qwen.split() == [QWEN, "40,960", "40,960", "yes", "-", "yes", "0.15", "2.00", "current"]


@pytest.mark.parametrize("columns", ["60", "80"])
def test_a_narrow_terminal_shows_whole_ids_and_no_long_line(kluster: Run, columns: str) -> None:
    lines = kluster("models", env={"COLUMNS": columns}).stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == IDS
    assert max(map(len, lines)) <= int(columns)


def test_a_pipe_gets_no_blanks_at_line_ends(kluster: Run) -> None:
    lines = kluster("models").stdout.splitlines()
    assert len(lines) > 10
    assert [line for line in lines if line != line.rstrip()] == []


def test_the_plan_caps_the_windows(kluster: Run) -> None:
    specs = json.loads(kluster("models", "--plan", "trial", "--json").stdout)
    assert max(spec["context_window"] for spec in specs) == 32_768
    assert max(spec["max_output_tokens"] for spec in specs) == 4_096


def test_json_is_the_catalog(kluster: Run) -> None:
    specs = json.loads(kluster("models", "--json").stdout)
    assert [spec["id"] for spec in specs] == IDS
    llama = next(spec for spec in specs if spec["id"] == LLAMA)
    assert llama["prices"] == {"input": 0.18, "output": 0.18}
    assert (llama["supports_tools"], llama["supports_vision"]) == (True, False)


@pytest.mark.usefixtures("own_catalog")
def test_refresh_lists_what_the_server_has(kluster: Run) -> None:
    own = ModelSpec(id="our/own-model", context_window=12_345, supports_tools=True)
    with Emulator(models=[own]) as server:
        done = kluster("models", "--refresh", "--base-url", server.base_url)
        [request] = server.requests
    assert done.returncode == 0
    row = next(row for row in done.stdout.splitlines() if row.startswith("our/own-model"))
    assert row.split()[1:4] == ["12,345", "4,096", "yes"]
    assert (request.path, request.query) == ("/v1/models", {"extended": "true"})
    assert "authorization" not in request.headers


def test_refresh_where_there_is_no_such_api(kluster: Run) -> None:
    with RawServer() as server:
        server.script(Reply([], status=404, framing="length"))
        done = kluster("models", "--refresh", env={"KLUSTER_BASE_URL": server.base_url})
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error.count("HTTP 404") == 1
    assert hint == "Hint: there is no such API at this address: check KLUSTER_BASE_URL."


def test_refresh_without_a_server_is_an_error(kluster: Run) -> None:
    done = kluster("models", "--refresh", env={"KLUSTER_BASE_URL": "http://127.0.0.1:9", "KLUSTER_MAX_RETRIES": "0"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: The connection failed")
