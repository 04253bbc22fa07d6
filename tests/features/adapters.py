"""Each adapter used as its framework's users use it, behind one set of methods, so that a feature is tested once."""

from __future__ import annotations

import importlib.util
import json
from typing import Any, Protocol

import pytest
from pydantic import BaseModel

__all__ = ["ADAPTERS", "WEATHER", "Adapter", "Crewai", "Langchain", "Litellm", "adapters", "heard", "sum_up", "usable"]

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Adapter(Protocol):
    """What the features ask of an adapter; the connection comes from the environment."""

    def ask(self, model: str, text: str, **options: Any) -> str: ...
    async def aask(self, model: str, text: str) -> str: ...
    def stream(self, model: str, text: str) -> list[str]: ...
    def tool_call(self, model: str, text: str) -> tuple[str, Any]: ...
    def fill(self, model: str, text: str, schema: type[BaseModel]) -> BaseModel: ...
    def ask_about_image(self, model: str, text: str, url: str) -> str: ...
    def think(self, model: str, text: str) -> tuple[str, str]: ...
    def usage(self, model: str, text: str, *, stream: bool) -> tuple[int, int]: ...
    def embed(self, texts: list[str]) -> list[list[float]]: ...
    def shown(self, model: str, key: str) -> str: ...
    def overflow(self) -> type[Exception]: ...


def _image(text: str, url: str) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


class Langchain:
    def _model(self, model: str, **options: Any) -> Any:
        from kluster_integrations.langchain import ChatKluster

        return ChatKluster(model=model, **options)

    def ask(self, model: str, text: str, **options: Any) -> str:
        return self._model(model).invoke(text, **options).text

    async def aask(self, model: str, text: str) -> str:
        return (await self._model(model).ainvoke(text)).text

    def stream(self, model: str, text: str) -> list[str]:
        return [chunk.text for chunk in self._model(model).stream(text) if chunk.text]

    def tool_call(self, model: str, text: str) -> tuple[str, Any]:
        (call,) = self._model(model).bind_tools([WEATHER]).invoke(text).tool_calls
        return call["name"], call["args"]

    def fill(self, model: str, text: str, schema: type[BaseModel]) -> BaseModel:
        return self._model(model).with_structured_output(schema).invoke(text)

    def ask_about_image(self, model: str, text: str, url: str) -> str:
        return self._model(model).invoke(_image(text, url)).text

    def think(self, model: str, text: str) -> tuple[str, str]:
        answer = self._model(model).invoke(text)
        return answer.additional_kwargs["reasoning_content"], answer.text

    def usage(self, model: str, text: str, *, stream: bool) -> tuple[int, int]:
        made = self._model(model)
        answer = sum_up(list(made.stream(text))) if stream else made.invoke(text)
        return answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]

    def cost(self, model: str, text: str) -> tuple[int, int, float]:
        answer = self._model(model).invoke(text)
        usage = answer.usage_metadata
        return usage["input_tokens"], usage["output_tokens"], answer.response_metadata["cost"]

    def embed(self, texts: list[str]) -> list[list[float]]:
        from kluster_integrations.langchain import KlusterEmbeddings

        return KlusterEmbeddings().embed_documents(texts)

    def shown(self, model: str, key: str) -> str:
        from langchain_core.load import dumps

        made = self._model(model, api_key=key)
        return f"{made!r} {made} {dumps(made)} {made.model_dump()}"

    def overflow(self) -> type[Exception]:
        from kluster_integrations.langchain._compat import ContextOverflowError

        return ContextOverflowError


