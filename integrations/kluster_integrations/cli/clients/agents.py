"""Coding agents: Codex, which asks OpenAI's responses, and Claude Code, which asks Anthropic's messages."""

from __future__ import annotations

import json

from kluster_integrations.cli.clients._target import Choice, Target, comment, proxy_note

__all__ = ["CLAUDE_CODE", "CODEX"]

_SMALL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"

_CODEX = """
kluster.ai in Codex, written by `kluster export codex`: config.toml in the folder ~/.codex (or $CODEX_HOME).

  npm install --global @openai/codex
  codex    # another model: codex --model {other}

The key is read from {key}. Codex asks /responses, which kluster.ai does not document. "Model metadata not found" is
true: it knows the models of OpenAI alone.
"""
_CLAUDE_CODE = """
kluster.ai in Claude Code, written by `kluster export claude-code`. Save it as kluster-claude.sh.

  npm install --global @anthropic-ai/claude-code
  . ./kluster-claude.sh && claude

Claude Code asks /messages, which is Anthropic's API and not kluster.ai's. It wants models that take tools.
"""


def _codex(choice: Choice) -> str:
    spec = choice.default
    lines = [
        f"model = {json.dumps(spec.id)}",
        'model_provider = "kluster"',
        f"model_context_window = {spec.context_window}",
        'web_search = "disabled" # OpenAI runs it',
        "",
        "[model_providers.kluster]",
        'name = "kluster.ai"',
        f"base_url = {json.dumps(choice.base_url)}",
        f'env_key = "{choice.key_variable}"',
        'wire_api = "responses"',
    ]
    head = comment(_CODEX.format(key=choice.key_variable, other=choice.specs[-1].id), proxy_note(choice))
    return head + "\n".join(lines) + "\n"


def _claude_code(choice: Choice) -> str:
    large, small = choice.default.id, choice.prefer(_SMALL).id
    values = {
        "ANTHROPIC_BASE_URL": choice.base_url.removesuffix("/v1"),
        "ANTHROPIC_MODEL": large,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": large,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": large,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": small,  # for titles and summaries
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(min(8_192, choice.default.max_output_tokens)),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    key = f'export ANTHROPIC_AUTH_TOKEN="${{{choice.key_variable}:-any-key}}"\n'
    rest = "unset ANTHROPIC_API_KEY # another company's\n"
    head = comment(_CLAUDE_CODE, proxy_note(choice))
    return head + "".join(f"export {name}='{value}'\n" for name, value in values.items()) + key + rest


CODEX = Target(
    name="codex",
    file="config.toml for Codex",
    fit="it asks /responses, so through the gateway",
    tried="@openai/codex 0.171.0",
    render=_codex,
    needs_gateway=True,
)
CLAUDE_CODE = Target(
    name="claude-code",
    file="shell script for Claude Code",
    fit="it asks Anthropic's API, so through the gateway",
    tried="@anthropic-ai/claude-code 2.1.197",
    render=_claude_code,
    needs_gateway=True,
)
