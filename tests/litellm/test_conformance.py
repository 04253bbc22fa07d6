"""The behaviors that LiteLLM's own shared provider tests ask of every provider, under the names that they have there.

Theirs (tests/llm_translation/base_llm_unit_tests.py) skip what a provider says that it cannot, and mostly ask for
something rather than nothing; here the strict emulator answers, and what kluster.ai cannot do must be refused by name.
"""

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest
from pydantic import BaseModel

from kluster_integrations.emulator import Emulator
from tests.litellm.asking import ASK, EMBED, LLAMA, NEMO, R1, SCOUT, WAYS, WEATHER, bodies, stream, weather_tool

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
PDF = "data:application/pdf;base64,JVBERi0xLjQK"


class Event(BaseModel):
    name: str
    date: str
    participants: list[str]


class Events(BaseModel):
    events: list[Event]


@pytest.fixture(params=[LLAMA, NEMO, R1], ids=["native", "prompted", "reasoning"])
def model(request: pytest.FixtureRequest, kluster: Emulator) -> str:
    return str(request.param)


@pytest.fixture
def forgotten(kluster: Emulator) -> None:
    """Their tests load LiteLLM's table of models anew, which forgets every model that was registered."""
    litellm.model_cost = litellm.get_model_cost_map(url="")


def text_of(response: Any) -> str:
    content = response.choices[0].message.content
    assert isinstance(content, str)
    assert content
    return content


def test_developer_role_translation(model: str, kluster: Emulator) -> None:
    messages = [
        {"role": "developer", "content": "Be a good bot!"},
        {"role": "user", "content": [{"type": "text", "text": "Hello, how are you?"}]},
    ]
    text_of(litellm.completion(model, messages=messages))
    assert bodies(kluster)[0]["messages"][0] == {"role": "system", "content": "Be a good bot!"}


def test_content_list_handling(model: str) -> None:
    text_of(litellm.completion(model, messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]))


def test_tool_call_with_property_type_array(model: str) -> None:
    tool = weather_tool(properties={"city": {"type": ["string", "number"]}}, additionalProperties=False)
    tool["function"]["parameters"]["$schema"] = "http://json-schema.org/draft-07/schema#"
    response = litellm.completion(model, messages=WEATHER, tools=[tool])
    assert json.loads(response.choices[0].message.tool_calls[0].function.arguments)["city"]


def test_tool_call_with_empty_enum_property(model: str) -> None:
    tool = weather_tool(properties={"city": {"type": "string", "enum": ["", "Boston"], "default": ""}}, title="T")
    response = litellm.completion(model, messages=WEATHER, tools=[tool])
    assert json.loads(response.choices[0].message.tool_calls[0].function.arguments)["city"] in ("", "Boston")


def test_streaming(model: str) -> None:
    chunks = stream(model=model, messages=ASK)
    assert len({chunk.created for chunk in chunks}) == 1
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    text_of(litellm.stream_chunk_builder(chunks))


def test_pydantic_model_input(model: str) -> None:
    text_of(litellm.completion(model, messages=[litellm.Message(content="Hello, how are you?", role="user")]))


def test_web_search(model: str, kluster: Emulator) -> None:
    with pytest.raises(litellm.UnsupportedParamsError, match="web_search_options"):
        litellm.completion(model, messages=ASK, web_search_options={"search_context_size": "low"})
    assert kluster.requests == []


def test_url_context(model: str, kluster: Emulator) -> None:
    with pytest.raises(litellm.BadRequestError, match=r"tools\[0\]"):
        litellm.completion(model, messages=ASK, tools=[{"urlContext": {}}])
    assert kluster.requests == []


@pytest.mark.parametrize("way", ["completion", "acompletion"])
def test_pdf_handling(model: str, kluster: Emulator, way: str) -> None:
    file = {"type": "file", "file": {"file_data": PDF}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, file]}]
    with pytest.raises(litellm.BadRequestError, match="type='file'"):
        WAYS[way](model=model, messages=messages)
    assert kluster.requests == []


async def test_async_pdf_handling_with_file_id(model: str, kluster: Emulator) -> None:
    file = {"type": "file", "file": {"file_id": "https://example.com/a.pdf"}}
    with pytest.raises(litellm.BadRequestError, match="type='file'"):
        await litellm.acompletion(model, messages=[{"role": "user", "content": [file]}])
    assert kluster.requests == []


