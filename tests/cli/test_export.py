"""What `kluster export` writes. tests/clients run the programs themselves with it."""

from __future__ import annotations

import ast
import json
import re
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.cli.clients import GATEWAY_URL, PROXY_URL, TARGETS
from kluster_integrations.gateway.gate import origin_of

from .conftest import GEMMA, KEY, LLAMA, Run

ROOT = Path(__file__).parents[2]
URL = "https://api.example.com/v1"
CHAT = [spec.id for spec in catalog.all_models() if spec.purpose == "chat" and spec.status == "current"]
OUTSIDE_OF_COMMENTS = {"eliza": "#", "llm": "#", "aider": "#", "continue": "#", "opencode": "//", "ai-sdk": "//"}
# They begin with one model, or list what the server has.
ONE_MODEL = {"eliza", "aider", "codex", "claude-code"}
NEED_THE_GATEWAY = {name for name, target in TARGETS.items() if target.needs_gateway}


def dotenv(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def data(name: str, text: str) -> Any:
    mark = OUTSIDE_OF_COMMENTS.get(name, "#")
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(mark))
    if name in ("sillytavern", "opencode"):
        return json.loads(text)
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text)


def export(kluster: Run, *args: str, **env: str) -> str:
    done = kluster("export", *args, env={"KLUSTER_API_KEY": KEY, **env})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_list_is_a_line_a_program(kluster: Run) -> None:
    lines = export(kluster, "--list").splitlines()
    assert [line.split()[0] for line in lines] == ["litellm", *TARGETS]
    for line, target in zip(lines[1:], TARGETS.values(), strict=True):
        assert target.file in line
        assert f"tried with {target.tried}" in line or not target.tried
        assert line.endswith(f"; not tried: {target.untried}" if target.untried else target.tried)


def test_what_is_said_to_be_tried_is_what_the_tests_run(kluster: Run) -> None:
    pins = json.loads((ROOT / "tests" / "clients" / "package.json").read_text("utf-8"))["dependencies"]
    for path in (ROOT / "constraints-clients.txt", ROOT / "constraints-clients-openai2.txt", ROOT / "Makefile"):
        pins |= dict(re.findall(r"(?<![\w-])([\w.-]+)==([\w.]+)", path.read_text("utf-8")))
    for target in filter(lambda one: one.tried, TARGETS.values()):
        for said in target.tried.split(" and "):
            package, version = said.split()
            assert pins[package] == version


@pytest.mark.parametrize("name", TARGETS)
def test_each_names_address_and_models_and_no_key(kluster: Run, name: str) -> None:
    text = export(kluster, name, "--models", f"{LLAMA},{GEMMA}", "--base-url", URL)
    assert KEY not in text
    assert all(word in text for word in (URL.removesuffix("/v1") if name == "claude-code" else URL, LLAMA))
    assert not [model for model in CHAT if model in text and model not in (LLAMA, GEMMA)]
    assert f"kluster export {name}" in text


@pytest.mark.parametrize("name", sorted(set(TARGETS) - ONE_MODEL))
def test_all_chat_models_in_service_are_there(kluster: Run, name: str) -> None:
    text = export(kluster, name)
    assert all(model in text for model in CHAT)
    assert "klusterai/verify-reliability" not in text
    assert (GATEWAY_URL if name in NEED_THE_GATEWAY else "https://api.kluster.ai/v1") in text


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("option", "url", "command", "key"),
    [
        ("--proxy", PROXY_URL, "litellm --config config.yaml", "LITELLM_MASTER_KEY"),
        ("--gateway", GATEWAY_URL, "kluster gateway", "KLUSTER_GATEWAY_KEY"),
    ],
)
def test_what_stands_in_between(kluster: Run, name: str, option: str, url: str, command: str, key: str) -> None:
    text = export(kluster, name, option, KLUSTER_BASE_URL=URL)
    assert url.removesuffix("/v1") in text
    assert URL not in text
    assert command in text
    assert key in text
    assert "http://127.0.0.1:4999" in export(kluster, name, option, "--base-url", "http://127.0.0.1:4999")


