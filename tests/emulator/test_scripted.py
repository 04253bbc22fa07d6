from __future__ import annotations

import base64
import json
import re
import struct
from typing import Any

import jsonschema
import pytest

from .conftest import GEMMA, LLAMA, NEMO, QWEN, Api, tool, user

STR: dict[str, Any] = {"type": "string"}
WEATHER = tool("get_weather", "Get the current weather for a location", location=STR)
CLOCK = tool("get_time", "Get the local time of a city", city=STR)
MAGIC = tool("magic_function", "Applies a magic function to an input.", input={"type": "integer"})
NOTHING = tool("refresh_cache", "Refreshes the cache")
INT = {"type": "integer"}
ADD, MULTIPLY = (tool(name, f"Computes {name}", a=INT, b=INT) for name in ("add", "multiply"))
TOOLS = [WEATHER, CLOCK, MAGIC, NOTHING, ADD, MULTIPLY]


def called(name: str, arguments: dict[str, Any], result: str) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": f"c-{name}", "type": "function", "function": function}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c-{name}", "content": result},
    ]


def test_is_honest_and_restates(api: Api) -> None:
    text = api.text(user("Why is the sky blue?"))
    assert text.startswith('Scripted answer to "Why is the sky blue?"')
    assert "1 user message" in text
    system = [{"role": "system", "content": "You are a pirate."}]
    assert "You are a pirate." in api.text(system + user("Hi"))


@pytest.mark.parametrize(
    ("question", "answer"), [("What is my name?", "My name is Ada."), ("Where do I live?", "I live in Lisbon.")]
)
def test_remembers(api: Api, question: str, answer: str) -> None:
    history = user("My name is Ada. I live in Lisbon. I like tea.")
    history.append({"role": "assistant", "content": api.text(history)})
    text = api.text(history + user(question))
    assert answer in text
    assert "I like tea." not in text
    assert answer not in api.text(user(question))


def test_finds_the_sentence_in_a_context(api: Api) -> None:
    prompt = (
        "Answer from the context.\nContext:\nThe Eiffel tower stands in Paris. Bees make honey.\n\n"
        "Question: Who makes honey?"
    )
    text = api.text(user(prompt))
    assert "Bees make honey." in text
    assert "Eiffel" not in text.partition("What was said about it")[2]


@pytest.mark.parametrize(
    ("question", "calls"),
    [
        ("What is the value of magic_function(3)?", [("magic_function", {"input": 3})]),
        ("What's the weather in San Francisco, CA?", [("get_weather", {"location": "San Francisco, CA"})]),
        (
            "weather in Paris and time in Tokyo",
            [("get_weather", {"location": "Paris"}), ("get_time", {"city": "Tokyo"})],
        ),
        (
            "What is the weather in Paris and London?",
            [("get_weather", {"location": "Paris"}), ("get_weather", {"location": "London"})],
        ),
        ("What is 3 * 12? And 11 + 49?", [("multiply", {"a": 3, "b": 12}), ("add", {"a": 11, "b": 49})]),
        ("What is 3 times 12?", [("multiply", {"a": 3, "b": 12})]),
        ("What is the weather in sf?", [("get_weather", {"location": "sf"})]),
        ("Please refresh the cache.", [("refresh_cache", {})]),
        ("Hello, who are you?", []),
    ],
)
def test_auto(api: Api, question: str, calls: list[tuple[str, Any]]) -> None:
    assert api.calls(user(question), tools=TOOLS) == calls
    assert api.calls(user(question), tools=TOOLS, tool_choice="none") == []


def test_numbers_are_not_torn_apart(api: Api) -> None:
    add = tool("add", "Add two numbers", a={"type": "integer"}, b={"type": "integer"})
    assert api.calls(user("Please add 3 and 5."), tools=[add, WEATHER]) == [("add", {"a": 3, "b": 5})]


