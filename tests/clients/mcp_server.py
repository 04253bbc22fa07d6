"""An MCP server over standard input and output, with more tools than a prompt should hold."""

from __future__ import annotations

import json
import sys
from typing import Any

NAMES = [f"list_things_{i}" for i in range(40)]
SCHEMA = {"type": "object", "properties": {"shelf": {"type": "string"}}}
TOOLS = [{"name": name, "description": "List things of one kind.", "inputSchema": SCHEMA} for name in NAMES]
TOOLS += [{"name": "secret_word", "description": "Return the secret word of the warehouse.", "inputSchema": SCHEMA}]


def result(message: dict[str, Any]) -> dict[str, Any]:
    """Return what a request is answered with."""
    if message["method"] == "initialize":
        info = {"name": "warehouse", "version": "1"}
        return {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": info,
        }
    if message["method"] == "tools/list":
        return {"tools": TOOLS}
    if message["method"] == "tools/call":
        return {"content": [{"type": "text", "text": "It is marmalade."}]}
    return {}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message and "method" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result(message)}), flush=True)
