"""`with_structured_output` for every model: a tool call or a JSON answer, checked, and asked for again if wrong."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import patch_config
from langchain_core.runnables.utils import AddableDict
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.json import parse_partial_json
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.v1 import BaseModel as BaseModelV1
from pydantic.v1 import ValidationError as ValidationErrorV1
from typing_extensions import is_typeddict

from kluster_integrations.core import prompting
from kluster_integrations.langchain._errors import KlusterOutputValidationError

if TYPE_CHECKING:
    from kluster_integrations.langchain.chat_models import ChatKluster

__all__ = ["Method", "StructuredOutput", "Target"]

Method = Literal["function_calling", "json_schema", "json_mode", "prompted"]


class Target:
    """What the answer is to become.

    Args:
        schema: A pydantic class (v2 or v1), a TypedDict, a dataclass, or a JSON schema; None is any JSON object.
        strict: Whether the schema is made strict, by LangChain's rules: every field required, none other allowed.

    Raises:
        ValueError: If LangChain cannot make a JSON schema of it.
    """

    def __init__(self, schema: Any, *, strict: bool | None = None) -> None:
        self._schema = schema
        self.json_schema: dict[str, Any] = {} if schema is None else _json_schema(schema, strict=strict)

    @property
    def shows_partial(self) -> bool:
        """Whether an unfinished value may be shown: a dict may, an instance must be valid."""
        return not isinstance(self._schema, type) or is_typeddict(self._schema)

    @property
    def callable(self) -> bool:
        """Whether it can be a tool's parameters: an object with a name."""
        return _is_object(self.json_schema) and bool(self.json_schema.get("title"))

    def tool(self) -> dict[str, Any]:
        """Return the tool whose call has the answer.

        Raises:
            ValueError: If the schema is no object with a title.
        """
        if not self.callable:
            raise ValueError(
                "method='function_calling' needs a schema of type object with a title; use 'json_schema', or wrap it."
            )
        parameters = {k: v for k, v in self.json_schema.items() if k not in ("title", "description")}
        name = re.sub(r"[^a-zA-Z0-9_-]+", "_", self.json_schema["title"]).strip("_")  # OpenAI's rule for names
        described = {"name": name, "description": self.json_schema.get("description") or ""}
        return {"type": "function", "function": {**described, "parameters": parameters}}

    def described(self) -> dict[str, Any]:
        """Return the schema as LangChain describes it to LangSmith."""
        try:
            return convert_to_json_schema(self._schema)
        except (KeyError, TypeError, ValueError):
            return self.json_schema

    def parse(self, value: Any) -> Any:
        """Return the object that a decoded JSON value stands for.

        Raises:
            ValueError: What is wrong with it, in words for the model.
        """
        schema = self._schema
        try:
            if isinstance(schema, type) and issubclass(schema, BaseModel):
                # As JSON, so that strict models take texts for dates, enums and the like.
                return schema.model_validate_json(json.dumps(value))
            if isinstance(schema, type) and issubclass(schema, BaseModelV1):
                return schema.parse_obj(value)
            if isinstance(schema, type) and dataclasses.is_dataclass(schema):
                return TypeAdapter(schema).validate_python(value)
        except (ValidationError, ValidationErrorV1) as err:
            raise ValueError(_in_words(err)) from None
        if problem := prompting.schema_error(value, self.json_schema):
            raise ValueError(problem)
        return value


def _is_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object" or (not schema.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum"})


def _json_schema(schema: Any, *, strict: bool | None) -> dict[str, Any]:
    """Return the JSON schema of a schema; LangChain's conversion only where it is needed, for it loses a part."""
    if isinstance(schema, Mapping):
        tool = schema.get("function", schema) if schema.get("type") == "function" else schema
        is_tool = "name" in tool and ("parameters" in tool or "input_schema" in tool)
        if not is_tool and not (strict and _is_object(schema) and "title" in schema):
            return dict(schema)
    elif not strict and isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    try:
        return convert_to_json_schema(schema, strict=strict)
    except (TypeError, ValueError) as err:
        raise ValueError(
            f"schema={schema!r} must be a pydantic class, TypedDict, dataclass, JSON schema or tool object: {err}"
        ) from None