@pytest.mark.parametrize("name", sorted(NEED_THE_GATEWAY))
def test_without_an_address_these_get_the_gateways(kluster: Run, name: str) -> None:
    assert GATEWAY_URL.removesuffix("/v1") in export(kluster, name)
    assert GATEWAY_URL.removesuffix("/v1") not in export(kluster, name, "--base-url", URL)


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.steps])
def test_steps(kluster: Run, name: str) -> None:
    text = export(kluster, name, "--steps", "--plan", "trial", "--models", GEMMA)
    assert "1. " in text
    assert GEMMA in text
    if name != "sillytavern":
        assert "30 requests per minute" in text
        assert "requests per minute" not in export(kluster, name, "--steps")
        assert text == export(kluster, name, "--plan", "trial", "--models", GEMMA)


def test_the_rate_of_immersive_translate(kluster: Run) -> None:
    for plan, rate in (("trial", 1), ("core", 10), ("enterprise", 5)):
        assert f"requests per second: {rate}." in export(kluster, "immersive-translate", "--steps", "--plan", plan)


def test_the_address_of_the_environment(kluster: Run) -> None:
    for name in TARGETS:
        assert URL.removesuffix("/v1") in export(kluster, name, KLUSTER_BASE_URL=URL)


def test_eliza(kluster: Run) -> None:
    made = dotenv(export(kluster, "eliza"))
    assert made["OPENAI_BASE_URL"] == GATEWAY_URL  # its requests are none that kluster.ai knows
    assert made["OPENAI_SMALL_MODEL"] == LLAMA
    assert made["OPENAI_LARGE_MODEL"] == "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
    assert made["OPENAI_IMAGE_DESCRIPTION_MODEL"] == GEMMA
    assert (made["OPENAI_EMBEDDING_MODEL"], made["OPENAI_EMBEDDING_DIMENSIONS"]) == ("BAAI/bge-m3", "1024")
    own = dotenv(export(kluster, "eliza", "--models", f"{GEMMA},{LLAMA}", "--plan", "trial", "--base-url", URL))
    assert (own["OPENAI_SMALL_MODEL"], own["OPENAI_LARGE_MODEL"]) == (GEMMA, LLAMA)
    assert own["OPENAI_IMAGE_DESCRIPTION_MAX_TOKENS"] == "4096"
    assert "OPENAI_EMBEDDING_MODEL" not in own


def test_sillytavern(kluster: Run) -> None:
    preset = data("sillytavern", export(kluster, "sillytavern", "--models", GEMMA, "--base-url", f"{URL}/"))
    assert (preset["chat_completion_source"], preset["custom_url"], preset["custom_model"]) == ("custom", URL, GEMMA)
    assert preset["openai_max_context"] == catalog.get(GEMMA).context_window
    assert (preset["function_calling"], preset["media_inlining"]) == (False, True)
    steps = "\n".join(preset["_steps"])
    assert "Custom (OpenAI-compatible)" in steps
    assert "Connect." in steps
    assert "Connect again" in steps
    assert preset["custom_prompt_post_processing"] == "strict"  # Gemma's template refuses what does not alternate
    every = data("sillytavern", export(kluster, "sillytavern"))
    assert (every["custom_prompt_post_processing"], every["media_inlining"]) == ("strict_tools", True)
    between = data("sillytavern", export(kluster, "sillytavern", "--gateway"))
    assert between["custom_prompt_post_processing"] == "merge_tools"


def test_eliza_says_how_an_agent_is_started(kluster: Run) -> None:
    text = export(kluster, "eliza")
    assert all(word in text for word in ("npm install --global bun", "--ignore-scripts @elizaos/cli", "--character"))