def test_file_data_unit_test(model: str, kluster: Emulator) -> None:
    file = {"type": "file", "file": {"file_data": PDF}}
    with pytest.raises(litellm.BadRequestError, match="type='file'"):
        litellm.completion(model, messages=[{"role": "user", "content": [file]}], drop_params=True)
    assert kluster.requests == []


def test_message_with_name(model: str, kluster: Emulator) -> None:
    text_of(litellm.completion(model, messages=[{"role": "user", "content": "Hello", "name": "test_name"}]))
    assert "name" not in bodies(kluster)[0]["messages"][-1]


@pytest.mark.parametrize("response_format", [{"type": "json_object"}, {"type": "text"}], ids=["json_object", "text"])
def test_json_response_format(model: str, response_format: dict[str, str]) -> None:
    messages = [{"role": "user", "content": "Respond with this in json. city=San Francisco, state=CA, temp=60"}]
    text = text_of(litellm.completion(model, messages=messages, response_format=response_format))
    if response_format["type"] == "json_object":
        assert isinstance(json.loads(text), dict)


def test_response_format_type_text_with_tool_calls_no_tool_choice(model: str) -> None:
    response = litellm.completion(
        model, messages=WEATHER, response_format={"type": "text"}, tools=[weather_tool()], drop_params=True
    )
    assert response.choices[0].finish_reason == "tool_calls"


def test_response_format_type_text(model: str, kluster: Emulator) -> None:
    litellm.completion(model, messages=ASK, response_format={"type": "text"})
    assert not {"tools", "tool_choice", "response_format"} & set(bodies(kluster)[0])


@pytest.mark.usefixtures("forgotten")
def test_json_response_pydantic_obj(model: str) -> None:
    class First(BaseModel):
        first_response: str

    assert litellm.supports_response_schema(LLAMA) is False, "the table is new"
    response = litellm.completion(model, messages=ASK, response_format=First)
    First.model_validate_json(text_of(response))
    assert response.choices[0].message.tool_calls is None


def test_json_response_pydantic_obj_nested_obj(model: str) -> None:
    class Outer(BaseModel):
        inner: Event

    Outer.model_validate_json(text_of(litellm.completion(model, messages=ASK, response_format=Outer)))


def test_json_response_nested_pydantic_obj(model: str) -> None:
    response = litellm.completion(model, messages=ASK, response_format=Events)
    Events.model_validate_json(text_of(response))
    assert response.choices[0].message.tool_calls is None


def test_json_response_nested_json_schema(model: str) -> None:
    schema = {"name": "Events", "strict": True, "schema": Events.model_json_schema()}
    response = litellm.completion(
        model, messages=ASK, response_format={"type": "json_schema", "json_schema": schema}, timeout=60
    )
    Events.model_validate_json(text_of(response))


def test_audio_input(model: str, kluster: Emulator) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    with pytest.raises(litellm.BadRequestError, match="input_audio"):
        litellm.completion(model, messages=[{"role": "user", "content": [audio]}])
    assert kluster.requests == []


def test_json_response_format_stream(model: str) -> None:
    chunks = stream(model=model, messages=ASK, response_format={"type": "json_object"})
    assert isinstance(json.loads("".join(chunk.choices[0].delta.content or "" for chunk in chunks)), dict)


def test_tool_call_no_arguments(model: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "Get-FAQ", "arguments": "{}"}}
    messages = [
        *ASK,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Eggs."},
    ]
    assert "Eggs" in text_of(litellm.completion(model, messages=messages, tools=[weather_tool()]))


@pytest.mark.parametrize("detail", [None, "low", "high"])
def test_image_url(kluster: Emulator, detail: str | None) -> None:
    image = {"url": PIXEL, **({"detail": detail} if detail else {})}
    content = [{"type": "text", "text": "What's in this image?"}, {"type": "image_url", "image_url": image}]
    text_of(litellm.completion(SCOUT, messages=[{"role": "user", "content": content}]))
    assert bodies(kluster)[0]["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": PIXEL}}


def test_image_url_string(kluster: Emulator) -> None:
    content = [{"type": "text", "text": "What's in this image?"}, {"type": "image_url", "image_url": PIXEL}]
    text_of(litellm.completion(SCOUT, messages=[{"role": "user", "content": content}]))


def test_prompt_caching(model: str, kluster: Emulator) -> None:
    part = {"type": "text", "text": "A long agreement. ", "cache_control": {"type": "ephemeral"}}
    messages = [{"role": "system", "content": [part]}, {"role": "user", "content": [part]}]
    usage = litellm.completion(model, messages=messages, max_tokens=10).usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert "cache_control" not in json.dumps(bodies(kluster))


