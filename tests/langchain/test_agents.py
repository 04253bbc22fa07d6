"""LangChain's and LangGraph's agents, on a model with tools and on one without: loops, streams, memory, middleware."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware, SummarizationMiddleware
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.langchain import ChatKluster
from kluster_integrations.langchain._compat import ContextOverflowError

from ..raw_server import RawServer, Reply, whole
from ..stated import call
from .conftest import get_time, get_weather, since

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"
MODELS = [LLAMA, R1]
BOTH = "What is the weather in Paris and the time in Tokyo?"

# vLLM's words, old and new, and SGLang's; kluster.ai has run both.
OVERFLOWS = [
    (
        "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens (139000 in the"
        " messages, 1000 in the completion). Please reduce the length of the messages or completion."
    ),
    (
        "You passed 140000 input tokens and requested 1000 output tokens. However, the model's context length is only "
        "131072 tokens, resulting in a maximum input length of 130072 tokens."
    ),
    "The input (140000 tokens) is longer than the model's context length (131072 tokens).",
]


TOOLS = [get_weather, get_time]


def prebuilt(model: ChatKluster, tools: list[Any], **options: Any) -> Any:
    """LangGraph's own agent; deprecated for `create_agent`, and still what many run."""
    from langgraph.prebuilt import create_react_agent

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return create_react_agent(model, tools, **options)


AGENTS = {"create_agent": create_agent, "create_react_agent": prebuilt}


@pytest.fixture(params=AGENTS)
def make_agent(request: pytest.FixtureRequest) -> Any:
    return AGENTS[request.param]


def ask(text: str = BOTH) -> Any:
    return {"messages": [HumanMessage(text)]}


def check(messages: list[BaseMessage]) -> None:
    assert [m.type for m in messages] == ["human", "ai", "tool", "tool", "ai"]
    calls = messages[1].tool_calls  # type: ignore[attr-defined]
    assert [(c["name"], c["args"]) for c in calls] == [
        ("get_weather", {"city": "Paris"}),
        ("get_time", {"city": "Tokyo"}),
    ]
    assert "Sunny in Paris" in messages[-1].text
    assert "12:30 in Tokyo" in messages[-1].text


# The loop.


@pytest.mark.parametrize("model", MODELS)
async def test_two_tools_and_an_answer(chat: Callable[..., ChatKluster], make_agent: Any, model: str) -> None:
    agent = make_agent(chat(model), TOOLS)

    check(agent.invoke(ask())["messages"])
    check((await agent.ainvoke(ask()))["messages"])


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("model", MODELS)
def test_loop_in_both_versions_of_content(chat: Callable[..., ChatKluster], model: str, version: str) -> None:
    agent = create_agent(chat(model, output_version=version, streaming=True), TOOLS)

    check(agent.invoke(ask())["messages"])


@pytest.mark.parametrize("model", MODELS)
def test_one_call_at_a_time(chat: Callable[..., ChatKluster], make_agent: Any, model: str) -> None:
    messages = make_agent(chat(model, parallel_tool_calls=False), TOOLS).invoke(ask())["messages"]

    assert [m.type for m in messages] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert "Sunny in Paris" in messages[-1].text
    assert "12:30 in Tokyo" in messages[-1].text


@pytest.mark.parametrize("model", MODELS)
def test_an_agent_without_tools(chat: Callable[..., ChatKluster], make_agent: Any, model: str) -> None:
    messages = make_agent(chat(model), []).invoke(ask("Hello!"))["messages"]

    assert [m.type for m in messages] == ["human", "ai"]


@pytest.mark.parametrize("model", MODELS)
def test_a_system_prompt(chat: Callable[..., ChatKluster], emulator: Emulator, model: str) -> None:
    create_agent(chat(model), TOOLS, system_prompt="You are Ada's assistant.").invoke(ask())

    assert all(r.body["messages"][0]["content"].startswith("You are Ada's") for r in emulator.requests)  # type: ignore[index,call-overload]


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_that_fails(chat: Callable[..., ChatKluster], emulator: Emulator, model: str) -> None:
    @tool
    def get_rain(city: str) -> str:
        """Get the rain in a city."""
        raise ConnectionError("the gauge is broken")

    emulator.reply(tool_calls=[call("get_rain", city="Paris")])
    agent = prebuilt(chat(model), _tool_node([get_rain]))
    messages = agent.invoke(ask("How much rain in Paris?"))["messages"]

    assert messages[2].status == "error"
    assert "the gauge is broken" in messages[-1].text


def _tool_node(tools: list[Any]) -> Any:
    from langgraph.prebuilt import ToolNode

    return ToolNode(tools, handle_tool_errors=True)


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_that_does_not_exist(server: RawServer, model: str) -> None:
    server.script(calling(model, "get_wether", '{"city": "Paris"}'), whole({"content": "I was wrong."}))
    chat = ChatKluster(model=model, api_key="key", base_url=server.base_url)

    messages = create_agent(chat, TOOLS).invoke(ask())["messages"]

    assert messages[-1].text == "I was wrong."
    assert "get_weather" in json.dumps(server.requests[1].json["messages"][-1])  # it is told what there is


