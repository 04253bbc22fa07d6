"""Programs of the terminal and the editor: `llm`, aider, Continue, opencode."""

from __future__ import annotations

import json
from typing import Any

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.cli.clients._target import Choice, Target, comment, proxy_note

__all__ = ["AIDER", "CONTINUE", "LLM", "OPENCODE"]

_SMALL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"

_LLM = """
kluster.ai in the command `llm`, written by `kluster export llm`: extra-openai-models.yaml in the folder that
`dirname "$(llm logs path)"` says.

  llm keys set {name}    # asks for the key, what {key} holds; no variable is read for it
  llm -m {model} "What is the ultimate breakfast sandwich?"

Set the key first: without one llm sends what OPENAI_API_KEY holds, and that is another company's.
"""
_LLM_STRAIGHT = """
Answers come whole (can_stream: false): with a stream llm sends stream_options, which kluster.ai does not take.
Nor does it take --schema (response_format), and it calls -o max_tokens deprecated. All three work through
the gateway: `kluster export llm --gateway`.
"""
_AIDER = """
kluster.ai in aider, written by `kluster export aider`: .aider.conf.yml in the project or the home folder.

  OPENAI_API_KEY="${key}" aider    # the name that aider reads, for this command alone
  OPENAI_API_KEY="${key}" aider --model openai/{model}
"""
_CONTINUE = """
kluster.ai in Continue (VS Code, JetBrains, `cn`), written by `kluster export continue`: config.yaml in the folder
~/.continue.

The key is read from {key}: in the environment, or for the editors in ~/.continue/.env.
"""
_CONTINUE_STRAIGHT = """
Continue sends stream_options, which kluster.ai does not take, and cannot be told not to. Where that is a 400, put
the gateway in between: `kluster export continue --gateway`.
"""
_OPENCODE = """
kluster.ai in opencode, written by `kluster export opencode`: opencode.jsonc in the project.

The key is read from {key}. opencode wants models that take tools.
"""
_OPENCODE_STRAIGHT = """
It sends max_tokens, which kluster.ai calls deprecated. Where that is a 400, put the gateway in between:
`kluster export opencode --gateway`.
"""


def _text(value: object) -> str:
    """Return a value in YAML, whose flow style JSON is."""
    return json.dumps(value, ensure_ascii=False)


def _tools(choice: Choice, spec: ModelSpec) -> bool:
    """Whether tools may be sent: the gateway or proxy in between prompts models without native tools."""
    return spec.supports_tools or choice.proxied


def _llm(choice: Choice) -> str:
    name = f"kluster-{choice.between}" if choice.between else "kluster"
    head = comment(
        _LLM.format(name=name, key=choice.key_variable, model=choice.default.id),
        proxy_note(choice) or _LLM_STRAIGHT,
    )
    return head + "".join(_llm_model(choice, spec, name) for spec in choice.specs)


def _llm_model(choice: Choice, spec: ModelSpec, key_name: str) -> str:
    facts: dict[str, Any] = {
        "model_id": spec.id,
        "model_name": spec.id,
        "api_base": choice.base_url,
        "api_key_name": key_name,
        "can_stream": choice.proxied,
        "supports_schema": choice.proxied,
        "supports_tools": _tools(choice, spec),
        "vision": spec.supports_vision,
    }
    return "- " + "\n  ".join(f"{key}: {_text(value)}" for key, value in facts.items()) + "\n"


def _aider(choice: Choice) -> str:
    lines = {
        "model": f"openai/{choice.default.id}",
        "weak-model": f"openai/{choice.prefer(_SMALL).id}",
        "openai-api-base": choice.base_url,
        "show-model-warnings": False,  # it knows neither the windows nor the prices
    }
    head = comment(_AIDER.format(key=choice.key_variable, model=choice.default.id), proxy_note(choice))
    return head + "".join(f"{key}: {_text(value)}\n" for key, value in lines.items())


def _continue(choice: Choice) -> str:
    head = comment(_CONTINUE.format(key=choice.key_variable), proxy_note(choice) or _CONTINUE_STRAIGHT)
    lines = ["name: kluster.ai", "version: 1.0.0", "schema: v1", "models:"]
    for spec in (*choice.specs, *choice.embeddings):
        lines += [
            f"  - name: {_text(spec.id)}",
            "    provider: openai",
            f"    model: {_text(spec.id)}",
            f"    apiBase: {_text(choice.base_url)}",
            f"    apiKey: ${{{{ secrets.{choice.key_variable} }}}}",
        ]
        if spec.purpose == "embeddings":
            lines += ["    roles: [embed]"]
            continue
        able = {"tool_use": _tools(choice, spec), "image_input": spec.supports_vision}
        lines += [
            "    roles: [chat, edit, apply]",
            f"    capabilities: {_text([name for name, on in able.items() if on])}",
            "    defaultCompletionOptions:",
            f"      contextLength: {spec.context_window}",
        ]
    return head + "\n".join(lines) + "\n"


def _opencode(choice: Choice) -> str:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "kluster.ai",
        "options": {
            "baseURL": choice.base_url,
            "apiKey": f"{{env:{choice.key_variable}}}",
            "includeUsage": choice.proxied,  # else stream_options, which kluster.ai does not take
        },
        "models": {spec.id: _opencode_model(choice, spec) for spec in choice.specs},
    }
    config = {
        "$schema": "https://opencode.ai/config.json",
        "provider": {"kluster": provider},
        "model": f"kluster/{choice.default.id}",
        "small_model": f"kluster/{choice.prefer(_SMALL).id}",
    }
    head = comment(_OPENCODE.format(key=choice.key_variable), proxy_note(choice) or _OPENCODE_STRAIGHT, mark="//")
    return head + json.dumps(config, ensure_ascii=False, indent=2) + "\n"


def _opencode_model(choice: Choice, spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": f"{spec.id} (kluster.ai)",
        "tool_call": _tools(choice, spec),
        "attachment": spec.supports_vision,
        "reasoning": spec.reasoning,
        "limit": {"context": spec.context_window, "output": spec.max_output_tokens},
    }


LLM = Target(
    name="llm",
    file="extra-openai-models.yaml for the command llm",
    fit="fits, but for streams and schemas",
    tried="llm 0.36",
    render=_llm,
)
AIDER = Target(name="aider", file=".aider.conf.yml for aider", fit="fits", tried="aider-chat 0.86.2", render=_aider)
CONTINUE = Target(
    name="continue",
    file="config.yaml for Continue",
    fit="sends stream_options; --gateway where that is refused",
    tried="@continuedev/cli 1.5.47",
    untried="the editors",
    render=_continue,
)
OPENCODE = Target(
    name="opencode",
    file="opencode.jsonc for opencode",
    fit="sends max_tokens; --gateway where that is refused",
    tried="opencode-ai 1.18.33",
    render=_opencode,
)
