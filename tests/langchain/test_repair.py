"""What `with_structured_output` makes of a model's text: found where it stands, checked, asked for again if wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from pydantic import BaseModel, field_validator

from kluster_integrations.langchain import KlusterOutputValidationError

from ..raw_server import RawServer, Reply, whole
from .conftest import model_of
from .people import ADA, ADA_JSON, KINDS, LLAMA, R1, Person, calls, says

# Finding the answer.

FOUND = {
    "alone": ADA_JSON,
    "fenced": f"```json\n{ADA_JSON}\n```",
    "fenced in prose": f"Here it is:\n\n```json\n{ADA_JSON}\n```\nShall I go on?",
    "in prose": f"The person {{as asked}} is {ADA_JSON}. That is all [1].",
    "after thoughts": f'<think>{{"name": "Bob"}} is wrong.</think>\n\n{ADA_JSON}',
    "after an untagged thought": f"The text speaks of Ada.</think>{ADA_JSON}",
    "without thoughts": f"\n{ADA_JSON}\n",
}


@pytest.mark.parametrize("where", FOUND)
def test_answer_is_found_at_once(server: RawServer, where: str) -> None:
    server.script(says(FOUND[where]))

    assert model_of(server, R1).with_structured_output(Person).invoke("go") == ADA
    assert len(server.requests) == 1


def test_a_model_that_answers_in_text_where_a_call_was_asked_for(server: RawServer) -> None:
    server.script(says(f"```json\n{ADA_JSON}\n```"))

    assert model_of(server, LLAMA).with_structured_output(Person).invoke("go") == ADA


def test_reasoning_in_a_field_of_its_own_is_no_answer(server: RawServer) -> None:
    server.script(whole({"content": ADA_JSON, "reasoning_content": '{"name": "Bob"}'}))

    assert model_of(server, R1).with_structured_output(Person).invoke("go") == ADA


# Repair.

WRONG = {
    "no JSON": "I would rather not.",
    "cut JSON": ADA_JSON[:-5],
    "empty": "",
    "missing field": '{"name": "Ada Lovelace"}',
    "wrong type": json.dumps({**json.loads(ADA_JSON), "born": "last year"}),
    "not in the enum": json.dumps({**json.loads(ADA_JSON), "subject": "music"}),
    "wrong inside": json.dumps({**json.loads(ADA_JSON), "address": {"city": "London"}}),
    "a list": f"[{ADA_JSON}, {ADA_JSON}]",
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_first_answer_is_repaired(server: RawServer, wrong: str) -> None:
    structured = model_of(server, R1).with_structured_output(Person)

    server.script(says(WRONG[wrong]), says(ADA_JSON))
    assert structured.invoke("go") == ADA
    server.script(says(WRONG[wrong]), says(ADA_JSON))
    assert await structured.ainvoke("go") == ADA

    assert len(server.requests) == 4


@pytest.mark.parametrize("kind", ["pydantic v1", "TypedDict", "dataclass", "JSON schema"])
@pytest.mark.parametrize("method", ["json_schema", "prompted"])
def test_every_kind_is_validated_and_repaired(server: RawServer, kind: str, method: Any) -> None:
    schema, expected = KINDS[kind]
    flat = json.loads(ADA_JSON) | {"home": {"city": "London"}}
    wanted = {"name", "born", "home"} if kind == "dataclass" else {"name", "subject"} if kind == "TypedDict" else flat
    server.script(says('{"name": null}'), says(json.dumps({k: v for k, v in flat.items() if k in wanted})))

    got = model_of(server, R1).with_structured_output(schema, method=method).invoke("go")

    assert len(server.requests) == 2
    assert got == expected or got["name"] == "Ada Lovelace"


def test_the_model_is_told_what_is_wrong(server: RawServer) -> None:
    server.script(says('{"name": "Ada Lovelace"}'), says(ADA_JSON))

    model_of(server, R1).with_structured_output(Person).invoke("go")

    *before, answer, complaint = server.requests[1].json["messages"]
    assert before == server.requests[0].json["messages"]
    assert answer == {"role": "assistant", "content": '{"name": "Ada Lovelace"}'}
    assert complaint["role"] == "user"
    assert "born: Field required" in complaint["content"]


def test_thoughts_are_not_sent_back_in_a_repair(server: RawServer) -> None:
    server.script(says("<think>Let me think.</think>No."), says(ADA_JSON))

    model_of(server, R1).with_structured_output(Person).invoke("go")

    assert "Let me think" not in server.requests[1].body.decode()


def test_a_native_call_is_repaired_as_a_tool_result(server: RawServer) -> None:
    server.script(calls('{"name": "Ada Lovelace"}'), calls(ADA_JSON))

    assert model_of(server, LLAMA).with_structured_output(Person).invoke("go") == ADA

    *_, call, result = server.requests[1].json["messages"]
    assert call["tool_calls"][0]["id"] == result["tool_call_id"] == "call-1"
    assert result["role"] == "tool"
    assert "born: Field required" in result["content"]


def test_a_native_call_with_broken_arguments_is_repaired(server: RawServer) -> None:
    server.script(calls('{"name": "Ada'), calls(ADA_JSON))

    assert model_of(server, LLAMA).with_structured_output(Person).invoke("go") == ADA
    assert len(server.requests) == 2


def test_broken_arguments_go_back_as_json(server: RawServer) -> None:
    # vLLM decodes the arguments of earlier calls for the template, and answers 400 where they are no JSON.
    server.script(calls('{"name": "Ada'), calls(ADA_JSON))

    model_of(server, LLAMA).with_structured_output(Person).invoke("go")

    for message in server.requests[1].json["messages"]:
        for call in message.get("tool_calls", []):
            json.loads(call["function"]["arguments"])


def test_own_validators_have_their_say(server: RawServer) -> None:
    class Adult(BaseModel):
        age: int

        @field_validator("age")
        @classmethod
        def _of_age(cls, value: int) -> int:
            if value < 18:
                raise ValueError("must be of age")
            return value

    server.script(says('{"age": 3}'), says('{"age": 36}'))

    assert model_of(server, R1).with_structured_output(Adult).invoke("go") == Adult(age=36)
    assert "must be of age" in server.requests[1].json["messages"][-1]["content"]


@pytest.mark.parametrize("max_repairs", [0, 1, 2, 4])
@pytest.mark.parametrize("model", [LLAMA, R1])
def test_after_max_repairs_the_error_has_the_raw_text(server: RawServer, model: str, max_repairs: int) -> None:
    server.answer = lambda _: says(f"No {len(server.requests)}")

    with pytest.raises(KlusterOutputValidationError) as caught:
        model_of(server, model, max_repairs=max_repairs).with_structured_output(Person).invoke("go")

    assert len(server.requests) == 1 + max_repairs
    assert caught.value.raw_text == f"No {1 + max_repairs}"
    assert isinstance(caught.value, OutputParserException)


async def test_after_max_repairs_async(server: RawServer) -> None:
    server.answer = lambda _: says("No")

    with pytest.raises(KlusterOutputValidationError, match="does not hold JSON"):
        await model_of(server, R1).with_structured_output(Person).ainvoke("go")
    assert len(server.requests) == 3


def test_the_error_of_a_wrong_call_has_its_arguments(server: RawServer) -> None:
    server.answer = lambda _: calls('{"name": "Ada"}')

    with pytest.raises(KlusterOutputValidationError) as caught:
        model_of(server, LLAMA).with_structured_output(Person).invoke("go")
    assert "Ada" in caught.value.raw_text


def test_repair_does_not_repeat_refused_requests(server: RawServer) -> None:
    refusal = {"error": {"message": "no such model", "code": 404}}
    server.script(Reply([json.dumps(refusal).encode()], status=404, content_type="application/json", framing="length"))

    with pytest.raises(Exception, match="no such model"):
        model_of(server, R1).with_structured_output(Person).invoke("go")
    assert len(server.requests) == 1


def test_external_references_are_not_fetched(server: RawServer) -> None:
    server.answer = lambda _: says('{"name": "Ada"}')
    schema = {"title": "x", "type": "object", "properties": {"name": {"$ref": f"{server.base_url}/schema.json"}}}

    with pytest.raises(Exception, match=r"(?i)ref|resolv"):
        model_of(server, R1).with_structured_output(schema, method="json_schema").invoke("go")
    assert all(r.path.endswith("/chat/completions") for r in server.requests)
