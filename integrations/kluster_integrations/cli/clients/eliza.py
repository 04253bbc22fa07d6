"""elizaOS 1.x: the `.env` of `@elizaos/plugin-openai`."""

from __future__ import annotations

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.cli.clients._target import Choice, Target, comment, proxy_note

__all__ = ["TARGET"]

_SMALL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
# What the plugin asks for where a caller sets no limit; only the one for images can be set.
_OUTPUT_TOKENS = 8_192
# The lengths of vectors that elizaOS can store (VECTOR_DIMS in @elizaos/core 1.7).
_DIMENSIONS = frozenset({384, 512, 768, 1024, 1536, 3072})


_HEAD = """
kluster.ai in elizaOS 1.x, written by `kluster export eliza`: the .env of a project whose character has the
plugin @elizaos/plugin-openai, 1.5 or later.

Start an agent with it, in this folder:
  npm install --global bun
  npm install --ignore-scripts @elizaos/cli @elizaos/plugin-sql @elizaos/plugin-bootstrap @elizaos/plugin-openai
  npx elizaos start --character character.json

Put the key below (what {key} holds), and keep this file to yourself. A variable that is set in the
shell wins over this file: `unset OPENAI_API_KEY` there, if it is another company's key.
"""
_PROXIED = """
Without it there is no text: the plugin asks /responses, which kluster.ai does not document. Version 1.0
asks /chat/completions, with max_tokens, which kluster.ai calls deprecated; for that one alone:
  OPENAI_BASE_URL=https://api.kluster.ai/v1
"""
_STRAIGHT = """
The plugin asks /responses, which kluster.ai does not document: the server at this address must have it, as
vLLM does. Else put the gateway in between: `kluster export eliza --gateway`.
"""
_SHORT = """
The plugin asks for {wanted} tokens, more than the {limit} of these models: have what calls it set maxTokens.
"""


def _render(choice: Choice) -> str:
    large = choice.specs[-1] if choice.picked else choice.default
    small = choice.prefer(_SMALL)
    limit = min(small.max_output_tokens, large.max_output_tokens)
    head = comment(
        _HEAD.format(key=choice.key_variable),
        proxy_note(choice),
        _PROXIED if choice.proxied else _STRAIGHT,
        _SHORT.format(wanted=_OUTPUT_TOKENS, limit=limit) if limit < _OUTPUT_TOKENS else "",
    )
    lines = [
        f"OPENAI_BASE_URL={choice.base_url}",
        f"OPENAI_API_KEY={f'the-key-of-your-{choice.between}' if choice.between else 'your-kluster.ai-key'}",
        f"OPENAI_SMALL_MODEL={small.id}",
        f"OPENAI_LARGE_MODEL={large.id}",
        *_images(choice),
        *_vectors(choice),
    ]
    return head + "\n".join(lines) + "\n"


def _images(choice: Choice) -> list[str]:
    model = next((spec for spec in choice.specs if spec.supports_vision), None)
    if model is None:
        return ["# OPENAI_IMAGE_DESCRIPTION_MODEL: none of the models takes images."]
    tokens = min(_OUTPUT_TOKENS, model.max_output_tokens)
    return [f"OPENAI_IMAGE_DESCRIPTION_MODEL={model.id}", f"OPENAI_IMAGE_DESCRIPTION_MAX_TOKENS={tokens}"]


def _vectors(choice: Choice) -> list[str]:
    def fits(spec: ModelSpec) -> bool:
        return spec.embedding_dimensions in _DIMENSIONS

    model = next(filter(fits, choice.embeddings), None)
    if model is None:
        return ["# OPENAI_EMBEDDING_MODEL: none of the models makes vectors; --models BAAI/bge-m3 does."]
    return [f"OPENAI_EMBEDDING_MODEL={model.id}", f"OPENAI_EMBEDDING_DIMENSIONS={model.embedding_dimensions}"]


TARGET = Target(
    name="eliza",
    file=".env for elizaOS",
    fit="it asks /responses, so through the gateway",
    tried="@elizaos/plugin-openai 1.6.0",
    untried="chat platforms",
    render=_render,
    needs_gateway=True,
    private=True,
)