def _in_words(err: ValidationError | ValidationErrorV1) -> str:
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'the value'}: {e['msg']}" for e in cast("Sequence[Any]", err.errors())
    )


class StructuredOutput(Runnable[LanguageModelInput, Any]):
    """A model that answers with an object.

    `invoke` asks again where the answer is wrong, with what is wrong, at most the model's `max_repairs` times. `stream`
    gives the object as it grows (a dict for JSON schemas, an instance once it is valid for classes), and at last the
    checked one.

    Args:
        model: The model, for its settings.
        bound: The model with tools or `response_format` bound.
        target: What the answer is to become.
        name: The tool whose call has the answer; None where the text has it.
        include_raw: Whether to return `{"raw", "parsed", "parsing_error"}`, and not to raise where parsing fails.

    Raises:
        KlusterOutputValidationError: At calls, if the last answer is wrong, too.
    """

    def __init__(
        self,
        model: ChatKluster,
        bound: Runnable[Any, AIMessage],
        target: Target,
        *,
        name: str | None,
        include_raw: bool,
    ) -> None:
        self._model = model
        self._bound = bound
        self._target = target
        self._tool = name
        self._include_raw = include_raw
        self.name = "StructuredOutput"

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return the object that the model answers with."""
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As `invoke`."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Yield the object as it grows."""
        yield from self._transform_stream_with_config(iter([input]), self._transform, config, **kwargs)

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """As `stream`."""

        async def inputs() -> AsyncIterator[LanguageModelInput]:
            yield input

        async for part in self._atransform_stream_with_config(inputs(), self._atransform, config, **kwargs):
            yield part

    def _invoke(
        self,
        input: LanguageModelInput,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        child = patch_config(config, callbacks=run_manager.get_child())
        talk = _Talk(self, input)
        while not talk.over:
            talk.take(self._bound.invoke(talk.messages, child, **kwargs))
        return talk.result()

    async def _ainvoke(
        self,
        input: LanguageModelInput,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        child = patch_config(config, callbacks=run_manager.get_child())
        talk = _Talk(self, input)
        while not talk.over:
            talk.take(await self._bound.ainvoke(talk.messages, child, **kwargs))
        return talk.result()

    def _transform(
        self,
        inputs: Iterator[LanguageModelInput],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        child = patch_config(config, callbacks=run_manager.get_child())
        for input_ in inputs:
            talk = _Talk(self, input_)
            for chunk in self._bound.stream(talk.messages, child, **kwargs):
                yield from talk.grow(cast("AIMessageChunk", chunk))
            talk.take_grown()
            while not talk.over:
                talk.take(self._bound.invoke(talk.messages, child, **kwargs))
            yield from talk.last()

    async def _atransform(
        self,
        inputs: AsyncIterator[LanguageModelInput],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        child = patch_config(config, callbacks=run_manager.get_child())
        async for input_ in inputs:
            talk = _Talk(self, input_)
            async for chunk in self._bound.astream(talk.messages, child, **kwargs):
                for part in talk.grow(cast("AIMessageChunk", chunk)):
                    yield part
            talk.take_grown()
            while not talk.over:
                talk.take(await self._bound.ainvoke(talk.messages, child, **kwargs))
            for part in talk.last():
                yield part


class _Talk:
    """One question and the answers to it, until one is right or the tries are used up."""

    def __init__(self, output: StructuredOutput, question: LanguageModelInput) -> None:
        self._output = output
        self._target = output._target
        self._tool = output._tool
        self._left = output._model.max_repairs
        self.messages: list[BaseMessage] = output._model._convert_input(question).to_messages()
        self.over = False
        self._raw: AIMessage | None = None
        self._parsed: Any = None
        self._error: KlusterOutputValidationError | None = None
        self._shown: Any = None

    def take(self, raw: AIMessage) -> None:
        """Take an answer; where it is wrong, add it and what is wrong to the messages."""
        self._raw = raw
        try:
            self._parsed, self._error, self.over = self._parse(raw), None, True
        except ValueError as err:
            problem = str(err)
            self._error = KlusterOutputValidationError(
                f"The model's answer is not what the schema asks for: {problem}",
                hint="see .raw_text; make the schema simpler, raise max_tokens or max_repairs, or take a larger model.",
            )
            self._error.raw_text = raw.text or json.dumps([c["args"] for c in _calls(raw)])
            self.over = self._left == 0
            self._left -= 1
            self.messages = [*self.messages, *_reply(raw, problem)]

    def grow(self, chunk: AIMessageChunk) -> Iterator[Any]:
        """Take a chunk of the first answer and yield what it shows anew."""
        self._raw = chunk if self._raw is None else self._raw + chunk  # type: ignore[assignment]
        if self._output._include_raw:
            yield AddableDict({"raw": chunk})
        try:
            parsed = self._target.parse(self._partial())
        except ValueError:
            parsed = self._partial() if self._target.shows_partial else None
        if parsed is not None and parsed != self._shown:
            self._shown = parsed
            if not self._output._include_raw:
                yield parsed

    def take_grown(self) -> None:
        """Take the streamed answer as a whole."""
        if self._raw is None:
            raise KlusterOutputValidationError("The model gave no answer.")
        self.take(self._raw)

    def last(self) -> Iterator[Any]:
        """Yield what has not been shown: the checked object, or with `include_raw` how parsing ended."""
        if self._output._include_raw:
            yield AddableDict({"parsed": self._parsed, "parsing_error": self._error})
        elif self.result() != self._shown:
            yield self.result()

    def result(self) -> Any:
        """Return the object, or what `include_raw` asks for."""
        if self._output._include_raw:
            return {"raw": self._raw, "parsed": self._parsed, "parsing_error": self._error}
        if self._error is not None:
            raise self._error
        return self._parsed

    def _parse(self, raw: AIMessage) -> Any:
        if self._tool is not None:
            for call in raw.tool_calls:
                if call["name"] == self._tool:
                    return self._target.parse(call["args"])
            for broken in raw.invalid_tool_calls:
                raise ValueError(f"The arguments of {broken['name']} are not a JSON object.")
        if raw.tool_calls:
            return None  # a call of one of the other tools: nothing to parse yet
        value = prompting.find_json(raw.text)
        if value is None:
            missing = f"a call of {self._tool}" if self._tool else "JSON"
            raise ValueError(f"The answer does not hold {missing}.")
        return self._target.parse(value)

    def _partial(self) -> Any:
        raw = cast("AIMessageChunk", self._raw)
        if self._tool is not None and raw.tool_calls:
            return next((c["args"] for c in raw.tool_calls if c["name"] == self._tool), None)
        start = min((at for at in (raw.text.find("{"), raw.text.find("[")) if at >= 0), default=-1)
        if start < 0:
            return None
        try:
            return parse_partial_json(raw.text[start:].split("```")[0])
        except ValueError:
            return None


def _calls(raw: AIMessage) -> list[Any]:
    return [*raw.tool_calls, *raw.invalid_tool_calls]


def _reply(raw: AIMessage, problem: str) -> list[BaseMessage]:
    """Return the answer and what is wrong with it, as messages that may follow each other."""
    said = prompting.repair_text(problem)
    calls = _calls(raw)
    if not calls:
        return [AIMessage(content=raw.text), HumanMessage(content=said)]
    answer = AIMessage(content=raw.text, tool_calls=raw.tool_calls, invalid_tool_calls=raw.invalid_tool_calls)
    return [answer, *(ToolMessage(content=said, tool_call_id=c["id"] or "", status="error") for c in calls)]
