"""`with_structured_output` that streams: how an object grows, what is repaired, and what was cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.prompts import ChatPromptTemplate

from kluster_integrations.langchain import ChatKluster, KlusterOutputValidationError

from ..raw_server import RawServer, Reply, sse, whole
from .conftest import amerged, merged, model_of
from .people import (
    ADA,
    ADA_JSON,
    LLAMA,
    NAME_SCHEMA,
    NEMO,
    R1,
    TEXT,
    Person,
    PersonDict,
    calls,
    says,
    texts,
)


def test_a_dict_grows(server: RawServer) -> None:
    server.script(texts('{"na', 'me": "Ada', ' Lovelace"', "}"))

    parts = list(model_of(server, NEMO).with_structured_output({"title": "person", **NAME_SCHEMA}).stream("go"))

    assert parts[-1] == {"name": "Ada Lovelace"}
    assert {"name": "Ada"} in parts
    assert len(parts) == len({json.dumps(p) for p in parts})  # nothing comes twice


def test_a_typed_dict_grows(server: RawServer) -> None:
    server.script(texts('{"name": "Ada"', ', "subject": "mathematics"}'))

    parts = list(model_of(server, NEMO).with_structured_output(PersonDict).stream("go"))

    assert parts == [{"name": "Ada"}, {"name": "Ada", "subject": "mathematics"}]


def test_the_arguments_of_a_call_grow(server: RawServer) -> None:
    def part(arguments: str, **head: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, **head, "function": {"arguments": arguments, **head.pop("function", {})}}]}

    first = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "person", "arguments": ""}}
    pieces = [{"tool_calls": [first]}, part('{"name": "A'), part('da"'), part("}")]
    server.script(Reply(sse(*pieces, finish="tool_calls")))

    parts = list(model_of(server, LLAMA).with_structured_output({"title": "person", **NAME_SCHEMA}).stream("go"))

    assert {"name": "A"} in parts
    assert parts[-1] == {"name": "Ada"}


def test_an_instance_comes_only_when_it_is_valid(server: RawServer) -> None:
    server.script(texts(*(ADA_JSON[at : at + 5] for at in range(0, len(ADA_JSON), 5))))

    parts = list(model_of(server, NEMO).with_structured_output(Person).stream("go"))

    assert all(isinstance(part, Person) for part in parts)
    assert parts[-1] == ADA


def test_braces_in_thoughts_are_no_part_of_the_object(server: RawServer) -> None:
    server.script(texts('<think>Perhaps {"name": "Bob"}?', '</think>{"name": ', '"Ada"}'))

    parts = list(model_of(server, R1).with_structured_output({"title": "person", **NAME_SCHEMA}).stream("go"))

    assert {"name": "Bob"} not in parts
    assert parts[-1] == {"name": "Ada"}


async def test_a_wrong_stream_is_repaired(server: RawServer) -> None:
    structured = model_of(server, NEMO).with_structured_output({"title": "person", **NAME_SCHEMA})
    wrong, right = texts('{"name": 3}'), says('{"name": "Ada"}')

    server.script(wrong, right)
    assert list(structured.stream("go"))[-1] == {"name": "Ada"}
    server.script(wrong, right)
    assert [part async for part in structured.astream("go")][-1] == {"name": "Ada"}
    assert len(server.requests) == 4


@pytest.mark.parametrize("include_raw", [False, True])
def test_a_stream_that_is_repaired_tells_the_model_what_is_wrong(server: RawServer, include_raw: bool) -> None:
    function = {"name": "Person", "arguments": '{"name": "Ada"}'}
    streamed = {"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": function}]}
    server.script(Reply(sse(streamed, finish="tool_calls")), calls('{"name": "Ada"}', id_="call-2"), calls(ADA_JSON))

    last = list(model_of(server, LLAMA).with_structured_output(Person, include_raw=include_raw).stream("go"))[-1]

    assert last == ({"parsed": ADA, "parsing_error": None} if include_raw else ADA)
    for number in (1, 2):
        *_, call, result = server.requests[number].json["messages"]
        assert call["tool_calls"][0]["id"] == result["tool_call_id"] == f"call-{number}"
        assert "born: Field required" in result["content"]


@pytest.mark.parametrize("max_repairs", [0, 1, 3])
def test_a_stream_is_repaired_as_often_as_allowed(server: RawServer, max_repairs: int) -> None:
    server.answer = lambda r: texts("no") if r.json.get("stream") else says("no")

    with pytest.raises(KlusterOutputValidationError, match="does not hold JSON"):
        list(model_of(server, NEMO, max_repairs=max_repairs).with_structured_output(Person).stream("go"))
    assert len(server.requests) == 1 + max_repairs


# Of each pair the first is whole, the second streamed; both were cut by max_tokens.
CUT: dict[str, tuple[str, Callable[[], tuple[Reply, Reply]]]] = {
    "text": (
        NEMO,
        lambda: (
            whole({"content": ADA_JSON[:40]}, finish="length"),
            Reply(sse({"content": ADA_JSON[:40]}, finish="length")),
        ),
    ),
    "call": (
        LLAMA,
        lambda: (
            whole({"content": None, "tool_calls": [_call(ADA_JSON[:40])]}, finish="length"),
            Reply(sse({"tool_calls": [{"index": 0, **_call(ADA_JSON[:40])}]}, finish="length")),
        ),
    ),
}


def _call(arguments: str) -> dict[str, Any]:
    return {"id": "call-1", "type": "function", "function": {"name": "Person", "arguments": arguments}}


@pytest.mark.parametrize("kind", CUT)
def test_a_cut_answer_is_not_asked_for_again(server: RawServer, kind: str) -> None:
    model, replies = CUT[kind]
    structured = model_of(server, model, max_tokens=20).with_structured_output(Person)
    server.script(*replies())

    for ask in (structured.invoke, lambda text: list(structured.stream(text))):
        with pytest.raises(KlusterOutputValidationError, match=r"it was cut.*Hint: raise max_") as caught:
            ask("go")
        assert caught.value.raw_text.startswith('{"name":"Ada Lovelace"')
    assert len(server.requests) == 2


def test_a_thought_that_was_cut_gives_no_object(server: RawServer) -> None:
    server.script(whole({"content": f"The answer may be {ADA_JSON}, but"}, finish="length"))

    with pytest.raises(KlusterOutputValidationError, match="while the model was reasoning"):
        model_of(server, R1).with_structured_output(Person).invoke("go")


def test_nothing_is_taken_from_inside_a_value_that_failed(server: RawServer) -> None:
    schema = {"title": "city", "type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    broken = '{"size": 3 km, "twin": {"size": 40}}'
    server.script(says(broken), says('{"size": 3}'), texts(broken), says('{"size": 3}'))
    structured = model_of(server, NEMO).with_structured_output(schema)

    assert structured.invoke("go") == list(structured.stream("go"))[-1] == {"size": 3}
    assert len(server.requests) == 4


def test_a_large_object_is_shown_a_bounded_number_of_times(server: RawServer) -> None:
    big = json.dumps({"name": "Ada Lovelace " * 3_000})
    server.script(texts(*(big[at : at + 4] for at in range(0, len(big), 4))))

    parts = list(model_of(server, NEMO).with_structured_output({"title": "person", **NAME_SCHEMA}).stream("go"))

    assert 50 < len(parts) < 400  # of 9,754 chunks
    sizes = [len(part.get("name", "")) for part in parts]
    assert sizes == sorted(sizes)
    assert parts[-1] == json.loads(big)


async def test_streaming_may_be_disabled(server: RawServer) -> None:
    server.answer = lambda _: says(ADA_JSON)
    structured = model_of(server, NEMO, disable_streaming=True).with_structured_output(Person)

    assert list(structured.stream("go")) == [ADA]
    assert [item async for item in structured.astream("go")] == [ADA]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("model", [LLAMA, R1])
def test_both_versions_of_content(chat: Callable[..., ChatKluster], model: str, version: str) -> None:
    structured = chat(model, output_version=version, streaming=True).with_structured_output(Person)

    assert structured.invoke(TEXT) == list(structured.stream(TEXT))[-1] == ADA


def test_a_stream_that_stays_wrong_raises(server: RawServer) -> None:
    server.script(texts("no"), says("no"), says("still no"))

    with pytest.raises(KlusterOutputValidationError) as caught:
        list(model_of(server, NEMO).with_structured_output(Person).stream("go"))
    assert caught.value.raw_text == "still no"


def test_a_chain_streams_through(server: RawServer) -> None:
    server.script(texts('{"name": "Ada"', ', "subject": "mathematics"}'))
    chain = ChatPromptTemplate([("user", "{text}")]) | model_of(server, NEMO).with_structured_output(PersonDict)

    assert list(chain.stream({"text": "go"})) == [{"name": "Ada"}, {"name": "Ada", "subject": "mathematics"}]


@pytest.mark.parametrize("model", [NEMO, R1])
async def test_response_format_streams_what_invoke_returns(server: RawServer, model: str) -> None:
    schema = {"type": "json_schema", "json_schema": {"schema": NAME_SCHEMA}}
    said = 'Here:\n```json\n{"name": "Ada"}\n```\nBye.'
    server.answer = lambda r: texts(*said) if r.json.get("stream") else says(said)
    bound = model_of(server, model).bind(response_format=schema)

    assert bound.invoke("go").text == '{"name": "Ada"}'
    assert merged(bound.stream("go")).text == (await amerged(bound.astream("go"))).text == '{"name": "Ada"}'
