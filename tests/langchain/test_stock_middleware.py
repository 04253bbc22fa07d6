"""The middleware that langchain ships, each in an agent on a model with tools of its own and on one without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents import middleware as stock
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from kluster_integrations.langchain import ChatKluster

from .conftest import LLAMA, R1, get_time, get_weather, version_of

QUESTION: Any = {"messages": [("user", "What is the weather in Paris?")]}
CONFIG: Any = {"recursion_limit": 40, "configurable": {"thread_id": "1"}}
MADE: dict[str, Callable[[ChatKluster, Path], Any]] = {
    "ContextEditingMiddleware": lambda model, folder: stock.ContextEditingMiddleware(
        edits=[stock.ClearToolUsesEdit(trigger=10_000)]
    ),
    "FilesystemFileSearchMiddleware": lambda model, folder: stock.FilesystemFileSearchMiddleware(root_path=str(folder)),
    "HumanInTheLoopMiddleware": lambda model, folder: stock.HumanInTheLoopMiddleware({"get_weather": True}),
    "LLMToolSelectorMiddleware": lambda model, folder: stock.LLMToolSelectorMiddleware(model=model, max_tools=1),
    "ModelCallLimitMiddleware": lambda model, folder: stock.ModelCallLimitMiddleware(run_limit=5),
    "ModelFallbackMiddleware": lambda model, folder: stock.ModelFallbackMiddleware(model),
    "ModelRefusalMiddleware": lambda model, folder: stock.ModelRefusalMiddleware(),  # langchain 1.5
    "ModelRetryMiddleware": lambda model, folder: stock.ModelRetryMiddleware(),
    "PIIMiddleware": lambda model, folder: stock.PIIMiddleware("email", apply_to_tool_results=True),
    "ShellToolMiddleware": lambda model, folder: stock.ShellToolMiddleware(workspace_root=folder),
    "SummarizationMiddleware": lambda model, folder: stock.SummarizationMiddleware(model, trigger=("fraction", 0.8)),
    "TodoListMiddleware": lambda model, folder: stock.TodoListMiddleware(),
    "ToolCallLimitMiddleware": lambda model, folder: stock.ToolCallLimitMiddleware(run_limit=3),
    "ToolErrorMiddleware": lambda model, folder: stock.ToolErrorMiddleware(on_error=lambda *_: "It failed."),
    "ToolRetryMiddleware": lambda model, folder: stock.ToolRetryMiddleware(max_retries=1),
}
# The model stands in for the tool, so that what the tool says is the model's; one is for other providers' servers, and
# two of langchain 1.5 have a decision model decide, which no chat model is.
ELSEWHERE = {
    *("AgentMiddleware", "LLMToolEmulator", "ProviderToolSearchMiddleware"),
    *("AutoModeMiddleware", "ModelRouterMiddleware"),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("model", [LLAMA, R1])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_agent_with_it_ends_with_its_answer(
    chat: Callable[..., ChatKluster], tmp_path: Path, name: str, model: str, streamed: bool
) -> None:
    if not hasattr(stock, name):
        pytest.skip(f"this langchain has no {name}")
    if name == "ShellToolMiddleware" and version_of("langchain") < (1, 2):
        pytest.skip("langchain 1.1 puts a Send into the state, which no checkpointer can save")
    middleware = [MADE[name](chat(model), tmp_path)]
    agent: Any = create_agent(chat(model), [get_weather, get_time], middleware=middleware, checkpointer=InMemorySaver())

    given = QUESTION
    while True:
        if streamed:
            list(agent.stream(given, CONFIG, stream_mode=["messages", "updates"]))
        else:
            agent.invoke(given, CONFIG)
        if not agent.get_state(CONFIG).next:
            break
        given = Command(resume={"decisions": [{"type": "approve"}]})

    *_, call, result, answer = agent.get_state(CONFIG).values["messages"]
    assert [c["args"] for c in call.tool_calls] == [{"city": "Paris"}]
    assert result.text == "Sunny in Paris"
    assert "Sunny in Paris" in answer.text


def test_no_middleware_is_forgotten() -> None:
    shipped = {name for name in stock.__all__ if name.endswith(("Middleware", "Emulator"))}
    assert shipped <= MADE.keys() | ELSEWHERE
