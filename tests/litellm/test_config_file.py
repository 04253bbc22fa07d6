"""The `config.yaml` that `kluster export litellm` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kluster_integrations import catalog
from kluster_integrations.cli import app
from kluster_integrations.litellm import _versions
from kluster_integrations.litellm.config_file import config_yaml
from kluster_integrations.litellm.routing import fallbacks, model_list

yaml = pytest.importorskip("yaml")
LLAMA_ID = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"


@pytest.fixture(autouse=True)
def _newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_versions, "installed", lambda: "1.109.1")


def read(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text))


def test_it_says_what_the_router_gets() -> None:
    made = read(config_yaml(plan="core"))
    wanted = model_list(plan="core", api_keys=["os.environ/KLUSTER_API_KEY"])
    assert [d["litellm_params"] for d in made["model_list"]] == [d["litellm_params"] for d in wanted]
    for given, full in zip(made["model_list"], wanted, strict=True):
        assert given["model_info"].items() <= full["model_info"].items()
        assert ("input_cost_per_token" in given["model_info"]) == ("input_cost_per_token" in full["model_info"])
    general, longer = fallbacks(plan="core")
    assert (made["router_settings"]["fallbacks"], made["router_settings"]["context_window_fallbacks"]) == (
        general,
        longer,
    )
    assert made["environment_variables"] == {"KLUSTER_PLAN": "core"}


def test_without_plan_and_redis_there_is_nothing_about_them() -> None:
    made = read(config_yaml())
    assert "environment_variables" not in made
    assert "redis_url" not in made["router_settings"]
    assert "retry_policy" not in made["router_settings"]


def test_it_completes_histories_and_names_what_escapes_a_budget() -> None:
    text = config_yaml()
    assert yaml.safe_load(text)["litellm_settings"]["modify_params"] is True
    unpriced = {spec.id for spec in catalog.select() if spec.prices is None}
    [line] = [line for line in text.splitlines() if line.startswith("  # mistralai/Magistral")]
    assert set(line.removeprefix("  # ").removesuffix(".").split(", ")) == unpriced


def test_prices_are_numbers_to_the_last_digit() -> None:
    for deployment in read(config_yaml())["model_list"]:
        spec = catalog.get(deployment["litellm_params"]["model"].removeprefix("kluster/"))
        if spec.prices:
            assert deployment["model_info"]["input_cost_per_token"] == spec.prices.input / 1_000_000


@pytest.mark.parametrize(
    "url",
    [
        *("redis://:hunter2@host:6379/0", "rediss://hunter2@host", "redis://host/0?password=hunter2"),
        *("redis://host/0?db=1&Pass%77ord=hunter2", "unix:///run/redis.sock?username=hunter2&password=hunter2"),
        *("rediss://host/0?ssl_password=hunter2", "redis://host/0?credential_provider=hunter2"),
    ],
)
def test_a_password_is_not_written(url: str) -> None:
    text = config_yaml(redis_url=url, max_wait=5)
    assert "hunter2" not in text
    made = read(text)
    assert made["router_settings"]["redis_url"] == "os.environ/KLUSTER_REDIS_URL"
    assert made["environment_variables"] == {"KLUSTER_MAX_WAIT": "5"}
    assert made["router_settings"]["retry_policy"] == {"RateLimitErrorRetries": 0}


@pytest.mark.parametrize(
    ("address", "target"),
    [(None, "https://api.kluster.ai/v1"), ("http://127.0.0.1:9/v1", "os.environ/KLUSTER_BASE_URL")],
)
def test_files_batches_and_verify_pass_through(
    monkeypatch: pytest.MonkeyPatch, address: str | None, target: str
) -> None:
    if address:
        monkeypatch.setenv("KLUSTER_BASE_URL", address)
    [endpoint] = read(config_yaml())["general_settings"]["pass_through_endpoints"]
    assert endpoint == {
        "path": "/upstream/kluster",
        "target": target,
        "include_subpath": True,
        "auth": True,
        "headers": {"Authorization": "Bearer os.environ/KLUSTER_API_KEY"},
    }


def test_the_command_writes_it(tmp_path: Path) -> None:
    url = "redis://127.0.0.1:6379/0"
    shown = CliRunner().invoke(app, ["export", "litellm", "--plan", "trial", "--redis", url, "--models", LLAMA_ID])
    assert shown.exit_code == 0
    assert shown.stdout == config_yaml([LLAMA_ID], plan="trial", redis_url=url)
    target = tmp_path / "config.yaml"
    written = CliRunner().invoke(app, ["export", "litellm", "--models", f"{LLAMA_ID},BAAI/bge-m3", "-o", str(target)])
    assert written.exit_code == 0
    assert target.read_text("utf-8") == config_yaml([LLAMA_ID, "BAAI/bge-m3"])


def test_the_command_takes_the_plan_of_the_environment_in_any_case() -> None:
    shown = CliRunner().invoke(app, ["export", "litellm"], env={"KLUSTER_PLAN": " Core "})
    assert (shown.exit_code, shown.stdout) == (0, config_yaml(plan="core"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["langchain"],
        ["litellm", "--redis", "host:6379"],
        ["litellm", "--plan", "gold"],
        ["litellm", "--max-wait", "-1"],
    ],
)
def test_the_command_refuses(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["export", *arguments]).exit_code == 2


@pytest.mark.parametrize(("version", "files"), [("1.93.0", 2), ("1.94.0", 1), (None, 1)])
def test_before_1_94_the_handler_is_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str | None, files: int
) -> None:
    monkeypatch.setattr(_versions, "installed", lambda: version)
    target = tmp_path / "config.yaml"
    for _ in ("written", "and written again"):
        assert CliRunner().invoke(app, ["export", "litellm", "-o", str(target)]).exit_code == 0
    (provider,) = read(target.read_text("utf-8"))["litellm_settings"]["custom_provider_map"]
    module, _, name = provider["custom_handler"].rpartition(".")
    assert len(list(tmp_path.iterdir())) == files
    if files == 2:
        source = (tmp_path / f"{module}.py").read_text("utf-8")
        assert f"import {name}\n" in source
    else:
        assert module == "kluster_integrations.litellm.proxy"
