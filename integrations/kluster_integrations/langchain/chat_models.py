"""`ChatKluster`, LangChain's chat model for kluster.ai."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, model_validator

from kluster_integrations._version import __version__
from kluster_integrations.batch import BatchJob, BatchResult, Window
from kluster_integrations.batch.types import UNSET, Unset
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.core.client import Client, asks_nothing, estimate, warn
from kluster_integrations.core.types import ChatRequest, ToolCalling
from kluster_integrations.langchain._batch import BoundKluster, create_job, to_output
from kluster_integrations.langchain._compat import add_version
from kluster_integrations.langchain._connection import Connected, timeouts_of
from kluster_integrations.langchain._messages import PROVIDER, ChunkMaker, to_result, to_wire
from kluster_integrations.langchain._structured import Method, StructuredOutput, Target

__all__ = ["ChatKluster"]

_SAMPLING = (
    *("temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs"),
    *("max_tokens", "seed", "stop", "parallel_tool_calls"),
)
# Arguments of a call that are for the client or for LangSmith, not for the body.
_NOT_BODY = (
    *("model", "tool_calling", "extra_body", "extra_headers", "timeout", "max_repairs", "check"),
    "ls_structured_output_format",
)
# Fields of ChatOpenAI (langchain-openai 1.1 to 1.7) that have no meaning here: the values that ask for nothing, and
# what to do instead of any other.
_CHAT_OPENAI: Mapping[str, tuple[tuple[object, ...], str]] = {
    **dict.fromkeys(("use_responses_api", "use_previous_response_id"), ((False,), "kluster.ai has no Responses API")),
    **dict.fromkeys(("organization", "openai_organization"), ((), "kluster.ai has no organizations: leave it out")),
    **dict.fromkeys(("client", "async_client", "root_client", "root_async_client"), ((), "pass http_client")),
    "openai_api_base": ((), "pass base_url"),
    "openai_proxy": (("",), "pass http_client=httpx.Client(proxy=…), or set HTTPS_PROXY"),
    "default_query": (({},), "pass http_client=httpx.Client(params=…)"),
    "http_socket_options": (((), []), "pass http_client=httpx.Client(transport=…)"),
    "stream_chunk_timeout": ((), "pass timeout, which is the seconds between bytes, streamed or not"),
    "tiktoken_model_name": ((), "pass custom_get_token_ids"),
    "disabled_params": (({},), "leave it out: what kluster.ai does not take is never sent"),
}


class ChatKluster(Connected, BaseChatModel):
    """A kluster.ai model as a LangChain chat model.

    ```python
    from kluster_integrations.langchain import ChatKluster

    model = ChatKluster(model="klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", temperature=0)
    model.invoke("What is the ultimate breakfast sandwich?").text
    ```

    Reasoning is in `additional_kwargs["reasoning_content"]` and in `content_blocks`, never in `content`. Tools and JSON
    answers work on every model: natively where the model has them, else through the prompt.

    Raises:
        pydantic.ValidationError: A `ValueError`, at construction, if an argument is not acceptable.
        KlusterError: From a call; each class is also openai's class and langchain-core's `ModelError` class.
    """

    model_name: str = Field(alias="model", min_length=1)
    """The model's id, sent as it is; `kluster models` lists them."""

    temperature: float | None = None
    """0 to 2."""

    top_p: float | None = None
    """0 to 1."""

    frequency_penalty: float | None = None
    """-2 to 2."""

    presence_penalty: float | None = None
    """-2 to 2."""

    logit_bias: Mapping[str, float] | None = None
    """Numbers that are added to the logits of tokens, by token id."""

    logprobs: bool | None = None
    """Whether to return log probabilities, in `response_metadata["logprobs"]`."""

    top_logprobs: int | None = None
    """Alternatives per token, 0 to 20; needs `logprobs`."""

    max_tokens: int | None = Field(default=None, alias="max_completion_tokens")
    """The most tokens of the answer; sent as `max_completion_tokens`. Default: the server's."""

    seed: int | None = None
    """For repeatable sampling, as far as the server can."""

    stop: list[str] | str | None = Field(default=None, alias="stop_sequences")
    """Texts that end the answer. The server takes four; this package applies the others."""

    parallel_tool_calls: bool | None = None
    """Whether the model may call several tools at once. Default: the server's."""

    tool_calling: ToolCalling = "auto"
    """`native` sends tools, `prompted` describes them in the prompt, `auto` prefers native where the model has it."""

    max_repairs: int = Field(default=2, ge=0)
    """How often a wrong answer is asked for again: wrong arguments of a call, a missing call, wrong JSON."""

    streaming: bool = False
    """Whether `invoke` streams the answer from the server."""

    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further parameters of OpenAI's API. `unsupported` decides about those that kluster.ai does not take."""

    extra_body: Mapping[str, Any] | None = None
    """Fields that OpenAI's API does not have, such as `{"top_k": 5}` for a dedicated deployment; sent as they are."""

    include_response_headers: bool = False
    """Whether `response_metadata["headers"]` has the HTTP headers of the answer."""

    @model_validator(mode="before")
    @classmethod
    def _collect_extra(cls, values: dict[str, Any]) -> Any:
        """Put unknown arguments into `model_kwargs`, with a warning, as LangChain's own packages do.

        Arguments that change nothing are left out. Entries of `model_kwargs` that are fields become fields.
        """
        extra = dict(values.get("model_kwargs") or {})  # the caller's own stays as it is
        names = {n for name, f in cls.model_fields.items() for n in (name, f.alias) if n}
        values = {name: value for name, value in values.items() if name in names or not asks_nothing(name, value)}
        for name in sorted(values.keys() - names):
            if name.endswith("api_key"):  # as in other packages; among `model_kwargs` it would be shown
                raise ValueError(f"{name} (not shown) is not an argument of ChatKluster; pass api_key.")
            value = values.pop(name)
            harmless, instead = _CHAT_OPENAI.get(name, ((), ""))
            if instead and value not in harmless:
                raise ValueError(f"{name} is not an argument of ChatKluster: {instead}.")
            if not instead:
                warn(f"{name} is not an argument of ChatKluster: it goes to model_kwargs.", stacklevel=5)
                if name in extra:
                    raise ValueError(f"{name} is an argument, and in model_kwargs: pass it once.")
                extra[name] = value
        for name in sorted(extra.keys() & names - {"metadata"}):  # the argument of that name is for LangChain's traces
            warn(f"{name} in model_kwargs is an argument of ChatKluster: pass {name}=….", stacklevel=5)
            if name in values:
                raise ValueError(f"{name} is an argument, and in model_kwargs: pass it once.")
            values[name] = extra.pop(name)
        return {**values, "model_kwargs": extra}

    @model_validator(mode="after")
    def _set_version_and_profile(self) -> Self:
        add_version(self, "kluster-integrations", __version__)
        if self.profile is None:
            self.profile = self._own_profile()
        return self

    @property
    def model(self) -> str:
        """The model's id."""
        return self.model_name

    @property
    def spec(self) -> ModelSpec:
        """The model's spec, under the account's plan."""
        return self._client.spec(self.model_name)

    @property
    def _llm_type(self) -> str:
        return "kluster-chat"

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Where LangChain's loader finds the key."""
        return {"api_key": "KLUSTER_API_KEY"}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether `dumps` writes it."""
        return True

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "base_url": self._client.config.base_url,
            "tool_calling": self.tool_calling,
            **self._params(None, {}),
            **({"extra_body": self.extra_body} if self.extra_body else {}),
        }

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        shown = {name: value for name, value in kwargs.items() if name != "check"}  # of structured output: no parameter
        return {"model": self.model_name, "_type": self._llm_type, **self._params(stop, {}), **shown}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        stops = stop or self.stop
        params = super()._get_ls_params(
            [stops] if isinstance(stops, str) else stops,
            **{"max_tokens": kwargs.get("max_completion_tokens"), **kwargs},
        )
        params["ls_provider"] = PROVIDER
        return params

    def _own_profile(self) -> ModelProfile:
        return ModelProfile(
            max_input_tokens=self.spec.context_window,
            max_output_tokens=self.spec.max_output_tokens,
            text_inputs=True,
            image_inputs=self.spec.supports_vision,
            image_url_inputs=self.spec.supports_vision,
            pdf_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            image_tool_message=self.spec.supports_vision,
            text_outputs=True,
            reasoning_output=self.spec.reasoning,
            tool_calling=True,
            tool_choice=True,
            structured_output=False,
        )

    def _params(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a call: the fields, then `model_kwargs`, then the call's own."""
        params = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None} | self.model_kwargs
        if stop:
            params["stop"] = stop
        return params | {name: value for name, value in kwargs.items() if name not in _NOT_BODY}

    def _request(
        self,
        client: Client,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        *,
        stream: bool = False,
        several: bool = False,
    ) -> ChatRequest:
        check, max_repairs, extra_body = (kwargs.get(name) for name in ("check", "max_repairs", "extra_body"))
        if isinstance(extra_body, Mapping):
            extra_body = {**(self.extra_body or {}), **extra_body}
        with client.errors:
            options = {
                "timeout": timeouts_of(kwargs.get("timeout")) or self._timeouts,
                "headers": kwargs.get("extra_headers"),
            }
            request = client.build(
                kwargs.get("model") or self.model_name,
                to_wire(messages),
                self._params(stop, kwargs),
                stream=stream,
                tool_calling=kwargs.get("tool_calling") or self.tool_calling,
                extra_body=self.extra_body if extra_body is None else extra_body,
                max_repairs=self.max_repairs if max_repairs is None else max_repairs,
                check=check,
                options={name: value for name, value in options.items() if value is not None},
                several=several,
            )
        if check is None:
            request.returns_invalid_calls = True  # as `invalid_tool_calls`
        else:  # structured output judges the whole answer itself: pydantic takes "3" for an int, a schema does not
            request.must_call, request.schema = False, None
        return request

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        client = self._fresh_client()
        request = self._request(client, messages, stop, kwargs, several=True)
        completion = client.complete(request)
        return to_result(completion, request.spec, with_headers=self.include_response_headers)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        client = await self._afresh_client()
        request = self._request(client, messages, stop, kwargs, several=True)
        completion = await client.acomplete(request)
        return to_result(completion, request.spec, with_headers=self.include_response_headers)

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        """Return the `llm_output` of several answers: the sum of their tokens."""
        total: dict[str, Any] = {}
        for output in filter(None, llm_outputs):  # an answer that was streamed underneath has none
            for name, value in output["token_usage"].items():
                total[name] = value if name == "estimated" else total.get(name, 0) + value
        return {"token_usage": total, "model_name": self.model_name} if total else {}

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        client = self._fresh_client()
        request = self._request(client, messages, stop, kwargs, stream=True)
        maker = ChunkMaker(request.spec, with_headers=self.include_response_headers, v1=self.output_version == "v1")
        for delta in client.stream(request):
            chunk = maker.make(delta)
            if run_manager:
                run_manager.on_llm_new_token(delta.content, chunk=chunk)
            yield chunk

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        client = await self._afresh_client()
        request = self._request(client, messages, stop, kwargs, stream=True)
        maker = ChunkMaker(request.spec, with_headers=self.include_response_headers, v1=self.output_version == "v1")
        async for delta in client.astream(request):
            chunk = maker.make(delta)
            if run_manager:
                await run_manager.on_llm_new_token(delta.content, chunk=chunk)
            yield chunk

    def batch_job(
        self,
        inputs: Iterable[LanguageModelInput],
        *,
        folder: str | Path,
        window: Window | Literal["auto"] | None = None,
        max_cost: float | Unset | None = UNSET,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> BatchJob:
        """Write a batch job of some inputs into a folder. Nothing is sent before its `submit` or `wait`.

        The results of `bind`, `bind_tools` and `with_structured_output` have this method, too. A wrong answer is asked
        for again in a further job. JSON must follow the schema strictly: "3" is not a number, although a class with
        `invoke` may accept it. Callbacks, caches and timeouts do not apply. If only the class of structured output can
        find an error, `batch_output` raises it.

        Args:
            inputs: The inputs, as for `invoke`; read one by one.
            folder: The folder of the job. The same inputs again return the same job.
            window: How long the service may take: `24h`, `48h`, `72h`, or `auto`, the cheapest one. Default: as the job
                in the folder, else `24h`.
            max_cost: The limit in US$; a job that would cost more is not sent. None is no limit. Default: as the job in
                the folder, else None.
            strict: Whether requests without an answer at the end of the window are given up. Otherwise they are sent
                again. Default: as the job in the folder, else False.
            kwargs: Parameters of all requests, as for `invoke`.

        Raises:
            KlusterError: An input cannot be sent, or the folder has another job; see `BatchJob.create`.
        """
        return create_job(self, inputs, folder=folder, window=window, max_cost=max_cost, strict=strict, settings=kwargs)

    async def abatch_job(self, inputs: Iterable[LanguageModelInput], *, folder: str | Path, **options: Any) -> BatchJob:
        """As `batch_job`."""
        return await asyncio.to_thread(self.batch_job, inputs, folder=folder, **options)

    def batch_output(self, result: BatchResult) -> AIMessage:
        """Return the message of a result of a job. Its `response_metadata["cost"]` is at the batch price.

        Raises:
            KlusterError: The error of the input.
        """
        return to_output(self, result)

    def bind(self, **kwargs: Any) -> BoundKluster:  # type: ignore[override]  # langchain-core's own is private
        """Return this model with fixed arguments for each call."""
        return BoundKluster(bound=self, kwargs=kwargs)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this model with tools.

        Args:
            tools: Tools, functions, pydantic classes, TypedDicts or OpenAI's tool objects.
            tool_choice: `auto`, `none`, `any` or `required` (at least one), a tool's name, True (the only one),
                OpenAI's object, or None for the server's default.
            strict: Whether LangChain makes the schemas strict. kluster.ai has no such parameter.
            parallel_tool_calls: Whether the model may call several at once.
            kwargs: Further parameters of the calls.

        Raises:
            ValueError: If `tool_choice` is not acceptable.
        """
        formatted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        if tool_choice is True:
            if len(formatted) != 1:
                raise ValueError(
                    f"tool_choice=True needs exactly one tool, not {len(formatted)}; name one, or use 'required'."
                )
            tool_choice = formatted[0]["function"]["name"]
        if tool_choice:
            kwargs["tool_choice"] = tool_choice
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(tools=formatted, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method | None = None,
        include_raw: bool = False,
        strict: bool | None = None,
        tools: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return this model with answers that are objects, checked against a schema, and asked for again if wrong.

        Args:
            schema: A pydantic class (v2 or v1), TypedDict, dataclass, JSON schema or OpenAI tool object. None only with
                `json_mode`: any JSON object.
            method: `function_calling` asks for a tool call (prompted on models without tools). `json_schema`,
                `json_mode` and `prompted` put the schema into the prompt, because kluster.ai has no `response_format`;
                `json_mode` needs no schema. Default: a tool call if the model has tools, else prompted.
            include_raw: Whether to return `{"raw": AIMessage, "parsed": object, "parsing_error": error}`, and not to
                raise if parsing fails.
            strict: Whether the schema is made strict (every field required).
            tools: Further tools that the model may call in place of an answer. Needs `include_raw`, because `parsed`
                may then be None.
            kwargs: Further parameters of the calls; they win over what `method` sets.

        Raises:
            ValueError: If an argument is not acceptable.
            KlusterOutputValidationError: From a call, if the answer is wrong after `max_repairs` repairs, or is cut
                off.
        """
        if method not in (None, *get_args(Method)):
            raise ValueError(f"method={method!r} must be None or one of {', '.join(get_args(Method))}.")
        if schema is None and method != "json_mode":
            raise ValueError("schema=None is allowed with method='json_mode' only; pass a schema.")
        if tools and not include_raw:
            raise ValueError("tools needs include_raw=True: where the model calls one, nothing is parsed.")
        target = Target(schema, strict=strict, has_other_tools=bool(tools))
        if method is None:
            method = "function_calling" if self._native_tools and target.callable else "prompted"
        shown = schema if target.callable else target.json_schema  # LangChain converts it
        described = {"kwargs": {"method": method, "strict": strict}, "schema": shown}
        kwargs |= {"ls_structured_output_format": described, "check": target}
        if method == "function_calling":
            tool = target.tool()
            target.tool_name = tool["function"]["name"]
            defaults = {
                "tool_choice": "any" if tools else target.tool_name,
                "parallel_tool_calls": False if self._native_tools else None,
            }
            bound = self.bind_tools([*(tools or []), tool], **{**defaults, **kwargs})
        else:
            kwargs["response_format"] = {"type": "json_object"}
            if schema is not None:
                kwargs["response_format"] = {"type": "json_schema", "json_schema": {"schema": target.json_schema}}
            bound = self.bind_tools(tools, **kwargs) if tools else self.bind(**kwargs)
        return StructuredOutput(self, bound, target, include_raw=include_raw)

    @property
    def _native_tools(self) -> bool:
        return self.tool_calling == "native" or (self.tool_calling == "auto" and self.spec.supports_tools)

    def get_num_tokens(self, text: str) -> int:
        """Return about how many tokens a text has. No tokenizer is used, because it would have to be downloaded."""
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        return estimate(text)

    def get_num_tokens_from_messages(self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return about how many tokens messages (and tools) have, without a tokenizer."""
        formatted = [convert_to_openai_tool(tool) for tool in tools or ()]
        return self._client.estimate_prompt(to_wire(messages), formatted, self.get_num_tokens)
