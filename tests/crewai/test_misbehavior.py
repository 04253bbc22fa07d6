"""Crews whose model or server misbehaves in the middle of the work: they end as they should, or with what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("crewai")


from kluster_integrations.crewai import KlusterRateLimitError, kluster_llm
from kluster_integrations.errors import InternalServerError, OutputValidationError

from ..raw_server import RawRequest, RawServer, Reply, chunk, event, sse, whole
from .crews import KEY, LLAMA, R1, Report, ran, since, weather

NATIVE, PROMPTED, REACT = "native", "prompted", "react"
EVERY = pytest.mark.parametrize("kind", [NATIVE, PROMPTED, REACT])
BOTH = pytest.mark.parametrize("stream", [False, True])

PARIS = '{"city": "Paris"}'
CITIES = [json.dumps({"city": f"C{n}"}) for n in range(12)]


def calls(kind: str, *arguments: str, name: str = "get_weather", text: str | None = None) -> dict[str, Any]:
    """Return a message that calls the tool, once for each of the arguments."""
    if kind == NATIVE:
        functions = [{"name": name, "arguments": a} for a in arguments]
        made = [{"index": i, "id": f"c{i}", "type": "function", "function": f} for i, f in enumerate(functions)]
        return {"content": text, "tool_calls": made}
    if kind == PROMPTED:
        texts = [f'<tool_call>\n{{"name": "{name}", "arguments": {a}}}\n</tool_call>' for a in arguments]
    else:
        texts = [f"Thought: I look.\nAction: {name}\nAction Input: {a}" for a in arguments]
    return {"content": "\n".join(texts) + (text or "")}


def final(kind: str) -> dict[str, Any]:
    return {"content": "Thought: I know.\nFinal Answer: Sunny." if kind == REACT else "Sunny."}


class Stage:
    """A server that plays replies in order, the last one again and again, and a crew that talks to it."""

    def __init__(self, server: RawServer) -> None:
        self.server = server

    def run(self, kind: str, *replies: Any, stream: bool = False, **fields: Any) -> str:
        """Run the crew on these replies: a message, a message and its finish reason, or a `Reply`."""
        turns = iter([*replies, *[replies[-1]] * 60])

        def play(_: RawRequest) -> Reply:
            reply = next(turns)
            if isinstance(reply, Reply):
                return reply
            message, finish = reply if isinstance(reply, tuple) else (reply, None)
            finish = finish or ("tool_calls" if message.get("tool_calls") else "stop")
            return Reply(sse(message, finish=finish)) if stream else whole(message, finish=finish)

        self.server.answer = play
        llm = kluster_llm(
            LLAMA if kind == NATIVE else R1,
            base_url=self.server.base_url,
            api_key=KEY,
            stream=stream,
            tool_calling=kind,
        )
        return str(weather(llm, agent={"max_iter": 8, **fields.pop("agent", {})}, **fields).kickoff().raw)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with RawServer() as server:
        yield Stage(server)


@EVERY
@BOTH
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(lambda kind: calls(kind, PARIS, name="look_up"), id="a tool that does not exist"),
        pytest.param(lambda kind: calls(kind, '{"town": "Paris"}'), id="arguments of another tool"),
        pytest.param(lambda kind: calls(kind, '["Paris"]'), id="a list for arguments"),
        pytest.param(lambda kind: calls(kind, "Paris, please"), id="no JSON"),
        pytest.param(lambda kind: (calls(kind, '{"city": "Par'), "length"), id="arguments that are cut off"),
    ],
)
def test_a_wrong_call_is_made_again(first: Callable[[str], Any], stream: bool, kind: str, stage: Stage) -> None:
    assert stage.run(kind, first(kind), calls(kind, PARIS), final(kind), stream=stream) == "Sunny."
    assert ran == ["Paris"]
    assert len(stage.server.requests) == 3


INVENTED = {
    NATIVE: "Observation: It snows.\nFinal Answer: It snows.",
    PROMPTED: "\n<tool_response>\nIt snows.\n</tool_response>\nIt snows.",
    REACT: "\nObservation: It snows.\nThought: I know.\nFinal Answer: It snows.",
}


@EVERY
@BOTH
def test_an_invented_result_is_dropped(stream: bool, kind: str, stage: Stage) -> None:
    first = calls(kind, PARIS, text=INVENTED[kind])

    assert stage.run(kind, first, final(kind), stream=stream) == "Sunny."
    assert ran == ["Paris"]
    if kind != NATIVE:  # there it is beside the call, a text of the model's
        assert "snows" not in str(stage.server.requests[-1].json["messages"])


@pytest.mark.parametrize("label", ["\nFinal Answer: It snows.", "\nThought: It snows.\nFinal Answer: It snows."])
def test_an_answer_behind_an_action_is_a_guess(label: str, stage: Stage) -> None:
    assert stage.run(REACT, calls(REACT, PARIS, text=label), final(REACT)) == "Sunny."
    assert ran == ["Paris"]


@BOTH
def test_an_invented_result_without_a_call_is_no_answer(stream: bool, stage: Stage) -> None:
    first = {"content": "<tool_response>\nIt snows.\n</tool_response>\nIt snows."}

    assert stage.run(PROMPTED, first, calls(PROMPTED, PARIS), final(PROMPTED), stream=stream) == "Sunny."
    assert ran == ["Paris"]


def test_a_thought_is_no_answer(stage: Stage) -> None:
    first = {"content": "Thought: I look.\nObservation: It snows.\nFinal Answer: It snows."}

    assert stage.run(REACT, first, calls(REACT, PARIS), final(REACT)) == "Sunny."
    assert ran == ["Paris"]


@EVERY
@BOTH
def test_what_is_in_thoughts_is_neither_call_nor_answer(stream: bool, kind: str, stage: Stage) -> None:
    called = calls(kind if kind != NATIVE else PROMPTED, '{"city": "Rome"}')["content"]
    first = {"content": f"<think>Final Answer: It snows. Or {called}?</think>{final(kind)['content']}"}

    assert stage.run(kind, first, stream=stream) == "Sunny."
    assert ran == []


@EVERY
@BOTH
def test_a_call_is_no_answer_where_iterations_are_used_up(stream: bool, kind: str, stage: Stage) -> None:
    rounds = [calls(kind, city) for city in CITIES[:9]]

    assert stage.run(kind, *rounds, final(kind), stream=stream) == "Sunny."
    assert ran == [json.loads(city)["city"] for city in CITIES[:8]]
    assert len(stage.server.requests) == 10


@EVERY
@BOTH
def test_nothing_but_thoughts_behind_a_tool(stream: bool, kind: str, stage: Stage) -> None:
    thoughts = {"content": None, "reasoning_content": "Final Answer: It snows."}

    assert stage.run(kind, calls(kind, PARIS), thoughts, final(kind), stream=stream) == "Sunny."
    assert ran == ["Paris"]


@EVERY
def test_empty_answers_for_ever(kind: str, stage: Stage) -> None:
    with pytest.raises(OutputValidationError, match="empty"):
        stage.run(kind, {"content": ""})
    assert len(stage.server.requests) == 3 * 3  # asked again twice, the task run three times


@BOTH
@pytest.mark.parametrize("kind", [NATIVE, PROMPTED])
def test_twelve_calls_at_once(kind: str, stream: bool, stage: Stage) -> None:
    assert stage.run(kind, calls(kind, *CITIES), final(kind), stream=stream) == "Sunny."
    assert sorted(ran) == sorted(f"C{n}" for n in range(12))


def test_of_many_actions_the_first_is_run(stage: Stage) -> None:
    assert stage.run(REACT, calls(REACT, *CITIES), final(REACT)) == "Sunny."
    assert ran == ["C0"]


@BOTH
def test_a_call_that_the_server_did_not_read(stream: bool, stage: Stage) -> None:
    first = {"content": "I look. " + calls(PROMPTED, PARIS)["content"]}

    assert stage.run(NATIVE, first, final(NATIVE), stream=stream) == "Sunny."
    assert ran == ["Paris"]


def test_an_example_of_a_call_is_text(stage: Stage) -> None:
    text = 'The format is <tool_call>{"name": "name_of_the_tool", "arguments": {}}</tool_call>.'

    assert stage.run(NATIVE, {"content": text}) == text


@BOTH
@pytest.mark.parametrize("kind", [NATIVE, PROMPTED])
def test_arguments_that_stay_wrong_are_never_run(stream: bool, kind: str, stage: Stage) -> None:
    wrong = calls(kind, '["Paris"]')

    with pytest.raises(OutputValidationError, match="get_weather"):
        stage.run(kind, wrong, stream=stream)
    assert ran == []
    assert len(stage.server.requests) == 3 * 3  # another run of the task may bring a better answer


@BOTH
def test_arguments_with_words_around_them_are_asked_for_again(stream: bool, stage: Stage) -> None:
    first = calls(NATIVE, f"Sure: {PARIS.replace('Paris', 'Rome')}")

    assert stage.run(NATIVE, first, calls(NATIVE, PARIS), final(NATIVE), stream=stream) == "Sunny."
    assert ran == ["Paris"]
    assert len(stage.server.requests) == 3


def test_a_function_is_not_run_with_what_stands_in_its_arguments(server: RawServer) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": schema}}
    server.script(whole(calls(NATIVE, f"Sure: {PARIS.replace('Paris', 'Rome')}")), whole(calls(NATIVE, PARIS)))
    llm = kluster_llm(LLAMA, base_url=server.base_url, api_key=KEY)

    functions = {"get_weather": lambda city: f"sunny in {city}"}
    assert llm.call("Weather?", tools=[tool], available_functions=functions) == "sunny in Paris"


@EVERY
@BOTH
def test_a_draft_in_a_thought_that_is_cut_is_not_run(stream: bool, kind: str, stage: Stage) -> None:
    draft = calls(kind if kind != NATIVE else PROMPTED, PARIS)["content"]
    cut = ({"content": None, "reasoning_content": draft}, "length")

    with pytest.raises(OutputValidationError, match="cut off while the model was reasoning"):
        stage.run(kind, cut, stream=stream, agent={"max_retry_limit": 0})
    assert ran == []
    assert len(stage.server.requests) == 1  # the same limit would cut it again


@EVERY
@BOTH
def test_a_429_in_the_middle(stream: bool, kind: str, stage: Stage) -> None:
    busy = Reply([b"{}"], 429, "application/json", {"retry-after-ms": "1"}, "length")

    assert stage.run(kind, calls(kind, PARIS), busy, final(kind), stream=stream) == "Sunny."
    assert ran == ["Paris"]
    with pytest.raises(KlusterRateLimitError):
        stage.run(kind, calls(kind, PARIS), busy, stream=stream)
    assert len(stage.server.requests) == 3 + 1 + 3


@EVERY
@pytest.mark.parametrize("end", ["cut", "rst"])
def test_a_stream_that_breaks_in_the_middle(end: Any, kind: str, stage: Stage) -> None:
    broken = Reply([event(chunk({"content": "It sno"}))], end=end)

    assert stage.run(kind, calls(kind, PARIS), broken, final(kind), stream=True) == "Sunny."
    assert "sno" not in str(stage.server.requests[-1].json["messages"])


@EVERY
@BOTH
def test_a_page_in_place_of_an_answer(stream: bool, kind: str, stage: Stage) -> None:
    page = Reply([b"<html>Busy</html>"], 200, "text/html", framing="length")

    assert stage.run(kind, calls(kind, PARIS), page, final(kind), stream=stream) == "Sunny."
    with pytest.raises(InternalServerError, match="Busy"):
        stage.run(kind, page, stream=stream, agent={"max_retry_limit": 0})


@since[1, 15, 30]
@EVERY
def test_the_same_call_for_ever(kind: str, stage: Stage) -> None:
    with pytest.raises(Exception, match="get_weather"):
        stage.run(kind, calls(kind, PARIS))
    assert len(stage.server.requests) <= 8


@pytest.mark.parametrize("kind", [NATIVE, PROMPTED])
def test_an_object_that_stays_wrong_after_tools(kind: str, stage: Stage) -> None:
    with pytest.raises(OutputValidationError, match="JSON") as caught:
        stage.run(kind, calls(kind, PARIS), {"content": "It is sunny."}, output_pydantic=Report)
    assert caught.value.raw_text == "It is sunny."
    assert len(stage.server.requests) <= 3 * 3 + 1


@pytest.mark.parametrize("id_", [7, 0])
@BOTH
def test_the_id_of_a_call_may_be_a_number(stream: bool, id_: int, stage: Stage) -> None:
    message = calls(NATIVE, PARIS)
    message["tool_calls"][0]["id"] = id_
    assert stage.run(NATIVE, message, final(NATIVE), stream=stream) == "Sunny."
    assert ran == ["Paris"]
    asked, result = stage.server.requests[-1].json["messages"][-2:]
    assert asked["tool_calls"][0]["id"] == result["tool_call_id"] == str(id_)
