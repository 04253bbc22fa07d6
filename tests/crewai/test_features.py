"""What CrewAI offers around agents, tools and crews, on a model with tools and on one without, on a strict server."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Agent, Crew, Process, Task
from crewai.flow import Flow, listen, start
from crewai.flow.human_feedback import human_feedback
from crewai.knowledge.source.text_file_knowledge_source import TextFileKnowledgeSource
from crewai.lite_agent import LiteAgent
from crewai.tools import BaseTool, tool
from pydantic import BaseModel

from kluster_integrations.crewai import KlusterLLM, kluster_embedder
from kluster_integrations.emulator import Emulator

from .crews import GEMMA, KEY, LLAMA, R1, Report, crew, get_weather, hello, make_agent, ran, since, weather

Make = Callable[..., KlusterLLM]
BOTH = pytest.mark.parametrize("model", [LLAMA, R1])
EVERY = pytest.mark.parametrize(
    ("model", "tool_calling"), [(LLAMA, "native"), (LLAMA, "prompted"), (R1, "prompted"), (R1, "react")]
)

calls: list[object] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def results(emulator: Emulator) -> str:
    return json.dumps(emulator.requests[-1].body["messages"])


# Tools


@tool("Ask The Oracle (v2)")
def oracle(question: str) -> str:
    """Answers questions about the weather in Paris."""
    calls.append(question)
    return "The oracle says: sunny."


@tool("now")
def now() -> str:
    """The time in Paris now."""
    calls.append(None)
    return "It is noon."


@tool("broken")
def broken(city: str) -> str:
    """Current weather in a city."""
    calls.append(city)
    raise RuntimeError("the station is down")


@tool("later")
async def later(city: str) -> str:
    """Current weather in a city."""
    await asyncio.sleep(0)
    calls.append(city)
    return f"Sunny in {city}."


@tool("final", result_as_answer=True)
def final(city: str) -> str:
    """Current weather in a city."""
    calls.append(city)
    return f"Exactly 21.0 degrees in {city}."


@tool("once", max_usage_count=1)
def once(city: str) -> str:
    """Current weather in a city."""
    calls.append(city)
    return f"Sunny in {city}."


class Words(BaseModel):
    """The arguments of `Nested`."""

    report: Report
    tags: list[str] | None = None


class Nested(BaseTool):
    """Takes an object in its arguments."""

    name: str = "report_weather"
    description: str = "Reports the weather in Paris."
    args_schema: type[BaseModel] = Words

    def _run(self, report: Report, tags: list[str] | None = None) -> str:
        calls.append(report)
        return "Reported."


@EVERY
@pytest.mark.parametrize("one", [oracle, now, later, Nested()], ids=lambda t: t.name)
def test_tools_of_every_kind(one: Any, model: str, tool_calling: Any, llm: Make, emulator: Emulator) -> None:
    one.current_usage_count = 0
    output = crew(llm(model, tool_calling=tool_calling), "What is the weather in Paris?", tools=[one]).kickoff()

    assert output.raw
    assert len(calls) == 1
    assert len(emulator.requests) == 2


@EVERY
def test_a_tool_that_raises(model: str, tool_calling: Any, llm: Make, emulator: Emulator) -> None:
    one = llm(model, tool_calling=tool_calling)
    output = crew(one, "What is the weather in Paris?", tools=[broken], agent={"max_iter": 6}).kickoff()

    assert output.raw
    assert calls
    assert "the station is down" in results(emulator)


@EVERY
def test_the_result_as_answer(model: str, tool_calling: Any, llm: Make, emulator: Emulator) -> None:
    output = crew(llm(model, tool_calling=tool_calling), "What is the weather in Paris?", tools=[final]).kickoff()

    assert output.raw.startswith("Exactly 21.0 degrees in ")
    assert len(emulator.requests) == 1


@BOTH
def test_a_result_as_answer_with_an_object(model: str, llm: Make, emulator: Emulator) -> None:
    output = crew(llm(model), "What is the weather in Paris?", tools=[final], output_pydantic=Report).kickoff()

    assert isinstance(output.pydantic, Report)
    assert len(emulator.requests) == 2


@EVERY
def test_a_tool_that_may_be_used_once(model: str, tool_calling: Any, llm: Make) -> None:
    once.current_usage_count = 0
    one = llm(model, tool_calling=tool_calling)

    assert crew(one, "Weather in Paris and in Rome?", tools=[once], agent={"max_iter": 6}).kickoff().raw
    assert calls == ["Paris"]


@BOTH
def test_results_that_are_kept(model: str, llm: Make) -> None:
    @tool("kept")
    def kept(city: str) -> str:
        """Current weather in a city."""
        calls.append(city)
        return f"Sunny in {city}."

    kept.cache_function = lambda _args, _result: True
    one = make_agent(llm(model), tools=[kept])
    tasks = [Task(description="Weather in Paris?", expected_output="A sentence", agent=one, context=[]) for _ in (1, 2)]

    assert Crew(agents=[one], tasks=tasks, cache=True).kickoff().raw
    assert calls == ["Paris"]


@BOTH
def test_another_llm_for_functions(model: str, llm: Make) -> None:
    assert weather(llm(model), agent={"function_calling_llm": llm(LLAMA)}).kickoff().raw
    assert ran == ["Paris"]


# Agents


@EVERY
def test_callbacks_get_the_steps(model: str, tool_calling: Any, llm: Make) -> None:
    steps: list[object] = []
    weather(llm(model, tool_calling=tool_calling), agent={"step_callback": steps.append}).kickoff()

    assert steps


@EVERY
def test_an_agent_out_of_iterations_answers(model: str, tool_calling: Any, llm: Make, emulator: Emulator) -> None:
    assert weather(llm(model, tool_calling=tool_calling), agent={"max_iter": 1}).kickoff().raw
    assert len(emulator.requests) <= 3


@BOTH
@pytest.mark.parametrize("respect", [pytest.param(True, marks=since[1, 15, 17]), False])  # 1.14.7 sums up in one piece
def test_a_prompt_past_the_window(respect: bool, model: str, llm: Make) -> None:
    long = crew(llm(model, plan="trial"), "Sum up: " + "word " * 60_000, agent={"respect_context_window": respect})
    if respect:
        assert long.kickoff().raw
    else:
        with pytest.raises((Exception, SystemExit), match="Context length exceeded"):
            long.kickoff()


@BOTH
async def test_agent_kickoff_async(model: str, llm: Make, emulator: Emulator) -> None:
    output: Any = await make_agent(llm(model), tools=[get_weather]).kickoff_async("What is the weather in Paris?")

    assert "sunny in Paris" in output.raw
    assert len(emulator.requests) == 2


@BOTH
def test_a_guardrail_of_an_agent(model: str, llm: Make, emulator: Emulator) -> None:
    seen: list[str] = []

    def check(output: Any) -> tuple[bool, Any]:
        seen.append(output.raw)
        return (len(seen) > 1, output.raw if len(seen) > 1 else "Say it again.")

    assert make_agent(llm(model), guardrail=check).kickoff("Say hello").raw
    assert len(seen) == len(emulator.requests) == 2


@BOTH
@pytest.mark.filterwarnings("ignore:LiteAgent is deprecated")
def test_a_lite_agent_calls_tools_before_it_answers_with_an_object(model: str, llm: Make) -> None:
    one = llm(model)
    agent = LiteAgent(role="Researcher", goal="Find facts", backstory="You are careful.", llm=one, tools=[get_weather])

    output: Any = agent.kickoff("What is the weather in Paris?", response_format=Report)
    assert output.pydantic.temperature == 21  # as the tool says
    assert ran == ["Paris"]


@BOTH
def test_delegation(model: str, llm: Make) -> None:
    worker = Agent(role="Reporter", goal="Report", backstory="b", llm=llm(model), tools=[get_weather])
    boss = Agent(role="Boss", goal="Delegate", backstory="b", llm=llm(model), allow_delegation=True)
    job = Task(description="Delegate work to the coworker Reporter", expected_output="A sentence", agent=boss)

    assert Crew(agents=[boss, worker], tasks=[job]).kickoff().raw


# Crews


@BOTH
def test_crews_in_threads_share_an_llm(model: str, llm: Make, emulator: Emulator) -> None:
    shared = llm(model)
    outputs: list[Any] = []
    threads = [threading.Thread(target=lambda: outputs.append(hello(shared).kickoff())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(outputs) == len(emulator.requests) == 6
    assert shared.get_token_usage_summary().successful_requests == 6


@BOTH
async def test_kickoff_for_each_async(model: str, llm: Make, emulator: Emulator) -> None:
    outputs: Any = await weather(llm(model)).kickoff_for_each_async([{"n": n} for n in range(4)])

    assert [output.token_usage.successful_requests for output in outputs] == [2, 2, 2, 2]
    assert len(emulator.requests) == 8


@BOTH
async def test_akickoff_for_each(model: str, llm: Make, emulator: Emulator) -> None:
    outputs: Any = await weather(llm(model)).akickoff_for_each([{"n": n} for n in range(4)])

    assert [output.token_usage.successful_requests for output in outputs] == [2, 2, 2, 2]
    assert len(emulator.requests) == 8


@BOTH
def test_crew_test(model: str, llm: Make, emulator: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    hello(llm(model)).test(n_iterations=2, eval_llm=llm(model))

    assert len(emulator.requests) == 4
    assert "Tasks Scores" in capsys.readouterr().out


@since[1, 15, 17]  # 1.14.7's executor lacks the `_format_feedback_message` that its own human input calls
@BOTH
def test_crew_train(model: str, llm: Make, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "Say it louder.")
    hello(llm(model)).train(n_iterations=1, filename="trained.pkl")

    assert (tmp_path / "trained.pkl").exists()
    assert len(emulator.requests) >= 3


@BOTH
def test_replay(model: str, llm: Make, emulator: Emulator) -> None:
    one = hello(llm(model))
    first = one.kickoff()
    again = one.replay(str(one.tasks[0].id))

    assert again.raw == first.raw
    assert len(emulator.requests) == 2


@BOTH
def test_max_rpm(model: str, llm: Make) -> None:
    assert weather(llm(model), crew={"max_rpm": 100}, agent={"max_rpm": 100}).kickoff().raw


@BOTH
def test_a_manager_agent(model: str, llm: Make) -> None:
    manager = Agent(role="Manager", goal="Manage", backstory="b", llm=llm(model), allow_delegation=True)
    one = make_agent(llm(model), tools=[get_weather])
    job = Task(description="Weather in Paris; delegate work to the coworker Researcher", expected_output="A sentence")

    assert Crew(agents=[one], tasks=[job], process=Process.hierarchical, manager_agent=manager).kickoff().raw
    assert ran == ["Paris"]


@BOTH
def test_tasks_that_run_at_the_same_time(model: str, llm: Make, emulator: Emulator) -> None:
    one = make_agent(llm(model))
    first = Task(description="Say hello", expected_output="A greeting", agent=one, async_execution=True)
    last = Task(description="Say goodbye", expected_output="A greeting", agent=one, context=[first])

    assert Crew(agents=[one], tasks=[first, last]).kickoff().raw
    assert len(emulator.requests) == 2


# Flows


@BOTH
def test_a_flow(model: str, llm: Make, emulator: Emulator) -> None:
    class Greeting(Flow[Any]):
        @start()
        def ask(self) -> Any:
            return llm(model).call("Name a city")

        @listen(ask)
        def write(self, city: str) -> Any:
            return hello(llm(model)).kickoff().raw + city

    assert Greeting().kickoff()
    assert len(emulator.requests) == 2


@BOTH
def test_human_feedback(model: str, llm: Make, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "I like it, approved")

    class Review(Flow[Any]):
        @start()
        @human_feedback(message="Good?", emit=["approved", "rejected"], llm=llm(model), default_outcome="rejected")
        def draft(self) -> str:
            return "A draft"

        @listen("approved")
        def publish(self, _: Any) -> str:
            return "published"

        @listen("rejected")
        def drop(self, _: Any) -> str:
            return "dropped"

    assert Review().kickoff() == "published"
    assert len(emulator.requests) == 1


# Memory and knowledge


@BOTH
def test_knowledge_of_a_file(model: str, llm: Make, emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "hours.txt").write_text("The library in Paris opens at nine.", encoding="utf-8")
    embedder = kluster_embedder(api_key=KEY, base_url=emulator.base_url)
    source = TextFileKnowledgeSource(file_paths=["hours.txt"])
    crew(
        llm(model), "When does the library in Paris open?", crew={"knowledge_sources": [source], "embedder": embedder}
    ).kickoff()

    assert "opens at nine" in results(emulator)


@BOTH
def test_a_crew_remembers_what_another_has_learned(model: str, llm: Make, emulator: Emulator) -> None:
    embedder = kluster_embedder(api_key=KEY, base_url=emulator.base_url)
    fields: Any = {"memory": True, "embedder": embedder}
    crew(llm(model), "The library in Paris opens at nine. Repeat it.", crew=fields).kickoff()
    emulator.clear()
    crew(llm(model), "When does the library in Paris open?", crew=fields).kickoff()

    assert any("nine" in json.dumps(r.body.get("messages", [])) for r in emulator.requests)


MCP_SERVER = """
from mcp.server.fastmcp import FastMCP

