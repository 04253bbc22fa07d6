"""`KlusterRows` without Ray: what it does with a batch, what it asks for, and what its log keeps."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import AuthenticationError, BadRequestError, NotFoundError, UnsupportedParameterError
from kluster_integrations.ray import KlusterRows
from kluster_integrations.ray.answer_log import AnswerLog
from tests.raw_server import RawServer, whole

MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
MOOD = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
JSON = {"response_format": {"type": "json_schema", "json_schema": {"name": "mood", "schema": MOOD}}}
Make = Callable[..., KlusterRows]


@pytest.fixture
def make(emulator: Emulator) -> Iterator[Make]:
    made: list[KlusterRows] = []

    def rows(base_url: str = emulator.base_url, **options: Any) -> KlusterRows:
        config = KlusterConfig(api_key="key", base_url=base_url, max_retries=0)
        named = options if "messages" in options else {"prompt": "text", **options}
        made.append(KlusterRows(MODEL, config=config, **named))
        return made[-1]

    yield rows
    for each in made:
        each.close()


def texts(count: int) -> dict[str, list[Any]]:
    return {"id": [*range(count)], "text": [f"Text {n}." for n in range(count)]}


def test_each_row_has_its_own_answer(make: Make) -> None:
    done = make(max_concurrency=3, output="said", error="why")(texts(10))

    assert list(done) == ["id", "text", "said", "why"]
    assert [f"Text {n}." in said for n, said in enumerate(done["said"])] == [True] * 10
    assert (done["id"], done["why"]) == ([*range(10)], [None] * 10)


def test_an_empty_batch(make: Make, emulator: Emulator) -> None:
    assert make()({"text": []}) == {"text": [], "answer": [], "error": []}
    assert emulator.requests == []


def test_a_function_makes_the_messages_and_may_fail_for_a_row(make: Make, emulator: Emulator) -> None:
    def messages(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": f"Half of {row['id']} is {6 // row['id']}."}]

    done = make(messages=messages)({"id": [0, 3]})

    assert done["error"] == ["ZeroDivisionError: integer division or modulo by zero", None]
    assert [request.body["messages"][0]["content"] for request in emulator.requests] == ["Half of 3 is 2."]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_an_arrow_table_with_a_column_of_messages(make: Make, emulator: Emulator) -> None:
    import pyarrow as pa

    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Call f."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "It is 5.", "tool_call_id": "call_1"},
    ]
    done = make(messages="talk")(pa.table({"talk": [messages, [{"role": "user", "content": "Hello!"}]]}))

    assert [field.type for field in done.schema][1:] == [pa.string(), pa.string()]  # also where all are None
    assert done["error"].to_pylist() == [None, None]
    assert [len(request.body["messages"]) for request in emulator.requests] == [3, 1]
    assert None not in emulator.requests[1].body["messages"][0].values()


def test_numpy_columns(make: Make) -> None:
    numpy = pytest.importorskip("numpy")
    messages = numpy.empty(1, dtype=object)
    messages[0] = numpy.array([{"role": "user", "content": "Hello!", "tool_calls": None}])
    done = make(messages="talk")({"talk": messages, "id": numpy.arange(1)})

    assert "Hello!" in done["answer"][0]
    assert "Text 1." in make()({"text": numpy.array(["Text 1."])})["answer"][0]


def test_answers_that_do_not_follow_the_schema_are_errors_and_kept(
    make: Make, server: RawServer, tmp_path: Path
) -> None:
    server.answer = lambda _: whole({"content": "no JSON"})
    for _ in range(2):
        done = make(server.base_url, params=JSON, max_repairs=1, log=tmp_path)({"text": ["Is it good?"]})

        assert done["answer"] == [None]
        assert done["error"][0].startswith("OutputValidationError: ")
    assert len(server.requests) == 2  # one, and its repair


def test_a_schema_gives_json(make: Make) -> None:
    (answer,) = make(params=JSON)({"text": ["Is it good?"]})["answer"]
    assert json.loads(answer)["mood"] in ("good", "bad")


def test_half_a_surrogate_pair_does_not_end_a_run(make: Make, server: RawServer, tmp_path: Path) -> None:
    server.answer = lambda _: whole({"content": "smile \ud83d"})
    for _ in range(2):
        assert make(server.base_url, log=tmp_path)({"text": ["Hello!"]})["answer"] == ["smile \ufffd"]
    assert len(server.requests) == 1


def test_equal_rows_are_asked_once(make: Make, emulator: Emulator) -> None:
    done = make()({"text": ["Same.", "Other.", "Same."]})

    assert done["answer"][0] == done["answer"][2] != done["answer"][1]
    assert len(emulator.requests) == 2


def test_another_run_asks_only_for_what_is_new(make: Make, emulator: Emulator, tmp_path: Path) -> None:
    first = make(log=tmp_path)(texts(5))
    again = make(log=tmp_path)(texts(8))

    assert again["answer"][:5] == first["answer"]
    assert len(emulator.requests) == 8
    make(log=tmp_path, params={"temperature": 0.5})(texts(8))
    assert len(emulator.requests) == 16
    with Emulator() as other:
        make(other.base_url, log=tmp_path)(texts(8))
        assert len(other.requests) == 8


def test_errors_that_may_pass_are_asked_again(make: Make, emulator: Emulator, tmp_path: Path) -> None:
    emulator.add_fault(Fault("status", status=503))
    emulator.add_fault(Fault("status", status=429))
    emulator.add_fault(Fault("status", status=400))
    failed = make(log=tmp_path, max_concurrency=1)(texts(4))
    again = make(log=tmp_path)(texts(4))

    kinds = ["InternalServerError", "RateLimitError", "BadRequestError"]
    assert [error.partition(":")[0] for error in failed["error"][:3]] == kinds
    assert [bool(error) for error in again["error"]] == [False, False, True, False]
    assert len(emulator.requests) == 4 + 2


def test_actors_see_what_others_have_added(make: Make, emulator: Emulator, tmp_path: Path) -> None:
    one, two = make(log=tmp_path), make(log=tmp_path)
    one(texts(2))
    two(texts(4))
    one(texts(6))
    two(texts(6))
    assert len(emulator.requests) == 6


async def test_what_is_half_written_is_not_read(tmp_path: Path) -> None:
    good = json.dumps(["a", "answer", None]).encode()
    (tmp_path / "1-x.jsonl").write_bytes(good + b"\n" + good.replace(b'"a"', b'"b"')[:-3])
    (tmp_path / "2-x.jsonl").write_bytes(b"\0\0\0\n" + good.replace(b'"a"', b'"c"') + b"\n")
    log = AnswerLog(tmp_path)
    log.refresh()
    assert set(log.answers) == {"a", "c"}

    with (tmp_path / "1-x.jsonl").open("ab") as file:  # its writer goes on
        file.write(good[-3:] + b"\n")
    log.refresh()
    assert set(log.answers) == {"a", "b", "c"}


@pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationError), (404, NotFoundError)])
def test_what_is_wrong_with_all_rows_ends_the_run_and_loses_nothing(
    make: Make, emulator: Emulator, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    emulator.add_fault(Fault("status", status=status, after=5, times=None))
    with pytest.raises(kind):
        make(log=tmp_path, max_concurrency=2)(texts(50))
    assert len(emulator.requests) <= 7
    emulator.clear()
    make(log=tmp_path)(texts(50))
    assert len(emulator.requests) == 45


def test_a_log_that_cannot_be_written_ends_the_run(make: Make, tmp_path: Path) -> None:
    rows = make(log=tmp_path / "log")
    (tmp_path / "log").rmdir()
    with pytest.raises(FileNotFoundError):
        rows(texts(1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": None}, r"exactly one of them must be set"),
        ({"prompt": "text", "messages": "talk"}, r"prompt='text' and messages='talk'"),
        ({"max_concurrency": 0}, r"max_concurrency=0 must be 1 or more"),
        ({"params": {"tools": [{}]}}, r"params\['tools'\] is not allowed"),
    ],
)
def test_wrong_arguments_are_refused(make: Make, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        make(**options)


def test_wrong_parameters_are_refused_before_any_row(make: Make) -> None:
    with pytest.raises(UnsupportedParameterError, match="audio"):
        make(params={"audio": {"voice": "x"}})


def test_wrong_batches_are_refused(make: Make) -> None:
    rows = make()
    with pytest.raises(BadRequestError, match=r"no column 'text'; they have 'id', 'name'"):
        rows({"id": [1], "name": ["x"]})
    with pytest.raises(BadRequestError, match=r"have a column 'error' already"):
        rows({"text": ["x"], "error": ["y"]})
    with pytest.raises(BadRequestError, match=r"A batch is a list"):
        rows([{"text": "x"}])
