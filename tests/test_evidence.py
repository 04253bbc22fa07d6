"""The measurement of docs/evidence.md counts what a model writes, never a server that was not reached."""

from __future__ import annotations

import sys

import pytest
from benchmarks import evidence

from kluster_integrations.emulator import Emulator

MODEL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"


def measure(monkeypatch: pytest.MonkeyPatch, base_url: str, key: str = "some-key", model: str = MODEL) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", key)
    monkeypatch.setenv("KLUSTER_MAX_RETRIES", "0")
    command = ["evidence", "--base-url", base_url, "--model", model, "--trials", "1"]
    monkeypatch.setattr(sys, "argv", command)
    evidence.main()


def test_what_a_model_writes_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator(strict=False) as server:
        measure(monkeypatch, server.base_url)
    printed = capsys.readouterr().out
    assert "| JSON, prompted | 1 | 1 | 0 | 0 | 0 |" in printed
    assert "| tool call, native | 1 | 1 | 0 | 0 |" in printed


def test_no_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator() as server:
        ended = server.base_url
    with pytest.raises(SystemExit, match="Error: The connection failed"):
        measure(monkeypatch, ended)


def test_a_wrong_key_or_model_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(api_keys=["the-right-key"]) as server:
        with pytest.raises(SystemExit, match="Error: Invalid API key"):
            measure(monkeypatch, server.base_url, "another-key")
        with pytest.raises(SystemExit, match="Error: The model 'no/model' does not exist"):
            measure(monkeypatch, server.base_url, "the-right-key", "no/model")
