from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.gateway import Gateway
from kluster_integrations.gateway.memory import Memory, Remembered

from .conftest import CITY, GEMMA, LISBON, LLAMA, MODELS, PARIS, R1, SQUARE, THINKERS, WEATHER, Serve, bodies

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS: list[Any] = [{"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": False}]
TEXT = ["output_item.added", "content_part.added", "output_text.delta"]
TEXT += ["output_text.done", "content_part.done", "output_item.done"]
THOUGHT = ["output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"]
THOUGHT += ["reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"]
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]


def checked(events: list[Any]) -> list[Any]:
    """Check events by the SDK's types, and that their numbers and indexes go up."""
    for number, event in enumerate(events):
        EVENTS.validate_python(event.model_dump(exclude_unset=True, by_alias=True))
        assert event.sequence_number == number
    added = [e.output_index for e in events if e.type == "response.output_item.added"]
    assert added == list(range(len(added)))
    return events


def kinds(events: list[Any]) -> list[str]:
    """Return the kinds of events, of deltas in a row one."""
    names = [event.type.removeprefix("response.") for event in events]
    return [name for i, name in enumerate(names) if i == 0 or not (name == names[i - 1] and name.endswith(".delta"))]


def facts(response: Response) -> list[Any]:
    """Return the output without ids."""
    items = [item.model_dump(exclude_unset=True) for item in response.output]
    return [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in items]


@pytest.mark.parametrize("model", MODELS)
def test_text_whole_and_streamed(client: openai.OpenAI, emulator: Emulator, model: str) -> None:
    asked: Any = {"model": model, "input": "Hello!", "instructions": "Be kind.", "max_output_tokens": 200}
    asked |= {"reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    whole = client.responses.create(**asked)
    events = checked(list(client.responses.create(**asked, stream=True)))

    Response.model_validate(whole.model_dump(exclude_unset=True))
    thought = THOUGHT if model in THINKERS else []
    assert kinds(events) == ["created", "in_progress", *thought, *TEXT, "completed"]
    assert facts(events[-1].response) == facts(whole)
    assert whole.output_text == "Echo: Hello!"
    assert (whole.status, whole.model, whole.instructions) == ("completed", model, "Be kind.")
    assert whole.usage
    assert whole.usage.output_tokens > 0
    assert bodies(emulator)[0]["max_completion_tokens"] == 200
    assert not {"store", "include", "reasoning", "input"} & bodies(emulator)[0].keys()


@pytest.mark.parametrize("model", MODELS)
async def test_the_async_client(gateway: Gateway, model: str) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="any") as client:
        whole = await client.responses.create(model=model, input="Hello!")
        async with client.responses.stream(model=model, input="Hello!") as stream:
            async for _ in stream:
                pass
            final = await stream.get_final_response()
    assert final.output_text == whole.output_text == "Echo: Hello!"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_round(client: openai.OpenAI, model: str, stream: bool) -> None:
    def ask(items: Any) -> Response:
        asked: Any = {"model": model, "input": items, "tools": TOOLS, "store": False}
        if not stream:
            return client.responses.create(**asked)
        events = checked(list(client.responses.create(**asked, stream=True)))
        if any(item.type == "function_call" for item in events[-1].response.output):
            assert kinds(events)[-5:] == [*CALL, "completed"]
        final: Response = events[-1].response
        return final

    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": PARIS}]}]
    first = ask(items)
    call: Any = first.output[-1]
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Paris"})
    items += [item.model_dump(exclude_unset=True) for item in first.output]  # reasoning items among them
    items += [{"type": "function_call_output", "call_id": call.call_id, "output": "It is sunny."}]
    assert "It is sunny." in ask(items).output_text


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_a_custom_tool_takes_text(client: openai.OpenAI, emulator: Emulator, model: str) -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    tool: Any = {"type": "custom", "name": "patch", "description": "Apply a patch.", "format": grammar}
    emulator.reply(tool_calls=[{"name": "patch", "arguments": {"input": "*** Begin\n+x"}}], when=model)
    events = checked(list(client.responses.create(model=model, input="Patch!", tools=[tool], stream=True)))
    call = events[-1].response.output[-1]
    assert (call.type, call.name, call.input) == ("custom_tool_call", "patch", "*** Begin\n+x")
    deltas = [e.delta for e in events if e.type == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == call.input
    assert "start: /.+/" in json.dumps(bodies(emulator)[0])

    emulator.clear()
    items: Any = [{"role": "user", "content": "Patch!"}, call.model_dump(exclude_unset=True)]
    items += [{"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done."}]
    assert client.responses.create(model=model, input=items, tools=[tool]).status == "completed"
    assert "Done." in json.dumps(bodies(emulator)[0]["messages"])


@pytest.mark.parametrize("model", MODELS)
def test_an_object(client: openai.OpenAI, emulator: Emulator, model: str) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}, "verbosity": "low"}
    whole = client.responses.create(model=model, input=LISBON, text=form)
    events = checked(list(client.responses.create(model=model, input=LISBON, text=form, stream=True)))
    for response in (whole, events[-1].response):
        assert json.loads(response.output_text) == {"name": "Lisbon", "country": "Portugal"}
    assert not {"text", "response_format"} & bodies(emulator)[0].keys()


def test_an_image_and_a_developer(client: openai.OpenAI, emulator: Emulator) -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{SQUARE}", "detail": "auto"}
    items: Any = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, image]},
    ]
    assert client.responses.create(model=GEMMA, input=items).output_text
    messages = bodies(emulator)[0]["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"][1]["image_url"]["url"].endswith(SQUARE)


