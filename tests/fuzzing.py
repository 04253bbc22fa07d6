"""Answers that no server should give, over all adapters: each ends in a result or in a typed error, soon.

`make fuzz` runs this for `KLUSTER_FUZZ_SECONDS` (default 60); `python -m tests.fuzzing --seed N` runs one answer again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.core.types import Completion, collect
from kluster_integrations.errors import KlusterError

from .raw_server import DONE, RawServer, Reply, event

__all__ = ["DOORS", "answer", "check", "main", "warm_up"]

MODELS = (
    "mistralai/Mistral-Nemo-Instruct-2407",
    "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo",
    "deepseek-ai/DeepSeek-R1",
)
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}
SCHEMA = {"title": "Out", "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
_MOST_SECONDS = 60.0  # what takes longer hangs, on the most loaded machine too
_MOST_FAILURES = 20
_TEXTS = (
    *(
        "",
        " ",
        "Hi",
        "a < b",
        "\n\n",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "`",
        "```\n",
    ),
    *(
        '{"name": "f", "arguments": {"a": "b"}}',
        '{"a": 1}',
        '{"a": ',
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "{",
        "}",
        '"',
        "\\",
    ),
    *(
        "\ud83d",
        "\ude00",
        "\U0001f600",
        "\x00",
        "\u2028",
        "Action:",
        "Action Input:",
        "Final Answer:",
        "Thought: a\n",
        "1e999",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 5, 10**400, 1.5, float("nan"), float("inf"), "", "x", "\ud83d", [], {}, [None], [[]]),
    *({"a": 1}, [{"a": 1}], [5], {"text": "t"}, [{"type": "text", "text": "t"}], {"error": "x"}),
)


def _text(dice: random.Random) -> str:
    return "".join(dice.choice(_TEXTS) for _ in range(dice.randint(0, 8)))


def _value(dice: random.Random, depth: int = 0) -> Any:
    if depth < 3 and dice.random() < 0.2:
        return [_value(dice, depth + 1) for _ in range(dice.randint(0, 3))]
    if depth < 3 and dice.random() < 0.2:
        return {dice.choice(("a", "content", "message", "text")): _value(dice, depth + 1)}
    return _text(dice) if dice.random() < 0.3 else copy.deepcopy(dice.choice(_VALUES))


def _message(dice: random.Random) -> dict[str, Any]:
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "f", "arguments": dice.choice(('{"a": "b"}', _text(dice)))},
    }
    message: dict[str, Any] = {"role": "assistant", "content": _text(dice)}
    more = {
        "tool_calls": [call] * dice.randint(1, 2),
        "function_call": call["function"],
        "reasoning_content": _text(dice),
        "refusal": _text(dice),
    }
    return message | {name: value for name, value in more.items() if dice.random() < 0.2}


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _spoiled(dice: random.Random, value: Any) -> Any:
    """Return a value in which something has another type, is missing, or stands there twice."""
    value = json.loads(json.dumps(value))
    for _ in range(dice.choice((0, 0, 1, 1, 2))):
        places = list(_places(value))
        if not places:
            break
        owner, key = dice.choice(places)
        if dice.random() < 0.2:
            del owner[key]
        elif isinstance(owner, list) and dice.random() < 0.3:
            owner.append(owner[key])
        else:
            owner[key] = _value(dice)
    return value


def _body(message: dict[str, Any], name: str, finish: str | None) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    token = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
    choice = {"index": 0, name: message, "finish_reason": finish, "logprobs": {"content": [token]}}
    return {"id": "1", "object": "chat", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def answer(dice: random.Random, *, stream: bool) -> Reply:
    """Return the reply that these dice give."""
    finish = dice.choice(("stop",) * 8 + ("length", "tool_calls", "abort", "error", None))
    message = _message(dice)
    kind = "text/event-stream" if stream else "application/json"
    if not stream:
        pieces = [json.dumps(_spoiled(dice, _body(message, "message", finish))).encode()]
    else:
        text = message.pop("content")
        parts: list[dict[str, Any]] = []
        while text:
            size = dice.randint(1, 6)
            parts, text = [*parts, {"content": text[:size]}], text[size:]
        events = [_body(part, "delta", None) for part in parts] + [_body(message, "delta", finish)]
        spoiled = dice.randrange(len(events))
        events[spoiled] = _spoiled(dice, events[spoiled])
        pieces = [event(json.dumps(one).encode()) for one in events] + [DONE] * dice.randint(0, 1)
    body = bytearray(b"".join(pieces))
    if dice.random() < 0.2 and body:
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(body))
            body[at : at + dice.randint(0, 3)] = dice.randbytes(dice.randint(0, 3))
    status = dice.choice((200,) * 36 + (400, 401, 429, 500))
    if dice.random() < 0.05:
        kind = dice.choice(("text/html", "application/json", "text/event-stream", "", "text/plain; charset=utf-16"))
    return Reply([bytes(body)], status=status, content_type=kind, framing="length", at_once=True)


def _config(server: RawServer) -> KlusterConfig:
    return KlusterConfig(api_key="kk-fuzz-key", base_url=server.base_url, max_retries=0, timeout=5)


def _params(dice: random.Random) -> dict[str, Any]:
    return dice.choice(({}, {}, {"tools": [TOOL]}, {"stop": ["b", "Observation:"]}))


def _core(server: RawServer, dice: random.Random, stream: bool) -> object:
    client = Client(_config(server))
    params = dice.choice(
        (_params(dice), {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}})
    )
    asked = client.build(
        dice.choice(MODELS), [{"role": "user", "content": "hi"}], params, stream=stream, max_repairs=dice.randint(-1, 1)
    )
    completion: Completion = collect(client.stream(asked)) if stream else client.complete(asked)
    assert isinstance(completion.text, str)
    assert all(
        isinstance(json.loads(call.arguments), dict) for call in completion.tool_calls if not (call.error or stream)
    )
    return completion.text, completion.reasoning, completion.usage, completion.meta


def _langchain(server: RawServer, dice: random.Random, stream: bool) -> object:
    from kluster_integrations.langchain import ChatKluster

    model: Any = ChatKluster(model=dice.choice(MODELS), config=_config(server), max_repairs=dice.randint(0, 1))
    how = dice.random()
    if how < 0.3:
        model = model.with_structured_output(SCHEMA)
    elif how < 0.6:
        model = model.bind_tools([TOOL])
    return list(model.stream("hi")) if stream else model.invoke("hi")


def _litellm(server: RawServer, dice: random.Random, stream: bool) -> object:
    import litellm

    from kluster_integrations.litellm import register

    register()
    made = litellm.completion(
        f"kluster/{dice.choice(MODELS)}",
        messages=[{"role": "user", "content": "hi"}],
        api_base=server.base_url,
        api_key="kk-fuzz-key",
        stream=stream,
        max_retries=0,
        num_retries=0,
        timeout=5,
        **_params(dice),
    )
    return [chunk.model_dump() for chunk in made] if stream else made.model_dump()


def _crewai(server: RawServer, dice: random.Random, stream: bool) -> object:
    from kluster_integrations.crewai import kluster_llm

    params = _params(dice)
    llm = kluster_llm(
        dice.choice(MODELS),
        config=_config(server),
        stream=stream,
        max_repairs=dice.randint(0, 1),
        stop=params.pop("stop", None),
    )
    messages = [{"role": "user", "content": "hi"}]
    if dice.random() < 0.3:
        messages.insert(0, {"role": "system", "content": "Action Input:"})
    return llm.call(messages, **params)


Door = Callable[[RawServer, random.Random, bool], object]
_ADAPTERS: dict[str, tuple[str, Door]] = {
    "langchain": ("langchain_core", _langchain),
    "litellm": ("litellm", _litellm),
    "crewai": ("crewai", _crewai),
}
DOORS: dict[str, Door] = {"core": _core}
DOORS |= {name: door for name, (module, door) in _ADAPTERS.items() if importlib.util.find_spec(module)}


def _is_typed(err: Exception) -> bool:
    names = {cls.__module__.partition(".")[0] for cls in type(err).__mro__}
    return isinstance(err, KlusterError) or bool(names & {"openai"})  # LiteLLM's are openai's


def check(server: RawServer, dice: random.Random, name: str = "") -> str:
    """Send one request, and return how it has ended.

    Raises:
        AssertionError: It has ended in an exception of another kind, in a text that nobody can print, or late.
    """
    name = name or dice.choice(sorted(DOORS))
    stream = dice.random() < 0.5
    reply = answer(dice, stream=stream)
    server.answer = lambda _: reply
    server.requests.clear()
    begin = time.monotonic()
    try:
        said, problem = str(DOORS[name](server, dice, stream)), ""
    except Exception as err:
        said, problem = str(err), "" if _is_typed(err) else traceback.format_exc()
        ended = "error"
    else:
        ended = "result"
    assert not problem, f"{name}, stream={stream}: {reply!r}\n{problem}"
    assert said.encode(), f"{name}: an error without a message"
    assert time.monotonic() - begin < _MOST_SECONDS, f"{name}, stream={stream}: {reply!r} takes too long"
    return f"{name} {ended}"


def warm_up(server: RawServer) -> None:
    """Send one request through each adapter: what is imported at the first one takes seconds."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is asked of another host
    for door in DOORS.values():
        with contextlib.suppress(KlusterError):
            door(server, random.Random(0), False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--seed", type=int, help="run the answer of this seed alone")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="at most so many answers")
    arguments = parser.parse_args()
    first = random.randrange(10**9) if arguments.seed is None else arguments.seed
    count = 1 if arguments.seed is not None else arguments.count
    ways: dict[str, int] = {}
    failed = 0
    with RawServer() as server:
        warm_up(server)
        end = time.monotonic() + float(os.environ.get("KLUSTER_FUZZ_SECONDS", "60"))
        for seed in range(first, first + count):
            if failed == _MOST_FAILURES or (time.monotonic() > end and arguments.seed is None):
                break
            try:
                way = check(server, random.Random(seed))
            except Exception:
                failed += 1
                way = "failed"
                print(
                    f"{traceback.format_exc()}\nFailed: python -m tests.fuzzing --seed {seed}",
                    file=sys.stderr,
                    flush=True,
                )
            ways[way] = ways.get(way, 0) + 1
    print(
        f"{sum(ways.values()):,} answers, from seed {first}: "
        + ", ".join(f"{n} {way}" for way, n in sorted(ways.items()))
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