def test_one_at_a_time(api: Api) -> None:
    ask = user("weather in Paris and time in Tokyo")
    first = api.calls(ask, tools=TOOLS, parallel_tool_calls=False)
    assert first == [("get_weather", {"location": "Paris"})]
    ask += called(*first[0], "18 degrees")
    second = api.calls(ask, tools=TOOLS, parallel_tool_calls=False)
    assert second == [("get_time", {"city": "Tokyo"})]
    ask += called(*second[0], "Error: no clock")
    text = api.text(ask, tools=TOOLS, parallel_tool_calls=False)
    assert "18 degrees" in text
    assert "Error: no clock" in text


def test_forced_and_required(api: Api) -> None:
    forced = {"type": "function", "function": {"name": "get_time"}}
    assert api.calls(user("Hello Berlin"), tools=TOOLS, tool_choice=forced)[0][0] == "get_time"
    assert len(api.calls(user("Hello"), tools=TOOLS, tool_choice="required")) == 1
    assert api.calls(user("It's hot. The weather?"), tools=TOOLS, tool_choice="required")[0][0] == "get_weather"
    done = user("weather in Paris") + called("get_weather", {"location": "Paris"}, "sun")
    assert api.calls(done, tools=TOOLS, tool_choice="required")[0][0] != "get_weather"  # called already: the next
    assert api.calls(done, tools=TOOLS[:1], tool_choice="required")[0][0] == TOOLS[0]["function"]["name"]


def test_never_calls_again_after_a_result(api: Api) -> None:
    done = user("weather in Paris") + called("get_weather", {"location": "elsewhere", "x": 1}, "sunny")
    assert "get_weather returned sunny" in api.text(done, tools=TOOLS)
    assert len(api.calls(done + user("And the weather in Rome?"), tools=TOOLS)) == 1


PROMPT = (
    "You are helpful.\n\nYou may call tools.\n<tools>\n{tools}\n</tools>\n\n{rule}"
    'Write each call as <tool_call>\n{{"name": ..., "arguments": ...}}\n</tool_call>'
)


def prompted(rule: str = "", tools: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    lines = "\n".join(json.dumps(row) for row in tools or TOOLS)
    return [{"role": "system", "content": PROMPT.format(tools=lines, rule=rule)}]


def written(text: str) -> list[tuple[str, Any]]:
    blocks = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL)
    return [(call["name"], call["arguments"]) for call in map(json.loads, blocks)]


@pytest.mark.parametrize("model", [NEMO, LLAMA])
def test_prompted_tools(api: Api, model: str) -> None:
    ask = prompted() + user("weather in Paris and time in Tokyo")
    choice = api.choice(ask, model=model)
    text = choice["message"]["content"]
    assert written(text) == [("get_weather", {"location": "Paris"}), ("get_time", {"city": "Tokyo"})]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["tool_calls"] == []
    ask += [
        {"role": "assistant", "content": text},
        {
            "role": "user",
            "content": "<tool_response>\n18 degrees\n</tool_response>\n<tool_response>\n3 pm\n</tool_response>",
        },
    ]
    answer = api.text(ask, model=model)
    assert "get_weather returned 18 degrees" in answer
    assert "get_time returned 3 pm" in answer
    assert written(answer) == []


def test_prompted_rules(api: Api) -> None:
    hello = user("Hello there")
    assert written(api.text(prompted() + hello, model=NEMO)) == []
    forced = prompted("You must call the tool `get_time`.\n\n")
    assert written(api.text(forced + hello, model=NEMO))[0][0] == "get_time"
    single = prompted("Make one call at a time.\n\n") + user("weather in Paris and time in Tokyo")
    assert written(api.text(single, model=NEMO)) == [("get_weather", {"location": "Paris"})]
    required = prompted("You must call at least one tool.\n\n")
    assert len(written(api.text(required + hello, model=NEMO))) == 1


def test_tools_in_the_user_prompt(api: Api) -> None:
    content = prompted()[0]["content"] + "\n\nWhat is the weather in Oslo?"
    assert written(api.text(user(content), model=NEMO)) == [("get_weather", {"location": "Oslo"})]


