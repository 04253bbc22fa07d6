"""`with_structured_output` for every model: a tool call or a JSON answer, checked, and asked for again if wrong.

The core asks again; `Target` is its check.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import jiter
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.utils import AddableDict
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.v1 import BaseModel as BaseModelV1
from pydantic.v1 import ValidationError as ValidationErrorV1
from typing_extensions import is_typeddict

from kluster_integrations.batch import BatchJob, BatchResult
from kluster_integrations.core.client import find_json, read_arguments, repair_text, schema_error
from kluster_integrations.core.types import Completion
from kluster_integrations.langchain._compat import to_messages
from kluster_integrations.langchain._errors import KlusterOutputValidationError
from kluster_integrations.langchain._messages import to_message, to_result

__all__ = ["Method", "StructuredOutput", "Target"]

Method = Literal["function_calling", "json_schema", "json_mode", "prompted"]


class Target:
    """The object that an answer must contain, and the check for it.

    Args:
        schema: A pydantic class (v2 or v1), a TypedDict, a dataclass, or a JSON schema; None is any JSON object.
        strict: Whether the schema is made strict, by LangChain's rules: every field is required, no other is allowed.
        has_other_tools: Whether the model may call another tool in place of an answer.

    Attributes:
        json_schema: The JSON schema.
        tool_name: The tool whose call contains the answer; None if the text contains it.

    Raises:
        ValueError: If LangChain cannot make a JSON schema of `schema`.
    """

    def __init__(self, schema: Any, *, strict: bool | None = None, has_other_tools: bool = False) -> None:
        self._schema = schema
        self._has_other_tools = has_other_tools
        self.json_schema: dict[str, Any] = {} if schema is None else _json_schema(schema, strict=strict)
        self.tool_name: str | None = None

    def __repr__(self) -> str:  # LangChain's caches have it in their keys: no address
        return f"Target({self.json_schema.get('title')!r})"

    def __call__(self, completion: Completion) -> str | None:
        """Return what is wrong with an answer, in words for the model, or None. This is a `core.types.Check`."""
        return self.parse(to_message(completion))[1]

    @property
    def callable(self) -> bool:
        """Whether the schema can be a tool's parameters: an object with a title."""
        return _is_object(self.json_schema) and bool(self.json_schema.get("title"))

    def tool(self) -> dict[str, Any]:
        """Return the tool whose call contains the answer.

        Raises:
            ValueError: If the schema is not an object with a title.
        """
        if not self.callable:
            raise ValueError(
                "method='function_calling' needs a schema of type object with a title; use 'json_schema', or wrap it."
            )
        parameters = {k: v for k, v in self.json_schema.items() if k not in ("title", "description")}
        name = re.sub(r"[^a-zA-Z0-9_-]+", "_", self.json_schema["title"]).strip("_")  # OpenAI's rule for names
        described = {"name": name, "description": self.json_schema.get("description") or ""}
        return {"type": "function", "function": {**described, "parameters": parameters}}

    def parse(self, message: AIMessage) -> tuple[Any, str | None]:
        """Return the object in an answer (None if it calls another tool), and what is wrong with it or None."""
        try:
            return self._find(message), None
        except ValueError as err:
            return None, str(err)

    def _find(self, message: AIMessage) -> Any:
        is_cut = _is_cut(message)
        calls = [(call["name"], call["args"]) for call in message.tool_calls]
        for call in message.invalid_tool_calls:  # a streamed one has not been read by the core
            arguments, problem = read_arguments(call["args"] or "", is_cut=is_cut)
            if problem:
                raise ValueError(f"The call of `{call['name']}` cannot be run: {problem}")
            calls.append((call["name"] or "", json.loads(arguments)))
        for name, args in calls:
            if name == self.tool_name:
                return self.validate(args)
        if calls and self._has_other_tools:
            return None
        value = find_json(message.text, is_cut=is_cut)
        if value is None:
            raise ValueError(
                f"The answer does not hold {f'a call of `{self.tool_name}`' if self.tool_name else 'JSON'}."
            )
        return self.validate(value)

    def show(self, text: str) -> Any:
        """Return what a stream may show of unfinished JSON: a dict, or an instance that is already valid; else None."""
        begin = re.search(r"[{\[]", text)
        if begin is None:
            return None
        try:
            # LangChain's parser would take quadratic time for text that is not JSON.
            value = jiter.from_json(text[begin.start() :].split("```")[0].encode(), partial_mode="trailing-strings")
            shows_partial = not isinstance(self._schema, type) or is_typeddict(self._schema)
            return value if shows_partial else self.validate(value)
        except (ValueError, RecursionError):
            return None

    def validate(self, value: Any) -> Any:
        """Return the object for a decoded JSON value.

        Raises:
            ValueError: The value is wrong; the message says how, in words for the model.
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
            wrong = cast("list[Any]", err.errors())
            texts = (f"{'.'.join(map(str, e['loc'])) or 'the value'}: {e['msg']}" for e in wrong)
            raise ValueError("; ".join(texts)) from None
        if problem := schema_error(value, self.json_schema):
            raise ValueError(problem)
        return value


def _is_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object" or (not schema.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum"})


def _json_schema(schema: Any, *, strict: bool | None) -> dict[str, Any]:
    """Return the JSON schema of a schema. LangChain's conversion loses a part, so it is used only where needed."""
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