def test_what_openai_runs_itself_is_left_out(client: openai.OpenAI, emulator: Emulator) -> None:
    tools: Any = [{"type": "web_search"}, *TOOLS]
    client.responses.create(model=LLAMA, input="Hello!", tools=tools)
    assert [tool["function"]["name"] for tool in bodies(emulator)[0]["tools"]] == ["get_weather"]
    with pytest.raises(openai.BadRequestError, match="web_search"):
        client.responses.create(model=LLAMA, input="Hello!", tools=tools[:1])


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("required", "required"),
        ({"type": "function", "name": "get_weather"}, {"type": "function", "function": {"name": "get_weather"}}),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
         "required"),
    ],
)  # fmt: skip
def test_tool_choice(client: openai.OpenAI, emulator: Emulator, choice: Any, sent: Any) -> None:
    other: Any = {"type": "function", "name": "other", "parameters": WEATHER}
    client.responses.create(model=LLAMA, input=PARIS, tools=[*TOOLS, other], tool_choice=choice)
    assert bodies(emulator)[0]["tool_choice"] == sent
    names = [tool["function"]["name"] for tool in bodies(emulator)[0]["tools"]]
    is_narrowed = isinstance(choice, dict) and choice["type"] == "allowed_tools"
    assert names == (["get_weather"] if is_narrowed else ["get_weather", "other"])


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI, emulator: Emulator, stream: bool) -> None:
    emulator.reply("One, two", finish_reason="length")
    answer: Any = client.responses.create(model=LLAMA, input="Count!", stream=stream)
    response = checked(list(answer))[-1].response if stream else answer
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output_text == "One, two"


def test_a_stream_that_breaks_fails(client: openai.OpenAI, emulator: Emulator) -> None:
    emulator.reply("One two three four five")
    emulator.add_fault(Fault("cut", chunks=3))
    with client.responses.with_streaming_response.create(model=LLAMA, input="Count!", stream=True) as answer:
        lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert [line["type"] for line in lines[-2:]] == ["error", "response.failed"]
    assert lines[-1]["response"]["error"]["code"] == "server_error"
    for line in lines:
        EVENTS.validate_python(line)
    emulator.add_fault(Fault("cut", chunks=3))
    with pytest.raises(openai.APIError):
        list(client.responses.create(model=LLAMA, input="Hello!", stream=True))


def test_the_conversation_is_remembered(client: openai.OpenAI, emulator: Emulator) -> None:
    first = client.responses.create(model=R1, input="My name is Ada.", instructions="Be kind.")
    second = client.responses.create(model=R1, input="And now?", previous_response_id=first.id, stream=True)
    last: Any = list(second)[-1]
    client.responses.create(model=R1, input="And then?", previous_response_id=last.response.id)
    messages = bodies(emulator)[-1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[0]["content"] == "My name is Ada."  # instructions are not carried over
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="not remembered"):
        client.responses.retrieve(first.id)


def test_items_are_referred_to(client: openai.OpenAI, emulator: Emulator) -> None:
    # The AI SDK does so by default.
    first = client.responses.create(model=R1, input=PARIS, tools=TOOLS)
    call: Any = first.output[-1]
    items: Any = [{"role": "user", "content": PARIS}]
    items += [{"type": "item_reference", "id": item.id} for item in first.output]
    items += [{"type": "function_call_output", "call_id": call.call_id, "output": "It is sunny."}]
    assert "It is sunny." in client.responses.create(model=R1, input=items, tools=TOOLS).output_text
    items[1] = {"type": "item_reference", "id": "rs_gone"}
    with pytest.raises(openai.NotFoundError, match="rs_gone"):
        client.responses.create(model=R1, input=items, tools=TOOLS)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("previous_response_id", "resp_gone", "not remembered"),
        ("background", True, "background"),
        ("conversation", "conv_1", "conversation"),
        ("prompt", {"id": "pmpt_1"}, "prompt"),
        ("input", [{"type": "computer_call_output"}], "computer_call_output"),
        ("input", [7], "input"),
        ("input", {}, "input"),
        ("temperature", 9, "temperature"),
        ("model", "", "model"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    client: openai.OpenAI, emulator: Emulator, field: str, value: Any, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.responses.create(**{"model": LLAMA, "input": "Hello!", field: value})
    assert not emulator.requests


def test_without_store_nothing_is_kept(serve: Serve) -> None:
    client = openai.OpenAI(base_url=serve().base_url, api_key="any")
    first = client.responses.create(model=LLAMA, input="Hello!", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_the_memory_forgets_the_oldest() -> None:
    memory = Memory(max_bytes=100)
    for name in "abc":
        output = [{"id": f"msg_{name}"}]
        memory.add(Remembered({"id": name, "output": output}, output, 40))
    assert [bool(memory.get(name)) for name in "abc"] == [False, True, True]
    assert [bool(memory.item(f"msg_{name}")) for name in "abc"] == [False, True, True]
    memory.add(Remembered({"id": "large", "output": []}, [], 1_000))
    assert not any(memory.get(name) for name in ("a", "b", "c", "large"))


def test_the_sdks_own_helpers(client: openai.OpenAI) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str
        country: str

    for model in (LLAMA, R1):
        parsed = client.responses.parse(model=model, input=LISBON, text_format=City)
        assert parsed.output_parsed == City(name="Lisbon", country="Portugal")
