"""The programs that `kluster export` writes for, but LiteLLM, whose file the adapter makes.

Each one's source, as it comes from its registry, is what says which names it reads and which fields it sends; the tests
of `tests/clients` run the real program with what is written here.
"""

from __future__ import annotations

from collections.abc import Mapping

from kluster_integrations.cli.clients import agents, ai_sdk, apps, by_hand, eliza, python_modules, sillytavern, terminal
from kluster_integrations.cli.clients._target import GATEWAY_URL, PROXY_URL, Choice, Target

__all__ = ["GATEWAY_URL", "PROXY_URL", "TARGETS", "Choice", "Target"]

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        eliza.TARGET,
        sillytavern.TARGET,
        python_modules.PYDANTIC_AI,
        python_modules.LLAMA_INDEX,
        ai_sdk.TARGET,
        ai_sdk.MASTRA,
        terminal.LLM,
        terminal.AIDER,
        terminal.CONTINUE,
        terminal.OPENCODE,
        agents.CODEX,
        agents.CLAUDE_CODE,
        apps.OPEN_WEBUI,
        apps.N8N,
        apps.DIFY,
        by_hand.MSTY,
        by_hand.TYPINGMIND,
        by_hand.IMMERSIVE_TRANSLATE,
    )
}
