"""The events of OpenAI's `/v1/responses`, and the response object that they add up to."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from kluster_integrations.core.types import Delta, ToolCallDelta, Usage
from kluster_integrations.errors import KlusterError
from kluster_integrations.gateway.answers import PING
from kluster_integrations.gateway.errors import openai_error
from kluster_integrations.gateway.response_items import INPUT, Tool, input_of
from kluster_integrations.gateway.service import dump

__all__ = ["ResponseWriter"]


class ResponseWriter:
    """Makes the events of a response.

    Args:
        fields: What the response object says of the request: `model`, `tools`, …
        tools: The tools that were offered, by their names in the chat.

    Attributes:
        response: The response object, as far as it has come.
    """

    def __init__(self, fields: Mapping[str, Any], tools: Mapping[str, Tool]) -> None:
        self.response: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            **fields,
            "output": [],
            "usage": None,
        }
        self._tools = tools
        self._number = 0
        self._open: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []
        self._finish = ""

    def begin(self) -> bytes:
        """Return the events that say that there is a response."""
        return self._whole("response.created") + self._whole("response.in_progress")

    def take(self, delta: Delta) -> bytes:
        """Return the events of a delta."""
        content, reasoning, usage = delta.content, delta.reasoning, delta.usage
        events = b""
        if reasoning:
            events += self._turn_to("reasoning")
            self._pieces.append(reasoning)
            events += self._part("response.reasoning_summary_text.delta", "summary_index", delta=reasoning)
        if content:
            found = list((delta.logprobs or {}).get("content") or [])
            events += self._turn_to("message")
            self._pieces.append(content)
            self._logprobs += found
            events += self._part("response.output_text.delta", "content_index", delta=content, logprobs=found)
        for call in delta.tool_calls:
            events += self._call(call)
        self._finish = delta.finish_reason or self._finish
        if usage:
            self.response["usage"] = _usage(usage)
        return events

    def end(self) -> bytes:
        """Return the events that end the response; it is then complete."""
        events = self._close()
        is_cut = self._finish in ("length", "content_filter")
        if is_cut:
            reason = "max_output_tokens" if self._finish == "length" else "content_filter"
            self.response["incomplete_details"] = {"reason": reason}
        self.response["status"] = "incomplete" if is_cut else "completed"
        self.response["completed_at"] = None if is_cut else int(time.time())
        return events + self._whole(f"response.{self.response['status']}")

    def fail(self, err: KlusterError) -> bytes:
        """Return the events of a response that has failed in the middle."""
        error = openai_error(err, "/v1/responses")
        self.response["status"] = "failed"
        self.response["error"] = {"code": _code(error), "message": error["message"]}
        # `error` inside is what OpenAI's SDK for Python raises on. The AI SDK wants a code (vercel/ai issue 21360): its
        # users read else that a type is wrong, and not what failed.
        error["code"] = error["code"] or self.response["error"]["code"]
        event = self._event("error", code=error["code"], message=error["message"], param=error["param"], error=error)
        return event + self._whole("response.failed")

    def ping(self) -> bytes:
        """Return what says that the connection is alive."""
        return PING

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\ndata: ".encode() + dump(event) + b"\n\n"

    def _whole(self, kind: str) -> bytes:
        return self._event(kind, response=self.response)

    def _part(self, kind: str, index: str | None = None, /, **fields: Any) -> bytes:
        """Return an event about the item that is open."""
        assert self._open is not None
        at = {"item_id": self._open["id"], "output_index": len(self.response["output"])}
        return self._event(kind, **at, **({index: 0} if index else {}), **fields)

    def _item(self, kind: str) -> bytes:
        return self._event(kind, output_index=len(self.response["output"]), item=self._open)

    def _turn_to(self, kind: str) -> bytes:
        """Close the item that is open, and open one of this kind, unless that is what is open."""
        if self._open is not None and self._open["type"] == kind:
            return b""
        events = self._close()
        if kind == "reasoning":
            self._open = {"id": f"rs_{uuid.uuid4().hex}", "type": "reasoning", "summary": []}
            part: dict[str, Any] = {"type": "summary_text", "text": ""}
            more = "response.reasoning_summary_part.added", "summary_index"
        else:
            self._open = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "status": "in_progress"}
            self._open |= {"role": "assistant", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            more = "response.content_part.added", "content_index"
        return events + self._item("response.output_item.added") + self._part(*more, part=part)

    def _call(self, call: ToolCallDelta) -> bytes:
        events = b""
        if call.id is not None:
            events = self._close()
            tool = self._tools.get(str(call.name))
            prefix, kind, fields = _CALLS.get(tool and tool.kind, _CALLS["function"])
            self._open = {"id": f"{prefix}_{uuid.uuid4().hex}", "type": kind, "call_id": call.id, **fields}
            if "execution" not in fields:
                self._open["name"] = call.name if tool is None else tool.given["name"]
            if tool is not None and tool.namespace is not None:
                self._open["namespace"] = tool.namespace
            self._open["status"] = "in_progress"
            events += self._item("response.output_item.added")
        if call.arguments:
            self._pieces.append(call.arguments)
            if self._open is not None and self._open["type"] == "function_call":
                events += self._part("response.function_call_arguments.delta", delta=call.arguments)
        return events

    def _close(self) -> bytes:
        """Return the events that end the item that is open."""
        if self._open is None:
            return b""
        item, text = self._open, "".join(self._pieces)
        kind = item["type"]
        if kind == "reasoning":
            item["summary"] = [{"type": "summary_text", "text": text}]
            events = self._part("response.reasoning_summary_text.done", "summary_index", text=text)
            events += self._part("response.reasoning_summary_part.done", "summary_index", part=item["summary"][0])
        elif kind == "message":
            logprobs = self._logprobs
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
            item["content"] = [part]
            events = self._part("response.output_text.done", "content_index", text=text, logprobs=logprobs)
            events += self._part("response.content_part.done", "content_index", part=part)
        elif kind == "function_call":
            item["arguments"] = text or "{}"
            events = self._part("response.function_call_arguments.done", arguments=text or "{}", name=item["name"])
        elif kind == "tool_search_call":
            item["arguments"] = json.loads(text or "{}")  # the core returns one JSON object
            events = b""  # OpenAI's API has none for its arguments
        else:
            item[INPUT] = input_of(text)
            events = self._part("response.custom_tool_call_input.delta", delta=item[INPUT])
            events += self._part("response.custom_tool_call_input.done", **{INPUT: item[INPUT]})
        if "status" in item:
            item["status"] = "incomplete" if self._finish == "length" else "completed"
        events += self._item("response.output_item.done")
        self.response["output"].append(item)
        self._open, self._pieces, self._logprobs = None, [], []
        return events


# By a tool's type: the beginning of the ids of its calls, their type, and the fields that they begin with.
_CALLS: Mapping[object, tuple[str, str, Mapping[str, Any]]] = {
    "function": ("fc", "function_call", {"arguments": ""}),
    "custom": ("ctc", "custom_tool_call", {INPUT: ""}),
    "tool_search": ("tsc", "tool_search_call", {"execution": "client", "arguments": {}}),
}


_CODES = {"rate_limit_error": "rate_limit_exceeded", "invalid_request_error": "invalid_prompt"}


def _code(error: Mapping[str, Any]) -> str:
    """Return one of the codes that a response knows."""
    if error["code"] == "context_length_exceeded":
        return "context_length_exceeded"
    return _CODES.get(error["type"], "server_error")


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.total_tokens,
    }
