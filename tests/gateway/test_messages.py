from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.gateway import Gateway

from .conftest import CITY, GEMMA, LISBON, LLAMA, MODELS, PARIS, R1, SQUARE, THINKERS, WEATHER, Serve, bodies, user

EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
TOOLS: list[Any] = [{"name": "get_weather", "description": "The weather.", "input_schema": WEATHER}]
THINKING: Any = {"type": "enabled", "budget_tokens": 1_024}
BLOCK = ["content_block_start", "content_block_delta", "content_block_stop"]


def streamed(claude: anthropic.Anthropic, **asked: Any) -> tuple[list[str], Message]:
    """Return the kinds of events (of deltas in a row one), each checked by the SDK's types, and what they add up to."""
    names = []
    for event in claude.messages.create(**asked, stream=True):
        EVENTS.validate_python(event.model_dump(exclude_unset=True))
        names.append(event.type)
    with claude.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    return [n for i, n in enumerate(names) if i == 0 or not (n == names[i - 1] == "content_block_delta")], final


def facts(message: Message) -> list[Any]:
    blocks = [block.model_dump(exclude_unset=True) for block in message.content]
    return [{k: v for k, v in block.items() if k not in ("id", "parsed_output")} for block in blocks]


@pytest.mark.parametrize("model", MODELS)
def test_text_whole_and_streamed(claude: anthropic.Anthropic, emulator: Emulator, model: str) -> None:
    system = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    asked: Any = {"model": model, "max_tokens": 200, "messages": user("Hello!"), "system": system}
    asked |= {"thinking": THINKING, "metadata": {"user_id": "ada"}, "extra_body": {"top_k": 5}}
    whole = claude.messages.create(**asked)
    events, final = streamed(claude, **asked)

    Message.model_validate(whole.model_dump(exclude_unset=True))
    thought = BLOCK if model in THINKERS else []
    assert events == ["message_start", *thought, *BLOCK, "message_delta", "message_stop"]
    assert facts(whole) == facts(final)
    assert [block.type for block in whole.content] == (["thinking"] if thought else []) + ["text"]
    assert whole.content[-1].text == "Echo: Hello!"  # type: ignore[union-attr]
    assert (whole.stop_reason, final.stop_reason, whole.model) == ("end_turn", "end_turn", model)
    assert whole.usage.input_tokens > 0
    assert final.usage.output_tokens > 0
    first = bodies(emulator)[0]
    assert (first["messages"][0]["content"][:8], first["max_completion_tokens"]) == ("Be kind.", 200) or model == GEMMA
    assert not {"thinking", "top_k", "metadata", "system"} & first.keys()


@pytest.mark.parametrize("model", [LLAMA, R1])
async def test_the_async_client(gateway: Gateway, model: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=gateway.base_url.removesuffix("/v1"), api_key="any") as claude:
        asked: Any = {"model": model, "max_tokens": 200, "messages": user("Hello!")}
        whole = await claude.messages.create(**asked)
        async with claude.messages.stream(**asked) as stream:
            final = await stream.get_final_message()
    # Who has not asked for thinking does not expect its blocks.
    assert facts(whole) == facts(final) == [{"type": "text", "text": "Echo: Hello!"}]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_round(claude: anthropic.Anthropic, emulator: Emulator, model: str, stream: bool) -> None:
    messages = user([{"type": "text", "text": PARIS, "cache_control": {"type": "ephemeral"}}])
    asked: Any = {"model": model, "max_tokens": 500, "tools": TOOLS, "thinking": THINKING}

    def ask() -> Message:
        asked["messages"] = messages
        return streamed(claude, **asked)[1] if stream else claude.messages.create(**asked)

    first = ask()
    call: Any = first.content[-1]
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Paris"})
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "It is sunny."}]}
    messages += [{"role": "assistant", "content": [block.model_dump(exclude_unset=True) for block in first.content]}]
    messages += [{"role": "user", "content": [result]}]
    last = ask()
    assert last.stop_reason == "end_turn"
    assert "It is sunny." in last.content[-1].text  # type: ignore[union-attr]
    assert "I know what is stated" not in json.dumps(bodies(emulator)[-1])  # thinking is not sent back


