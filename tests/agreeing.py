"""One question put through the core and through each adapter, and what comes back in the same terms."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from pydantic import BaseModel

from kluster_integrations.config import KlusterConfig

__all__ = ["WAYS", "City", "Question", "Seen"]


class City(BaseModel):
    """What structured answers are to become."""

    name: str
    size: int
    mayor: str | None = None
    twin: City | None = None


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


TOOLS = [tool("create_city"), tool("Oslo")]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "City", "schema": City.model_json_schema()}}


@dataclass(frozen=True)
class Question:
    """What is asked of a model: text, with tools, or for a City."""

    model: str
    tools: bool = False
    city: bool = False
    content: Any = "Tell me of Oslo."
    params: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [*map(dict, self.history), {"role": "user", "content": self.content}]


@dataclass(frozen=True)
class Seen:
    """What came back; of an error its class in the core."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    city: City | None = None
    error: str | None = None
    usage: tuple[int, int, int | None] | None = None
    """Prompt, completion and reasoning tokens."""


def failed(err: Exception) -> Seen:
    err = getattr(err, "original_exception", None) or err  # LiteLLM wraps what breaks its async streams
    classes = [cls.__name__ for cls in type(err).__mro__ if cls.__module__ == "kluster_integrations.core.errors"]
    if not classes:
        raise err
    return Seen(error=classes[0])


def calls_of(pairs: Sequence[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, args if isinstance(args, str) else json.dumps(args)) for name, args in pairs)


def normal(arguments: str) -> Any:
    return json.loads(arguments)


def core(config: KlusterConfig, question: Question, *, stream: bool, sync: bool) -> Seen:
    from kluster_integrations.core.client import Client
    from kluster_integrations.core.types import Completion, collect

    params = {**question.params}
    params |= {"tools": TOOLS} if question.tools else {}
    params |= {"response_format": SCHEMA} if question.city else {}
    client = Client(config)
    request = client.build(question.model, question.messages, params, stream=stream)

    async def later() -> Completion:
        if stream:
            return collect([delta async for delta in client.astream(request)])
        return await client.acomplete(request)

    def now() -> Completion:
        return collect(client.stream(request)) if stream else client.complete(request)

    done = now() if sync else asyncio.run(later())
    usage = done.usage
    return Seen(
        "" if question.city else done.text,
        done.reasoning,
        calls_of([(c.name, normal(c.arguments)) for c in done.tool_calls]),
        City.model_validate_json(done.text) if question.city else None,
        usage=(usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens),
    )


def langchain(config: KlusterConfig, question: Question, *, stream: bool, sync: bool) -> Seen:
    from kluster_integrations.errors import OutputValidationError
    from kluster_integrations.langchain import ChatKluster

    model: Any = ChatKluster(model=question.model, config=config, **question.params)
    if question.tools:
        model = model.bind_tools(TOOLS)
    if question.city and not stream:  # its stream grows: tests/langchain
        model = model.with_structured_output(City, method="json_schema", include_raw=True)
    elif question.city:
        model = model.bind(response_format=SCHEMA)

    async def later() -> Any:
        if stream:
            return summed([chunk async for chunk in model.astream(question.messages)])
        return await model.ainvoke(question.messages)

    if not sync:
        done = asyncio.run(later())
    else:
        done = summed(list(model.stream(question.messages))) if stream else model.invoke(question.messages)
    city = None
    if question.city and not stream:
        if done["parsing_error"] is not None:
            raise done["parsing_error"]
        city, done = done["parsed"], done["raw"]
    elif question.city:
        city = City.model_validate_json(done.text)
    if done.invalid_tool_calls:  # LangChain's way to say that a call must not be run
        raise OutputValidationError("an invalid call")
    usage = done.usage_metadata
    return Seen(
        "" if question.city else done.text,
        done.additional_kwargs.get("reasoning_content", ""),
        calls_of([(c["name"], c["args"]) for c in done.tool_calls]),
        city,
        usage=(usage["input_tokens"], usage["output_tokens"], usage.get("output_token_details", {}).get("reasoning")),
    )