def sum_up(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


class Litellm:
    def _complete(self, model: str, messages: Any, **options: Any) -> Any:
        import litellm

        from kluster_integrations.litellm import register

        register()
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return litellm.completion(f"kluster/{model}", messages=messages, **options)

    def ask(self, model: str, text: str, **options: Any) -> str:
        return self._complete(model, text, **options).choices[0].message.content

    async def aask(self, model: str, text: str) -> str:
        import litellm

        from kluster_integrations.litellm import register

        register()
        answer = await litellm.acompletion(f"kluster/{model}", messages=[{"role": "user", "content": text}])
        return answer.choices[0].message.content

    def stream(self, model: str, text: str) -> list[str]:
        pieces = [chunk.choices[0].delta.content for chunk in self._complete(model, text, stream=True)]
        return [piece for piece in pieces if piece]

    def tool_call(self, model: str, text: str) -> tuple[str, Any]:
        (call,) = self._complete(model, text, tools=[WEATHER]).choices[0].message.tool_calls
        return call.function.name, json.loads(call.function.arguments)

    def fill(self, model: str, text: str, schema: type[BaseModel]) -> BaseModel:
        answer = self._complete(model, text, response_format=schema)
        return schema.model_validate_json(answer.choices[0].message.content)

    def ask_about_image(self, model: str, text: str, url: str) -> str:
        return self._complete(model, _image(text, url)).choices[0].message.content

    def think(self, model: str, text: str) -> tuple[str, str]:
        message = self._complete(model, text).choices[0].message
        return message.reasoning_content, message.content

    def usage(self, model: str, text: str, *, stream: bool) -> tuple[int, int]:
        if stream:
            options = {"stream": True, "stream_options": {"include_usage": True}}
            usage = list(self._complete(model, text, **options))[-1].usage
        else:
            usage = self._complete(model, text).usage
        return usage.prompt_tokens, usage.completion_tokens

    def cost(self, model: str, text: str) -> tuple[int, int, float]:
        import litellm

        answer = self._complete(model, text)
        return answer.usage.prompt_tokens, answer.usage.completion_tokens, litellm.completion_cost(answer)

    def embed(self, texts: list[str]) -> list[list[float]]:
        import litellm

        from kluster_integrations.litellm import register

        register()
        return [row["embedding"] for row in litellm.embedding("kluster/BAAI/bge-m3", input=texts).data]

    def shown(self, model: str, key: str) -> str:
        from kluster_integrations.config import KlusterConfig
        from kluster_integrations.litellm import register, router

        handler = register(KlusterConfig(api_key=key))
        made = router(models=[model], api_keys=[key])
        return f"{handler!r} {handler} {vars(handler)} {made!r}"

    def overflow(self) -> type[Exception]:
        import litellm

        return litellm.ContextWindowExceededError


class Crewai:
    def _llm(self, model: str, **options: Any) -> Any:
        from kluster_integrations.crewai import kluster_llm

        return kluster_llm(model, **options)

    def ask(self, model: str, text: str, **options: Any) -> str:
        return self._llm(model, **options).call(text)

    async def aask(self, model: str, text: str) -> str:
        return await self._llm(model).acall(text)

    def stream(self, model: str, text: str) -> list[str]:
        from crewai.events.types.llm_events import LLMStreamChunkEvent

        events: list[Any] = []
        with heard(LLMStreamChunkEvent, events):
            self._llm(model, stream=True).call(text)
        return [event.chunk for event in events]

    def tool_call(self, model: str, text: str) -> tuple[str, Any]:
        (call,) = self._llm(model).call(text, tools=[WEATHER])
        return call["function"]["name"], json.loads(call["function"]["arguments"])

    def fill(self, model: str, text: str, schema: type[BaseModel]) -> BaseModel:
        return self._llm(model).call(text, response_model=schema)

    def ask_about_image(self, model: str, text: str, url: str) -> str:
        return self._llm(model).call(_image(text, url))

    def think(self, model: str, text: str) -> tuple[str, str]:
        from crewai.events.types.llm_events import LLMThinkingChunkEvent

        events: list[Any] = []
        with heard(LLMThinkingChunkEvent, events):
            answer = self._llm(model).call(text)
        return "".join(event.chunk for event in events), answer

    def usage(self, model: str, text: str, *, stream: bool) -> tuple[int, int]:
        made = self._llm(model, stream=stream)
        made.call(text)
        usage = made.get_token_usage_summary()
        return usage.prompt_tokens, usage.completion_tokens

    def embed(self, texts: list[str]) -> list[list[float]]:
        from crewai.rag.embeddings.factory import build_embedder

        from kluster_integrations.crewai import kluster_embedder

        return [list(map(float, vector)) for vector in build_embedder(kluster_embedder())(texts)]

    def shown(self, model: str, key: str) -> str:
        made = self._llm(model, api_key=key)
        return f"{made!r} {made} {made.model_dump()} {made.to_config_dict()}"

    def overflow(self) -> type[Exception]:
        from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError

        return LLMContextLengthExceededError


class heard:  # noqa: N801
    """Notes the events of one kind, in order and at once: CrewAI's own handlers run in threads."""

    def __init__(self, kind: type, events: list[Any]) -> None:
        self._kind, self._events = kind, events

    def __enter__(self) -> None:
        from crewai.events.event_bus import crewai_event_bus

        emit = crewai_event_bus.emit

        def noted(source: Any, event: Any) -> Any:
            if isinstance(event, self._kind):
                self._events.append(event)
            return emit(source, event)

        crewai_event_bus.emit = noted  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        from crewai.events.event_bus import crewai_event_bus

        del crewai_event_bus.emit


ADAPTERS: dict[str, tuple[str, type[Adapter]]] = {
    "langchain": ("langchain_core", Langchain),
    "litellm": ("litellm", Litellm),
    "crewai": ("crewai", Crewai),
}
"""Each with the module that it needs."""


def usable(name: str) -> bool:
    """Whether an adapter can be tried here."""
    if importlib.util.find_spec(ADAPTERS[name][0]) is None:
        return False
    from kluster_integrations.litellm import _versions

    return name != "litellm" or not _versions.problem(_versions.installed() or "")


def adapters(*names: str) -> pytest.MarkDecorator:
    """Run a test once for each of these adapters; the README's table is checked against the names."""
    missing = {name: f"{ADAPTERS[name][0]} is not installed, or not in a version that works" for name in names}
    params = [
        pytest.param(ADAPTERS[name][1](), id=name, marks=() if usable(name) else pytest.mark.skip(reason=missing[name]))
        for name in names
    ]
    return pytest.mark.parametrize("adapter", params)
