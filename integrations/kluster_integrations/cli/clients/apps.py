"""Programs with a page of their own: Open WebUI, n8n, Dify."""

from __future__ import annotations

import json
from typing import Any

from kluster_integrations.cli.clients._target import Choice, Target, comment, proxy_note

__all__ = ["DIFY", "N8N", "OPEN_WEBUI"]

_OPEN_WEBUI = """
kluster.ai in Open WebUI, written by `kluster export open-webui`: variables for its start. It keeps what it was first
started with in its database; ENABLE_PERSISTENT_CONFIG=False lets them win each time.

  pip install open-webui
  set -a; . ./open-webui.env; set +a
  OPENAI_API_KEYS="${key}" RAG_OPENAI_API_KEY="${key}" open-webui serve --host 127.0.0.1 --port 8080

DEFAULT_MODEL_METADATA leaves out 36 tools of its own (notes, memories, calendar, ...), which cost about 6,500
tokens per question. Remove the line to have them.
"""
_DOCKER = """
In a container, 127.0.0.1 is the container itself: the gateway is at http://host.docker.internal:8091/v1 there. On
Linux that wants `--add-host=host.docker.internal:host-gateway` (in Compose: extra_hosts) for the container, and
`kluster gateway --host 0.0.0.0` with a KLUSTER_GATEWAY_KEY.
"""


def _docker_note(choice: Choice) -> str:
    return _DOCKER if choice.between == "gateway" else ""


def _open_webui(choice: Choice) -> str:
    lines = {
        "OPENAI_API_BASE_URLS": choice.base_url,
        "ENABLE_OLLAMA_API": "False",
        "DEFAULT_MODELS": choice.default.id,
        "TASK_MODEL_EXTERNAL": choice.prefer("klusterai/Meta-Llama-3.1-8B-Instruct-Turbo").id,
        "ENABLE_PERSISTENT_CONFIG": "False",
        "DEFAULT_MODEL_METADATA": """'{"capabilities": {"builtin_tools": false}}'""",
    }
    if choice.embeddings:
        lines |= {
            "RAG_EMBEDDING_ENGINE": "openai",
            "RAG_OPENAI_API_BASE_URL": choice.base_url,
            "RAG_EMBEDDING_MODEL": choice.embeddings[0].id,
        }
    models = "Its list of models is the server's: " + ", ".join(spec.id for spec in choice.specs) + "."
    head = comment(_OPEN_WEBUI.format(key=choice.key_variable), proxy_note(choice), _docker_note(choice), models)
    return head + "".join(f"{name}={value}\n" for name, value in lines.items())


_N8N_STEPS = """
1. In a new workflow, its menu (the three dots), Import, From file: this file.
2. Open the node kluster.ai, Connect to OpenAI, or choose a credential that is there: API Key what {key} holds,
Base URL {base_url}. Save.
3. Execute the workflow; the node Ask has the answer.
"""


def _n8n_note(choice: Choice) -> str:
    """Return the note on the canvas. It is Markdown: indented by four, no quote of a command is changed."""
    parts = [
        "kluster.ai, written by `kluster export n8n`.",
        proxy_note(choice).replace("\n  ", "\n    "),
        _docker_note(choice),
        _N8N_STEPS.format(key=choice.key_variable, base_url=choice.base_url),
        "Models: " + ", ".join(spec.id for spec in choice.specs) + ".",
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part)


def _n8n(choice: Choice) -> str:
    note = {"content": _n8n_note(choice), "width": 900, "height": 440}
    nodes = [
        _n8n_node("Start", "n8n-nodes-base.manualTrigger", 1, [0, 0], {}),
        _n8n_node(
            "Ask",
            "@n8n/n8n-nodes-langchain.chainLlm",
            1.4,
            [220, 0],
            {"promptType": "define", "text": "What is the ultimate breakfast sandwich?"},
        ),
        _n8n_node(
            "kluster.ai",
            "@n8n/n8n-nodes-langchain.lmChatOpenAi",
            1.2,
            [220, 220],
            # No base URL here: the page does not show it, and the credential's would not count.
            {"model": {"__rl": True, "mode": "id", "value": choice.default.id}, "options": {}},
        ),
        _n8n_node("How", "n8n-nodes-base.stickyNote", 1, [0, 420], note),
    ]
    connections = {
        "Start": {"main": [[{"node": "Ask", "type": "main", "index": 0}]]},
        "kluster.ai": {"ai_languageModel": [[{"node": "Ask", "type": "ai_languageModel", "index": 0}]]},
    }
    flow = {
        "id": "klusterAiExample",  # the command `n8n import:workflow` refuses one without an id
        "name": "kluster.ai",
        "nodes": nodes,
        "connections": connections,
        "settings": {"executionOrder": "v1"},
    }
    return json.dumps(flow, ensure_ascii=False, indent=2) + "\n"