def summed(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def litellm(config: KlusterConfig, question: Question, *, stream: bool, sync: bool) -> Seen:
    import litellm as lite

    from kluster_integrations.litellm import register

    register(config)
    params: dict[str, Any] = {"model": f"kluster/{question.model}", "messages": question.messages, **question.params}
    params |= {"tools": TOOLS} if question.tools else {}
    params |= {"response_format": SCHEMA} if question.city else {}
    params |= {"stream": True, "stream_options": {"include_usage": True}} if stream else {}

    async def later() -> Any:
        answer = await lite.acompletion(**params)
        return lite.stream_chunk_builder([chunk async for chunk in answer]) if stream else answer

    if not sync:
        done: Any = asyncio.run(later())
    else:
        answer = lite.completion(**params)
        done = lite.stream_chunk_builder(list(answer)) if stream else answer
    message, usage = done.choices[0].message, done.usage
    details = getattr(usage, "completion_tokens_details", None)
    text = message.content or ""
    return Seen(
        "" if question.city else text,
        getattr(message, "reasoning_content", None) or "",
        calls_of([(c.function.name, normal(c.function.arguments)) for c in message.tool_calls or ()]),
        City.model_validate_json(text) if question.city else None,
        usage=(usage.prompt_tokens, usage.completion_tokens, getattr(details, "reasoning_tokens", None) or None),
    )


def crewai(config: KlusterConfig, question: Question, *, stream: bool, sync: bool) -> Seen:
    from crewai.events import crewai_event_bus
    from crewai.events.types.llm_events import LLMThinkingChunkEvent

    from kluster_integrations.crewai import kluster_llm

    llm = kluster_llm(question.model, config=config, stream=stream, **question.params)
    thoughts: list[tuple[int, str]] = []  # CrewAI calls handlers from several threads, in any order
    arguments = {"tools": TOOLS if question.tools else None, "response_model": City if question.city else None}
    with getattr(crewai_event_bus, "scoped_handlers", nullcontext)():

        @crewai_event_bus.on(LLMThinkingChunkEvent)
        def listen(_: Any, event: Any) -> None:
            thoughts.append((event.emission_sequence or 0, event.chunk))

        if sync:
            done = llm.call(question.messages, **arguments)
        else:
            done = asyncio.run(llm.acall(question.messages, **arguments))
        flush = getattr(crewai_event_bus, "flush", None)
        if flush is not None:
            flush()
    usage = llm.get_token_usage_summary()
    found = done if isinstance(done, list) else []
    return Seen(
        done if isinstance(done, str) else "",
        "".join(chunk for _, chunk in sorted(thoughts, key=itemgetter(0))),
        calls_of([(c["function"]["name"], normal(c["function"]["arguments"])) for c in found]),
        done if isinstance(done, City) else None,
        usage=(usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens or None),
    )


_PACKAGES = {"core": "kluster_integrations", "langchain": "langchain_core", "litellm": "litellm", "crewai": "crewai"}
_ASKED: dict[str, Callable[..., Seen]] = {"core": core, "langchain": langchain, "litellm": litellm, "crewai": crewai}
ADAPTERS = [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package)]


@dataclass(frozen=True)
class Way:
    """An adapter, whole or streamed, sync or async."""

    adapter: str
    stream: bool
    sync: bool

    def __str__(self) -> str:
        return f"{self.adapter}-{'stream' if self.stream else 'whole'}-{'sync' if self.sync else 'async'}"

    def ask(self, config: KlusterConfig, question: Question) -> Seen:
        try:
            return _ASKED[self.adapter](config, question, stream=self.stream, sync=self.sync)
        except Exception as err:
            return failed(err)


WAYS = [Way(name, stream, sync) for name in ADAPTERS for stream in (False, True) for sync in (True, False)]
