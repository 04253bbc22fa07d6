from __future__ import annotations

import base64
import math
import struct

import pytest

from .conftest import BGE, LLAMA, Api


def embed(api: Api, value: object, **fields: object):
    return api.http.post("/embeddings", json={"model": BGE, "input": value, **fields})


def vectors(api: Api, value: object) -> list[list[float]]:
    rows = embed(api, value).json()["data"]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return [row["embedding"] for row in rows]


@pytest.mark.parametrize("value", ["hello world", "!?", " ", "🙂", "東京", [1, 2, 3]])
def test_unit_length_floats(api: Api, value: object) -> None:
    (vector,) = vectors(api, value)
    assert len(vector) == 1024
    assert all(isinstance(number, float) for number in vector)
    assert math.isclose(math.hypot(*vector), 1)


def test_order_and_determinism(api: Api) -> None:
    texts = ["one apple", "two pears", "one apple"]
    first, second, third = vectors(api, texts)
    assert first == third != second
    assert vectors(api, "two pears") == [second]
    assert len(vectors(api, [[1, 2], [3]])) == 2


def test_retrieval_finds_the_right_text(api: Api) -> None:
    texts = [
        "The Eiffel Tower in Paris was built in 1889.",
        "Bees make honey out of nectar.",
        "kluster.ai runs batch jobs within 24, 48 or 72 hours.",
        "Invoices are paid within thirty days of receipt.",
    ]
    questions = [
        "When was the Eiffel tower built?",
        "What do bees make from nectar?",
        "How long does a batch job run?",
        "When must an invoice be paid?",
    ]
    stored, asked = vectors(api, texts), vectors(api, questions)
    for wanted, question in enumerate(asked):
        scores = [sum(a * b for a, b in zip(question, text, strict=True)) for text in stored]
        assert scores.index(max(scores)) == wanted


def test_base64_is_the_same_in_float32(api: Api) -> None:
    (vector,) = vectors(api, "hello")
    raw = base64.b64decode(embed(api, "hello", encoding_format="base64").json()["data"][0]["embedding"])
    assert struct.unpack("<1024f", raw) == pytest.approx(vector, abs=1e-7)


def test_usage_by_shape(serve) -> None:
    assert embed(serve()[1], ["a b", "c"]).json()["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert embed(serve(shape="sglang")[1], ["a b", "c"]).json()["usage"] == {"prompt_tokens": 3}
    assert embed(serve()[1], [7, 8, 9]).json()["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("value", "fields", "param"),
    [
        ("", {}, "input[0]"),
        ([], {}, "input"),
        (None, {}, "input"),
        (5, {}, "input"),
        (["a", ""], {}, "input[1]"),
        (["a", 1], {}, "input[1]"),
        ([[]], {}, "input[0]"),
        ("word " * 8_193, {}, "input[0]"),
        (["a", [1] * 8_193], {}, "input[1]"),
        ("a", {"dimensions": 8}, "dimensions"),
        ("a", {"dimensions": None}, "dimensions"),
        ("a", {"user": "u"}, "user"),
        ("a", {"encoding_format": "int8"}, "encoding_format"),
        ("a", {"encoding_format": ["float"]}, "encoding_format"),
        ("a", {"model": LLAMA}, "model"),
    ],
)
def test_refused(api: Api, value: object, fields: dict[str, object], param: str) -> None:
    answer = embed(api, value, **fields)
    assert answer.status_code == 400, answer.text[:200]
    assert answer.json()["error"]["param"] == param


def test_limit_is_inclusive(api: Api) -> None:
    assert embed(api, [1] * 8_192).status_code == 200