server = FastMCP("stations")

@server.tool()
def measure(city: str) -> str:
    \"\"\"Current weather in a city.\"\"\"
    return f"Measured: 21 degrees in {city}."

server.run()
"""


@BOTH
def test_tools_of_an_mcp_server(model: str, llm: Make, emulator: Emulator, tmp_path: Path) -> None:
    from crewai.mcp import MCPServerStdio

    (tmp_path / "stations.py").write_text(MCP_SERVER, encoding="utf-8")
    stations = MCPServerStdio(command=sys.executable, args=[str(tmp_path / "stations.py")])
    output = crew(llm(model), "What is the weather in Paris?", agent={"mcps": [stations]}).kickoff()

    assert "Measured: 21 degrees in Paris" in output.raw
    assert len(emulator.requests) == 2


MCP_PARTS = """
from mcp.server.fastmcp import FastMCP
from mcp.types import BlobResourceContents, EmbeddedResource, ImageContent, ResourceLink

server = FastMCP("cameras")

@server.tool()
def look(city: str) -> list:
    \"\"\"Current weather in a city.\"\"\"
    return [
        ImageContent(type="image", data="AAAA", mimeType="image/png"),
        ResourceLink(type="resource_link", uri="file:///paris.txt", name="paris"),
        EmbeddedResource(
            type="resource",
            resource=BlobResourceContents(uri="file:///paris.bin", mimeType="application/octet-stream", blob="AAAA"),
        ),
    ]