class StructuredOutput(RunnableLambda[LanguageModelInput, Any]):
    """A model that answers with an object.

    `stream` yields the object as it grows (a dict for JSON schemas; for classes an instance, once it is valid), and the
    checked object last. A stream cannot take back what it has shown, so a wrong streamed answer is asked for again as a
    whole.

    Args:
        model: The `ChatKluster`, for its settings (not typed so, because its module imports this one).
        bound: The model with tools or `response_format` bound, and `target` as the check.
        target: The object that the answer must contain.
        include_raw: Whether to return `{"raw", "parsed", "parsing_error"}`, and not to raise if parsing fails.

    Raises:
        KlusterOutputValidationError: From a call, if the answer is still wrong after all repairs.
    """

    def __init__(self, model: Any, bound: Runnable[Any, AIMessage], target: Target, *, include_raw: bool) -> None:
        super().__init__(self._ask, self._aask, name="StructuredOutput")
        self._model = model
        self._bound = bound
        self._target = target
        self._include_raw = include_raw

    def batch_job(self, inputs: Iterable[LanguageModelInput], *, folder: str | Path, **options: Any) -> BatchJob:
        """As `ChatKluster.batch_job`."""
        return cast("BatchJob", cast("Any", self._bound).batch_job(inputs, folder=folder, **options))

    async def abatch_job(self, inputs: Iterable[LanguageModelInput], *, folder: str | Path, **options: Any) -> BatchJob:
        """As `batch_job`."""
        return cast("BatchJob", await cast("Any", self._bound).abatch_job(inputs, folder=folder, **options))

    def batch_output(self, result: BatchResult) -> Any:
        """Return the object in a result of a job; with `include_raw` a dict, as `invoke` returns it.

        Raises:
            KlusterError: The error of the input, or what is wrong with the answer.
        """
        try:
            return self._read(self._model.batch_output(result))
        except KlusterOutputValidationError as err:
            return self._fail(err)

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Yield the object as it grows; `stream` does the same."""
        return RunnableLambda(self._grow, name=self.name).transform(input, config, **kwargs)

    def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As `transform`; `astream` does the same."""
        return RunnableLambda(self._agrow, name=self.name).atransform(input, config, **kwargs)

    def _ask(self, input: LanguageModelInput, config: RunnableConfig, **kwargs: Any) -> Any:
        try:
            return self._read(self._bound.invoke(input, config, **kwargs))
        except KlusterOutputValidationError as err:
            return self._fail(err)

    async def _aask(self, input: LanguageModelInput, config: RunnableConfig, **kwargs: Any) -> Any:
        try:
            return self._read(await self._bound.ainvoke(input, config, **kwargs))
        except KlusterOutputValidationError as err:
            return self._fail(err)

    def _grow(self, input: LanguageModelInput, config: RunnableConfig, **kwargs: Any) -> Iterator[Any]:
        live = _Live(self._target, self._include_raw)
        for chunk in self._bound.stream(input, config, **{**kwargs, "max_repairs": -1}):
            yield from live.add_chunk(chunk)
        yield from live.finish_stream()
        again = self._repair(input, live.raw, kwargs)
        yield from live.final_items(self._ask(config=config, **again) if again else self._read(live.raw))

    async def _agrow(self, input: LanguageModelInput, config: RunnableConfig, **kwargs: Any) -> AsyncIterator[Any]:
        live = _Live(self._target, self._include_raw)
        async for chunk in self._bound.astream(input, config, **{**kwargs, "max_repairs": -1}):
            for item in live.add_chunk(chunk):
                yield item
        for item in live.finish_stream():
            yield item
        again = self._repair(input, live.raw, kwargs)
        for item in live.final_items(await self._aask(config=config, **again) if again else self._read(live.raw)):
            yield item

    def _read(self, raw: AIMessage) -> Any:
        """Return the object in an answer, or the dict of `include_raw`."""
        with self._model._client.errors:
            parsed, problem = self._target.parse(raw)
        if problem is None:
            return {"raw": raw, "parsed": parsed, "parsing_error": None} if self._include_raw else parsed
        # The core has not checked what was streamed, or comes from a cache.
        cut, hint = "", "look at .raw_text; then simplify the prompt or the schema, or use a larger model."
        if _is_cut(raw):
            cut, hint = "it was cut off at its limit of tokens. ", "raise max_tokens; the text so far is in .raw_text."
        error = KlusterOutputValidationError(f"The model's answer is not what was asked for: {cut}{problem}", hint=hint)
        arguments = (call["args"] for call in _calls(raw))
        error.raw_text = raw.text or "\n".join(a if isinstance(a, str) else json.dumps(a) for a in arguments)
        return self._fail(error, raw)

    def _fail(self, error: KlusterOutputValidationError, raw: BaseMessage | None = None) -> dict[str, Any]:
        """Raise the error; with `include_raw` return it in a dict."""
        if not self._include_raw:
            raise error
        if raw is None:
            with_headers = self._model.include_response_headers
            raw = to_result(error.completion, self._model.spec, with_headers=with_headers).generations[0].message
        return {"raw": raw, "parsed": None, "parsing_error": error}

    def _repair(self, input: LanguageModelInput, raw: AIMessage, kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the arguments of a call that repairs a wrong streamed answer; None if it is right."""
        with self._model._client.errors:
            _, problem = self._target.parse(raw)
        settings = {"max_repairs": self._model.max_repairs, **cast("Any", self._bound).kwargs, **kwargs}
        if problem is None or settings["max_repairs"] < 1 or _is_cut(raw):
            return None
        text = repair_text(problem)
        results: list[Any] = [ToolMessage(text, tool_call_id=call["id"]) for call in _calls(raw)]
        answer = AIMessage(raw.text, tool_calls=raw.tool_calls, invalid_tool_calls=raw.invalid_tool_calls)
        messages = [*to_messages(self._model, input), answer, *(results or [HumanMessage(text)])]
        return {**kwargs, "input": messages, "max_repairs": settings["max_repairs"] - 1}


class _Live:
    """A streamed answer as it grows.

    It is parsed again only when it has grown by a sixteenth: at each chunk this would take a minute for an object of
    40 kB. Chunks are added up once, at the end, because langchain-core parses all arguments each time.
    """

    def __init__(self, target: Target, include_raw: bool) -> None:
        self._target = target
        self._include_raw = include_raw
        self._chunks: list[Any] = []
        self._late = 0  # how many of them have been shown
        self._texts: list[str] = []
        self._arguments: list[str] = []  # of the call that has the answer
        self._index: object = None  # that call's
        self._size = self._next_size = 0
        self._shown: Any = None

    @functools.cached_property
    def raw(self) -> Any:
        """The whole answer."""
        return self._sum(self._chunks)

    @staticmethod
    def _sum(chunks: list[Any]) -> Any:
        first, *rest = chunks
        return first + rest if rest else first

    def add_chunk(self, chunk: AIMessage) -> Iterator[Any]:
        """Take a chunk, and yield the object if the chunk has changed it."""
        self._chunks.append(chunk)
        self._texts.append(chunk.text)
        fragments = getattr(chunk, "tool_call_chunks", None)
        if fragments is None:  # with `disable_streaming` it is a whole message
            fragments = [{**call, "args": json.dumps(call["args"]), "index": 0} for call in chunk.tool_calls]
        for fragment in fragments:
            if fragment["name"] and fragment["name"] == self._target.tool_name and self._index is None:
                self._index = fragment["index"]
            if fragment["index"] == self._index:
                self._arguments.append(fragment["args"] or "")
        self._size += len(chunk.text) + sum(len(fragment["args"] or "") for fragment in fragments)
        if self._include_raw:
            self._size += len(chunk.additional_kwargs.get("reasoning_content", ""))
        if self._size >= self._next_size:
            self._next_size = self._size * 17 // 16 + 1
            yield from self.finish_stream()

    def finish_stream(self) -> Iterator[Any]:
        """Yield the object if the last chunks have changed it."""
        if self._late == len(self._chunks):
            return
        late, self._late = self._chunks[self._late :], len(self._chunks)
        if self._include_raw:
            yield AddableDict({"raw": self._sum(late)})
        elif self._arguments:
            yield from self._show("".join(self._arguments))
        else:
            yield from self._show("".join(self._texts))

    def _show(self, text: str) -> Iterator[Any]:
        value = self._target.show(text)
        if value is not None and value != self._shown:
            self._shown = value
            yield value

    def final_items(self, result: Any) -> Iterator[Any]:
        """Yield what has not been shown yet: the checked object, or with `include_raw` the rest of the dict."""
        if self._include_raw:
            yield AddableDict({name: result[name] for name in ("parsed", "parsing_error")})
        elif result != self._shown:
            yield result


def _calls(message: AIMessage) -> list[Any]:
    return [*message.tool_calls, *message.invalid_tool_calls]


def _is_cut(message: AIMessage) -> bool:
    return bool(message.response_metadata.get("finish_reason") == "length")
