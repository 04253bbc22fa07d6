"""What goes wrong with CrewAI's own class on kluster.ai, each beside what comes of it here.

The same crew runs twice, on the same server: first as it fails on `crewai.LLM("openai/…")`, then as it works. The
places are of CrewAI 1.15.30. Further ones are beside what they belong to: `test_answers` (thoughts in answers, empty
answers, JSON in prose, usage on every chunk), `test_errors` (27 requests for one 429), `test_plans` (plans without
end), `test_long_runs` (summaries, deferred results), `test_llm` (the window of 6,963 tokens).
"""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import LLM, Crew, Task
from crewai.events.types.llm_events import LLMCallFailedEvent, LLMThinkingChunkEvent
from crewai.llms.base_llm import BaseLLM
from crewai.utilities.converter import ConverterError
from pydantic import ValidationError

from kluster_integrations.crewai import KlusterLLM, kluster_embedder, kluster_llm
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import UnsupportedParameterError

from ..raw_server import RawRequest, RawServer, Reply, sse, whole
from .crews import GEMMA, KEY, LLAMA, R1, Report, hello, make_agent, report, since, weather

Make = Callable[..., KlusterLLM]

NO_USAGE = sse({"content": "Bonjour"})


def ours(server: RawServer, model: str = LLAMA, **options: Any) -> KlusterLLM:
    return kluster_llm(model, base_url=server.base_url, api_key=KEY, **options)


# What is sent, on a server that refuses what kluster.ai does not document.


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"output_pydantic": Report}, "response_format"),  # llms/providers/openai/completion.py:2221
        ({"output_json": Report}, "response_format"),
        ({"crew": {"stream": True}}, "stream_options"),  # completion.py:2122
    ],
)
def test_fields_that_kluster_does_not_have(
    fields: dict[str, Any], field: str, native: Any, llm: Make, emulator: Emulator
) -> None:
    def run(model: Any) -> Any:
        output = report(model, **fields).kickoff()
        return (list(output), output.result.raw)[1] if "crew" in fields else output.raw

    with pytest.raises(Exception, match=field):
        run(native(emulator))
    assert len(emulator.requests) == 3  # and the agent runs the task three times: agent/core.py:862
    emulator.clear()

    assert run(llm())
    assert len(emulator.requests) == 1


