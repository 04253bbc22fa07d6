"""Programs that send what kluster.ai does not take, through `kluster gateway`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.emulator import ChatRequest, Emulator, Reply
from tests.stated import question_and_results, stated

from .conftest import CLIENTS, GEMMA, LLAMA, R1, SMALL, SQUARE, Node, Serve, bodies, export, need, run
from .test_eliza import answers as eliza

CODEX = CLIENTS / "node" / "node_modules" / ".bin" / "codex"
CLAUDE = CLIENTS / "node" / "node_modules" / ".bin" / "claude"
ASK = "Read note.txt and say what the word is."


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_the_ai_sdk_and_langchain_js(node: Node, gateway: tuple[str, Emulator], model: str) -> None:
    found: dict[str, dict[str, Any]] = {}
    for row in node("gateway_clients.mjs", model, BASE_URL=gateway[0]):
        found.setdefault(row["client"], {})[row["kind"]] = row["answer"]
    assert set(found) == {"ai-sdk chat", "ai-sdk responses", "langchain.js chat", "langchain.js responses"}
    for answers in found.values():
        assert "What is breakfast?" in answers["text"]
        assert "Stream!" in answers["stream"]
        assert answers["object"] == {"name": "Lisbon", "country": "Portugal"}
        assert "Sunny in Lisbon" in answers["tools"]
        assert "Sunny in Lisbon" in answers.get("streamed tools", "Sunny in Lisbon")
    assert bool(found["ai-sdk responses"]["reasoning"]) == (model == R1)
    assert found["ai-sdk chat"]["usage"] > 0


def test_mastra(node: Node, gateway: tuple[str, Emulator], tmp_path: Path) -> None:
    export("mastra", "--gateway", "--base-url", gateway[0], "--output", tmp_path / "kluster.mjs")
    found = {row["kind"]: row["answer"] for row in node("mastra.mjs")}
    assert "What is breakfast?" in found["text"]
    assert "Stream!" in found["stream"]


def test_eliza(node: Node, gateway: tuple[str, Emulator], tmp_path: Path) -> None:
    url, server = gateway
    found = eliza(node, tmp_path, url, "any-key", "--gateway")
    assert "small breakfast" in found["TEXT_SMALL"]["answer"]
    assert "large breakfast" in found["TEXT_LARGE"]["answer"]
    assert isinstance(found["OBJECT_SMALL"]["answer"], dict)
    assert len(found["TEXT_EMBEDDING"]["answer"]) == 1024
    assert "[image/png]" in str(found["IMAGE_DESCRIPTION"]["answer"])
    assert "Stream!" in found["STREAM"]["answer"]
    assert [body["model"] for body in bodies(server)] == [SMALL, LLAMA, SMALL, GEMMA, SMALL]
    assert SQUARE in json.dumps(bodies(server)[3])


def _reads_the_note(request: ChatRequest) -> Reply | None:
    """Answer as a coding agent's model: read the file with the agent's own tool, then say what stands there."""
    _, results = question_and_results(request)
    if any("marmalade" in result for result in results):
        return Reply("The word is marmalade.")
    offered = json.dumps([request.tools, [message["content"] for message in request.messages]])
    if ASK in offered:
        if "exec_command" in offered:
            return Reply(reasoning="So.", tool_calls=[{"name": "exec_command", "arguments": {"cmd": "cat note.txt"}}])
        arguments = {"command": "cat note.txt", "description": "Read the note"}
        return Reply(reasoning="So.", tool_calls=[{"name": "Bash", "arguments": arguments}])
    return stated(request)


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_codex_finishes_a_tool_round(serve: Serve, tmp_path: Path, model: str) -> None:
    url, server = serve(_reads_the_note)
    (tmp_path / "note.txt").write_text("The word is marmalade.\n")
    (tmp_path / "codex").mkdir()
    export("codex", "--models", model, "--gateway", "--base-url", url, "--output", tmp_path / "codex" / "config.toml")
    flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    env = {"CODEX_HOME": str(tmp_path / "codex"), "KLUSTER_GATEWAY_KEY": "any-key"}
    assert "The word is marmalade." in run([need(CODEX), "exec", *flags, ASK], cwd=tmp_path, env=env)
    assert {body["model"] for body in bodies(server)} == {model}
    assert len(bodies(server)) == 2


def _looks_into_the_warehouse(request: ChatRequest) -> Reply:
    """Search for the tool, call it once it is offered, and say what it has returned."""
    _, results = question_and_results(request)
    if any("marmalade" in result for result in results):
        return Reply("The word is marmalade.")
    names = [tool["function"]["name"] for tool in request.tools]
    if found := [name for name in names if name.endswith("secret_word")]:
        return Reply(tool_calls=[{"name": found[0], "arguments": {"shelf": "A"}}])
    assert "tool_search" in names
    return Reply(tool_calls=[{"name": "tool_search", "arguments": {"query": "secret word", "limit": 3}}])


def test_codex_searches_for_a_tool_of_an_mcp_server(serve: Serve, tmp_path: Path) -> None:
    """It searches with models of OpenAI's that it knows, so this one has the name of one."""
    url, server = serve(_looks_into_the_warehouse, aliases={"gpt-*": LLAMA})
    (tmp_path / "codex").mkdir()
    file = tmp_path / "codex" / "config.toml"
    export("codex", "--models", LLAMA, "--gateway", "--base-url", url, "--output", file)
    mcp = [sys.executable, str(Path(__file__).with_name("mcp_server.py"))]
    table = f"[mcp_servers.warehouse]\ncommand = {json.dumps(mcp[0])}\nargs = {json.dumps(mcp[1:])}\n"
    file.write_text(file.read_text().replace(f'model = "{LLAMA}"', 'model = "gpt-5.5"') + f"\n{table}")
    flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    env = {"CODEX_HOME": str(tmp_path / "codex"), "KLUSTER_GATEWAY_KEY": "any-key"}
    ask = "What is the secret word of the warehouse?"
    assert "The word is marmalade." in run([need(CODEX), "exec", *flags, ask], cwd=tmp_path, env=env)
    offered = [{tool["function"]["name"] for tool in body["tools"]} for body in bodies(server)]
    assert ["mcp__warehouse__secret_word" in names for names in offered] == [False, True, True]


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_claude_code_finishes_a_tool_round(serve: Serve, tmp_path: Path, model: str) -> None:
    url, server = serve(_reads_the_note)
    (tmp_path / "note.txt").write_text("The word is marmalade.\n")
    script = tmp_path / "kluster-claude.sh"
    export("claude-code", "--models", model, "--gateway", "--base-url", url, "--output", script)
    command = f'. ./{script.name}; exec "{need(CLAUDE)}" --print --allowedTools Bash -- "{ASK}"'
    said = run(["sh", "-c", command], cwd=tmp_path, env={"DISABLE_AUTOUPDATER": "1"})
    assert "The word is marmalade." in said
    assert {body["model"] for body in bodies(server)} == {model}
