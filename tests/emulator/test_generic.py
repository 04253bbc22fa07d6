"""What is answered where nothing is stated: a call that fits, an instance, an echo."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import GEMMA, LLAMA, NEMO, QWEN, Api, tool, user

WEATHER = tool("get_weather", city={"type": "string"}, days={"type": "integer", "minimum": 3})
CLOCK = tool("get_time", zone={"enum": ["UTC", "CET"]})
CALLED = ("get_weather", {"city": "city", "days": 3})


def called(name: str, result: str) -> list[dict[str, Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": result},
    ]


def prompted(block: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": f"Be kind.\n{block}\nThank you."}]


TOOLS = prompted("<tools>\n" + "\n".join(map(json.dumps, (WEATHER, CLOCK))) + "\n</tools>")


def test_an_echo(api: Api) -> None:
    assert api.text(user("Why?\nTell me.")) == "Echo: Why?\nTell me."
    history = [*user("One"), {"role": "assistant", "content": "Two"}, *user("Three")]
    assert api.text(history) == "Echo: Three"
    assert len(api.text(user("a" * 5_000))) == len("Echo: ") + 2_000


def test_an_echo_of_images(api: Api) -> None:
    urls = ["data:image/gif;base64,R0lGODlhAgADAAAAACw=", "https://example.com/a.png"]
    parts = [{"type": "text", "text": "What?"}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    assert api.text(user(parts), model=GEMMA) == "Echo: What?\n[image/gif]\n[https://example.com/a.png]"


def test_a_thought_comes_first_on_a_model_that_thinks(api: Api) -> None:
    message = api.choice(user("Why?"), model=QWEN)["message"]
    assert (message["reasoning_content"], message["content"]) == ('No reply is stated to "Why?".', "Echo: Why?")
    assert "reasoning_content" not in api.choice(user("Why?"))["message"]


def test_the_first_tool_is_called_once(api: Api) -> None:
    tools = [WEATHER, CLOCK]
    assert api.calls(user("Hello"), tools=tools) == [CALLED]
    done = user("Hello") + called("get_weather", "sunny")
    assert api.text(done, tools=tools) == "Echo: sunny"
    assert api.calls([*done, {"role": "assistant", "content": "Well."}, *user("And now?")], tools=tools) == [CALLED]
    assert api.text(user("Hello"), tools=tools, tool_choice="none") == "Echo: Hello"


def test_what_must_be_called_is(api: Api) -> None:
    tools = [WEATHER, CLOCK]
    named = {"type": "function", "function": {"name": "get_time"}}
    done = user("Hello") + called("get_weather", "sunny")
    for messages in (user("Hello"), done):
        assert api.calls(messages, tools=tools, tool_choice=named) == [("get_time", {"zone": "UTC"})]
    assert api.calls(user("Hello"), tools=tools, tool_choice="required") == [CALLED]
    assert api.calls(done, tools=tools, tool_choice="required") == [("get_time", {"zone": "UTC"})]
    assert api.calls(done, tools=[WEATHER], tool_choice="required") == [CALLED]


@pytest.mark.parametrize("model", [NEMO, LLAMA])
def test_a_tool_in_the_prompt_is_called_in_the_text(api: Api, model: str) -> None:
    first = api.choice(TOOLS + user("Hello"), model=model)
    text = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "city", "days": 3}}\n</tool_call>'
    assert (first["message"]["content"], first["finish_reason"]) == (text, "stop")
    results = user("<tool_response>\nsunny\n</tool_response>\n<tool_response>\nnoon\n</tool_response>")
    answer = [{"role": "assistant", "content": text}, *results]
    said = api.text(TOOLS + user("Hello") + answer, model=model)
    assert said.split() == ["Echo:", "sunny", "noon"]


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}


def test_a_schema_in_the_prompt_gets_an_instance(api: Api) -> None:
    wanted = prompted(f"<schema>\n{json.dumps(SCHEMA)}\n</schema>")
    assert json.loads(api.text(wanted + user("Hello"), model=NEMO)) == {"name": "name", "age": 1}
    assert api.calls(wanted + user("Hello"), tools=[WEATHER]) == [CALLED]
    assert json.loads(api.text(wanted + user("Hello") + called("get_weather", "sun"), tools=[WEATHER]))["age"] == 1


def test_a_response_format_counts_where_it_is_let_in(serve: Any) -> None:
    _, api = serve(strict=False)
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    assert json.loads(api.text(response_format=wanted)) == {"name": "name", "age": 1}
    assert json.loads(api.text(response_format={"type": "json_object"})) == {}


@pytest.mark.parametrize("text", [json.dumps(SCHEMA), "<schema>not JSON</schema>", "<schema>{}", "<tools>{}</tools>"])
def test_what_no_tag_marks_is_only_text(api: Api, text: str) -> None:
    assert api.text(user(text)) == f"Echo: {text}"
