"""Stated answers: what a reply may hold, which request gets it, and that it is written as any answer is."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kluster_integrations.emulator import ChatRequest, Emulator, Fault, Reply, Settings, create_app
from kluster_integrations.emulator.replies import load
from kluster_integrations.emulator.settings import Options

from .conftest import LLAMA, NEMO, QWEN, R1, Api, tool, user

WEATHER = tool("get_weather", city={"type": "string"})
OSLO = {"name": "get_weather", "arguments": {"city": "Oslo"}}


def thought_and_text(api: Api, **fields: Any) -> tuple[str | None, str | None]:
    message = api.choice(**fields)["message"]
    return message.get("reasoning_content"), message["content"]


# What a reply holds.


def test_text_reasoning_and_calls(serve: Any) -> None:
    server, api = serve()
    server.reply("Sunny.", reasoning="I look out.", tool_calls=[OSLO, {**OSLO, "id": "c2"}])
    choice = api.choice(model=QWEN, tools=[WEATHER])
    first, second = choice["message"]["tool_calls"]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("Sunny.", "I look out.")
    assert first["function"] == {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    assert first["id"].startswith("chatcmpl-tool-")
    assert second["id"] == "c2"
    assert choice["finish_reason"] == "tool_calls"


def test_json_becomes_the_text(serve: Any) -> None:
    server, api = serve()
    server.reply(json={"stadt": "Zürich"})
    assert api.text() == '{"stadt": "Zürich"}'


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "abort", "error"])
def test_a_finish_reason(serve: Any, reason: str) -> None:
    server, api = serve()
    server.reply("Cut", finish_reason=reason, times=2)
    assert api.choice()["finish_reason"] == reason
    assert api.chunks()[-1]["choices"][0]["finish_reason"] == reason


def test_usage_is_what_is_stated_also_at_the_end_of_a_stream(serve: Any) -> None:
    server, api = serve()
    details = {"reasoning_tokens": 3}
    server.reply("Hi", usage={"prompt_tokens": 7, "completion_tokens_details": details}, times=2)
    usage = api.chat().json()["usage"]
    assert usage == {
        "prompt_tokens": 7,
        "completion_tokens": 1,
        "total_tokens": 8,
        "completion_tokens_details": details,
    }
    assert api.chunks()[-1]["usage"] == usage
    assert "usage" not in api.chunks()[-1]


def test_errors_and_headers(serve: Any) -> None:
    server, api = serve()
    server.reply(status=429, text="Slowly.", headers={"Retry-After": "7"})
    server.reply(status=500, json={"detail": "broken"})
    server.reply("Fine.", headers={"x-request-id": "abc"}, times=2)
    answer = api.chat()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["message"] == "Slowly."
    assert (answer := api.chat(stream=True)).status_code == 500
    assert answer.json() == {"detail": "broken"}
    assert api.chat().headers["x-request-id"] == api.chat(stream=True).headers["x-request-id"] == "abc"


def test_arguments_that_are_not_json_are_sent_as_they_are(serve: Any) -> None:
    server, api = serve()
    server.reply(tool_calls=[{"name": "nowhere", "arguments": '{"city": '}])
    (call,) = api.choice(tools=[WEATHER])["message"]["tool_calls"]
    assert call["function"] == {"name": "nowhere", "arguments": '{"city": '}


HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
FORMS = {
    "hermes": HERMES,
    "python_tag": '<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}',
    "json": '{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}',
    "mistral": '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}]',
}


def test_calls_are_text_where_tools_can_only_be_prompted(serve: Any) -> None:
    server, api = serve()
    server.reply("Let me see.", tool_calls=[OSLO])
    choice = api.choice(model=NEMO)
    assert choice["message"]["content"] == f"Let me see.\n\n{HERMES}"
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("form", FORMS)
def test_a_fault_writes_calls_as_text(serve: Any, form: Any) -> None:
    server, api = serve()
    server.reply(tool_calls=[OSLO], times=2)
    server.add_fault(Fault("text_calls", form=form))
    choice = api.choice(tools=[WEATHER])
    assert (choice["message"]["content"], choice["message"]["tool_calls"]) == (FORMS[form], [])
    assert server.requests[0].reason == "fault: text_calls"
    assert api.choice(tools=[WEATHER])["message"]["tool_calls"]


WRONG = [
    ({}, "nothing is stated"),
    ({"text": {"a": 1}}, "text={'a': 1} is not allowed; it must be a string; an object goes into json="),
    ({"text": "a", "json": {}}, "left out beside text="),
    ({"json": {1, 2}}, "json cannot be written as JSON"),
    ({"text": "a", "finish_reason": "done"}, "finish_reason='done' is not allowed; it must be one of 'stop', 'length'"),
    ({"tool_calls": "x"}, "tool_calls='x' is not allowed"),
    ({"tool_calls": [{"name": "f", "args": {}}]}, r"tool_calls\[0\] has the key 'args'; allowed are name, arguments"),
    ({"tool_calls": [{"name": "f", "arguments": [1]}]}, "must be a dict, or a string, which is sent as it is"),
    ({"tool_calls": [{"arguments": {}}]}, "must be a tool's name"),
    ({"text": "a", "usage": {"prompt_tokens": -1}}, "number of tokens, 0 or more"),
    ({"text": "a", "status": 302}, "must be 200, or an error's from 400 to 599"),
    ({"status": 429, "reasoning": "Hm"}, "left out with status=429"),
    ({"text": "a", "headers": {"x": "ü"}}, "printable ASCII"),
    ({"text": "a", "when": 5}, "a model id, a text of the last message, or a function of the request"),
    ({"text": "a", "times": 0}, "1 or more, or None for always"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG)
def test_what_is_not_possible_says_what_is(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Emulator().reply(**fields)


# Who gets it.


def test_a_queue_is_used_in_order_each_once(serve: Any) -> None:
    server, api = serve()
    server.reply("One")
    server.reply("Two", times=2)
    assert [api.text() for _ in range(4)] == ["One", "Two", "Two", "Echo: Hello there"]
    server.reply("Always", times=None)
    assert {api.text() for _ in range(3)} == {"Always"}
    server.clear()
    assert api.text() == "Echo: Hello there"


def test_routes_come_before_the_queue_and_stay(serve: Any) -> None:
    server, api = serve()
    server.reply("Queued")
    server.reply("For Qwen", when=QWEN)
    server.reply("Of Oslo", when="Oslo")
    server.reply("Streamed", when=lambda request: request.stream)
    assert api.text(model=QWEN) == api.text(model=QWEN) == "For Qwen"
    assert api.text(user("Where is Oslo?")) == "Of Oslo"
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in api.chunks()) == "Streamed"
    assert [api.text(), api.text()] == ["Queued", "Echo: Hello there"]


def test_a_route_makes_place_for_the_next_to_the_same_requests(serve: Any) -> None:
    server, api = serve()
    for text in ("One", "Two"):
        server.reply(text, when="Oslo")
    server.reply("Thrice", when="Rome", times=3)
    assert [api.text(user("Oslo?")) for _ in range(3)] == ["One", "Two", "Two"]
    assert [api.text(user("Rome?")) for _ in range(4)] == [*["Thrice"] * 3, "Echo: Rome?"]


def test_a_tools_result_is_the_last_message(serve: Any) -> None:
    server, api = serve()
    server.reply("It is sunny.", when="sun and wind")
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    asked = [*user("Weather?"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert api.text([*asked, {"role": "tool", "tool_call_id": "c", "content": "sun and wind"}]) == "It is sunny."


def test_each_of_many_at_once_gets_its_own(serve: Any) -> None:
    server, api = serve()
    for number in range(20):
        server.reply(str(number))
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(Api(str(api.http.base_url)).text())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts, key=int) == [str(number) for number in range(20)]


def test_a_predicate_that_fails_says_so(serve: Any) -> None:
    server, api = serve()
    server.reply("Never", when=lambda request: request.no_such_thing)
    error = api.refused(status=500)
    assert "`when` of a reply, failed: AttributeError" in error["message"]
    assert server.requests[0].reason == error["message"]


# Engines.


def parts(_: ChatRequest) -> Iterator[object]:
    yield Reply(reasoning="Hm.")
    yield "One, "
    yield "two."


async def later(request: ChatRequest) -> object:
    await asyncio.sleep(0)
    return {"content": f"{len(request.messages)} of {request.model}", "role": "assistant"}


async def parts_later(request: ChatRequest) -> AsyncIterator[object]:
    for part in parts(request):
        await asyncio.sleep(0)
        yield part


@pytest.mark.parametrize(
    ("engine", "wanted"),
    [
        (lambda request: f"You say {request.text}", (None, "You say Hello there")),
        (lambda request: Reply("Text", "Thought"), ("Thought", "Text")),
        (lambda request: {"text": "Text", "reasoning": "Thought"}, ("Thought", "Text")),
        (lambda request: None, ('No reply is stated to "Hello there".', "Echo: Hello there")),
        (parts, ("Hm.", "One, two.")),
        (later, (None, f"1 of {R1}")),
        (parts_later, ("Hm.", "One, two.")),
    ],
)
def test_an_engine_of_ones_own(serve: Any, engine: Any, wanted: tuple[str | None, str]) -> None:
    server, api = serve(engine=engine)
    assert thought_and_text(api, model=R1) == wanted
    deltas = [chunk["choices"][0]["delta"] for chunk in api.chunks(model=R1)]
    assert "".join(delta.get("content") or "" for delta in deltas) == wanted[1]
    server.reply("A stated one comes first.")
    assert api.text(model=R1) == "A stated one comes first."


def test_each_string_of_an_iterator_is_a_chunk(serve: Any) -> None:
    _, api = serve(engine=parts)
    contents = [chunk["choices"][0]["delta"].get("content") for chunk in api.chunks(model=R1)]
    assert [content for content in contents if content] == ["One, ", "two."]


@pytest.mark.parametrize("value", [5, {"answer": 1}, {"text": 1}])
def test_what_an_engine_cannot_say(serve: Any, value: object) -> None:
    _, api = serve(engine=lambda request: value)
    assert "json=" in (error := api.refused(status=500))["message"] or "a dict of text" in error["message"]


def test_an_engine_that_fails(serve: Any) -> None:
    def begins(_: ChatRequest) -> Iterator[str]:
        yield "One"
        raise KeyError("two")

    _, api = serve(engine=begins)
    assert "KeyError: 'two'" in api.refused(status=500)["message"]
    answer = api.chat(stream=True)
    assert "One" in answer.text
    assert "KeyError" in answer.text
    assert "[DONE]" not in answer.text


def test_an_engine_without_an_end_is_cut(serve: Any) -> None:
    _, api = serve(engine=lambda request: itertools.repeat("more "))
    body = api.chat(max_completion_tokens=5).json()
    assert (body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]) == ("length", 5)
    assert api.choice(stop="e mo")["message"]["content"] == "mor"


def test_others_are_answered_while_an_engine_waits(serve: Any) -> None:
    asked, go = threading.Event(), threading.Event()

    def wait(_: ChatRequest) -> str:
        asked.set()
        assert go.wait(30)
        return "At last."

    server, api = serve(engine=wait)
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(api.text()))
    thread.start()
    assert asked.wait(30)
    assert Api(server.base_url).http.get("/models").status_code == 200
    go.set()
    thread.join()
    assert texts == ["At last."]


# Settings and files.


def test_settings_can_be_shared() -> None:
    settings = Settings(plan="trial", replies=[{"text": "One"}, {"text": "Oslo", "when": "Oslo"}])
    with Emulator(settings) as first, Emulator(settings, plan="core") as second:
        assert [Api(first.base_url).text() for _ in range(2)] == ["One", "Echo: Hello there"]
        assert Api(second.base_url).text(user("Oslo?")) == "Oslo"
        assert Api(second.base_url).chat(max_completion_tokens=5_000).status_code == 200
        assert Api(first.base_url).chat(max_completion_tokens=5_000).status_code == 400
    assert create_app(settings, shape="sglang").state.service.settings.shape == "sglang"


def test_options_are_the_settings() -> None:
    assert set(Options.__annotations__) == set(Settings.__dataclass_fields__)
    with pytest.raises(ValueError, match="reply 2 of replies is not allowed: Reply: unknown field 'txt'"):
        Emulator(replies=[{"text": "a"}, {"txt": "b"}])
    with pytest.raises(ValueError, match="left out beside an engine of your own"):
        Emulator(engine=later, upstream="http://127.0.0.1:1/v1")


def test_replies_of_a_file(serve: Any, tmp_path: Any) -> None:
    file = tmp_path / "replies.yaml"
    file.write_text(
        "- when: weather\n  tool_calls:\n    - name: get_weather\n      arguments: {city: Oslo}\n"
        "- text: |-\n    Two\n    lines\n- json: {a: 1}\n  times: null\n",
        encoding="utf-8",
    )
    _, api = serve(replies=load(file))
    assert api.calls(user("The weather?"), tools=[WEATHER]) == [("get_weather", {"city": "Oslo"})]
    assert [api.text(), api.text(), api.text()] == ["Two\nlines", '{"a": 1}', '{"a": 1}']


@pytest.mark.parametrize("text", ["text: Hello", "- Hello", "- {", "5"])
def test_a_file_that_is_not_a_list_of_replies_is_refused(tmp_path: Any, text: str) -> None:
    (tmp_path / "replies.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"replies\.yaml"):
        load(tmp_path / "replies.yaml")


# Stops, limits and reasoning, in every style.

STYLES = ["reasoning_content", "reasoning", "think", "open"]


def said(api: Api, style: str, **fields: Any) -> tuple[str, str, dict[str, Any]]:
    """The raw text that the answer stands for, the same of the stream, and the choice."""
    choice = api.choice(model=R1, **fields)
    field = style if style.startswith("reasoning") else "content"
    deltas = [chunk["choices"][0]["delta"] for chunk in api.chunks(model=R1, **fields)]
    streamed = "".join(delta.get(field) or "" for delta in deltas)
    return choice["message"].get(field) or "", streamed, choice


@pytest.mark.parametrize("shape", ["vllm", "sglang"])
@pytest.mark.parametrize("style", STYLES)
def test_a_stop_inside_the_reasoning_ends_the_answer_there(serve: Any, style: Any, shape: Any) -> None:
    _, api = serve(reasoning=style, shape=shape, engine=lambda _: Reply("The end.", "First this. Then that."))
    text, streamed, choice = said(api, style, stop=["Then", "end"])
    opening = "<think>\n" if style == "think" else ""
    assert text == streamed == f"{opening}First this. "
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason" if shape == "vllm" else "matched_stop"] == "Then"
    assert style in ("think", "open") or choice["message"]["content"] is None


@pytest.mark.parametrize("style", STYLES)
def test_a_limit_inside_the_reasoning_leaves_it_open(serve: Any, style: Any) -> None:
    _, api = serve(reasoning=style, engine=lambda _: Reply("The end.", "First this. Then that."))
    text, streamed, choice = said(api, style, max_completion_tokens=2)
    assert text == streamed == ("<think>\n" if style == "think" else "") + "First this"
    assert choice["finish_reason"] == "length"
    assert "</think>" not in json.dumps(choice)


@pytest.mark.parametrize(
    ("stop", "thought", "text"),
    [
        ("</think>", "Hm.\n", None),
        ("\n\n", "Hm.", None),
        (".\n", "Hm", None),
        ("The", "Hm.", None),
        ("end", "Hm.", "The "),
        ("nowhere", "Hm.", "The end."),
    ],
)
def test_a_stop_around_the_end_of_the_reasoning(serve: Any, stop: str, thought: str, text: str | None) -> None:
    _, api = serve(engine=lambda _: Reply("The end.", "Hm."))
    assert thought_and_text(api, model=R1, stop=stop)[1] == text
    assert thought_and_text(api, model=R1, stop=stop)[0] == thought.rstrip("\n")


def test_a_stop_over_several_chunks(serve: Any) -> None:
    _, api = serve(engine=lambda _: iter(["ab", "a", "bc", "d ab"]))
    for stop, text in (("abc", "ab"), ("bab", "a"), ("abd", "ababcd ab"), ("ababcd ab", "")):
        choice = api.choice(stop=stop)
        assert choice["message"]["content"] == text
        contents = [chunk["choices"][0]["delta"].get("content") or "" for chunk in api.chunks(stop=stop)]
        assert "".join(contents) == text
        assert choice["stop_reason"] == (stop if text != "ababcd ab" else None)


def test_usage_counts_reasoning_and_images(serve: Any) -> None:
    _, api = serve(engine=lambda _: Reply("The end.", "First this."))
    assert api.chat(model=R1).json()["usage"]["completion_tokens"] == 6
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    with_image = user([{"type": "text", "text": "Hi"}, image])
    counts = [
        api.chat(m, model="google/gemma-3-27b-it").json()["usage"]["prompt_tokens"] for m in (user("Hi"), with_image)
    ]
    assert counts[1] - counts[0] == 256


# The queue of asynchronous requests.


def test_an_asynchronous_request_gets_the_notice(serve: Any) -> None:
    server, api = serve()
    server.reply("An answer.", times=None)  # the job in the queue takes one, too
    queued = {"@kluster.ai": {"async": True, "completion_window": "48h"}}
    body = api.chat(metadata=queued).json()
    assert "queued for adaptive inference" in body["choices"][0]["message"]["content"]
    assert set(body["id"].partition("_")[0]) <= set("0123456789abcdef")
    assert body["id"].partition("_")[2].isdecimal()
    assert api.text(metadata={"@kluster.ai": {"async": False}}) == "An answer."
    error = api.refused(metadata={"@kluster.ai": {"async": True, "completion_window": "1h"}})
    assert (error["param"], "completion_window" in error["message"]) == ("metadata", True)
    assert body["model"] == LLAMA


def test_a_reply_ends_when_another_is_stated_for_the_same_requests(serve: Any) -> None:
    server, api = serve()
    server.reply("one", when=LLAMA)
    assert [api.text(), api.text()] == ["one", "one"]
    server.reply("two", when=LLAMA)
    assert [api.text(), api.text()] == ["two", "two"]
    server.reply("three", when=LLAMA)
    server.reply("four", when=LLAMA)
    assert [api.text(), api.text(), api.text()] == ["three", "four", "four"]