@pytest.mark.usefixtures("forgotten")
def test_empty_tools(model: str, kluster: Emulator) -> None:
    text_of(litellm.completion(model, messages=ASK, tools=[]))
    assert "tools" not in bodies(kluster)[0]


@pytest.mark.usefixtures("forgotten")
def test_basic_tool_calling(model: str) -> None:
    first = litellm.completion(model, messages=WEATHER, tools=[weather_tool()])
    (call,) = first.choices[0].message.tool_calls
    assert (first.choices[0].finish_reason, call.function.name) == ("tool_calls", "get_weather")
    assert isinstance(call.function.arguments, str)
    result = {"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": '{"temperature": "72"}'}
    messages = [*WEATHER, first.choices[0].message.model_dump(), result]
    assert "72" in text_of(litellm.completion(model, messages=messages, tools=[weather_tool()]))


@pytest.mark.usefixtures("forgotten")
async def test_completion_cost(kluster: Emulator) -> None:
    response = await litellm.acompletion(LLAMA, messages=ASK)
    assert response._hidden_params["response_cost"] > 0


@pytest.mark.parametrize("kind", ["input_audio", "file"])
def test_supports_audio_input(model: str, kluster: Emulator, kind: str) -> None:
    assert litellm.supports_audio_input(model) is False
    with pytest.raises(litellm.BadRequestError, match=kind):
        litellm.completion(model, messages=[{"role": "user", "content": [{"type": kind, kind: {}}]}], drop_params=True)
    assert kluster.requests == []


@pytest.mark.usefixtures("forgotten")
def test_function_calling_with_tool_response(model: str) -> None:
    tool = weather_tool(**{"$id": "https://some/name", "$schema": "https://json-schema.org/draft-07/schema"})
    tool["function"]["strict"] = True
    calls: dict[int, Any] = {}
    for chunk in stream(model=model, messages=WEATHER, tools=[tool]):
        for call in chunk.choices[0].delta.tool_calls or []:
            if call.index in calls:
                calls[call.index].function.arguments += call.function.arguments
            else:
                calls[call.index] = call
    (call,) = calls.values()
    assert json.loads(call.function.arguments) == {"city": "Boston"}
    messages = [
        *WEATHER,
        {"role": "assistant", "tool_calls": [call], "content": None},  # LiteLLM's own object, as it came
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny with 34 degrees"},
    ]
    chunks = stream(model=model, messages=messages, tools=[tool])
    assert "34 degrees" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_reasoning_effort(kluster: Emulator) -> None:
    assert litellm.supports_reasoning(R1) is False, "by it LiteLLM means the parameter"
    text_of(litellm.completion(R1, messages=ASK, reasoning_effort="low", drop_params=True))
    assert "reasoning_effort" not in bodies(kluster)[0]


def test_non_streaming_reasoning_effort(kluster: Emulator) -> None:
    response = litellm.completion(R1, messages=ASK, reasoning_effort="low", drop_params=True)
    message = response.choices[0].message
    assert response.usage.completion_tokens_details.reasoning_tokens > 0
    assert isinstance(message.reasoning_content, str)
    assert "breakfast sandwich" in message.reasoning_content
    assert "<think>" not in message.content


def test_streaming_reasoning_effort(kluster: Emulator) -> None:
    wish = {"reasoning_effort": "low", "drop_params": True, "stream_options": {"include_usage": True}}
    chunks = stream(model=R1, messages=ASK, **wish)
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens > 0
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert "breakfast sandwich" in thoughts
    assert "<think>" not in "".join(delta.content or "" for delta in deltas)


@pytest.mark.parametrize("sync_mode", [True, False])
async def test_basic_embedding(kluster: Emulator, sync_mode: bool) -> None:
    call = {"model": EMBED, "input": ["hello world", "hi"]}
    response = litellm.embedding(**call) if sync_mode else await litellm.aembedding(**call)
    assert isinstance(response, litellm.EmbeddingResponse)
    assert [len(row["embedding"]) for row in response.data] == [1024, 1024]
    assert response.usage.prompt_tokens == response.usage.total_tokens > 0


def test_embedding_optional_params_max_retries(kluster: Emulator) -> None:
    assert len(litellm.embedding(EMBED, input="hello world", max_retries=20).data) == 1
