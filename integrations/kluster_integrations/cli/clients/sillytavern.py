"""SillyTavern: a chat completion preset that holds the connection, and the steps to use it."""

from __future__ import annotations

import json

from kluster_integrations.cli.clients._target import Choice, Target, proxy_note

__all__ = ["TARGET"]

_ANSWER_TOKENS = 2_000


def _render(choice: Choice) -> str:
    spec = choice.default
    tokens = min(_ANSWER_TOKENS, spec.max_output_tokens)
    preset = {
        "_steps": _steps(choice, tokens),
        "chat_completion_source": "custom",
        "custom_url": choice.base_url,
        "custom_model": spec.id,
        # It sends max_tokens; kluster.ai's name for it is the other.
        "custom_exclude_body": "- max_tokens",
        "custom_include_body": f"max_completion_tokens: {tokens}",
        "custom_prompt_post_processing": _merging(choice),
        "function_calling": spec.supports_tools,
        "media_inlining": any(one.supports_vision for one in choice.specs),  # "Send inline media"
        "max_context_unlocked": True,  # else the window is cut to what SillyTavern thinks that the source has
        "openai_max_context": spec.context_window,
        "openai_max_tokens": tokens,
        "stream_openai": True,
        "n": 1,
    }
    return json.dumps(preset, ensure_ascii=False, indent=4) + "\n"


def _merging(choice: Choice) -> str:
    """Return how messages are merged.

    They have names, which kluster.ai does not take; merging writes them into the text. The templates of Gemma and the
    Mistrals refuse a history whose roles do not alternate; what stands in between takes care of that itself.
    """
    how = "merge" if choice.proxied or not any(spec.strict_roles for spec in choice.specs) else "strict"
    return f"{how}_tools" if choice.default.supports_tools else how


def _steps(choice: Choice, tokens: int) -> list[str]:
    seeing = ", ".join(spec.id for spec in choice.specs if spec.supports_vision)
    others = ", ".join(spec.id for spec in choice.specs)
    return [
        "kluster.ai in SillyTavern 1.13 and later, written by `kluster export sillytavern`.",
        *(line.strip() for line in proxy_note(choice).splitlines() if line),
        "1. Save this as kluster.json.",
        "2. API Connections (the plug): API 'Chat Completion', Chat Completion Source 'Custom (OpenAI-compatible)'.",
        f"3. Put the key (what {choice.key_variable} holds) into 'Custom API Key': no variable is read for it.",
        "4. AI Response Configuration (the sliders): Import preset, take this file, 'Import as-is'.",
        f"5. Connect. The base URL is {choice.base_url}, without a slash at its end.",
        "6. To keep it: API Connections, Connection Profile, Create. After a reload of the page: Connect again.",
        f"Models for 'Model ID': {others}.",
        f"'Send inline media' is on; only these go on with a chat that holds an image: {seeing}."
        if seeing
        else "None takes images.",
        f"The length of an answer is max_completion_tokens, now {tokens}: API Connections, Additional Parameters.",
        "The slider for it does not count: it sets max_tokens, which kluster.ai calls deprecated.",
        "Leave 'Multiple swipes per generation' at 1: kluster.ai takes no n.",
    ]


TARGET = Target(
    name="sillytavern",
    file="preset for SillyTavern, with the steps",
    fit="fits",
    tried="sillytavern 1.19.0",
    seen="sillytavern 1.19.0",
    render=_render,
    steps=lambda choice: _steps(choice, min(_ANSWER_TOKENS, choice.default.max_output_tokens)),
)