def _n8n_node(name: str, kind: str, version: float, position: list[int], parameters: dict[str, Any]) -> dict[str, Any]:
    facts = {"name": name, "type": kind, "typeVersion": version, "position": position}
    return {"id": f"kluster-{name.lower().replace('.', '-')}", "parameters": parameters, **facts}


_DIFY = """
kluster.ai in Dify, written by `kluster export dify`: a workflow, imported by Studio, Create App, Import DSL file.

Before: Plugins, "OpenAI-API-compatible"; Settings, Model Provider, add a model of it:
  Model Name {model}, Model Type LLM, Completion mode Chat
  API Base URL (API endpoint URL in older versions) {base_url}, API Key what {key} holds
  Model context size {window}, Upper bound for max tokens {output}
  Function Call Type {call_type}, Stream function calling {streamed_calls}, Vision Support {vision}
"""


def _dify(choice: Choice) -> str:
    spec = choice.default
    model = {
        "provider": "langgenius/openai_api_compatible/openai_api_compatible",
        "name": spec.id,
        "mode": "chat",
        "completion_params": {},
    }
    question = {"variable": "question", "label": "Question", "type": "paragraph", "required": True, "max_length": 4_000}
    nodes: dict[str, dict[str, Any]] = {
        "start": {"title": "Start", "variables": [question]},
        "llm": {
            "title": "kluster.ai",
            "model": model,
            "prompt_template": [{"role": "user", "text": "{{#start.question#}}"}],
            "context": {"enabled": False, "variable_selector": []},
            "vision": {"enabled": False},
        },
        "end": {"title": "End", "outputs": [{"variable": "answer", "value_selector": ["llm", "text"]}]},
    }
    graph = {
        "nodes": [
            {"id": kind, "type": "custom", "position": {"x": 80 + 300 * i, "y": 280}, "data": {"type": kind, **data}}
            for i, (kind, data) in enumerate(nodes.items())
        ],
        "edges": [_dify_edge("start", "llm"), _dify_edge("llm", "end")],
    }
    features = {"file_upload": {"enabled": False}}
    app = {"name": "kluster.ai", "mode": "workflow", "icon": "K", "icon_background": "#E4FBCC", "description": ""}
    workflow = {"environment_variables": [], "conversation_variables": [], "features": features, "graph": graph}
    tools = spec.supports_tools or choice.proxied
    head = _DIFY.format(
        model=spec.id,
        window=spec.context_window,
        base_url=choice.base_url,
        key=choice.key_variable,
        output=spec.max_output_tokens,
        call_type="Tool Call" if tools else "Not Support",
        streamed_calls="Support" if tools else "Not Support",
        vision="Support" if spec.supports_vision else "Not Support",
    )
    others = "Models: " + ", ".join(one.id for one in choice.specs)
    # Flow style, which is YAML, too.
    rows = {"app": app, "kind": "app", "version": "0.3.0", "workflow": workflow}
    text = "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in rows.items())
    return comment(head, proxy_note(choice), _docker_note(choice), others) + text


def _dify_edge(source: str, target: str) -> dict[str, Any]:
    ends = {"source": source, "sourceHandle": "source", "target": target, "targetHandle": "target"}
    return {"id": f"{source}-{target}", "type": "custom", **ends, "data": {"sourceType": source, "targetType": target}}


OPEN_WEBUI = Target(
    name="open-webui",
    file="variables for Open WebUI",
    fit="sends max_tokens, and tools to every model, so through the gateway",
    tried="",
    seen="open-webui 0.12.4",
    untried="channels, voice and image generation",
    render=_open_webui,
    needs_gateway=True,
)
N8N = Target(
    name="n8n",
    file="workflow for n8n",
    fit="sends stream_options in agents, and /responses in its newer nodes, so through the gateway",
    tried="",
    seen="n8n 2.41.1",
    untried="agents",
    render=_n8n,
    needs_gateway=True,
)
DIFY = Target(
    name="dify",
    file="workflow (DSL) for Dify",
    fit="sends stream_options and max_tokens, so through the gateway",
    tried="",
    untried="Dify; the names are those of its source",
    render=_dify,
    needs_gateway=True,
)
