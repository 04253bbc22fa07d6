"""Tool calls, native and prompted: choices, parallel calls, arguments, results, errors, repair."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from kluster_integrations import catalog
from kluster_integrations.emulator import Emulator
from kluster_integrations.langchain import ChatKluster, KlusterBadRequestError, KlusterOutputValidationError

from ..raw_server import RawServer, Reply, sse, whole
from ..stated import call
from .conftest import get_time, get_weather, merged, model_of
from .people import says
from .tool_calls import BOTH, short, written

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"  # no tools, and no thoughts
CHAT_MODELS = [spec.id for spec in catalog.all_models() if spec.purpose == "chat"]
WEATHER = "What is the weather in Paris?"


@tool
def roll_dice() -> int:
    """Roll the dice."""
    return 4


# Every model.


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_every_model_calls(chat: Callable[..., ChatKluster], emulator: Emulator, model: str) -> None:
    answer = chat(model).bind_tools([get_weather, get_time]).invoke(WEATHER)

    assert short(answer) == [("get_weather", {"city": "Paris"})]
    assert answer.tool_calls[0]["id"]
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert ("tools" in emulator.requests[0].body) is catalog.get(model).supports_tools  # type: ignore[operator]


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_every_model_reads_the_result(chat: Callable[..., ChatKluster], model: str) -> None:
    bound = chat(model).bind_tools([get_weather, get_time])
    call = bound.invoke(WEATHER)

    answer = bound.invoke([HumanMessage(WEATHER), call, get_weather.invoke(call.tool_calls[0])])

    assert answer.tool_calls == []
    assert "Sunny in Paris" in answer.text


# What a tool may be.


class GetWeather(BaseModel):
    """Get the weather of a city."""

    city: str = Field(description="The city's name")


class GetWeatherDict(TypedDict):
    """Get the weather of a city."""

    city: str


def get_weather_function(city: str) -> str:
    """Get the weather of a city."""
    return city


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = {
    "BaseTool": get_weather,
    "function": get_weather_function,
    "pydantic": GetWeather,
    "TypedDict": GetWeatherDict,
    "OpenAI": {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}},
    "Anthropic": {"name": "get_weather", "description": "Get the weather", "input_schema": SCHEMA},
    "JSON schema": {"title": "get_weather", "description": "Get the weather of a city.", **SCHEMA},
}
NAMES = {"function": "get_weather_function", "pydantic": "GetWeather", "TypedDict": "GetWeatherDict"}


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("kind", TOOLS)
def test_what_a_tool_may_be(chat: Callable[..., ChatKluster], emulator: Emulator, kind: str, model: str) -> None:
    emulator.reply(tool_calls=[call(NAMES.get(kind, "get_weather"), city="Paris")])
    answer = chat(model).bind_tools([TOOLS[kind]], tool_choice="any").invoke(WEATHER)

    assert [args for _, args in short(answer)] == [{"city": "Paris"}]


# tool_choice.

OPENAI_CHOICE = {"type": "function", "function": {"name": "get_time"}}


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["get_weather"]),
        ("auto", ["get_weather"]),
        ("any", ["get_weather"]),
        ("required", ["get_weather"]),
        ("none", []),
        (False, ["get_weather"]),
        ("get_time", ["get_time"]),
        (OPENAI_CHOICE, ["get_time"]),
    ],
    ids=str,
)
def test_tool_choice(chat: Callable[..., ChatKluster], model: str, choice: Any, names: list[str]) -> None:
    answer = chat(model).bind_tools([get_weather, get_time], tool_choice=choice).invoke(WEATHER)

    assert [name for name, _ in short(answer)] == names


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("choice", ["any", "required", "get_weather", True])
def test_forced_although_nothing_asks_for_it(chat: Callable[..., ChatKluster], model: str, choice: Any) -> None:
    answer = chat(model).bind_tools([get_weather], tool_choice=choice).invoke("Hello there!")

    assert [name for name, _ in short(answer)] == ["get_weather"]


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_auto_does_not_force(chat: Callable[..., ChatKluster], model: str) -> None:
    answer = chat(model).bind_tools([get_weather]).invoke("Hello there!")

    assert answer.tool_calls == []
    assert answer.text


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("any", "required"),
        ("required", "required"),
        ("get_time", OPENAI_CHOICE),
        (OPENAI_CHOICE, OPENAI_CHOICE),
    ],
    ids=str,
)
def test_tool_choice_on_the_wire(chat: Callable[..., ChatKluster], emulator: Emulator, choice: Any, sent: Any) -> None:
    chat().bind_tools([get_weather, get_time], tool_choice=choice).invoke(WEATHER)

    assert emulator.requests[0].body["tool_choice"] == sent  # type: ignore[index,call-overload]


def test_tool_choice_true_needs_one_tool(chat: Callable[..., ChatKluster]) -> None:
    with pytest.raises(ValueError, match="tool_choice=True needs exactly one tool, not 2"):
        chat().bind_tools([get_weather, get_time], tool_choice=True)


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_unknown_tool_choice_is_refused(chat: Callable[..., ChatKluster], emulator: Emulator, model: str) -> None:
    with pytest.raises(KlusterBadRequestError, match=r"tool_choice='get_wether' must be .* get_weather"):
        chat(model).bind_tools([get_weather], tool_choice="get_wether").invoke(WEATHER)
    assert emulator.requests == []


def test_strict_stays_here(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    answer = chat().bind_tools([get_weather], strict=True).invoke(WEATHER)

    assert short(answer) == [("get_weather", {"city": "Paris"})]
    assert '"strict"' not in json.dumps(emulator.requests[0].body)


# Native or prompted.


@pytest.mark.parametrize("at", ["field", "call"])
def test_prompted_on_a_model_with_tools(chat: Callable[..., ChatKluster], emulator: Emulator, at: str) -> None:
    model = chat(tool_calling="prompted") if at == "field" else chat()
    options = {"tool_calling": "prompted"} if at == "call" else {}

    answer = model.bind_tools([get_weather], **options).invoke(WEATHER)

    assert short(answer) == [("get_weather", {"city": "Paris"})]
    assert "tools" not in emulator.requests[0].body  # type: ignore[operator]


def test_native_on_a_model_without_tools_is_refused(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    with pytest.raises(KlusterBadRequestError, match="takes no tools"):
        chat(R1, tool_calling="native").bind_tools([get_weather]).invoke(WEATHER)
    assert emulator.requests == []


def test_native_on_an_unknown_model_is_sent(server: RawServer) -> None:
    model_of(server, "my-deployment", tool_calling="native").bind_tools([get_weather]).invoke("go")

    assert server.requests[0].json["tools"][0]["function"]["name"] == "get_weather"


def test_a_history_with_calls_can_move_to_a_model_without_tools(chat: Callable[..., ChatKluster]) -> None:
    call = chat(LLAMA).bind_tools([get_weather]).invoke(WEATHER)
    history = [HumanMessage(WEATHER), call, get_weather.invoke(call.tool_calls[0])]

    answer = chat(R1).bind_tools([get_weather]).invoke(history)

    assert "Sunny in Paris" in answer.text


def test_a_history_with_calls_needs_no_tools_bound(chat: Callable[..., ChatKluster]) -> None:
    call = chat(R1).bind_tools([get_weather]).invoke(WEATHER)
    history = [HumanMessage(WEATHER), call, get_weather.invoke(call.tool_calls[0]), HumanMessage("Thank you!")]

    assert chat(R1).invoke(history).text
    assert chat(LLAMA).invoke(history).text


def test_prompted_tools_join_the_system_message(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    chat(R1).bind_tools([get_weather]).invoke([SystemMessage("Be brief."), HumanMessage(WEATHER)])

    body: Any = emulator.requests[0].body
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"].startswith("Be brief.")


# Several calls.


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_parallel_calls(chat: Callable[..., ChatKluster], model: str) -> None:
    answer = chat(model).bind_tools([get_weather, get_time]).invoke(BOTH)

    assert short(answer) == [("get_weather", {"city": "Paris"}), ("get_time", {"city": "Tokyo"})]
    assert len({call["id"] for call in answer.tool_calls}) == 2


@pytest.mark.parametrize("at", ["bind_tools", "field"])
@pytest.mark.parametrize("model", [LLAMA, R1])
def test_one_call_at_a_time(chat: Callable[..., ChatKluster], model: str, at: str) -> None:
    off: dict[str, Any] = {"parallel_tool_calls": False}
    base = chat(model, **(off if at == "field" else {}))

    answer = base.bind_tools([get_weather, get_time], **(off if at == "bind_tools" else {})).invoke(BOTH)

    assert short(answer) == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_parallel_results_go_back_in_order(chat: Callable[..., ChatKluster], model: str) -> None:
    bound = chat(model).bind_tools([get_weather, get_time])
    call = bound.invoke(BOTH)
    results = [t.invoke(c) for t, c in zip((get_weather, get_time), call.tool_calls, strict=True)]

    answer = bound.invoke([HumanMessage(BOTH), call, *results])

    assert answer.text.index("Sunny in Paris") < answer.text.index("12:30 in Tokyo")


# Arguments.


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_a_tool_without_arguments(chat: Callable[..., ChatKluster], model: str) -> None:
    bound = chat(model).bind_tools([roll_dice], tool_choice="any")

    assert short(bound.invoke("Roll the dice.")) == [("roll_dice", {})]
    assert short(merged(bound.stream("Roll the dice."))) == [("roll_dice", {})]


@pytest.mark.parametrize("arguments", ["", "{}", None, "null"])
def test_how_servers_write_no_arguments(server: RawServer, arguments: str | None) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "roll_dice", "arguments": arguments}}
    server.script(whole({"content": None, "tool_calls": [call]}, finish="tool_calls"))

    assert short(model_of(server, LLAMA).bind_tools([roll_dice]).invoke("go")) == [("roll_dice", {})]


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("city", ["Zürich", "東京", "São Paulo", "Łódź"])
def test_unicode_arguments(chat: Callable[..., ChatKluster], emulator: Emulator, model: str, city: str) -> None:
    emulator.reply(tool_calls=[call("get_weather", city=city)], times=2)
    bound = chat(model).bind_tools([get_weather], tool_choice="any")

    assert short(bound.invoke(f'What is the weather in "{city}"?')) == [("get_weather", {"city": city})]
    assert short(merged(bound.stream(f'What is the weather in "{city}"?'))) == [("get_weather", {"city": city})]


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_unicode_goes_back_unescaped(chat: Callable[..., ChatKluster], emulator: Emulator, model: str) -> None:
    bound = chat(model).bind_tools([get_weather])
    call = AIMessage("", tool_calls=[{"name": "get_weather", "args": {"city": "東京"}, "id": "1"}])

    bound.invoke([HumanMessage("go"), call, ToolMessage("晴れ", tool_call_id="1")])

    sent = json.dumps(emulator.requests[0].body, ensure_ascii=False)
    assert "東京" in sent
    assert "晴れ" in sent


def test_nested_arguments(server: RawServer) -> None:
    arguments = {"stops": [{"city": "Łódź 🌦", "days": 2}], "note": 'a "quoted" </tool> {brace}'}
    server.script(says(f"I plan.\n{written('plan', **arguments)}"))
    plan = {"type": "function", "function": {"name": "plan", "parameters": {"type": "object", "properties": {}}}}

    answer = model_of(server, NEMO).bind_tools([plan]).invoke("go")

    assert short(answer) == [("plan", arguments)]
    assert answer.text.strip() == "I plan."


@pytest.mark.parametrize("streaming", [False, True])
def test_broken_native_arguments_are_asked_for_again_and_then_an_invalid_call(
    server: RawServer, streaming: bool
) -> None:
    calls = [
        {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Par'}},
        {"id": "2", "type": "function", "function": {"name": "get_time", "arguments": '{"city": "Rome"}'}},
    ]
    broken = {"content": None, "tool_calls": calls}
    right = {"content": None, "tool_calls": [{**calls[0], "function": calls[1]["function"]}]}

    def reply(answer: dict[str, Any]) -> Reply:
        return Reply(sse(answer, finish="tool_calls")) if streaming else whole(answer, finish="tool_calls")

    bound = model_of(server, LLAMA, streaming=streaming).bind_tools([get_weather, get_time])
    server.script(*[reply(broken)] * 3)
    answer = bound.invoke("go")

    assert len(server.requests) == 3
    assert "cannot be run" in server.requests[1].json["messages"][-2]["content"]
    assert short(answer) == [("get_time", {"city": "Rome"})]
    (invalid,) = answer.invalid_tool_calls
    assert (invalid["name"], invalid["id"], (invalid["args"] or "")[:13]) == ("get_weather", "1", '{"city": "Par')
    server.script(reply(broken), reply(right))
    assert short(bound.invoke("go")) == [("get_time", {"city": "Rome"})]


# Results.


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_an_error_of_a_tool_reaches_the_model(chat: Callable[..., ChatKluster], model: str) -> None:
    bound = chat(model).bind_tools([get_weather])
    call = bound.invoke(WEATHER)
    result = ToolMessage("Error: no such city", tool_call_id=call.tool_calls[0]["id"], status="error")

    assert "no such city" in bound.invoke([HumanMessage(WEATHER), call, result]).text


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("content", ["", [{"type": "text", "text": "Sunny"}], ["Sunny", "and dry"]], ids=str)
def test_content_of_results(chat: Callable[..., ChatKluster], model: str, content: Any) -> None:
    bound = chat(model).bind_tools([get_weather])
    call = bound.invoke(WEATHER)

    answer = bound.invoke([HumanMessage(WEATHER), call, ToolMessage(content, tool_call_id=call.tool_calls[0]["id"])])

    assert ("Sunny" in answer.text) is bool(content)


# Malformed prompted calls.

MALFORMED = {
    "broken JSON": '<tool_call>\n{"name": "get_weather", "arguments": {"city": \n</tool_call>',
    "no name": '<tool_call>{"arguments": {"city": "Paris"}}</tool_call>',
    "prose inside": "<tool_call>get_weather in Paris</tool_call>",
}


@pytest.mark.parametrize("malformed", MALFORMED)
async def test_a_malformed_call_is_repaired(server: RawServer, malformed: str) -> None:
    bound = model_of(server, NEMO).bind_tools([get_weather])
    replies = says(MALFORMED[malformed]), says(written("get_weather", city="Paris"))

    server.script(*replies)
    assert short(bound.invoke("go")) == [("get_weather", {"city": "Paris"})]
    server.script(*replies)
    assert short(await bound.ainvoke("go")) == [("get_weather", {"city": "Paris"})]

    assert len(server.requests) == 4
    assert server.requests[1].json["messages"][-2] == {"role": "assistant", "content": MALFORMED[malformed]}
    assert "<tool_call>" in server.requests[1].json["messages"][-1]["content"]


TOLERATED = {
    "fenced": '<tool_call>\n```json\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```\n</tool_call>',
    "parameters": '<tool_call>{"name": "get_weather", "parameters": {"city": "Paris"}}</tool_call>',
    "arguments as text": '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
    "no closing tag": '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}',
    "after a thought": f"<think>Weather, so</think>{written('get_weather', city='Paris')}",
}


@pytest.mark.parametrize("form", TOLERATED)
def test_forms_that_are_understood_at_once(server: RawServer, form: str) -> None:
    server.script(says(TOLERATED[form]))

    answer = model_of(server, R1).bind_tools([get_weather]).invoke("go")

    assert short(answer) == [("get_weather", {"city": "Paris"})]
    assert answer.content == ""
    assert len(server.requests) == 1


def test_a_forced_call_that_does_not_come_is_asked_for_again(server: RawServer) -> None:
    server.script(says("It is sunny, I think."), says(written("get_weather", city="Paris")))

    answer = model_of(server, NEMO).bind_tools([get_weather], tool_choice="any").invoke("go")

    assert short(answer) == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize("max_repairs", [0, 1, 3])
def test_a_forced_call_that_never_comes_is_an_error(server: RawServer, max_repairs: int) -> None:
    server.answer = lambda _: says("Never.")
    bound = model_of(server, NEMO, max_repairs=max_repairs).bind_tools([get_weather], tool_choice="any")

    with pytest.raises(KlusterOutputValidationError) as caught:
        bound.invoke("go")
    assert caught.value.raw_text == "Never."
    assert len(server.requests) == 1 + max_repairs


def test_the_wrong_tool_in_place_of_the_named_one_is_asked_for_again(server: RawServer) -> None:
    server.script(says(written("get_time", city="Paris")), says(written("get_weather", city="Paris")))

    answer = model_of(server, NEMO).bind_tools([get_weather, get_time], tool_choice="get_weather").invoke("go")

    assert short(answer) == [("get_weather", {"city": "Paris"})]


def test_a_call_of_a_tool_that_does_not_exist_is_for_the_caller_to_answer(server: RawServer) -> None:
    server.script(says(written("get_wether", city="Paris")))

    assert short(model_of(server, NEMO).bind_tools([get_weather]).invoke("go")) == [("get_wether", {"city": "Paris"})]


def test_tokens_of_all_tries_are_counted(server: RawServer) -> None:
    server.script(says(MALFORMED["no name"]), says(written("get_weather", city="Paris")))

    usage = model_of(server, NEMO).bind_tools([get_weather]).invoke("go").usage_metadata

    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"]) == (10, 4)


def test_text_that_only_speaks_of_calls_stays_text(server: RawServer) -> None:
    server.script(says("Tools are called in a `<tool_call` block; 1 < 2 <tool>."))

    answer = model_of(server, NEMO).bind_tools([get_weather]).invoke("go")

    assert answer.text == "Tools are called in a `<tool_call` block; 1 < 2 <tool>."
    assert len(server.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_tool_that_nobody_offered_is_never_valid(stream: bool, server: RawServer) -> None:
    call_of_none = [{"index": 0, "id": "c0", "type": "function", "function": {"name": "rm", "arguments": '{"a": 1}'}}]
    fields: dict[str, Any] = {"content": "I look.", "tool_calls": call_of_none}
    reply = Reply(sse(fields, finish="tool_calls")) if stream else whole(fields, finish="tool_calls")
    server.script(*[reply] * 3)
    model = model_of(server, LLAMA)

    message = merged(model.stream("hi")) if stream else model.invoke("hi")
    assert len(server.requests) == 3  # two repairs
    assert message.tool_calls == []
    assert [invalid["name"] for invalid in message.invalid_tool_calls] == ["rm"]
