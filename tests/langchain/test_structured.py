"""`with_structured_output`: every model, every kind of schema, every method; further tools and raw answers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import date
from typing import Any, Literal

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tracers.context import collect_runs
from pydantic import BaseModel, Field, RootModel, field_validator

from kluster_integrations import catalog
from kluster_integrations.emulator import Emulator
from kluster_integrations.langchain import ChatKluster, KlusterOutputValidationError

from ..raw_server import RawRequest, RawServer, Reply
from .conftest import model_of
from .people import (
    ADA,
    ADA_JSON,
    FUNCTION,
    KINDS,
    LLAMA,
    NAME_SCHEMA,
    R1,
    TEXT,
    Address,
    Person,
    PersonDict,
    StrictPerson,
    calls,
    says,
    texts,
)

CHAT_MODELS = [spec.id for spec in catalog.all_models() if spec.purpose == "chat"]
METHODS = (None, "function_calling", "json_schema", "json_mode", "prompted")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    breed: str


class Owner(BaseModel):
    """The owner of a pet."""

    pet: Cat | Dog = Field(discriminator="kind")


class Names(RootModel[list[str]]):
    """All names."""


class Pet(RootModel[Cat | Dog]):
    """A pet."""


class Node(BaseModel):
    """A tree."""

    label: str
    children: list[Node] = []


# Every model, every kind, every method.


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_the_same_object_from_every_model(chat: Callable[..., ChatKluster], model: str) -> None:
    assert chat(model).with_structured_output(Person).invoke(TEXT) == ADA


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_schema(chat: Callable[..., ChatKluster], kind: str, model: str, method: Any) -> None:
    schema, expected = KINDS[kind]

    got = chat(model).with_structured_output(schema, method=method).invoke(TEXT)

    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [LLAMA, R1])
async def test_every_kind_of_schema_async_and_streamed(chat: Callable[..., ChatKluster], kind: str, model: str) -> None:
    schema, expected = KINDS[kind]
    structured = chat(model).with_structured_output(schema)

    assert await structured.ainvoke(TEXT) == expected
    assert list(structured.stream(TEXT))[-1] == expected
    assert [part async for part in structured.astream(TEXT)][-1] == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", [LLAMA, R1])
def test_union_member_is_chosen_by_its_discriminator(chat: Callable[..., ChatKluster], model: str, method: Any) -> None:
    owner = chat(model).with_structured_output(Owner, method=method).invoke("kind: dog\nbreed: pug")

    assert owner == Owner(pet=Dog(kind="dog", breed="pug"))


@pytest.mark.parametrize("strict", [None, False, True])
@pytest.mark.parametrize("method", METHODS)
def test_strict_reaches_no_body(chat: Callable[..., ChatKluster], emulator: Emulator, method: Any, strict: Any) -> None:
    person = chat().with_structured_output(StrictPerson, method=method, strict=strict).invoke(TEXT)

    assert person.born == date(1815, 12, 10)
    assert '"strict"' not in json.dumps(emulator.requests[-1].body)


def test_strict_makes_every_field_required(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    chat().with_structured_output(Person, strict=True).invoke(TEXT)

    body: Any = emulator.requests[-1].body
    assert "nickname" in body["tools"][0]["function"]["parameters"]["required"]


@pytest.mark.parametrize("method", METHODS)
def test_no_response_format_is_sent(chat: Callable[..., ChatKluster], emulator: Emulator, method: Any) -> None:
    chat().with_structured_output(Person, method=method).invoke(TEXT)

    assert [("response_format" in r.body) for r in emulator.requests] == [False]  # type: ignore[operator]


@pytest.mark.parametrize(("model", "native"), [(LLAMA, True), (R1, False)])
def test_default_method_is_a_tool_call_where_the_model_has_tools(
    chat: Callable[..., ChatKluster], emulator: Emulator, model: str, native: bool
) -> None:
    chat(model).with_structured_output(Person).invoke(TEXT)

    assert ("tools" in emulator.requests[-1].body) is native  # type: ignore[operator]


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "prompted"])
def test_schema_goes_into_the_prompt(chat: Callable[..., ChatKluster], emulator: Emulator, method: Any) -> None:
    chat().with_structured_output(Person, method=method).invoke(TEXT)

    body: Any = emulator.requests[-1].body
    assert "tools" not in body
    assert '"nickname"' in body["messages"][0]["content"]


def test_json_mode_without_a_schema_gives_any_object(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    emulator.reply(json={"greeting": "hello"})
    assert isinstance(chat().with_structured_output(None, method="json_mode").invoke("Answer in JSON: hello"), dict)


def test_a_system_message_is_kept(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    prompt = ChatPromptTemplate([("system", "You extract people."), ("user", "{text}")])

    assert (prompt | chat(R1).with_structured_output(Person)).invoke({"text": TEXT}) == ADA

    body: Any = emulator.requests[-1].body
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"].startswith("You extract people.")


# Schemas whose top level is no object with properties.

TEXTS = {"type": "array", "items": {"type": "string"}}
ROOTS: dict[str, tuple[Any, str, Any, str]] = {
    "array": (TEXTS, '["Ada", "Bob"]', ["Ada", "Bob"], "items"),
    "titled array": ({"title": "names", **TEXTS}, '["Ada", "Bob"]', ["Ada", "Bob"], "items"),
    "map": (
        {"title": "scores", "type": "object", "additionalProperties": {"type": "integer"}},
        '{"Ada": 3}',
        {"Ada": 3},
        "integer",
    ),
    "$ref": (
        {"title": "person", "$ref": "#/$defs/P", "$defs": {"P": NAME_SCHEMA}},
        '{"name": "Ada"}',
        {"name": "Ada"},
        "name",
    ),
    "anyOf": ({"title": "some", "anyOf": [NAME_SCHEMA, TEXTS]}, '["Ada"]', ["Ada"], "items"),
    "untitled object": (NAME_SCHEMA, '{"name": "Ada"}', {"name": "Ada"}, "name"),
    "RootModel of a list": (Names, '["Ada", "Bob"]', Names(["Ada", "Bob"]), "items"),
    "RootModel of a union": (Pet, '{"kind": "dog", "breed": "pug"}', Pet(Dog(kind="dog", breed="pug")), "breed"),
}


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("kind", ROOTS)
def test_a_top_level_that_is_not_a_plain_object(server: RawServer, kind: str, model: str) -> None:
    schema, answer, expected, telling = ROOTS[kind]

    def reply(request: RawRequest) -> Reply:
        tools = request.json.get("tools")
        return calls(answer, tools[0]["function"]["name"]) if tools else says(answer)

    server.answer = reply

    assert model_of(server, model).with_structured_output(schema).invoke("go") == expected
    assert len(server.requests) == 1
    if "tools" in server.requests[0].json:
        sent = server.requests[0].json["tools"][0]["function"]["parameters"]
    else:
        sent = json.loads(server.requests[0].json["messages"][0]["content"].split("schema>")[1].removesuffix("</"))
    assert f'"{telling}"' in json.dumps(sent)


def test_strict_array_schema_builds(chat: Callable[..., ChatKluster]) -> None:
    schema = {"title": "names", "type": "array", "items": {"type": "string"}}

    chat().with_structured_output(schema, strict=True)


@pytest.mark.parametrize("schema", [Names, {"title": "names", "type": "array", "items": {"type": "string"}}])
def test_function_calling_with_an_array_is_refused_before_any_request(
    chat: Callable[..., ChatKluster], emulator: Emulator, schema: Any
) -> None:
    with pytest.raises(ValueError, match="function_calling"):
        chat().with_structured_output(schema, method="function_calling").invoke("go")
    assert emulator.requests == []


def test_recursive_model_keeps_the_type_of_its_items(server: RawServer) -> None:
    server.answer = lambda _: says('{"label": "a", "children": [{"label": "b", "children": []}]}')

    tree = model_of(server, R1).with_structured_output(Node).invoke("go")

    assert tree == Node(label="a", children=[Node(label="b")])
    prompt = server.requests[0].json["messages"][0]["content"]
    sent = json.loads(prompt.split("<schema>")[1].split("</schema>")[0])
    assert '"items": {}' not in json.dumps(sent)


# Arguments.


def test_unknown_method_is_refused(chat: Callable[..., ChatKluster]) -> None:
    with pytest.raises(ValueError, match=r"method='grammar' must be None or one of function_calling"):
        chat().with_structured_output(Person, method="grammar")  # type: ignore[arg-type]


@pytest.mark.parametrize("schema", [list[Person], Person | PersonDict, int, "Person"], ids=str)
def test_what_is_not_a_schema_is_refused_in_one_way(chat: Callable[..., ChatKluster], schema: Any) -> None:
    with pytest.raises(ValueError, match=r"schema=.* must be a pydantic class"):
        chat().with_structured_output(schema, strict=True)


def test_parameters_of_the_caller_win(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    structured = chat().with_structured_output(Person, tool_choice="auto", parallel_tool_calls=True)

    assert structured.invoke(TEXT) == ADA
    sent: Any = emulator.requests[-1].body
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("auto", True)


def test_no_schema_is_refused_outside_json_mode(chat: Callable[..., ChatKluster]) -> None:
    with pytest.raises(ValueError, match="json_mode"):
        chat().with_structured_output(None)


def test_tools_without_include_raw_are_refused(chat: Callable[..., ChatKluster]) -> None:
    with pytest.raises(ValueError, match="include_raw"):
        chat().with_structured_output(Person, tools=[FUNCTION])


# Further tools.


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"Sunny in {city}"


@pytest.mark.parametrize("method", [None, "json_schema"])
@pytest.mark.parametrize("model", [LLAMA, R1])
def test_a_call_of_another_tool_parses_nothing(chat: Callable[..., ChatKluster], model: str, method: Any) -> None:
    structured = chat(model).with_structured_output(Address, tools=[get_weather], include_raw=True, method=method)

    answer = structured.invoke("What is the weather in Paris?")

    assert [c["name"] for c in answer["raw"].tool_calls] == ["get_weather"]
    assert answer["parsed"] is None
    assert answer["parsing_error"] is None


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_with_other_tools_the_object_still_comes(server: RawServer, model: str) -> None:
    arguments = '{"city": "Paris", "country": "France"}'
    prompted = says(f'<tool_call>{{"name": "Address", "arguments": {arguments}}}</tool_call>')
    server.script(calls(arguments, "Address") if model == LLAMA else prompted)
    structured = model_of(server, model).with_structured_output(
        Address, tools=[get_weather], include_raw=True, method="function_calling"
    )

    assert structured.invoke("go")["parsed"] == Address(city="Paris", country="France")


def test_a_call_of_a_tool_that_was_not_offered_is_no_answer(server: RawServer) -> None:
    server.script(calls(ADA_JSON, "person"), calls(ADA_JSON))

    assert model_of(server, LLAMA).with_structured_output(Person).invoke("go") == ADA


# include_raw.


@pytest.mark.parametrize("model", [LLAMA, R1])
async def test_include_raw(chat: Callable[..., ChatKluster], model: str) -> None:
    structured = chat(model).with_structured_output(Person, include_raw=True)

    for answer in (structured.invoke(TEXT), await structured.ainvoke(TEXT)):
        assert set(answer) == {"raw", "parsed", "parsing_error"}
        assert isinstance(answer["raw"], AIMessage)
        assert answer["raw"].usage_metadata["output_tokens"] > 0
        assert answer["parsed"] == ADA
        assert answer["parsing_error"] is None


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_include_raw_streams_the_message_and_then_the_object(chat: Callable[..., ChatKluster], model: str) -> None:
    parts = list(chat(model).with_structured_output(Person, include_raw=True).stream(TEXT))
    total = parts[0]
    for part in parts[1:]:
        total = total + part

    assert len(parts) > 3
    assert total["parsed"] == ADA
    assert total["parsing_error"] is None
    assert total["raw"].usage_metadata["output_tokens"] > 0


def test_include_raw_does_not_raise_but_says_what_is_wrong(server: RawServer) -> None:
    server.answer = lambda _: says("I cannot do that.")

    answer = model_of(server, R1).with_structured_output(Person, include_raw=True).invoke("go")

    assert answer["parsed"] is None
    assert answer["raw"].content == "I cannot do that."
    assert isinstance(answer["parsing_error"], KlusterOutputValidationError)


def test_include_raw_has_the_last_answer_and_all_tokens(server: RawServer) -> None:
    server.script(says("no"), says("nor"), says("never"))

    answer = model_of(server, R1).with_structured_output(Person, include_raw=True).invoke("go")

    assert answer["parsing_error"].raw_text == answer["raw"].content == "never"
    assert answer["raw"].usage_metadata["total_tokens"] == 21
    assert answer["raw"].response_metadata["cost"] > 0


# A model with tools that writes its call as text, which its server has not read.

WRITTEN = {
    "Hermes": '<tool_call>\n{"name": "Person", "arguments": %s}\n</tool_call>',
    "Llama": '{"type": "function", "name": "Person", "parameters": %s}',
    "Llama's tag": '<|python_tag|>{"name": "Person", "parameters": %s}',
    "Mistral": '[TOOL_CALLS][{"name": "Person", "arguments": %s}]',
}


@pytest.mark.parametrize("form", WRITTEN)
async def test_a_call_that_is_text_is_read_at_once(server: RawServer, form: str) -> None:
    text = WRITTEN[form] % ADA_JSON
    structured = model_of(server, LLAMA).with_structured_output(Person)
    pieces = texts(*(text[at : at + 7] for at in range(0, len(text), 7)))
    server.script(says(text), says(text), pieces, pieces)

    assert structured.invoke("go") == await structured.ainvoke("go") == ADA
    assert list(structured.stream("go"))[-1] == ADA
    assert [item async for item in structured.astream("go")][-1] == ADA
    assert len(server.requests) == 4


# What LangChain keeps of the check.


def test_equal_questions_are_answered_from_the_cache(server: RawServer) -> None:
    cache = InMemoryCache()
    server.script(says("no"), says(ADA_JSON))

    for _ in range(2):
        assert model_of(server, R1, cache=cache).with_structured_output(Person).invoke("go") == ADA
    assert len(server.requests) == 2


def test_a_cached_answer_is_checked_too(server: RawServer) -> None:
    class Old(BaseModel):
        """A person."""

        model_config = {"title": "Someone"}
        name: str

    class New(Old):
        """A person."""

        @field_validator("name")
        @classmethod
        def _long(cls, value: str) -> str:
            if len(value) < 9:
                raise ValueError("too short")
            return value

    model = model_of(server, R1, cache=InMemoryCache())
    server.script(says('{"name": "Ada"}'))

    assert model.with_structured_output(Old).invoke("go").name == "Ada"
    with pytest.raises(KlusterOutputValidationError, match="too short"):
        model.with_structured_output(New).invoke("go")
    assert len(server.requests) == 1


def test_a_trace_does_not_have_the_check(chat: Callable[..., ChatKluster]) -> None:
    with collect_runs() as runs:
        chat().with_structured_output(Person).invoke(TEXT)

    (run,) = runs.traced_runs
    (child,) = run.child_runs
    assert run.name == "StructuredOutput"
    assert "check" not in child.extra["invocation_params"]  # type: ignore[index]
    assert "Target" not in repr((child.inputs, child.outputs, child.extra, child.serialized))
    assert child.extra["options"]["ls_structured_output_format"]["schema"]["title"] == "Person"  # type: ignore[index]


def test_structured_output_can_be_pickled(chat: Callable[..., ChatKluster], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", "key")

    restored = pickle.loads(pickle.dumps(chat(R1).with_structured_output(Person)))

    assert restored.invoke(TEXT) == list(restored.stream(TEXT))[-1] == ADA


# Runnables' usual ways.


def test_batch_keeps_the_order(chat: Callable[..., ChatKluster]) -> None:
    structured = chat(R1).with_structured_output({"title": "person", **NAME_SCHEMA})

    assert structured.batch(["name: Ada", "name: Bob"]) == [{"name": "Ada"}, {"name": "Bob"}]


def test_with_retry_and_with_fallbacks(server: RawServer) -> None:
    server.script(says("no"), says(ADA_JSON))
    careless = model_of(server, R1, max_repairs=0).with_structured_output(Person)

    assert careless.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).invoke("go") == ADA

    server.script(says("no"), says(ADA_JSON))
    assert careless.with_fallbacks([careless]).invoke("go") == ADA


def test_graph_can_be_drawn(chat: Callable[..., ChatKluster]) -> None:
    chain = ChatPromptTemplate([("user", "{text}")]) | chat().with_structured_output(Person)

    assert "StructuredOutput" in {node.name for node in chain.get_graph().nodes.values()}