class Report(BaseModel):
    """A report."""

    city: str


def calling(model: str, name: str, arguments: str) -> Reply:
    """Return the answer in which a model calls a tool, natively or in its text."""
    if model == R1:
        return whole({"content": f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'})
    call = {"id": f"call-{name}", "type": "function", "function": {"name": name, "arguments": arguments}}
    return whole({"content": None, "tool_calls": [call]}, finish="tool_calls")


@pytest.mark.parametrize("model", MODELS)
async def test_a_structured_response(server: RawServer, model: str) -> None:
    chat = ChatKluster(model=model, api_key="key", base_url=server.base_url)
    agent = create_agent(chat, [get_weather], response_format=Report)
    replies = calling(model, "get_weather", '{"city": "Paris"}'), calling(model, "Report", '{"city": "Paris"}')

    server.script(*replies)
    state = agent.invoke(ask())
    server.script(*replies)
    later = await agent.ainvoke(ask())

    assert state["structured_response"] == later["structured_response"] == Report(city="Paris")
    assert len(server.requests) == 4
    assert all("response_format" not in r.json for r in server.requests)


@pytest.mark.parametrize("model", MODELS)
def test_memory_with_a_checkpointer(
    chat: Callable[..., ChatKluster], emulator: Emulator, make_agent: Any, model: str
) -> None:
    knows = "My name is Grace Hopper."
    emulator.reply("You are Grace Hopper.", when=lambda request: knows in str(request.messages[:-1]))
    agent = make_agent(chat(model), TOOLS, checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}

    agent.invoke(ask(), thread)
    agent.invoke(ask(knows), thread)
    answer = agent.invoke(ask("What is my name?"), thread)["messages"][-1]

    assert "Grace Hopper" in answer.text


# Streams.


@pytest.mark.parametrize("model", MODELS)
def test_stream_of_messages(chat: Callable[..., ChatKluster], make_agent: Any, model: str) -> None:
    agent = make_agent(chat(model), TOOLS)

    parts = [part for part, _ in agent.stream(ask(), stream_mode="messages")]

    pieces = [part.text for part in parts if isinstance(part, AIMessageChunk) and part.text]
    assert len(pieces) > 10
    assert "Sunny in Paris" in "".join(pieces)
    assert "tool_call>" not in "".join(pieces)
    # Tools run side by side, and finish in any order.
    assert {part.content for part in parts if isinstance(part, ToolMessage)} == {"Sunny in Paris", "12:30 in Tokyo"}
    assert any(part.tool_call_chunks for part in parts if isinstance(part, AIMessageChunk))


@pytest.mark.parametrize("model", MODELS)
async def test_stream_of_messages_async(chat: Callable[..., ChatKluster], make_agent: Any, model: str) -> None:
    agent = make_agent(chat(model), TOOLS)

    parts = [part async for part, _ in agent.astream(ask(), stream_mode="messages")]

    text = "".join(part.text for part in parts if isinstance(part, AIMessageChunk))
    assert "Sunny in Paris" in text
    assert "12:30 in Tokyo" in text


def test_stream_of_messages_has_the_thoughts(chat: Callable[..., ChatKluster]) -> None:
    parts = [part for part, _ in create_agent(chat(R1), TOOLS).stream(ask(), stream_mode="messages")]

    thoughts = [p.additional_kwargs.get("reasoning_content") for p in parts if isinstance(p, AIMessageChunk)]
    assert len([thought for thought in thoughts if thought]) > 5


@pytest.mark.parametrize("model", MODELS)
async def test_stream_of_updates(chat: Callable[..., ChatKluster], model: str) -> None:
    agent = create_agent(chat(model), TOOLS)

    steps = [next(iter(update)) for update in agent.stream(ask(), stream_mode="updates")]
    later = [next(iter(update)) async for update in agent.astream(ask(), stream_mode="updates")]

    assert steps == later == ["model", "tools", "tools", "model"]


@pytest.mark.parametrize("model", MODELS)
def test_stream_of_values(chat: Callable[..., ChatKluster], model: str) -> None:
    *_, state = create_agent(chat(model), TOOLS).stream(ask(), stream_mode="values")

    check(state["messages"])


@pytest.mark.parametrize("model", MODELS)
async def test_events_v2(chat: Callable[..., ChatKluster], model: str) -> None:
    agent = create_agent(chat(model), TOOLS)

    names = [event["event"] async for event in agent.astream_events(ask(), version="v2")]

    assert (names.count("on_chat_model_start"), names.count("on_chat_model_end")) == (2, 2)
    assert (names.count("on_tool_start"), names.count("on_tool_end")) == (2, 2)
    assert names.count("on_chat_model_stream") > 10


@pytest.mark.parametrize("model", MODELS)
def test_usage_is_in_every_message(chat: Callable[..., ChatKluster], model: str) -> None:
    agent = create_agent(chat(model), TOOLS)

    for messages in (
        agent.invoke(ask())["messages"],
        list(agent.stream(ask(), stream_mode="values"))[-1]["messages"],
    ):
        usages = [m.usage_metadata for m in messages if isinstance(m, AIMessage)]
        assert len(usages) == 2
        assert all(usage and usage["output_tokens"] > 0 for usage in usages)


# Middleware.


def overflow(words: str, **options: Any) -> Fault:
    """Return vLLM's answer to a prompt that does not fit: its error body is flat."""
    body = {"object": "error", "message": words, "type": "BadRequestError", "param": None, "code": 400}
    return Fault("status", status=400, body=body, **options)


HISTORY = [
    message
    for n in range(12)
    for message in (HumanMessage(f"Tell me of point {n}. " * 30), AIMessage(f"Of point {n} this. " * 30))
]


@pytest.mark.parametrize("words", OVERFLOWS)
@pytest.mark.parametrize("model", MODELS)
async def test_summarization_survives_an_overflow(
    chat: Callable[..., ChatKluster], emulator: Emulator, model: str, words: str
) -> None:
    summarize = SummarizationMiddleware(chat(model), trigger=("messages", 10), keep=("messages", 3))
    agent = create_agent(chat(model), TOOLS, middleware=[summarize])
    state: Any = {"messages": [*HISTORY, HumanMessage(BOTH)]}

    emulator.add_fault(overflow(words))
    messages = agent.invoke(state)["messages"]
    emulator.add_fault(overflow(words))
    later = (await agent.ainvoke(state))["messages"]

    for done in (messages, later):
        assert "Sunny in Paris" in done[-1].text
        assert "summary" in done[0].text
        assert len(done) < len(HISTORY)
    sizes = [len(json.dumps(r.body)) for r in emulator.requests]
    assert sizes[1] < sizes[0]  # the second try of the summary is shorter


def test_summarization_at_a_fraction_of_the_window(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    model = chat("mistralai/Magistral-Small-2506", plan="trial")  # 32k tokens: the profile says so
    summarize = SummarizationMiddleware(model, trigger=("fraction", 0.1), keep=("messages", 2))
    agent = create_agent(model, middleware=[summarize])

    few = agent.invoke({"messages": [HumanMessage("Hello there!")]})["messages"]
    many = agent.invoke({"messages": [*HISTORY, *HISTORY, HumanMessage("What now?")]})["messages"]

    assert len(few) == 2
    assert "summary" in many[0].text


@pytest.mark.parametrize("words", OVERFLOWS)
def test_an_overflow_of_the_agent_itself_is_said_as_one(
    chat: Callable[..., ChatKluster], emulator: Emulator, words: str
) -> None:
    emulator.add_fault(overflow(words))

    with pytest.raises(ContextOverflowError) as caught:
        create_agent(chat(), TOOLS).invoke(ask())
    assert isinstance(caught.value, openai.BadRequestError)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_retry_middleware_tries_again(chat: Callable[..., ChatKluster], emulator: Emulator, status: int) -> None:
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0, jitter=False, on_failure="error")
    agent = create_agent(chat(), TOOLS, middleware=[retry])

    emulator.add_fault(Fault("status", status=status))
    check(agent.invoke(ask())["messages"])
    emulator.add_fault(Fault("status", status=status))
    check((await agent.ainvoke(ask()))["messages"])

    assert len(emulator.requests) == 6


@since(1, 6, what="ModelError, by which middleware knows what is worth another try")
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_retry_middleware_does_not_repeat_what_cannot_work(
    chat: Callable[..., ChatKluster], emulator: Emulator, status: int
) -> None:
    emulator.add_fault(Fault("status", status=status, times=None))
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0, jitter=False, on_failure="error")

    with pytest.raises(openai.APIStatusError):
        create_agent(chat(), TOOLS, middleware=[retry]).invoke(ask())
    assert len(emulator.requests) == 1


def test_retry_middleware_and_a_cut_stream(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    emulator.add_fault(Fault("end"))
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0, jitter=False, on_failure="error")
    agent = create_agent(chat(streaming=True), TOOLS, middleware=[retry])

    check(agent.invoke(ask())["messages"])


@since(1, 6, what="ModelError, by which middleware knows what is worth another try")
def test_retry_middleware_does_not_repeat_an_overflow(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    emulator.add_fault(overflow(OVERFLOWS[0], times=None))
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0, jitter=False, on_failure="error")

    with pytest.raises(ContextOverflowError):
        create_agent(chat(), TOOLS, middleware=[retry]).invoke(ask())
    assert len(emulator.requests) == 1


async def test_fallback_middleware(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=500, times=None, model=LLAMA))
    agent = create_agent(chat(LLAMA), TOOLS, middleware=[ModelFallbackMiddleware(chat(R1))])

    for state in (agent.invoke(ask()), await agent.ainvoke(ask())):
        check(state["messages"])
        assert state["messages"][-1].response_metadata["model_name"] == R1
