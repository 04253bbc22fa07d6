"""Numbers of tokens without a tokenizer: an estimate and a lower bound.

kluster.ai's models have five different vocabularies, and each would have to be downloaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["IMAGE_TOKENS", "at_least", "estimate", "estimate_prompt", "estimate_request", "text_of"]

IMAGE_TOKENS = 256
"""The estimated tokens of an image: Gemma 3 reads each as 256 tokens (its technical report, 2025-03)."""

_ASSUMED_COMPLETION = 500  # tokens, where a request sets no limit; stated in CostEstimate
_LONGEST = 48  # characters; vocabularies have few longer words
_LETTER = re.compile(r"[\w\u2e80-\U0010ffff]")


def estimate(text: str) -> int:
    """Return about how many tokens a text has: a quarter of its UTF-8 bytes, a common rule for English."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def at_least(text: str) -> int:
    """Return a lower bound on the tokens of a text: a token is at most one word.

    Lines such as `=====` count as 0, because a hundred signs may be one token. It serves to refuse a prompt that cannot
    fit the window, so it must never be too high.
    """
    return sum(-(-len(word) // _LONGEST) for word in text.split() if _LETTER.search(word))


def text_of(message: Mapping[str, Any]) -> str:
    """Return all text of a message, its tool calls included."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(p if isinstance(p, str) else p.get("text") or "" for p in content)
    if calls := message.get("tool_calls"):
        content += json.dumps(calls, ensure_ascii=False)
    return content


def estimate_prompt(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    count: Callable[[str], int] = estimate,
) -> int:
    """Return about how many tokens a prompt has: `count` of its texts, plus four per message, plus those of images."""
    total = count(json.dumps(tools, ensure_ascii=False, default=str)) if tools else 0
    for message in messages:
        total += count(text_of(message)) + 4
        if isinstance(content := message.get("content"), list):
            total += IMAGE_TOKENS * sum(isinstance(p, Mapping) and p.get("type") == "image_url" for p in content)
    return total


def estimate_request(body: Mapping[str, Any], most: int) -> tuple[int, int]:
    """Return about how many tokens a request's prompt has, and how many its answer (with `n`, all answers) may have.

    Args:
        body: The body of a chat request.
        most: The model's limit of output tokens. If the request sets no limit, 500 are assumed, or `most` if it is
            less.
    """
    prompt = estimate_prompt(body["messages"], body.get("tools", ()))
    limit = body.get("max_completion_tokens") or body.get("max_tokens")  # the latter is native to some servers
    n = body.get("n")
    return prompt, (limit or min(_ASSUMED_COMPLETION, most)) * (n if isinstance(n, int) and n > 1 else 1)
