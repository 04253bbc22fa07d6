"""The two shapes of answers that the service is known to give: vLLM's and SGLang's.

The differences are those of the reference: `stop_reason` or `matched_stop`, `tool_calls` [] or null, `prompt_logprobs`,
null details of usage, null message fields, and ids (`chatcmpl-<hex>` or bare hex).
"""

from __future__ import annotations

import time
import uuid
from typing import Protocol

from kluster_integrations.emulator.engine import CallDelta, Finish

__all__ = ["SHAPES", "Sglang", "Shape", "Vllm", "new_call_id"]

Fields = dict[str, object]

#: The token id of the end of a sequence, which SGLang names where a model stops by itself.
_EOS = 1


def new_call_id() -> str:
    """Return the id of a new tool call."""
    return f"chatcmpl-tool-{uuid.uuid4().hex}"


def call_fields(call: CallDelta) -> Fields:
    """Return a delta of a tool call, or a whole one, as OpenAI writes it."""
    function: Fields = {"name": call.name} if call.name is not None else {}
    head: Fields = {"id": call.id, "type": "function"} if call.id is not None else {}
    return {**head, "index": call.index, "function": {**function, "arguments": call.arguments}}


class Shape(Protocol):
    """How one kind of server lays out its answers."""

    def new_id(self) -> str:
        """Return the id of a new answer."""
        ...

    def message(self, content: str | None, calls: list[Fields], extra: Fields) -> Fields:
        """Return the message of a choice; `extra` holds the reasoning field, where there is one."""
        ...

    def usage(self, finish: Finish) -> Fields:
        """Return the usage."""
        ...

    def completion(self, id_: str, model: str, choice: Fields, finish: Finish) -> Fields:
        """Return a whole answer; `choice` holds message and logprobs."""
        ...

    def chunk(self, id_: str, model: str, created: int, choice: Fields) -> Fields:
        """Return a chunk; `choice` holds delta and logprobs."""
        ...

    def finish_chunk(self, id_: str, model: str, created: int, finish: Finish) -> Fields:
        """Return the chunk with the finish reason."""
        ...

    def usage_chunk(self, id_: str, model: str, created: int, finish: Finish) -> Fields:
        """Return the last chunk, with usage and without choices."""
        ...

    def embedding_usage(self, prompt_tokens: int) -> Fields:
        """Return the usage of an embeddings answer."""
        ...


class Vllm:
    """vLLM's shape, after the docs' API reference of 2025-06."""

    def new_id(self) -> str:
        """Return `chatcmpl-<hex>`."""
        return f"chatcmpl-{uuid.uuid4().hex}"

    def message(self, content: str | None, calls: list[Fields], extra: Fields) -> Fields:
        """Return a message whose `tool_calls` is [] without calls."""
        return {"role": "assistant", **extra, "content": content, "tool_calls": calls}

    def usage(self, finish: Finish) -> Fields:
        """Return the three counts."""
        return {
            "prompt_tokens": finish.prompt_tokens,
            "total_tokens": finish.prompt_tokens + finish.completion_tokens,
            "completion_tokens": finish.completion_tokens,
        }

    def completion(self, id_: str, model: str, choice: Fields, finish: Finish) -> Fields:
        """Return an answer with `stop_reason` and `prompt_logprobs`."""
        ending: Fields = {"finish_reason": finish.reason, "stop_reason": finish.stop}
        return {
            "id": id_,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, **choice, **ending}],
            "usage": self.usage(finish),
            "prompt_logprobs": None,
        }

    def chunk(self, id_: str, model: str, created: int, choice: Fields) -> Fields:
        """Return a chunk without a finish reason."""
        return self._chunk(id_, model, created, [{"index": 0, **choice, "finish_reason": None}])

    def finish_chunk(self, id_: str, model: str, created: int, finish: Finish) -> Fields:
        """Return a chunk with an empty delta and `stop_reason`."""
        ending: Fields = {"finish_reason": finish.reason, "stop_reason": finish.stop}
        choice: Fields = {"index": 0, "delta": {"content": ""}, "logprobs": None, **ending}
        return self._chunk(id_, model, created, [choice])

    def usage_chunk(self, id_: str, model: str, created: int, finish: Finish) -> Fields:
        """Return the chunk that holds only usage."""
        return {**self._chunk(id_, model, created, []), "usage": self.usage(finish)}

    def embedding_usage(self, prompt_tokens: int) -> Fields:
        """Return prompt tokens and the total."""
        return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}

    def _chunk(self, id_: str, model: str, created: int, choices: list[Fields]) -> Fields:
        return {
            "id": id_,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "choices": choices,
        }


class Sglang:
    """SGLang's shape, after the real answer in the real-time inference guide of 2025-05."""

    def new_id(self) -> str:
        """Return bare hex."""
        return uuid.uuid4().hex

    def message(self, content: str | None, calls: list[Fields], extra: Fields) -> Fields:
        """Return a message full of nulls, whose `tool_calls` is null without calls."""
        return {
            "content": content,
            "refusal": None,
            "role": "assistant",
            "audio": None,
            "function_call": None,
            "tool_calls": calls or None,
            **extra,
        }

    def usage(self, finish: Finish) -> Fields:
        """Return the three counts, and details that are null."""
        return {
            "completion_tokens": finish.completion_tokens,
            "prompt_tokens": finish.prompt_tokens,
            "total_tokens": finish.prompt_tokens + finish.completion_tokens,
            "completion_tokens_details": None,
            "prompt_tokens_details": None,
        }

    def completion(self, id_: str, model: str, choice: Fields, finish: Finish) -> Fields:
        """Return an answer with `matched_stop`, and nulls for what it does not have."""
        row: Fields = {"finish_reason": finish.reason, "index": 0, **choice}
        return {
            "id": id_,
            "choices": [{**row, "matched_stop": _matched(finish)}],
            "created": int(time.time()),
            "model": model,
            "object": "chat.completion",
            "service_tier": None,
            "system_fingerprint": None,
            "usage": self.usage(finish),
        }

    def chunk(self, id_: str, model: str, created: int, choice: Fields) -> Fields:
        """Return a chunk with `matched_stop` null."""
        row: Fields = {"index": 0, **choice, "finish_reason": None, "matched_stop": None}
        return self._chunk(id_, model, created, [row], None)

    def finish_chunk(self, id_: str, model: str, created: int, finish: Finish) -> Fields:
        """Return a chunk whose delta is null all over."""
        delta: Fields = {"role": None, "content": None, "tool_calls": None}
        ending: Fields = {"finish_reason": finish.reason, "matched_stop": _matched(finish)}
        row: Fields = {"index": 0, "delta": delta, "logprobs": None, **ending}
        return self._chunk(id_, model, created, [row], None)

    def usage_chunk(self, id_: str, model: str, created: int, finish: Finish) -> Fields:
        """Return the chunk that holds only usage."""
        return self._chunk(id_, model, created, [], self.usage(finish))

    def embedding_usage(self, prompt_tokens: int) -> Fields:
        """Return prompt tokens alone, which is all the docs promise."""
        return {"prompt_tokens": prompt_tokens}

    def _chunk(self, id_: str, model: str, created: int, choices: list[Fields], usage: Fields | None) -> Fields:
        return {
            "id": id_,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "choices": choices,
            "usage": usage,
        }


def _matched(finish: Finish) -> str | int | None:
    if finish.reason == "stop" and finish.stop is None:
        return _EOS
    return finish.stop


SHAPES: dict[str, Shape] = {"vllm": Vllm(), "sglang": Sglang()}
