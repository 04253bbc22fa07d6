"""The two known shapes of the service's answers: vLLM's and SGLang's.

The differences are those of the reference: `stop_reason` or `matched_stop`, `tool_calls` [] or null, `prompt_logprobs`,
null details of usage, null message fields, and ids (`chatcmpl-<hex>` or bare hex).
"""

from __future__ import annotations

import time
import uuid

from kluster_integrations.emulator.engine import CallDelta, Finish

__all__ = ["SHAPES", "Fields", "Vllm", "call_fields", "new_call_id"]

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


class Vllm:
    """vLLM's shape, after the docs' API reference of 2025-06."""

    def new_id(self) -> str:
        """Return the id of a new answer, `chatcmpl-<hex>`."""
        return f"chatcmpl-{uuid.uuid4().hex}"

    def message(self, content: str | None, calls: list[Fields], extra: Fields) -> Fields:
        """Return a message; without calls its `tool_calls` is []. `extra` has the reasoning field."""
        return {"role": "assistant", **extra, "content": content, "tool_calls": calls}

    def usage(self, finish: Finish) -> Fields:
        """Return the three counts; those that a reply states win."""
        prompt, written = finish.prompt_tokens, finish.completion_tokens
        counts = {"prompt_tokens": prompt, "total_tokens": prompt + written, "completion_tokens": written}
        return {**counts, **finish.usage}

    def completion(self, id_: str, model: str, choice: Fields, finish: Finish) -> Fields:
        """Return a whole answer; `choice` holds message and logprobs."""
        return {
            **self._head(id_, model, int(time.time()), "chat.completion"),
            "choices": [{"index": 0, **choice, "finish_reason": finish.reason, "stop_reason": finish.stop}],
            "usage": self.usage(finish),
            "prompt_logprobs": None,
        }

    def chunk(self, id_: str, model: str, created: int, choice: Fields) -> Fields:
        """Return a chunk without a finish reason; `choice` holds delta and logprobs."""
        return self._chunk(id_, model, created, [{"index": 0, **choice, "finish_reason": None}])

    def finish_chunk(self, id_: str, model: str, created: int, finish: Finish) -> Fields:
        """Return the chunk with the finish reason and an empty delta."""
        ending: Fields = {"finish_reason": finish.reason, "stop_reason": finish.stop}
        choice: Fields = {"index": 0, "delta": {"content": ""}, "logprobs": None, **ending}
        return self._chunk(id_, model, created, [choice])

    def usage_chunk(self, id_: str, model: str, created: int, finish: Finish) -> Fields:
        """Return the last chunk, with usage and without choices."""
        return {**self._chunk(id_, model, created, []), "usage": self.usage(finish)}

    def embedding_usage(self, prompt_tokens: int) -> Fields:
        """Return the usage of an embeddings answer."""
        return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}

    def _head(self, id_: str, model: str, created: int, kind: str) -> Fields:
        return {"id": id_, "object": kind, "created": created, "model": model}

    def _chunk(self, id_: str, model: str, created: int, choices: list[Fields]) -> Fields:
        return {**self._head(id_, model, created, "chat.completion.chunk"), "choices": choices}


class Sglang(Vllm):
    """SGLang's shape, after the real answer in the real-time inference guide of 2025-05."""

    def new_id(self) -> str:
        """Return the id of a new answer, bare hex."""
        return uuid.uuid4().hex

    def message(self, content: str | None, calls: list[Fields], extra: Fields) -> Fields:
        """Return a message with nulls for absent fields, also for `tool_calls` without calls."""
        nulls: Fields = {"refusal": None, "role": "assistant", "audio": None, "function_call": None}
        return {"content": content, **nulls, "tool_calls": calls or None, **extra}

    def usage(self, finish: Finish) -> Fields:
        """Return the three counts, with null details; those that a reply states win."""
        prompt, written = finish.prompt_tokens, finish.completion_tokens
        counts = {"completion_tokens": written, "prompt_tokens": prompt, "total_tokens": prompt + written}
        return {**counts, "completion_tokens_details": None, "prompt_tokens_details": None, **finish.usage}

    def completion(self, id_: str, model: str, choice: Fields, finish: Finish) -> Fields:
        """Return a whole answer, with `matched_stop`, and nulls for absent fields."""
        row: Fields = {"finish_reason": finish.reason, "index": 0, **choice, "matched_stop": self._matched(finish)}
        return {
            "id": id_,
            "choices": [row],
            "created": int(time.time()),
            "model": model,
            "object": "chat.completion",
            "service_tier": None,
            "system_fingerprint": None,
            "usage": self.usage(finish),
        }

    def chunk(self, id_: str, model: str, created: int, choice: Fields) -> Fields:
        """Return a chunk without a finish reason; its `matched_stop` and usage are null."""
        row: Fields = {"index": 0, **choice, "finish_reason": None, "matched_stop": None}
        return {**self._chunk(id_, model, created, [row]), "usage": None}

    def finish_chunk(self, id_: str, model: str, created: int, finish: Finish) -> Fields:
        """Return the chunk with the finish reason; all fields of its delta are null."""
        delta: Fields = {"role": None, "content": None, "tool_calls": None}
        ending: Fields = {"finish_reason": finish.reason, "matched_stop": self._matched(finish)}
        row: Fields = {"index": 0, "delta": delta, "logprobs": None, **ending}
        return {**self._chunk(id_, model, created, [row]), "usage": None}

    def embedding_usage(self, prompt_tokens: int) -> Fields:
        """Return only the prompt tokens, because the docs promise no more."""
        return {"prompt_tokens": prompt_tokens}

    def _matched(self, finish: Finish) -> str | int | None:
        return _EOS if finish.reason == "stop" and finish.stop is None else finish.stop


SHAPES = {"vllm": Vllm(), "sglang": Sglang()}
