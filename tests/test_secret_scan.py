"""The scan that `make lint` runs finds a key where somebody has left one."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

pytest.importorskip("detect_secrets", reason="it comes with make lint")

from release import secrets

MADE_UP = "7dq1Z9xk04cM2b84La6Re9w5"


@pytest.mark.parametrize(
    "text",
    [
        f'api_key = "{MADE_UP}"',
        f'client = OpenAI(api_key="{uuid.uuid5(uuid.NAMESPACE_DNS, MADE_UP)}")',
        f'password = "x{MADE_UP[:9]}"',
        'url = "https://ada:' + MADE_UP[:9] + '@example.com/v1"',
        "-----BEGIN " + "PRIVATE KEY-----",
        f"export KLUSTER_API_KEY={uuid.uuid5(uuid.NAMESPACE_DNS, MADE_UP)}",
        f'headers = {{"x-api-key": "{uuid.uuid5(uuid.NAMESPACE_DNS, MADE_UP)}"}}',
        f"    api_key: {MADE_UP}",
        f"the key sk-{MADE_UP} is in the text",
    ],
)
def test_a_key_is_found(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(f"# a line before\n{text}\n")
    assert secrets.found(path)[0].startswith("line 2: ")


@pytest.mark.parametrize(
    "text", ['api_key = "another-key"', 'api_key="any"', "KLUSTER_API_KEY=...", "api_key=config.require_key()"]
)
def test_a_stand_in_is_not(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(text)
    assert secrets.found(path) == []


def test_ids_of_a_recording_are_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "ROOT", tmp_path)
    path = tmp_path / "cassettes" / "chat.yaml"
    path.parent.mkdir()
    path.write_text("id: chat-0123456789abcdef0123456789abcdef\n")
    assert secrets.found(path) == []
    for text in ("token: ghp_" + "a1" * 18, f"authorization: Bearer {MADE_UP}", f'"api_key": "{MADE_UP}"'):
        path.write_text(text)
        assert secrets.found(path)