PERSON = {
    "type": "object",
    "properties": {"name": STR, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.mark.parametrize(
    "form",
    [
        "Answer as JSON that fits this schema.\n<schema>{}</schema>",
        "Reply in JSON:\n```json\n{}\n```",
        "Output JSON matching {} and nothing else.",
        'Answer with JSON: {{"name": "person", "schema": {}}}',
    ],
)
@pytest.mark.parametrize("place", ["system", "user"])
def test_prompted_schema(api: Api, form: str, place: str) -> None:
    instruction = form.format(json.dumps(PERSON, indent=1))
    fact = "Ada Lovelace is 36 years old."
    if place == "system":
        messages = [{"role": "system", "content": instruction}, *user(fact)]
    else:
        messages = user(f"{fact}\n\n{instruction}")
    value = json.loads(api.text(messages, model=NEMO))
    jsonschema.validate(value, PERSON)
    assert value == {"name": "Ada Lovelace", "age": 36}


def test_schema_survives_a_repair(api: Api) -> None:
    instruction = f"Answer as JSON.\n<schema>{json.dumps(PERSON)}</schema>"
    messages = [
        {"role": "system", "content": instruction},
        *user("Ada Lovelace is 36 years old."),
        {"role": "assistant", "content": '{"name": 5}'},
        *user("That is not valid: 'age' is required. Answer again with JSON only."),
    ]
    assert json.loads(api.text(messages, model=NEMO)) == {"name": "Ada Lovelace", "age": 36}


def test_json_that_is_no_schema_is_just_text(api: Api) -> None:
    assert api.text(user('Explain this JSON: {"a": 1}')).startswith("Scripted answer")
    assert api.text(user(f"What does {json.dumps(PERSON)} mean?")).startswith("Scripted answer")


def test_any_json_object(api: Api) -> None:
    system = [{"role": "system", "content": "Answer with one JSON object and with nothing else."}]
    value = json.loads(api.text(system + user("Why is the sky blue?"), model=NEMO))
    assert value["answer"].startswith('Scripted answer to "Why is the sky blue?"')


def test_tools_come_before_schema(api: Api) -> None:
    system = [{"role": "system", "content": f"Answer as JSON.\n<schema>{json.dumps(PERSON)}</schema>"}]
    ask = system + user("weather in Paris")
    assert api.calls(ask, tools=TOOLS) == [("get_weather", {"location": "Paris"})]
    ask += called("get_weather", {"location": "Paris"}, "Bob, 7")
    jsonschema.validate(json.loads(api.text(ask, tools=TOOLS)), PERSON)


def data_url(media: str, raw: bytes) -> str:
    return f"data:{media};base64,{base64.b64encode(raw).decode()}"


PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 640, 480) + b"\x08\x02\x00\x00\x00"
JPEG = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", 30, 40) + b"\x03"
GIF = b"GIF89a" + struct.pack("<HH", 7, 9)
VP8X = b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00" + b"\x0f\x00\x00\x1f\x00\x00"
VP8L = b"RIFF\x00\x00\x00\x00WEBPVP8L\x00\x00\x00\x00\x2f" + struct.pack("<I", (3 - 1) | (5 - 1) << 14)
VP8 = b"RIFF\x00\x00\x00\x00WEBPVP8 \x00\x00\x00\x00\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 11, 12)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (data_url("image/png", PNG), "image/png, 640x480 pixels"),
        (data_url("image/jpeg", JPEG), "image/jpeg, 40x30 pixels"),
        (data_url("image/gif", GIF), "image/gif, 7x9 pixels"),
        (data_url("image/webp", VP8X), "image/webp, 16x32 pixels"),
        (data_url("image/webp", VP8L), "image/webp, 3x5 pixels"),
        (data_url("image/webp", VP8), "image/webp, 11x12 pixels"),
        (data_url("image/png", PNG[:18]), "image/png, of which no header can be read"),
        ("data:image/png;base64,@@@", "of which no header can be read"),
        ("https://x.org/cat.png", "https://x.org/cat.png"),
    ],
)
def test_images(api: Api, url: str, said: str) -> None:
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    assert said in api.text(user(content), model=GEMMA)


def test_thought_names_the_tool(api: Api) -> None:
    message = api.choice(user("weather in Paris"), model=QWEN, tools=TOOLS)["message"]
    assert "get_weather" in message["reasoning_content"]
