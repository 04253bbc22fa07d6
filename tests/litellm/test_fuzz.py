"""Random calls: what LiteLLM lets through is sent as kluster.ai takes it, done here, or refused before any request."""

from __future__ import annotations

import random
from typing import Any

import litellm
import pytest
from pydantic import BaseModel

from kluster_integrations.emulator import Emulator
from tests.litellm.asking import LLAMA, NEMO, R1, SCOUT, WAYS, bodies, weather_tool
from tests.litellm.test_provider import TAKEN

NAMED = {"type": "function", "function": {"name": "get_weather"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}


class Out(BaseModel):
    a: int


# Values that are right, at a bound, of another type, or of another service's.
VALUES: dict[str, list[Any]] = {
    "allowed_openai_params": [["n"], ["store", "reasoning_effort"]],
    "audio": [{"voice": "alloy", "format": "wav"}],
    "extra_body": [{}, {"metadata": {"a": "b"}}],
    "extra_headers": [{"X-Team": "a"}],
    "frequency_penalty": [0, -2, 2, 0.5],
    "function_call": ["auto", "none"],
    "functions": [[{"name": "f", "parameters": {"type": "object", "properties": {}}}], []],
    "logit_bias": [{"5": 1}, {}],
    "logprobs": [True, False],
    "max_completion_tokens": [50, 500],
    "max_tokens": [40, 400],
    "metadata": [{"trace": "1"}, {"@kluster.ai": {"completion_window": "24h"}}, {}],
    "modalities": [["text"], ["text", "audio"]],
    "n": [1, 2],
    "parallel_tool_calls": [True, False],
    "prediction": [{"type": "content", "content": "a"}],
    "presence_penalty": [0, 1.5],
    "prompt_cache_key": ["k"],
    "reasoning_effort": ["low", "none"],
    "response_format": [
        {"type": "text"},
        {"type": "json_object"},
        Out,
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    ],
    "safety_identifier": ["s"],
    "seed": [0, 5],
    "service_tier": ["auto", "flex"],
    "stop": ["END", ["END", "STOP"], [], [f"s{i}" for i in range(6)]],
    "store": [True, False],
    "stream_options": [{"include_usage": True}, {"include_usage": False}],
    "temperature": [0, 2, 0.3],
    "thinking": [{"type": "enabled", "budget_tokens": 1024}],
    "tool_choice": ["auto", "none", "required", NAMED],
    "tools": [[weather_tool()], [weather_tool(), weather_tool()], []],
    "top_k": [5],
    "top_logprobs": [0, 20],
    "top_p": [0.1, 1],
    "user": ["u"],
    "verbosity": ["low"],
    "web_search_options": [{"search_context_size": "low"}],
}
MESSAGES: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Weather in Rome?", "name": "me", "cache_control": {"type": "ephemeral"}}],
    [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    [
        {"role": "user", "content": "Weather in Rome?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [CALL],
            "refusal": None,
            "audio": None,
            "function_call": None,
            "annotations": [],
            "reasoning_content": "Hm.",
            "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}],
            "provider_specific_fields": {"x": 1},
        },
        {"role": "tool", "tool_call_id": "c1", "name": "get_weather", "content": [{"type": "text", "text": "Sunny"}]},
        {"role": "user", "content": "And now?"},
    ],
]
OF_MESSAGES = {"role", "content", "tool_calls", "tool_call_id"}


@pytest.mark.filterwarnings("ignore:kluster.ai does not take")
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_sent_that_is_not_taken(kluster: Emulator, seed: int) -> None:
    dice = random.Random(seed)
    answered = 0
    for _ in range(25):
        names = dice.sample(sorted(VALUES), dice.randint(1, 8))
        call = {name: dice.choice(VALUES[name]) for name in names} | {"drop_params": dice.random() < 0.7}
        call |= {"model": dice.choice([LLAMA, NEMO, R1, SCOUT]), "messages": dice.choice(MESSAGES)}
        kluster.clear()
        refusal = None
        try:
            answered += bool(WAYS[dice.choice(sorted(WAYS))](**call).choices)
        except litellm.BadRequestError as err:  # UnsupportedParamsError, too
            refusal = err
        assert refusal is None or kluster.requests == [], f"the server has refused {call}: {refusal}"
        for body in bodies(kluster):
            assert set(body) <= TAKEN, call
            assert all(set(message) <= OF_MESSAGES for message in body["messages"]), call
            assert None not in body.values(), call
    assert answered > 5
