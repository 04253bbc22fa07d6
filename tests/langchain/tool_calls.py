"""What the tests of tool calls share: a question for two tools, and calls as they are written and compared."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import AIMessage

BOTH = "What is the weather in Paris and the time in Tokyo?"


def written(name: str, **arguments: Any) -> str:
    """Return a call as a prompted model writes it."""
    call = {"name": name, "arguments": arguments}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def short(message: AIMessage) -> list[tuple[str, Any]]:
    """Return the names and arguments of a message's calls."""
    return [(call["name"], call["args"]) for call in message.tool_calls]