server.run()
"""


@since[1, 15, 30]
@pytest.mark.parametrize(
    ("model", "tool_calling"), [(LLAMA, "native"), (R1, "prompted"), (R1, "react"), (GEMMA, "prompted")]
)
def test_an_mcp_tool_that_gives_no_text(
    model: str, tool_calling: Any, llm: Make, emulator: Emulator, tmp_path: Path
) -> None:
    from crewai.mcp import MCPServerStdio

    (tmp_path / "cameras.py").write_text(MCP_PARTS, encoding="utf-8")
    cameras = MCPServerStdio(command=sys.executable, args=[str(tmp_path / "cameras.py")])
    one = llm(model, tool_calling=tool_calling)

    assert crew(one, "What is the weather in Paris?", agent={"mcps": [cameras]}).kickoff().raw
    assert len(emulator.requests) == 2
    assert "file:///paris.txt" in results(emulator)


@tool("look")
def look(city: str) -> Any:
    """Current weather in a city."""
    return "VISION_IMAGE:image/png:iVBORw0KGgo="  # CrewAI makes an image part of it in the steps of a plan


@pytest.mark.parametrize(("model", "sees"), [(LLAMA, False), (R1, False), (GEMMA, True)])
def test_a_tool_that_gives_an_image(model: str, sees: bool, llm: Make, emulator: Emulator) -> None:
    one = crew(llm(model), "What is the weather in Paris?", tools=[look], agent={"planning": True})

    assert one.kickoff().raw
    sent = json.dumps([request.body["messages"] for request in emulator.requests])
    assert ('"image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}' in sent) is sees
    assert ("[image: the model takes no images]" in sent) is not sees


@BOTH
def test_a_chat_with_a_crew(model: str, llm: Make, emulator: Emulator) -> None:
    from crewai.utilities import crew_chat

    one = crew(llm(model), "Say hello in {language}", crew={"chat_llm": llm(model)})
    chat_llm: Any = crew_chat.initialize_chat_llm(one)
    inputs = crew_chat.generate_crew_chat_inputs(one, "Greeting", chat_llm)
    tool_schema, system = crew_chat.generate_crew_tool_schema(inputs), crew_chat.build_system_message(inputs)
    messages: list[Any] = [{"role": "system", "content": system}]
    messages.append({"role": "assistant", "content": chat_llm.call(messages)})
    functions = {"Greeting": crew_chat.create_tool_function(one, messages)}
    crew_chat.handle_user_input("Call Greeting in French", chat_llm, messages, tool_schema, functions)

    assert messages[-1]["content"]
    assert any("hello in" in json.dumps(request.body["messages"][-1]) for request in emulator.requests)
