"""What real servers answer, where CrewAI's own class goes wrong, and what comes of it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai.events.types.llm_events import LLMCallCompletedEvent, LLMThinkingChunkEvent

from kluster_integrations.crewai import KlusterLLM, kluster_llm
from kluster_integrations.errors import OutputValidationError

from ..raw_server import DONE, RawServer, Reply, chunk, event, sse, whole
from .crews import GEMMA, KEY, LLAMA, R1, Report, hello, make_agent, ran, weather

PROSE = 'Here it is:\n```json\n{"city": "Paris", "temperature": 21}\n```\nI hope this helps.'
USAGE = {"usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}


@pytest.fixture
def on(server: RawServer) -> Callable[..., KlusterLLM]:
    return lambda model=LLAMA, **options: kluster_llm(
        model, base_url=server.base_url, api_key=KEY, max_retries=0, **options
    )


THINKS = "<think>Secret. Final Answer: wrong</think>right"


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_never_reach_the_output(stream: bool, server: RawServer, on: Any, events: list[Any]) -> None:
    server.script(Reply(sse(*({"content": c} for c in THINKS))) if stream else whole({"content": THINKS}))

    assert hello(on(R1, stream=stream)).kickoff().raw == "right"
    assert "".join(e.chunk for e in events if isinstance(e, LLMThinkingChunkEvent)) == "Secret. Final Answer: wrong"
    assert [e.response for e in events if isinstance(e, LLMCallCompletedEvent)] == ["right"]


def test_thoughts_do_reach_it_natively(server: RawServer, native: Any) -> None:
    server.script(whole({"content": THINKS}))

    assert "wrong" in hello(native(server, R1)).kickoff().raw


def test_an_empty_answer_is_asked_for_again(server: RawServer, on: Any) -> None:
    server.script(whole({"content": None, "reasoning_content": "Hm."}), whole({"content": "Bonjour"}))

    assert hello(on(R1)).kickoff().raw == "Bonjour"
    assert len(server.requests) == 2


def test_an_empty_answer_fails_natively(server: RawServer, native: Any) -> None:
    server.script(*[whole({"content": None, "reasoning_content": "Hm."})] * 3)

    with pytest.raises(ValueError, match="None or empty"):
        hello(native(server, R1)).kickoff()


def test_usage_on_every_chunk(server: RawServer, on: Any, native: Any) -> None:
    words = [event(chunk({"content": word}, **USAGE)) for word in ("Bon", "jour")]
    stream = Reply([*words, event(chunk({}, "stop", **USAGE)), DONE])
    server.script(stream, stream)

    assert on(stream=True).call("hi") == "Bonjour"
    assert native(server, stream=True).call("hi") == ""


def test_json_in_prose(server: RawServer, on: Any, native: Any) -> None:
    server.script(whole({"content": PROSE}), whole({"content": PROSE}))

    assert on().call("hi", response_model=Report) == Report(city="Paris", temperature=21)
    with pytest.raises(Exception, match="JSON"):
        native(server).call("hi", response_model=Report)


def test_wrong_json_is_asked_for_again_with_what_is_wrong(server: RawServer, on: Any) -> None:
    server.script(whole({"content": '{"city": "Paris"}'}), whole({"content": PROSE}))

    assert on().call("hi", response_model=Report) == Report(city="Paris", temperature=21)
    assert "temperature: Field required" in server.requests[1].json["messages"][-1]["content"]


def test_hopeless_json_is_an_error_with_the_text(server: RawServer, on: Any) -> None:
    server.answer = lambda _: whole({"content": "no"})

    with pytest.raises(OutputValidationError) as caught:
        on(max_repairs=1).call("hi", response_model=Report)
    assert caught.value.raw_text == "no"
    assert len(server.requests) == 2


def test_an_invented_tool_result_is_no_result(server: RawServer, on: Any) -> None:
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    server.script(
        whole({"content": f"{call}\n<tool_response>\nIt snows.\n</tool_response>\nIt snows in Paris."}),
        whole({"content": "Sunny."}),
    )

    assert weather(on(R1)).kickoff().raw == "Sunny."
    assert ran == ["Paris"]
    assert "snows" not in str(server.requests[1].json["messages"])


def test_an_invented_observation_is_no_result(server: RawServer, on: Any) -> None:
    action = 'Thought: look\nAction: get_weather\nAction Input: {"city": "Paris"}'
    server.script(
        whole({"content": f"{action}\nObservation: It snows.\nThought: done\nFinal Answer: It snows."}),
        whole({"content": "Thought: done\nFinal Answer: Sunny."}),
    )

    assert weather(on(R1, tool_calling="react")).kickoff().raw == "Sunny."
    assert ran == ["Paris"]
    assert "snows" not in str(server.requests[1].json["messages"])


def test_a_stop_word_within_thoughts_ends_nothing(server: RawServer, on: Any) -> None:
    server.script(whole({"content": "I look.\nObservation: none.</think>Bonjour\nObservation: x"}))

    assert hello(on(R1)).kickoff().raw == "Bonjour"
    assert "stop" not in server.requests[0].json


def test_stop_words_are_sent_and_applied(server: RawServer, on: Any) -> None:
    server.script(whole({"content": "one END two"}), whole({"content": "Bonjour\nObservation: x"}))

    assert on(stop=["END"]).call("hi") == "one"
    assert server.requests[0].json["stop"] == ["END"]
    assert hello(on()).kickoff().raw == "Bonjour"
    assert server.requests[1].json["stop"] == ["\nObservation:"]


def test_an_empty_stop_word_cuts_nothing(server: RawServer, on: Any) -> None:
    server.script(whole({"content": "one END two"}))

    assert on(stop=["", "END"]).call("hi") == "one"


def test_stop_words_are_not_sent_for_a_model_that_thinks(server: RawServer, on: Any) -> None:
    server.script(whole({"content": "END of the thought</think>one END two"}))

    assert on(R1, stop=["END"]).call("hi") == "one "
    assert "stop" not in server.requests[0].json


def test_messages_lose_what_kluster_does_not_take(server: RawServer, on: Any) -> None:
    message = {"role": "user", "content": "hi", "name": "ada", "cache_breakpoint": True, "files": {}}

    on().call([message])
    assert server.requests[0].json["messages"] == [{"role": "user", "content": "hi"}]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def with_result(*parts: Any) -> list[dict[str, Any]]:
    """Return a conversation whose last message is a tool's result."""
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "look", "content": list(parts)},
    ]


def test_an_image_that_a_tool_gives_goes_into_a_user_message(server: RawServer, on: Any) -> None:
    on(GEMMA).call(with_result(IMAGE))

    last = server.requests[0].json["messages"][-1]
    assert (last["role"], last["content"][-1]) == ("user", IMAGE)


@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize(
    ("part", "note"),
    [
        (IMAGE, "[image: the model takes no images]"),
        ({"type": "resource_link", "uri": "file:///a.txt", "name": "a"}, "[resource_link: a file:///a.txt]"),
        ({"type": "file", "file": {"file_id": "f-1"}}, "[file: f-1]"),
        ({"type": "tool_reference", "tool_name": "get_weather"}, "[tool_reference: get_weather]"),
    ],
)
def test_what_a_tool_gives_never_ends_an_agent(part: Any, note: str, model: str, server: RawServer, on: Any) -> None:
    assert on(model).call(with_result(part)) == "Hello"
    assert note in server.requests[0].json["messages"][-1]["content"]


def test_agent_kickoff_without_an_answer_says_so(server: RawServer, on: Any) -> None:
    server.answer = lambda _: whole({"content": ""})

    with pytest.raises(OutputValidationError, match="empty"):
        make_agent(on(), max_retry_limit=0).kickoff("hi")