def test_results_come_before_the_text_behind_them(claude: anthropic.Anthropic, emulator: Emulator) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": SQUARE}}
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": "Broken.", "is_error": True},
        {"type": "tool_result", "tool_use_id": "b", "content": [image]},
        {"type": "text", "text": "And now?"},
    ]
    calls = [{"type": "tool_use", "id": id_, "name": "get_weather", "input": {"city": id_}} for id_ in "ab"]
    messages: Any = [*user(PARIS), {"role": "assistant", "content": calls}, {"role": "user", "content": results}]
    claude.messages.create(model=LLAMA, max_tokens=50, messages=messages, tools=TOOLS)
    sent = bodies(emulator)[0]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert sent[2]["content"] == "Error:\nBroken."
    assert sent[4]["content"] == "And now?"


@pytest.mark.parametrize(
    ("content", "text"), [(None, "It failed."), (5, "5"), ({"reason": "Überlast"}, '{"reason": "Überlast"}')]
)
def test_a_failed_result_of_another_form(
    claude: anthropic.Anthropic, emulator: Emulator, content: Any, text: str
) -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": content, "is_error": True}
    call = {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Paris"}}
    messages: Any = [*user(PARIS), {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    claude.messages.create(model=LLAMA, max_tokens=50, messages=messages, tools=TOOLS)
    assert bodies(emulator)[0]["messages"][-1]["content"] == f"Error:\n{text}"


def test_results_within_results_end_somewhere(claude: anthropic.Anthropic, emulator: Emulator) -> None:
    part: dict[str, Any] = {"type": "text", "text": "Here."}
    for _ in range(400):
        part = {"type": "tool_result", "tool_use_id": "a", "content": [part]}
    call = {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Paris"}}
    messages: Any = [*user(PARIS), {"role": "assistant", "content": [call]}, {"role": "user", "content": [part]}]
    claude.messages.create(model=LLAMA, max_tokens=50, messages=messages, tools=TOOLS)
    assert bodies(emulator)[0]["messages"][-1]["content"] == "[nested too deeply]"


def test_an_image_and_a_document(claude: anthropic.Anthropic, emulator: Emulator) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": SQUARE}}
    text = {
        "type": "document",
        "title": "Menu",
        "source": {"type": "text", "media_type": "text/plain", "data": "Toast"},
    }
    asked: Any = {"model": GEMMA, "max_tokens": 50}
    claude.messages.create(messages=user([image, text, {"type": "text", "text": "What is this?"}]), **asked)
    parts = bodies(emulator)[0]["messages"][0]["content"]
    assert parts[0]["image_url"]["url"] == f"data:image/png;base64,{SQUARE}"
    assert parts[1]["text"] == "Menu\nToast"
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
    with pytest.raises(anthropic.BadRequestError, match="document"):
        claude.messages.create(messages=user([pdf]), **asked)


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, ("auto", None)),
        ({"type": "any"}, ("required", None)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", False)),
        ({"type": "tool", "name": "get_weather"}, ({"type": "function", "function": {"name": "get_weather"}}, None)),
        ({"type": "none"}, ("none", None)),
    ],
)
def test_tool_choice(claude: anthropic.Anthropic, emulator: Emulator, choice: Any, sent: Any) -> None:
    claude.messages.create(model=LLAMA, max_tokens=50, messages=user(PARIS), tools=TOOLS, tool_choice=choice)
    body = bodies(emulator)[0]
    assert (body["tool_choice"], body.get("parallel_tool_calls")) == sent


def test_a_deferred_tool_is_offered_once_it_is_referred_to(claude: anthropic.Anthropic, emulator: Emulator) -> None:
    search = {"name": "search", "input_schema": {"type": "object", "properties": {}}}
    tools: Any = [search, {**TOOLS[0], "defer_loading": True}]
    asked: Any = {"model": LLAMA, "max_tokens": 50, "tools": tools}
    claude.messages.create(messages=user(PARIS), **asked)
    found = {
        "type": "tool_result",
        "tool_use_id": "a",
        "content": [{"type": "tool_reference", "tool_name": "get_weather"}],
    }
    call = {"type": "tool_use", "id": "a", "name": "search", "input": {}}
    claude.messages.create(
        messages=[*user(PARIS), {"role": "assistant", "content": [call]}, {"role": "user", "content": [found]}], **asked
    )
    offered = [[tool["function"]["name"] for tool in body["tools"]] for body in bodies(emulator)]
    assert offered == [["search"], ["search", "get_weather"]]
    assert "get_weather" in bodies(emulator)[1]["messages"][-1]["content"]


def test_what_anthropic_runs_itself(claude: anthropic.Anthropic, emulator: Emulator) -> None:
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    asked: Any = {"model": LLAMA, "max_tokens": 50, "messages": user("Hello!")}
    claude.messages.create(tools=[search, *TOOLS], **asked)
    assert [tool["function"]["name"] for tool in bodies(emulator)[0]["tools"]] == ["get_weather"]
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        claude.messages.create(tools=[search], **asked)


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_an_object(claude: anthropic.Anthropic, model: str) -> None:
    form: Any = {"format": {"type": "json_schema", "schema": CITY}}
    message = claude.messages.create(model=model, max_tokens=200, messages=user(LISBON), output_config=form)
    assert json.loads(message.content[0].text) == {"name": "Lisbon", "country": "Portugal"}  # type: ignore[union-attr]


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("stream", [False, True])
def test_why_it_stopped(claude: anthropic.Anthropic, emulator: Emulator, model: str, stream: bool) -> None:
    emulator.reply("One, two, three", when=model)
    asked: Any = {"model": model, "max_tokens": 50, "messages": user("Count!"), "stop_sequences": [", three"]}
    message = streamed(claude, **asked)[1] if stream else claude.messages.create(**asked)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", ", three")
    emulator.reply("One, two", finish_reason="length", when=model)
    message = streamed(claude, **asked)[1] if stream else claude.messages.create(**asked)
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)


def test_tokens_are_counted(claude: anthropic.Anthropic, emulator: Emulator) -> None:
    short = claude.messages.count_tokens(model=R1, messages=user("Hello!"))
    long = claude.messages.count_tokens(model=R1, messages=user("Hello! " * 50), tools=TOOLS, system="Be kind.")
    assert 0 < short.input_tokens < long.input_tokens
    assert not emulator.requests


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
    ],
)
def test_the_services_errors_are_errors(
    claude: anthropic.Anthropic,
    emulator: Emulator,
    status: int,
    kind: type[anthropic.APIStatusError],
    said: str,
    stream: bool,
) -> None:
    emulator.add_fault(Fault("status", status=status, times=None))
    with pytest.raises(kind) as caught:
        claude.messages.create(model=LLAMA, max_tokens=5, messages=user("Hello!"), stream=stream)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", said)
    assert caught.value.request_id
    assert len(emulator.requests) == 1


