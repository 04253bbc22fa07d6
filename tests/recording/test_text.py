"""A cassette's text: every body comes back, people can read it, and plain vcrpy can play it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
import vcr
import yaml

from kluster_integrations.recording._text import dump, load, readable

ALPHABET = [*"ab {}[]:,\"'#&*!|>%@`\\-?", *"\n\r\t\0\x7f\x85\u2028\u2029\ufeff\xa0é中😀"]


def interaction(body: Any, sent: Any = b"{}") -> dict[str, Any]:
    return {
        "request": {"method": "POST", "uri": "http://127.0.0.1/v1/x", "body": sent, "headers": {}},
        "response": {"status": {"code": 200, "message": "OK"}, "headers": {}, "body": {"string": body}},
    }


def back(body: Any) -> bytes:
    """Return a body after it has been written and read."""
    found = load(dump({}, [interaction(body)]))["interactions"][0]["response"]["body"]["string"]
    return found.encode() if isinstance(found, str) else found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"  indented\n",
        b"\n\nlate\n\n\n",
        b"trailing space \nx",
        b"tab\there\n",
        b"data: {}\r\n\r\n",
        b"\xff\xfe\x00 no UTF-8",
        "\x85 and \u2028 end lines\n".encode(),
        b"null",
        b"2026-11-24",
        b"1_000",
        b"# no comment",
        b"- no list\n- at all\n",
        b"x" * 5_000,
        ("word " * 500).encode(),
    ],
)
def test_a_body_comes_back(body: bytes) -> None:
    assert back(body) == body


def test_any_text_comes_back() -> None:
    chance = random.Random(0)
    for _ in range(400):
        text = "".join(chance.choices(ALPHABET, k=chance.randrange(40)))
        assert back(text.encode()) == text.encode()


VALUES = [
    {},
    {"a": []},
    [1, 2.5, -1e-30, 10**30, True, None],
    {"text": "two\nlines, \u2028 \x85 \ufeff \x7f and \ud83d alone"},
    {"vectors": [[0.1 * n for n in range(300)], []]},
    {"deep": {"a": {"b": {"c": [{"d": "x" * 90}, "y" * 300]}}}},
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_json_is_laid_out_and_stays_what_it_was(value: Any) -> None:
    laid_out = readable(json.dumps(value).encode())

    assert json.loads(laid_out) == value
    assert json.loads(back(laid_out)) == value
    assert readable(laid_out) == laid_out


def test_what_is_not_json_stays() -> None:
    assert readable(b"<html>") == b"<html>"
    assert readable(b"12") == b"12"
    assert readable(b"[" * 100_000) == b"[" * 100_000


def test_it_can_be_read() -> None:
    answer = {"id": "x", "choices": [{"message": {"role": "assistant", "content": 'a "quoted" word' * 8}}]}
    text = dump({"date": "2026-11-24"}, [interaction(readable(json.dumps(answer).encode()))])

    assert '"content": "a \\"quoted\\" word' in text
    assert "\\\\" not in text
    assert text.splitlines()[1:3] == ["recorded:", "  date: '2026-11-24'"]


def test_vectors_fill_their_lines() -> None:
    lines = readable(json.dumps({"embedding": [n / 7 for n in range(1_000)]}).encode()).splitlines()
    assert 150 < len(lines) < 400


def test_vcrpy_itself_can_play_it(tmp_path: Path) -> None:
    file = tmp_path / "plain.yaml"
    rows = [interaction(readable(b'{"a": 1}')), interaction(b"data: 1\n\ndata: [DONE]\n\n")]
    file.write_text(dump({"date": "2026-11-24"}, rows), "utf-8")

    with (
        vcr.use_cassette(str(file), record_mode="none", match_on=["method", "path"]),
        httpx.Client() as client,
    ):
        assert client.post("http://127.0.0.1/v1/x", json={}).json() == {"a": 1}
        assert client.post("http://127.0.0.1/v1/x", json={}).content == b"data: 1\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML"),
        ("[]", "no list `interactions`"),
        ("interactions: 1", "no list `interactions`"),
        ("interactions: [1]", "interactions[0]"),
        ("interactions: [{request: {}, response: {}}]", "interactions[0]"),
        ("!!python/object:os.system {}", "not YAML"),
    ],
)
def test_what_is_not_a_cassette_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        load(text)
    assert said in str(caught.value)


def test_it_is_plain_yaml() -> None:
    assert yaml.safe_load(dump({}, [interaction(b"\xff")]))["interactions"][0]["response"]["body"]["string"] == b"\xff"