def picky(refused: str) -> Callable[[RawRequest], Reply]:
    """Return a model that answers with JSON when it is told that JSON is missing; its server refuses one field."""

    def reply(request: RawRequest) -> Reply:
        body = request.json
        if refused in body:
            error = {"error": {"message": f"Unsupported parameter: '{refused}'", "code": "unsupported_parameter"}}
            return Reply([json.dumps(error).encode()], 400, "application/json", framing="length")
        if "holds no JSON" in str(body["messages"][-1]):
            return whole({"content": 'It is this: {"city": "Paris", "temperature": 21}'})
        if "sunny in Paris" in str(body["messages"]):
            return whole({"content": "It is sunny at 21 degrees."})
        function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
        return whole({"content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]})

    return reply


def test_output_pydantic_after_tools(native: Any, server: RawServer) -> None:
    # utilities/converter.py:99 asks with `response_format`.
    server.answer = picky("response_format")
    with pytest.raises(ConverterError):
        weather(native(server), output_pydantic=Report).kickoff()
    assert len(server.requests) == 5
    server.requests.clear()

    assert weather(ours(server), output_pydantic=Report).kickoff().pydantic == Report(city="Paris", temperature=21)
    assert len(server.requests) == 3


def test_output_json_after_tools(native: Any, server: RawServer) -> None:
    # utilities/converter.py:166, internal_instructor.py:94: a client of its own, whose requests nobody counts; and
    # where it fails, the task has no JSON, and nobody is told.
    server.answer = picky("response_format")
    output = weather(native(server), output_json=Report).kickoff()
    assert output.json_dict is None
    assert output.token_usage.successful_requests + 1 < len(server.requests)  # one was refused
    server.requests.clear()

    output = weather(ours(server), output_json=Report).kickoff()
    assert output.json_dict == {"city": "Paris", "temperature": 21}
    assert output.token_usage.successful_requests == len(server.requests) == 3


def test_a_guardrail_in_words(native: Any, llm: Make, emulator: Emulator) -> None:
    fields: Any = {"guardrail": "The answer must mention Paris"}
    with pytest.raises(Exception, match="guardrail"):
        report(native(emulator), **fields).kickoff()
    assert len(emulator.requests) > 3
    emulator.clear()

    assert report(llm(), **fields).kickoff().raw
    assert len(emulator.requests) == 2


def test_agent_kickoff_with_a_response_format(native: Any, llm: Make, emulator: Emulator) -> None:
    with pytest.raises(Exception, match="response_format"):
        make_agent(native(emulator)).kickoff("It is 21 degrees in Paris", response_format=Report)

    output: Any = make_agent(llm()).kickoff("It is 21 degrees in Paris", response_format=Report)
    assert output.pydantic == Report(city="Paris", temperature=21)


def test_tools_go_to_every_model(native: Any, llm: Make, emulator: Emulator) -> None:
    # utilities/agent_utils.py:146 knows seven ways to say that a model has no tools. There are more.
    with pytest.raises(Exception, match="tools"):
        weather(native(emulator, R1)).kickoff()
    emulator.clear()

    assert "sunny in Paris" in weather(llm(R1)).kickoff().raw
    assert all("tools" not in request.body for request in emulator.requests)


def test_plans_go_as_tools_to_every_model(native: Any, llm: Make, emulator: Emulator) -> None:
    # utilities/reasoning_handler.py:264: an agent without tools plans by one, and gets an error for each plan.
    hello(native(emulator, R1), agent={"planning": True}).kickoff()
    assert any("tools" in request.body for request in emulator.requests)
    emulator.clear()

    assert hello(llm(R1), agent={"planning": True}).kickoff().raw
    assert all("tools" not in request.body for request in emulator.requests)


def test_each_step_of_a_plan_is_observed_with_a_response_format(native: Any, llm: Make, emulator: Emulator) -> None:
    # agents/planner_observer.py:159
    weather(native(emulator), agent={"reasoning": True}).kickoff()
    assert any("response_format" in request.body for request in emulator.requests)
    emulator.clear()

    assert weather(llm(), agent={"reasoning": True}).kickoff().raw
    assert all("response_format" not in request.body for request in emulator.requests)


def test_the_limit_of_tokens_goes_by_its_old_name(native: Any, server: RawServer) -> None:
    native(server, max_tokens=50).call("hi")
    ours(server, max_tokens=50).call("hi")

    assert [set(r.json) & {"max_tokens", "max_completion_tokens"} for r in server.requests] == [
        {"max_tokens"},
        {"max_completion_tokens"},
    ]


def test_stop_words_are_never_sent(native: Any, server: RawServer) -> None:
    # completion.py:2340: only the text is cut, when all of it is written and paid for.
    native(server, stop=["END"]).call("hi")
    ours(server, stop=["END"]).call("hi")

    assert [r.json.get("stop") for r in server.requests] == [None, ["END"]]


def test_tool_messages_have_names(native: Any, server: RawServer) -> None:
    # agents/agent_executor.py:2029
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    call = whole({"content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]})
    for model in (native(server), ours(server)):
        server.script(call, whole({"content": "Sunny."}))
        weather(model).kickoff()

    natively, here = (r.json["messages"] for r in server.requests[1::2])
    assert any("name" in message for message in natively)
    assert not any("name" in message for message in here)


# What is read.


def test_thoughts_are_lost(native: Any, server: RawServer, events: list[Any]) -> None:
    def thoughts(model: Any) -> list[str]:
        events.clear()
        server.script(whole({"content": "42", "reasoning_content": "Six times seven."}))
        model.call("6 * 7?")
        return [e.chunk for e in events if isinstance(e, LLMThinkingChunkEvent)]

    assert thoughts(native(server, R1)) == []
    assert thoughts(ours(server, R1)) == ["Six times seven."]


def test_a_stream_without_usage_counts_for_nothing(native: Any, server: RawServer) -> None:
    def usage(model: Any) -> Any:
        server.script(Reply(NO_USAGE))
        model.call("hi")
        return model.get_token_usage_summary()

    assert usage(native(server, stream=True)).successful_requests == 0
    here = usage(ours(server, stream=True))
    assert here.successful_requests == 1
    assert here.total_tokens > 0


def test_a_failed_call_has_two_events(native: Any, llm: Make, emulator: Emulator, events: list[Any]) -> None:
    # completion.py:2387 and 684
    def failures(model: Any) -> int:
        events.clear()
        emulator.add_fault(Fault("status", status=400))
        with pytest.raises(Exception, match="400"):
            model.call("hi")
        return sum(isinstance(e, LLMCallFailedEvent) for e in events)

    assert failures(native(emulator)) == 2
    assert failures(llm()) == 1


def test_tries_are_multiplied(native: Any, llm: Make, emulator: Emulator) -> None:
    # The SDK's three, times the agent's (agent/core.py:862); after 429 also times CrewAI's (llms/retry.py:124): 27.
    def tries(model: Any) -> int:
        emulator.clear()
        emulator.add_fault(Fault("status", status=500, times=None, headers={"retry-after-ms": "1"}))
        with pytest.raises(Exception, match="500"):
            hello(model).kickoff()
        return len(emulator.requests)

    assert tries(native(emulator)) == 9
    assert tries(llm()) == 3


# What is counted.


def test_a_shared_llm_is_counted_for_every_agent(native: Any, llm: Make, emulator: Emulator) -> None:
    # crew.py:2311; crewAI issue 7259
    def counted(model: Any) -> int:
        emulator.clear()
        agents = [make_agent(model), make_agent(model)]
        tasks = [Task(description="Say hello", expected_output="A greeting", agent=one) for one in agents]
        used = Crew(agents=agents, tasks=tasks).kickoff().token_usage.successful_requests
        assert len(emulator.requests) == 2
        return int(used)

    assert counted(native(emulator)) == 4
    assert counted(llm()) == 2


def test_copies_count_together(native: Any, llm: Make, emulator: Emulator) -> None:
    # llms/base_llm.py: a copy shares the counters.
    def counted(model: Any) -> list[int]:
        outputs = hello(model).kickoff_for_each([{"n": n} for n in range(3)])
        return [output.token_usage.successful_requests for output in outputs]

    assert counted(native(emulator)) == [1, 2, 3]
    assert counted(llm()) == [1, 1, 1]


# How it is made, kept and copied.


@pytest.mark.parametrize("model", [f"kluster/{LLAMA}", LLAMA, GEMMA])
def test_crewai_knows_no_such_model(model: str, llm: Make, emulator: Emulator) -> None:
    # llm.py:410 (gemma is Google's), 528 (what it does not know is LiteLLM's)
    with pytest.raises(Exception, match=r"LLM Provider NOT provided|provider not available|LiteLLM"):
        LLM(model=model, base_url=emulator.base_url, api_key=KEY).call("hi")
    assert emulator.requests == []

    assert llm(model.removeprefix("kluster/")).call("hi")


def test_the_provider_may_become_part_of_the_id(server: RawServer) -> None:
    # llm.py: provider="openai" with a prefix sends the prefix.
    LLM(model=f"openai/{LLAMA}", provider="openai", base_url=server.base_url, api_key=KEY).call("hi")
    ours(server).call("hi")

    assert [r.json["model"] for r in server.requests] == [f"openai/{LLAMA}", LLAMA]


def test_an_openai_key_goes_to_another_host(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    monkeypatch.setenv("OPENAI_ORG_ID", "openai-org")
    LLM(model=f"openai/{LLAMA}", base_url=server.base_url).call("hi")
    assert b"openai-key" in server.requests[0].raw

    ours(server).call("hi")
    assert b"openai" not in server.requests[1].raw.lower()


@since[1, 15, 17]
def test_the_model_id_decides_the_provider() -> None:
    # llms/base_llm.py:330; the formats of images and of JSON hang on it.
    class Minimal(BaseLLM):
        def call(self, *_: Any, **__: Any) -> str:
            return ""

    assert Minimal(model=GEMMA).provider == "google"
    assert KlusterLLM(GEMMA, api_key=KEY).provider == "kluster"


@pytest.mark.parametrize("wrong", [{"temprature": 0.1}, {"n": 2}])
def test_options_are_dropped_in_silence(wrong: dict[str, Any], native: Any, server: RawServer) -> None:
    native(server, **wrong)
    with pytest.raises((ValueError, UnsupportedParameterError), match=next(iter(wrong))):
        ours(server, **wrong)


def test_a_dump_holds_the_key(native: Any, server: RawServer) -> None:
    assert KEY in native(server).model_dump_json()
    assert KEY not in ours(server).model_dump_json()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the half-made copy
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda llm: pickle.loads(pickle.dumps(llm))])
def test_it_cannot_be_copied(
    duplicate: Callable[[Any], Any], native: Any, server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TypeError, match="pickle"):
        duplicate(native(server))
    gc.collect()

    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    assert duplicate(ours(server)).call("hi") == "Hello"


@since[1, 15, 30]
def test_tokens_are_counted_with_a_warning(server: RawServer, caplog: pytest.LogCaptureFixture) -> None:
    # llms/base_llm.py:368: the default of a custom LLM, before every call of an agent
    class Minimal(BaseLLM):
        def call(self, *_: Any, **__: Any) -> str:
            return ""

    Minimal(model="x").get_input_tokens_count("hi")
    assert caplog.records
    caplog.clear()

    ours(server).get_input_tokens_count("hi")
    assert not caplog.records


def test_a_custom_llm_lacks_what_crewai_calls() -> None:
    # utilities/converter.py:99 and reasoning_handler.py:264 call it unguarded; context_window.py:303 awaits the other.
    class Minimal(BaseLLM):
        def call(self, *_: Any, **__: Any) -> str:
            return ""

    assert not hasattr(Minimal(model="x"), "supports_function_calling")
    assert KlusterLLM(R1, api_key=KEY).supports_function_calling()
    assert KlusterLLM.acall is not BaseLLM.acall


def test_what_is_left_out_is_openais(llm: Make, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    # utilities/planning_handler.py:55, memory/unified_memory.py:52
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises((ValueError, ValidationError, ImportError), match="OPENAI_API_KEY"):
        hello(llm(), crew={"planning": True}).kickoff()
    emulator.clear()

    embedder = kluster_embedder(api_key=KEY, base_url=emulator.base_url)
    assert hello(llm(), crew={"planning": True, "planning_llm": llm(), "memory": True, "embedder": embedder}).kickoff()