def test_codex(kluster: Run) -> None:
    made = tomllib.loads(export(kluster, "codex", "--plan", "trial"))
    provider = made["model_providers"][made["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (GATEWAY_URL, "responses")
    assert (made["model"], made["model_context_window"]) == ("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", 32_768)


def test_claude_code(kluster: Run, tmp_path: Path) -> None:
    script = tmp_path / "kluster-claude.sh"
    script.write_text(export(kluster, "claude-code"))
    command = f". {script}; echo $ANTHROPIC_BASE_URL $ANTHROPIC_MODEL $ANTHROPIC_AUTH_TOKEN"
    for env, key in (({}, "any-key"), ({"KLUSTER_GATEWAY_KEY": "kg-1"}, "kg-1")):
        said = subprocess.check_output(["sh", "-c", command], env=env, encoding="utf-8").split()
        assert said == ["http://127.0.0.1:8091", "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", key]


def test_open_webui(kluster: Run) -> None:
    made = dotenv(export(kluster, "open-webui"))
    assert made["OPENAI_API_BASE_URLS"] == made["RAG_OPENAI_API_BASE_URL"] == GATEWAY_URL
    assert made["RAG_EMBEDDING_MODEL"] == "BAAI/bge-m3"


def test_open_webui_adds_no_tools_of_its_own(kluster: Run, tmp_path: Path) -> None:
    path = tmp_path / "open-webui.env"
    export(kluster, "open-webui", "--output", str(path))
    shell = ["sh", "-c", 'set -a; . "$0"; printf %s "$DEFAULT_MODEL_METADATA"', str(path)]
    read = subprocess.run(shell, capture_output=True, text=True, check=True, timeout=60).stdout
    assert json.loads(read) == {"capabilities": {"builtin_tools": False}}


@pytest.mark.parametrize("name", ["open-webui", "n8n", "dify"])
def test_where_the_gateway_is_for_a_container(kluster: Run, name: str) -> None:
    assert "http://host.docker.internal:8091/v1" in export(kluster, name, "--gateway")
    assert "host.docker.internal" not in export(kluster, name, "--base-url", URL)


def test_the_note_of_n8n_is_markdown_that_keeps_commands(kluster: Run) -> None:
    [note] = [n["parameters"]["content"] for n in json.loads(export(kluster, "n8n"))["nodes"] if n["name"] == "How"]
    code = [line for line in note.splitlines() if line.startswith("    ")]
    assert [line.split()[:2] for line in code] == [
        ["pip", "install"],
        ["export", "KLUSTER_GATEWAY_KEY=a-key-of-your-own"],
        ["kluster", "gateway"],
    ]


@pytest.mark.parametrize("name", ["typingmind", "immersive-translate"])
def test_no_step_lets_every_page_in(kluster: Run, name: str) -> None:
    text = export(kluster, name)
    origins = re.findall(r"--allow-origin (\S+)", text) + re.findall(r"chrome-extension://\w+", text)
    assert origins
    assert all(origin_of(origin) == origin != "*" for origin in origins)


def test_the_docs_name_what_was_used_by_hand() -> None:
    page = (ROOT / "docs" / "clients.md").read_text("utf-8")
    table = page.partition("## Checked with")[2].partition("\n## ")[0]
    assert {target.seen for target in TARGETS.values() if target.seen} <= set(re.findall(r"`([\w-]+ [\d.]+)`", table))


def test_n8n_and_dify_are_graphs_that_hold_together(kluster: Run) -> None:
    flow = json.loads(export(kluster, "n8n", "--models", GEMMA))
    names = {node["name"] for node in flow["nodes"]}
    ends = {one["node"] for kinds in flow["connections"].values() for [[one]] in kinds.values()}
    assert ends | set(flow["connections"]) <= names
    model = next(node for node in flow["nodes"] if node["name"] == "kluster.ai")["parameters"]
    # A base URL among the options would win over the credential's, and the page does not show it.
    assert (model["model"]["value"], model["options"]) == (GEMMA, {})
    assert re.fullmatch(r"[A-Za-z0-9]{16}", flow["id"])  # `n8n import:workflow` refuses a workflow without one
    app = data("dify", export(kluster, "dify", "--models", GEMMA))
    nodes = {node["id"]: node["data"] for node in app["workflow"]["graph"]["nodes"]}
    assert {end for edge in app["workflow"]["graph"]["edges"] for end in (edge["source"], edge["target"])} == set(nodes)
    assert (app["kind"], nodes["llm"]["model"]["name"]) == ("app", GEMMA)


@pytest.mark.parametrize("name", ["pydantic-ai", "llama-index"])
def test_python_modules_parse(kluster: Run, name: str) -> None:
    tree = ast.parse(export(kluster, name))
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "MODELS")
    models = ast.literal_eval(table)
    tools = {model: flags[0 if name == "pydantic-ai" else 1] for model, flags in models.items()}
    assert tools == {model: catalog.get(model).supports_tools for model in CHAT}


def test_yaml_and_json_say_what_models_can(kluster: Run) -> None:
    for entry in data("llm", export(kluster, "llm")):
        spec = catalog.get(entry["model_id"])
        assert (entry["supports_tools"], entry["vision"]) == (spec.supports_tools, spec.supports_vision)
        assert entry["can_stream"] is entry["supports_schema"] is False
    for entry in data("continue", export(kluster, "continue"))["models"]:
        spec = catalog.get(entry["model"])
        able = [name for name, on in (("tool_use", spec.supports_tools), ("image_input", spec.supports_vision)) if on]
        assert entry.get("capabilities", []) == able
        assert entry["apiKey"] == "${{ secrets.KLUSTER_API_KEY }}"
    models = data("opencode", export(kluster, "opencode", "--plan", "trial"))["provider"]["kluster"]["models"]
    assert {model["limit"]["output"] for model in models.values()} == {4_096}


def test_aider(kluster: Run) -> None:
    made = data("aider", export(kluster, "aider"))
    assert made["model"] == "openai/klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
    assert made["weak-model"] == f"openai/{LLAMA}"


def test_through_the_proxy_every_model_has_tools(kluster: Run) -> None:
    assert all(entry["supports_tools"] for entry in data("llm", export(kluster, "llm", "--proxy")))


def test_output(kluster: Run, tmp_path: Path) -> None:
    for name in TARGETS:
        path = tmp_path / name
        assert export(kluster, name, "--output", str(path)) == ""
        assert path.read_text("utf-8") == export(kluster, name)
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or name != "eliza"


def test_a_file_that_may_hold_keys_is_kept(kluster: Run, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("DISCORD_API_TOKEN=x\n")
    path.chmod(0o644)
    done = kluster("export", "eliza", "--output", str(path))
    assert (done.returncode, path.read_text()) == (1, "DISCORD_API_TOKEN=x\n")
    assert "may hold keys" in done.stderr
    assert "--force" in done.stderr
    export(kluster, "eliza", "--output", str(path), "--force")
    assert "OPENAI_BASE_URL" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["litellm", *TARGETS])
def test_a_file_of_somebody_else_is_kept(kluster: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("own: true\n")
    done = kluster("export", name, "--output", str(path))
    assert (done.returncode, path.read_text()) == (1, "own: true\n")
    assert "exists" in done.stderr
    export(kluster, name, "--output", str(path), "--force")
    assert path.read_text("utf-8") == export(kluster, name)


@pytest.mark.parametrize("name", ["litellm", *sorted(set(TARGETS) - {"eliza"})])
def test_its_own_file_is_written_anew(kluster: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.yaml"
    path.touch()
    for model in (LLAMA, GEMMA):
        export(kluster, name, "--models", model, "--output", str(path))
        assert path.read_text("utf-8") == export(kluster, name, "--models", model)


def test_a_file_that_cannot_be_written(kluster: Run, tmp_path: Path) -> None:
    done = kluster("export", "llm", "--output", str(tmp_path / "no" / "file"))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "TARGET is missing; it is one of litellm, eliza, sillytavern, pydantic-ai"),
        (["langchain"], "TARGET='langchain' is not known"),
        (["eliza", "--models", "BAAI/bge-m3"], "--models must name a chat model"),
        (["eliza", "--redis", "redis://x"], "for litellm alone"),
        (["litellm", "--proxy"], "not for litellm"),
        (["litellm", "--gateway"], "not for litellm"),
        (["llm", "--proxy", "--gateway"], "exclude each other"),
        (["llm", "--steps"], "--steps is for sillytavern, msty"),
        (["pydantic-ai", "--models", 'x": 1}; import os #'], "--models="),
        (["eliza", "--models", "a\nOPENAI_BASE_URL=http://127.0.0.1"], "--models="),
    ],
)
def test_refusals(kluster: Run, args: list[str], said: str) -> None:
    done = kluster("export", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_model_that_nobody_knows_is_written(kluster: Run) -> None:
    entry = data("llm", export(kluster, "llm", "--models", "our/own-endpoint"))[0]
    assert (entry["model_id"], entry["supports_tools"]) == ("our/own-endpoint", False)