def test_a_stream_that_breaks_is_an_error_in_the_stream(claude: anthropic.Anthropic, emulator: Emulator) -> None:
    emulator.reply("One two three four five")
    emulator.add_fault(Fault("cut", chunks=3))
    with pytest.raises(anthropic.APIStatusError) as caught:
        list(claude.messages.create(model=LLAMA, max_tokens=50, messages=user("Count!"), stream=True))
    body: Any = caught.value.body
    assert body["error"]["type"] == "api_error"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("max_tokens", None, "max_tokens"),
        ("messages", "Hello", "messages"),
        ("messages", [{"role": "user", "content": 5}], "content"),
        ("tools", [5], "tools"),
        ("model", 5, "model"),
        ("thread", {"type": "continue", "previous_message_id": "msg_1"}, "thread"),
        ("compaction", {"type": "enabled"}, "compaction"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    claude: anthropic.Anthropic, emulator: Emulator, field: str, value: Any, said: str
) -> None:
    body = {"model": LLAMA, "max_tokens": 5, "messages": user("Hello!"), field: value}
    with pytest.raises(anthropic.BadRequestError, match=said):
        claude.post("/v1/messages", cast_to=object, body=body)
    assert not emulator.requests


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_sdks_tool_runner(claude: anthropic.Anthropic, emulator: Emulator, model: str, stream: bool) -> None:
    """It asks the server to keep the conversation; where that is refused it sends the whole of it each time."""

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Return the weather of a city."""
        return f"Sunny in {city}"

    asked: Any = {"model": model, "max_tokens": 500, "tools": [get_weather], "messages": user(PARIS)}
    last: Any = claude.beta.messages.tool_runner(**asked, stream=stream).until_done()
    assert [block.text for block in last.content if block.type == "text"] == [
        "This is what the tools have said, one after the other: Sunny in Paris."
    ]
    first, second = bodies(emulator)
    assert second["messages"][: len(first["messages"])] == first["messages"]


def test_names_that_clients_know(serve: Serve, emulator: Emulator) -> None:
    server = serve(aliases={"claude-haiku-*": LLAMA, "claude-*": R1})
    claude = anthropic.Anthropic(base_url=server.base_url.removesuffix("/v1"), api_key="any")
    for name in ("claude-haiku-4-5", "claude-sonnet-5", GEMMA):
        assert claude.messages.create(model=name, max_tokens=50, messages=user("Hello!")).model == name
    assert [body["model"] for body in bodies(emulator)] == [LLAMA, R1, GEMMA]
