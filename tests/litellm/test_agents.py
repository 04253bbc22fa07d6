"""What coding agents send through LiteLLM: their histories, their roles, their limits of tokens; and calls to run."""

from __future__ import annotations

import json
import logging
from typing import Any

import litellm
import pytest

from kluster_integrations import errors
from kluster_integrations.litellm import register, router
from tests.litellm.asking import ASK, LLAMA, NEMO, SCOUT, WAYS, WEATHER, weather_tool
from tests.raw_server import RawRequest, RawServer, Reply, sse, whole

GEMMA = "kluster/google/gemma-3-27b-it"  # tools through the prompt, sees, writes 8,192 tokens
GEMMA_ID, NEMO_ID, SCOUT_ID = (model.removeprefix("kluster/") for model in (GEMMA, NEMO, SCOUT))
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}


@pytest.fixture
def service(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> RawServer:
    """A server that shows the bytes it got, which `kluster/…` goes to."""
    monkeypatch.setenv("KLUSTER_API_KEY", "test-key")
    monkeypatch.setenv("KLUSTER_BASE_URL", server.base_url)
    monkeypatch.setenv("KLUSTER_MAX_RETRIES", "0")
    register()
    return server


def wire_bodies(server: RawServer) -> list[dict[str, Any]]:
    return [request.json for request in server.requests]


# As Claude Code's tool search and its Read of an image leave them behind.
_RESULT = [
    {"type": "tool_reference", "tool_name": "Read"},
    {"type": "text", "text": "1 tool found"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
]
CLAUDE_CODE: dict[str, Any] = {
    "system": [{"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "What is in a.png?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I need Read.", "signature": "s"},
                {"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {"query": "read"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": _RESULT},
                {"type": "text", "text": "Go on."},
            ],
        },
    ],
    "tools": [{"name": "ToolSearch", "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}}}],
    "max_tokens": 32_000,
}


REFERENCE = "[tool_reference: Read]\n"  # LiteLLM 1.90 leaves references out itself


async def test_a_history_of_claude_code_on_a_model_that_sees(service: RawServer) -> None:
    answer = await litellm.anthropic.messages.acreate(model=GEMMA, **CLAUDE_CODE)
    assert answer["content"][0]["text"] == "Hello"
    (body,) = wire_bodies(service)
    system, *turns = body["messages"]
    assert system["content"].startswith("You are an agent.\n\n")
    call = '<tool_call>\n{"name": "ToolSearch", "arguments": {"query": "read"}}\n</tool_call>'
    result = "<tool_response>\n1 tool found\n</tool_response>"
    parts = turns[-1]["content"]
    parts[0]["text"] = parts[0]["text"].replace(REFERENCE, "")
    assert turns == [
        {"role": "user", "content": "What is in a.png?"},
        {"role": "assistant", "content": call},
        {"role": "user", "content": [{"type": "text", "text": result}, IMAGE, {"type": "text", "text": "Go on."}]},
    ]


async def test_a_history_of_claude_code_on_a_model_that_does_not_see(service: RawServer) -> None:
    answer = await litellm.anthropic.messages.acreate(model=LLAMA, **CLAUDE_CODE)
    assert answer["content"][0]["text"] == "Hello"
    (body,) = wire_bodies(service)
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool", "user"]
    result = body["messages"][3]["content"]
    assert result.removeprefix(REFERENCE) == "1 tool found\n[image: the model takes no images]"


@pytest.mark.parametrize("way", WAYS)
def test_a_reference_in_a_tool_result_becomes_a_note(service: RawServer, way: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    content = [{"type": "tool_reference", "tool_name": "Read"}, {"type": "text", "text": "1 tool found"}]
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": content},
    ]
    WAYS[way](model=LLAMA, messages=messages)
    (body,) = wire_bodies(service)
    assert body["messages"][-1]["content"] == "[tool_reference: Read]\n1 tool found"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", [GEMMA, NEMO], ids=["gemma", "nemo"])
def test_the_roles_of_codex_alternate_where_the_template_wants_it(service: RawServer, model: str, way: str) -> None:
    roles = ("system", "developer", "user", "user")
    WAYS[way](model=model, messages=[{"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)])
    (body,) = wire_bodies(service)
    assert body["messages"] == [
        {"role": "system", "content": "system 0\n\ndeveloper 1"},
        {"role": "user", "content": "user 2\n\nuser 3"},
    ]


def test_the_roles_of_codex_through_responses(service: RawServer) -> None:
    items = [
        {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}
        for role, text in (("developer", "permissions"), ("user", "environment"), ("user", "task"))
    ]
    litellm.responses(model=GEMMA, input=items, instructions="You are an agent.")
    (body,) = wire_bodies(service)
    assert body["messages"] == [
        {"role": "system", "content": "You are an agent.\n\npermissions"},
        {"role": "user", "content": "environment\n\ntask"},
    ]


@pytest.mark.parametrize("way", WAYS)
def test_more_tokens_than_the_model_writes_are_lowered(
    service: RawServer, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert WAYS[way](model=GEMMA, messages=ASK, max_tokens=32_000).choices[0].message.content == "Hello"
    assert [body["max_completion_tokens"] for body in wire_bodies(service)] == [8_192]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_more_tokens_than_the_model_writes_do_not_go_to_another_model(service: RawServer, stream: bool) -> None:
    made = router([GEMMA_ID, SCOUT_ID], groups=False, fallbacks=[{GEMMA_ID: [SCOUT_ID]}])
    answer = made.completion(model=GEMMA_ID, messages=ASK, max_completion_tokens=32_000, stream=stream)
    assert list(answer) if stream else answer.choices
    assert [(body["model"], body["max_completion_tokens"]) for body in wire_bodies(service)] == [(GEMMA_ID, 8_192)]


@pytest.mark.parametrize("way", WAYS)
def test_an_asynchronous_request_is_refused(service: RawServer, way: str) -> None:
    """Its answer is a notice that it is queued, and would be taken for the model's."""
    ours = {"async": True, "completion_window": "24h"}
    for metadata in ({"metadata": {"@kluster.ai": ours}}, {"extra_body": {"metadata": {"@kluster.ai": ours}}}):
        with pytest.raises(litellm.UnsupportedParamsError, match=r"\['async'\]"):
            WAYS[way](model=LLAMA, messages=ASK, drop_params=True, **metadata)
    assert service.requests == []


def _call(arguments: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}


def script(server: RawServer, *messages: dict[str, Any]) -> None:
    """Answer with these in order, streamed where the request is."""
    rest = iter(messages)

    def answer(request: RawRequest) -> Reply:
        message = next(rest)
        finish = "tool_calls" if "tool_calls" in message else "stop"
        if request.json.get("stream"):
            return Reply(sse(message, finish=finish))
        return whole(message, finish=finish)

    server.answer = answer


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_cannot_be_run_is_asked_for_again(service: RawServer, way: str) -> None:
    script(service, _call('Sure: {"city": "Oslo"}'), _call('{"city": "Oslo"}'))
    response = WAYS[way](model=LLAMA, messages=WEATHER, tools=[weather_tool()])
    (call,) = response.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    assert response.choices[0].finish_reason == "tool_calls"
    assert len(service.requests) == 2


def failure(way: str, **call: Any) -> Any:
    """Return the error of a call."""
    with pytest.raises(litellm.exceptions.openai.APIError) as caught:
        WAYS[way](**call)
    return caught.value


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_cannot_be_run_never_reaches_the_caller(service: RawServer, way: str) -> None:
    script(service, *[_call('Sure: {"city": "Oslo"}')] * 3)
    error = failure(way, model=LLAMA, messages=WEATHER, tools=[weather_tool()])
    assert isinstance(error, litellm.JSONSchemaValidationError)
    assert isinstance(error, errors.OutputValidationError)
    assert "The call of `get_weather` cannot be run: Arguments are not valid JSON" in str(error)
    assert error.raw_response == 'Sure: {"city": "Oslo"}'
    assert len(service.requests) == 3


@pytest.mark.parametrize("way", WAYS)
def test_a_call_as_text_is_a_call(service: RawServer, way: str) -> None:
    script(service, {"content": '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}'})
    choice = WAYS[way](model=LLAMA, messages=WEATHER, tools=[weather_tool()]).choices[0]
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, json.loads(call.function.arguments)) == ("tool_calls", {"city": "Oslo"})
    assert not choice.message.content


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_is_not_what_was_asked_for_is_an_error(service: RawServer, way: str) -> None:
    """Of a stream, too, before any chunk: nobody has seen a part of it."""
    script(service, *[{"content": "no"}] * 3)
    error = failure(way, model=LLAMA, messages=ASK, response_format={"type": "json_object"})
    assert isinstance(error, litellm.JSONSchemaValidationError)
    assert (error.raw_response, error.model) == ("no", LLAMA.removeprefix("kluster/"))


@pytest.mark.parametrize("way", WAYS)
def test_checks_can_be_switched_off(service: RawServer, way: str) -> None:
    script(service, {"content": "no"})
    response = WAYS[way](model=LLAMA, messages=ASK, response_format={"type": "json_object"}, max_repairs=-1)
    assert response.choices[0].message.content == "no"
