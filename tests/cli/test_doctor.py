from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.cli import doctor
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.limits import Limits, admitted, shared, wait_for_rate_limit

from ..raw_server import RawServer, Reply, whole
from .conftest import KEY, LLAMA, QWEN, Run

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def _checks(kluster: Run, *args: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, dict[str, Any]]]:
    done = kluster("doctor", "--json", *args, env=env)
    report = json.loads(done.stdout)
    assert report["ok"] is (done.returncode == 0)
    assert report["ok"] is not any(check["status"] == "fail" for check in report["checks"])
    return done.returncode, {check["name"]: check for check in report["checks"]}


def test_all_is_well(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    code, checks = _checks(kluster, env=reach)
    assert code == 0
    assert checks["key"]["found"] == "found in KLUSTER_API_KEY"
    assert checks["base URL"]["found"] == f"{emulator.base_url} (from KLUSTER_BASE_URL)"
    assert checks["server"]["status"] == checks["one token"]["status"] == "ok"
    models, chat = emulator.requests
    assert (models.path, models.query) == ("/v1/models", {})
    assert isinstance(chat.body, dict)
    assert (chat.body["model"], chat.body["max_completion_tokens"]) == (LLAMA, 1)


@pytest.mark.parametrize("columns", ["60", "80"])
def test_the_table_fits_the_terminal(kluster: Run, reach: dict[str, str], columns: str) -> None:
    lines = kluster("doctor", env={**reach, "COLUMNS": columns}).stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert {line[:4].strip() for line in lines} <= {"ok", "warn", "skip", ""}


def test_a_pipe_gets_plain_lines(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    env = {**reach, "KLUSTER_BASE_URL": f"{emulator.base_url}/nothing"}
    lines = kluster("doctor", env=env).stdout.splitlines()
    assert "Hint: there is no such API at this address: check KLUSTER_BASE_URL." in lines
    assert [line for line in lines if line != line.rstrip() or line.startswith(" ")] == []


def test_offline_sends_nothing(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    code, checks = _checks(kluster, "--offline", env=reach)
    assert (code, checks["server"]["status"]) == (0, "skip")
    assert emulator.requests == []


def test_without_a_key_it_fails_but_asks_for_the_models(kluster: Run, emulator: Emulator) -> None:
    env = {"KLUSTER_BASE_URL": emulator.base_url, "OPENAI_API_KEY": "sk-another-company"}
    code, checks = _checks(kluster, env=env)
    assert code == 1
    assert checks["key"]["status"] == "skip"  # a server on loopback may need none
    assert "OPENAI_API_KEY is another company's" in checks["key"]["found"]
    assert checks["server"]["status"] == "ok"
    assert checks["one token"]["status"] == "fail"  # this one does
    assert "401" in checks["one token"]["found"]
    assert all("authorization" not in request.headers for request in emulator.requests)


def test_variables_that_confuse_are_named_without_values(kluster: Run, reach: dict[str, str]) -> None:
    env = {**reach, "OPENAI_API_KEY": "sk-another-company", "KLUSTERAI_BASE_URL": "http://hidden"}
    done = kluster("doctor", "--offline", env=env)
    assert "OPENAI_API_KEY: not used, never sent" in done.stdout
    assert "KLUSTERAI_BASE_URL is not read" in done.stdout
    assert "did you mean KLUSTER_AI_BASE_URL?" in done.stdout
    assert "sk-another" not in done.stdout
    assert "hidden" not in done.stdout


def test_the_key_of_another_company_is_suspected(kluster: Run, reach: dict[str, str]) -> None:
    _, checks = _checks(kluster, "--offline", env={**reach, "OPENAI_API_KEY": KEY})
    assert checks["key"]["status"] == "warn"


def test_two_different_keys_are_a_warning(kluster: Run) -> None:
    _, checks = _checks(kluster, "--offline", env={"KLUSTER_API_KEY": KEY, "KLUSTERAI_API_KEY": "another-key"})
    assert checks["key"]["status"] == "warn"
    assert checks["key"]["found"] == "found in KLUSTER_API_KEY; another one in KLUSTERAI_API_KEY"
    _, checks = _checks(kluster, "--offline", env={"KLUSTER_API_KEY": KEY, "KLUSTERAI_API_KEY": KEY})
    assert checks["key"]["status"] == "ok"


def test_variables_that_are_read_are_not_suspected(kluster: Run) -> None:
    package = Path(__file__).parents[2] / "integrations" / "kluster_integrations"
    read = {
        name for path in package.rglob("*.py") for name in re.findall(r"KLUSTER[A-Z]*_[A-Z_]+", path.read_text("utf-8"))
    }
    assert {"KLUSTER_TIMEOUT", "KLUSTER_REDIS_URL"} <= read
    numbers = {"KLUSTER_TIMEOUT", "KLUSTER_MAX_RETRIES", "KLUSTER_MAX_WAIT"}
    env = {name: "5" if name in numbers else "" for name in read} | {"KLUSTER_API_KEY": KEY}
    assert "is not read" not in kluster("doctor", "--offline", env=env).stdout


def test_an_alias_is_named(kluster: Run) -> None:
    _, checks = _checks(kluster, "--offline", env={"KLUSTERAI_API_KEY": KEY})
    assert checks["key"]["found"] == "found in KLUSTERAI_API_KEY"
    assert "the default" in checks["base URL"]["found"]


def test_each_bad_variable_fails_by_name(kluster: Run) -> None:
    env = {"KLUSTER_BASE_URL": "ftp://x", "KLUSTER_PLAN": "gold", "KLUSTER_API_KEY": "two words of a key"}
    done = kluster("doctor", "--json", env=env)
    checks = {check["hint"]: check for check in json.loads(done.stdout)["checks"] if check["status"] == "fail"}
    names = ("KLUSTER_BASE_URL", "KLUSTER_PLAN", "KLUSTER_API_KEY")
    assert set(checks) == {f"set {name} to an allowed value, or unset it." for name in names}
    assert "two words" not in done.stdout


def test_a_wrong_key_fails(kluster: Run) -> None:
    with Emulator(api_keys=["the-right-key"]) as server:
        code, checks = _checks(kluster, env={"KLUSTER_BASE_URL": server.base_url, "KLUSTER_API_KEY": KEY})
    assert code == 1
    assert "HTTP 401" in checks["server"]["found"]
    assert checks["server"]["hint"] == "the key is that of KLUSTER_API_KEY; set another one there."


def test_no_server_fails_at_once(kluster: Run) -> None:
    env = {"KLUSTER_BASE_URL": "http://127.0.0.1:9", "KLUSTER_API_KEY": KEY, "KLUSTER_MAX_RETRIES": "50"}
    code, checks = _checks(kluster, env=env)
    assert code == 1
    assert "connection failed" in checks["server"]["found"]
    assert "one token" not in checks


def test_a_failing_chat_fails(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    emulator.add_fault(Fault("status", status=500))
    code, checks = _checks(kluster, env=reach)
    assert (code, checks["server"]["status"], checks["one token"]["status"]) == (1, "ok", "fail")
    assert "HTTP 500" in checks["one token"]["found"]


def test_the_model_can_be_named(kluster: Run, reach: dict[str, str]) -> None:
    code, checks = _checks(kluster, "--model", "no/such-model", env=reach)
    assert code == 1
    assert "no/such-model" in checks["one token"]["found"]
    assert "HTTP 404" in checks["one token"]["found"]


def test_one_token_of_a_model_that_reasons_is_enough(kluster: Run, reach: dict[str, str]) -> None:
    done = kluster("doctor", "--model", QWEN, env=reach, alone=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_check_does_not_wait_for_the_limits(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    env = {**reach, "KLUSTER_PLAN": "trial", "KLUSTER_MAX_WAIT": "0", "KLUSTER_API_KEY": "kk-key-whose-minute-is-over"}
    taken = shared(Limits.of("trial"), KlusterConfig(api_key=env["KLUSTER_API_KEY"], base_url=emulator.base_url))
    assert taken is not None
    for _ in range(30):
        with admitted(taken):
            wait_for_rate_limit()
    _, checks = _checks(kluster, env=env)
    assert checks["one token"]["status"] == "ok"


def test_a_server_with_other_models_is_asked_for_one_it_has(kluster: Run) -> None:
    listed = json.dumps({"object": "list", "data": [{"id": "BAAI/bge-m3"}, {"id": "our-model"}]}).encode()
    with RawServer() as server:
        models = Reply([listed], content_type="application/json", framing="length")
        server.script(models, whole({"content": "Yes"}))
        code, checks = _checks(kluster, env={"KLUSTER_BASE_URL": server.base_url, "KLUSTER_API_KEY": KEY})
        assert server.requests[1].json["model"] == "our-model"
    assert (code, checks["one token"]["status"]) == (0, "ok")


def test_missing_frameworks_are_no_failure(
    kluster: Run, reach: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(monkeypatch, {"httpx": "0.28.1", "aiohttp": "3.14.5"})
    code, checks = _checks(kluster, env=reach)
    assert code == 0
    assert {checks[name]["status"] for name in ("langchain-core", "openai", "litellm", "crewai")} == {"skip"}


@pytest.mark.parametrize(
    ("package", "version", "status"),
    [
        ("httpx", "0.27.2", "fail"),
        ("httpx", "0.28.0", "ok"),
        ("httpx", "1.0.0", "fail"),
        ("aiohttp", "3.10.11", "fail"),
        ("aiohttp", "3.11.0", "ok"),
        ("openai", "2.29.9", "warn"),
        ("openai", "2.30.0", "ok"),
        ("openai", "3.54.0", "ok"),
        ("openai", "4.0.0", "warn"),
        ("langchain-core", "0.3.80", "warn"),
        ("langchain-core", "1.7.0rc1", "ok"),
        ("litellm", "1.90.0", "ok"),
        ("litellm", "1.83.0", "warn"),
        ("litellm", "1.82.7", "fail"),
        ("litellm", "1.82.8", "fail"),
        ("litellm", "1.82.80", "warn"),
        ("litellm", "1.106.2", "fail"),
        ("litellm", "1.107.0", "ok"),
        ("crewai", "1.14.6", "warn"),
        ("crewai", "1.14.7", "ok"),
    ],
)
def test_versions(
    kluster: Run, monkeypatch: pytest.MonkeyPatch, reach: dict[str, str], package: str, version: str, status: str
) -> None:
    _pretend(monkeypatch, {"httpx": "0.28.1", "aiohttp": "3.14.5", package: version})
    _, checks = _checks(kluster, "--offline", env=reach)
    assert checks[package]["status"] == status
    assert version in checks[package]["found"]
    assert (checks[package]["hint"] is None) == (status == "ok")


def test_a_proxy_that_is_a_package_of_its_own(
    kluster: Run, monkeypatch: pytest.MonkeyPatch, reach: dict[str, str]
) -> None:
    _pretend(monkeypatch, {"httpx": "0.28.1", "aiohttp": "3.14.5", "litellm": "1.110.2"})
    _, checks = _checks(kluster, "--offline", env=reach)
    assert checks["litellm"]["status"] == "ok"
    assert "litellm-proxy" in checks["litellm"]["hint"]


def test_the_supported_versions_are_those_of_the_project() -> None:
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["langchain"], *extras["litellm"], *extras["crewai"]]
    for package, (low, high) in doctor.SUPPORTED.items():
        line = next(line for line in lines if re.match(rf"{package}\b(?!-)", line))
        assert f">={doctor._dotted(low)}," in line
        assert f"<{doctor._dotted(high)}" in line


def _pretend(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
    """Let the metadata say that exactly these packages are installed."""

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
