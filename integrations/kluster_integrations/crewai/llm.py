"""`KlusterLLM`, CrewAI's LLM for kluster.ai, and `kluster_llm`, which makes one."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args
from weakref import WeakKeyDictionary, WeakValueDictionary

from crewai.types.usage_metrics import UsageMetrics
from pydantic import BaseModel, PrivateAttr, SecretStr

from kluster_integrations import catalog
from kluster_integrations.catalog import Plan
from kluster_integrations.config import KlusterConfig, Unsupported
from kluster_integrations.core.client import Client
from kluster_integrations.core.types import ChatRequest, ToolCalling, collect
from kluster_integrations.crewai import _compat
from kluster_integrations.crewai._turn import Turn
from kluster_integrations.crewai._usage import Tally
from kluster_integrations.errors import OutputValidationError
from kluster_integrations.limits import Limits

__all__ = ["KlusterLLM", "ToolUse", "kluster_llm"]

ToolUse = Literal[ToolCalling, "react"]
_FIELDS = ("temperature", "top_p", "max_tokens", "seed", "frequency_penalty", "presence_penalty", "n")
_CONNECTION = frozenset(KlusterConfig.model_fields)
_DUMPED = _CONNECTION - {"api_key", "base_url", "default_headers"}  # what of the connection a dump may hold
_NOT_BODY = frozenset({*_DUMPED, "connection", "tool_calling", "max_repairs", "extra_body"})
_OPENAI = frozenset({"logprobs", "top_logprobs", "logit_bias", "metadata", "parallel_tool_calls", "extra_body"})
_WAYS = frozenset({"limits", "http_client", "http_async_client", "interceptor"})


class KlusterLLM(_compat.PortableLLM):
    """A kluster.ai model as a CrewAI LLM: `Agent(llm=kluster_llm("<model id>"))`.

    Tools, `output_pydantic`, `output_json`, `response_model` and planning work on every model. The reasoning of a model
    is in `LLMThinkingChunkEvent`, never in an answer.

    Args:
        model: The model's id, sent as it is; `kluster models` lists them.
        api_key: The API key; never in a dump, a pickle or a log. Default: `KLUSTER_API_KEY` or its aliases; see
            `KlusterConfig`.
        base_url: The address of the API. Default: `KLUSTER_BASE_URL`, else `https://api.kluster.ai/v1`.
        plan: The account's plan, which sets windows and rate limits. Default: `KLUSTER_PLAN`, else unknown.
        timeout: Seconds to wait between bytes. Default: `KLUSTER_TIMEOUT`, else 600.
        total_timeout: Seconds for a whole request, retries included. Default: `KLUSTER_TOTAL_TIMEOUT`; see
            `KlusterConfig`.
        max_response_bytes: The most bytes of an answer. Default: `KLUSTER_MAX_RESPONSE_BYTES`, else 268,435,456
            (256 MiB).
        max_retries: Further tries after status 408, 409, 429, 5xx and broken connections. CrewAI's own retries are off.
            Default: `KLUSTER_MAX_RETRIES`, else 2.
        unsupported: `error` or `drop` for parameters that kluster.ai does not take. Default: `error`.
        config: All settings of the connection together; single arguments win over it.
        limits: The account's limits, for which requests wait; never in a dump. Default: those of the plan.
        default_headers: Sent with every request; never in a dump.
        http_client: An `httpx.Client` to use in place of the shared connections.
        http_async_client: The same for async calls.
        interceptor: CrewAI's `BaseInterceptor`, which sees and may change requests and answers; never in a dump. It
            replaces the clients.
        callbacks: Objects with `log_success_event(kwargs, response_obj, start_time, end_time)`, such as CrewAI's
            `TokenCalcHandler` and LiteLLM's `CustomLogger`. It is called after each call, with the tokens in
            `response_obj["usage"]`. If there is a `log_failure_event`, it is called after a failed call.
        api: `completions`, CrewAI's default; kluster.ai has no other.
        tool_calling: How agents use tools. `auto`: native if the model has them, else prompted. `native`, `prompted`:
            always this one. `react`: CrewAI's own text format, as for models without tools.
        max_repairs: How often a wrong answer (invalid arguments, wrong JSON, nothing at all) is asked for again, with
            an explanation. Default: 2.
        params: CrewAI's parameters (`temperature`, `top_p`, `max_tokens` or `max_completion_tokens`, `seed`, `stop`,
            `stream`, `frequency_penalty`, `presence_penalty`, `response_format`), others of OpenAI's API (`logprobs`,
            `top_logprobs`, `logit_bias`, `metadata`, `parallel_tool_calls`), and `extra_body` for further fields.

    All of these can be read and set on the LLM, except that the key cannot be read. A new value holds from the next
    call on.

    Raises:
        ValueError: At construction, if an argument is not acceptable. May also be a `BadRequestError`.
        KlusterError: From a call; see the errors below.
    """

    llm_type: str = "kluster"
    # Not "openai": CrewAI's InternalInstructor would send OPENAI_API_KEY to kluster.ai.
    provider: str = "kluster"
    response_format: Any = None
    """A pydantic class, or OpenAI's `response_format`, for every call without tools."""

    _client: Client | None = PrivateAttr(default=None)
    _plans: dict[str, int] = PrivateAttr(default_factory=dict)
    _tally: Tally = PrivateAttr(default_factory=Tally)
    _callbacks: list[Any] = PrivateAttr(default_factory=list)

    # CrewAI rebuilds some LLMs of a crew (planning, chat) from their dumps, which have no key: they find it here.
    _connections: ClassVar[WeakValueDictionary[str, Client]] = WeakValueDictionary()
    # The arguments of each client besides its configuration.
    _ways: ClassVar[WeakKeyDictionary[Client, Mapping[str, Any]]] = WeakKeyDictionary()

    def __init__(
        self,
        model: str,
        *,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        plan: Plan | None = None,
        timeout: float | None = None,
        total_timeout: float | None = None,
        max_response_bytes: int | None = None,
        max_retries: int | None = None,
        unsupported: Unsupported | None = None,
        catalog: str | None = None,
        insecure_http: bool | None = None,
        fallback: bool | None = None,
        config: KlusterConfig | None = None,
        limits: Limits | None = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: Any = None,
        http_async_client: Any = None,
        interceptor: Any = None,
        callbacks: Sequence[Any] | None = None,
        api: Literal["completions"] | None = None,
        tool_calling: ToolUse | None = None,
        max_repairs: int | None = None,
        **params: Any,
    ) -> None:
        _check_api(api)
        options: dict[str, Any] = {"plan": plan, "timeout": timeout, "max_retries": max_retries}
        options |= {"total_timeout": total_timeout, "max_response_bytes": max_response_bytes}
        options |= {"unsupported": unsupported, "tool_calling": tool_calling, "max_repairs": max_repairs}
        options |= {"catalog": catalog, "insecure_http": insecure_http, "fallback": fallback}
        options = {name: value for name, value in options.items() if value is not None}
        most = params.pop("max_completion_tokens", None)
        if params.get("max_tokens") is None and most is not None:  # of the two, CrewAI lets the old name win
            params["max_tokens"] = most
        if isinstance(stop := params.get("stop"), str):
            params["stop"] = [stop]
        elif stop is not None and (not isinstance(stop, Iterable) or isinstance(stop, Mapping)):
            raise ValueError(f"stop={stop!r} must be a text or a list of texts.")
        if params.get("stop"):  # CrewAI would cut an answer at an empty one
            params["stop"] = [text for text in params["stop"] if text != ""]
        params["additional_params"] = {**(params.get("additional_params") or {}), **options}
        params |= {"llm_type": "kluster", "provider": "kluster"}
        super().__init__(model=model, **params)
        known = self._connections.get(self.additional_params.get("connection", ""))
        if known is not None and api_key is None and config is None:
            self._client = known
        else:
            own: Any = {name: self.additional_params.get(name) for name in _DUMPED}
            own |= {"api_key": api_key, "base_url": base_url, "default_headers": default_headers}
            ways = {"limits": limits, "http_client": http_client, "http_async_client": http_async_client}
            self._connect(KlusterConfig.merged(config, **own), {**ways, "interceptor": interceptor})
        self.callbacks = callbacks
        self._check()

    def _connect(self, config: KlusterConfig, ways: Mapping[str, Any]) -> Client:
        clients: dict[str, Any] = {name: way for name, way in ways.items() if name != "interceptor"}
        if (interceptor := ways.get("interceptor")) is not None:
            if ways.get("http_client") or ways.get("http_async_client"):
                raise ValueError("interceptor=… and http_client=… exclude each other: pass one of them.")
            clients |= _compat.intercepted(interceptor)
        client = self._client = Client(config, **clients)
        self.additional_params["connection"] = name = uuid.uuid4().hex
        self._connections[name], self._ways[client] = client, ways
        super().__setattr__("base_url", config.base_url)
        return client

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an option for the following calls.

        Raises:
            ValueError: If the value is not acceptable; it may also be a `BadRequestError`. Nothing is changed then.
        """
        if name in _CONNECTION:
            config = self.client.config
            values = {field: getattr(config, field) for field in _CONNECTION - {name}}
            ways = self._ways[self.client]
            self._connect(KlusterConfig(**values, **({} if value is None else {name: value})), ways)
            if name in _DUMPED:
                self.additional_params[name] = getattr(self.client.config, name)
        elif name in _WAYS:
            self._connect(self.client.config, {**self._ways[self.client], name: value})
        elif name in _OPENAI or name in ("tool_calling", "max_repairs"):
            before = self.additional_params
            kept = {option: old for option, old in before.items() if option != name}
            self.additional_params = kept if value is None else {**kept, name: value}
            try:
                self._check()
            except Exception:
                self.additional_params = before
                raise
        elif name == "callbacks":
            self._callbacks = _checked_callbacks(value)
        elif name == "api":
            _check_api(value)
        else:
            super().__setattr__("max_tokens" if name == "max_completion_tokens" else name, value)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return an option that is not a field."""
            if name in _CONNECTION:
                return getattr(self.client.config, name)
            if name in _WAYS:
                return self._ways[self.client].get(name)
            if name in _OPENAI:
                return self.additional_params.get(name)
            if name == "callbacks":
                return list(self._callbacks)
            return "completions" if name == "api" else super().__getattr__(name)

    def _check(self) -> None:
        """Raise an error now if every call would fail."""
        if self.tool_calling not in (*get_args(ToolCalling), "react"):
            raise ValueError(f"tool_calling={self.tool_calling!r} must be auto, native, prompted or react.")
        if not isinstance(self.max_repairs, int) or self.max_repairs < 0:
            raise ValueError(f"max_repairs={self.max_repairs!r} must be a whole number, 0 or more.")
        self._build([{"role": "user", "content": ""}])

    @property
    def client(self) -> Client:
        """The core's client, which sends the requests."""
        if self._client is None:  # restored from a pickle
            own: Any = {name: self.additional_params.get(name) for name in _DUMPED}
            return self._connect(KlusterConfig.merged(None, base_url=self.base_url, **own), {})
        return self._client

    @property
    def spec(self) -> catalog.ModelSpec:
        """The model's spec, under the account's plan."""
        return self.client.spec(self.model)

    @property
    def tool_calling(self) -> ToolUse:
        """How agents use tools."""
        chosen: ToolUse = self.additional_params.get("tool_calling", "auto")
        return chosen

    @property
    def max_repairs(self) -> int:
        """How often a wrong answer is asked for again."""
        repairs: int = self.additional_params.get("max_repairs", 2)
        return repairs

    @property
    def max_completion_tokens(self) -> int | float | None:
        """Another name of `max_tokens`."""
        return self.max_tokens

    def _params(self) -> dict[str, Any]:
        """Return the parameters of a call."""
        params = {n: v for n in _FIELDS if (v := getattr(self, n)) is not None}
        if isinstance(most := params.get("max_tokens"), float) and most == int(most):
            params["max_tokens"] = int(most)
        if stops := self.stop_sequences:
            params["stop"] = list(stops)
        if self.response_format is not None and self._response_model() is None:
            params["response_format"] = self.response_format
        return params | {k: v for k, v in self.additional_params.items() if k not in _NOT_BODY}

    def _response_model(self) -> type[BaseModel] | None:
        """Return the `response_format` if it is a pydantic class."""
        own = self.response_format
        return own if isinstance(own, type) and issubclass(own, BaseModel) else None

    def _build(
        self, messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any] | None = None, *, stream: bool = False
    ) -> ChatRequest:
        mode = self.tool_calling
        request = self.client.build(
            self.model,
            messages,
            {**self._params(), **(params or {})},
            stream=stream,
            tool_calling="auto" if mode == "react" else mode,
            extra_body=self.additional_params.get("extra_body"),
            max_repairs=self.max_repairs,
        )
        request.must_answer = True  # CrewAI's executors take an empty answer for an error
        return request

    def _turn(self, model: type[BaseModel] | None, *given: Any) -> AbstractContextManager[Turn]:
        ways = (self._build, self._tally.add, self._callbacks, self._plans)
        return Turn(self, *ways, model or self._response_model(), *given).reported()

    def call(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        callbacks: list[Any] | None = None,
        available_functions: Mapping[str, Any] | None = None,
        from_task: Any = None,
        from_agent: Any = None,
        response_model: type[BaseModel] | None = None,
    ) -> Any:
        """Call the model.

        Args:
            messages: A text, or CrewAI's messages.
            tools: OpenAI's tool objects.
            callbacks: CrewAI's token handlers; not used, since usage is tracked here.
            available_functions: Functions by name, to run tool calls. Without them the calls are returned.
            from_task: The task of the call, for events.
            from_agent: The agent of the call, for events.
            response_model: The pydantic class of the answer.

        Returns:
            The answer's text, an instance of `response_model`, a list of tool calls, or the result of the called
            function.

        Raises:
            KlusterError: Whatever goes wrong.
        """
        with self._turn(response_model, messages, tools, available_functions, from_task, from_agent) as turn:
            request = turn.begin()
            try:
                if turn.stream:
                    completion = collect(map(turn.watch, self.client.stream(request)))
                else:
                    completion = self.client.complete(request)
            except OutputValidationError as err:
                completion = turn.take_wrong(err)
            return turn.result(completion)

    async def acall(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        callbacks: list[Any] | None = None,
        available_functions: Mapping[str, Any] | None = None,
        from_task: Any = None,
        from_agent: Any = None,
        response_model: type[BaseModel] | None = None,
    ) -> Any:
        """As `call`."""
        with self._turn(response_model, messages, tools, available_functions, from_task, from_agent) as turn:
            request = turn.begin()
            try:
                if turn.stream:
                    completion = collect([turn.watch(delta) async for delta in self.client.astream(request)])
                else:
                    completion = await self.client.acomplete(request)
            except OutputValidationError as err:
                completion = turn.take_wrong(err)
            return turn.result(completion)

    def supports_function_calling(self) -> bool:
        """Whether agents pass tools and response models to the LLM: True unless `tool_calling` is `react`."""
        return self.tool_calling != "react"

    def supports_multimodal(self) -> bool:
        """Whether the model takes images. True for unknown models, since only the server knows."""
        return self.spec.supports_vision or not self.spec.known

    def get_context_window_size(self) -> int:
        """Return the tokens of the model's context window under the plan, minus the part that CrewAI reserves."""
        return int(self.spec.context_window * _compat.CONTEXT_WINDOW_USAGE_RATIO)

    def get_input_tokens_count(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        response_model: type[BaseModel] | None = None,
    ) -> int:
        """Estimate the tokens of a prompt, without a tokenizer or a request."""
        given = [{"content": messages}] if isinstance(messages, str) else messages
        schemas = [response_model.model_json_schema()] if response_model is not None else []
        return self.client.estimate_prompt(given, [*(tools or ()), *schemas])

    def get_token_usage_summary(self) -> UsageMetrics:
        """Return the tokens of all calls of this object, and of the copies that CrewAI's memory uses.

        `Crew` adds up the LLMs of its agents, and a shared LLM once per agent (crewAI issue 7259). In that sum this LLM
        counts once.
        """
        return UsageMetrics() if _compat.is_counted_already(self) else self._tally.summary()

    def to_config_dict(self) -> dict[str, Any]:
        """Return the arguments with which `crewai.LLM(**config)` makes an LLM for the same model and address.

        CrewAI does this when a flow resumes after human feedback. The result is CrewAI's own class, without this
        package's rules. It takes the key from `VLLM_API_KEY`: CrewAI has no setting for another variable, and must not
        send `OPENAI_API_KEY` to kluster.ai.
        """
        params = {n: v for n in _FIELDS if (v := getattr(self, n)) is not None}
        stop = {"stop": list(self.stop)} if self.stop else {}
        return {"model": self.model, "provider": "hosted_vllm", "base_url": self.base_url, **params, **stop}

    def __copy__(self) -> Self:
        """Return a copy with the same connection and its own usage, as `kickoff_for_each` needs."""
        twin = super().__copy__()
        twin.stop, twin.additional_params = list(self.stop), dict(self.additional_params)
        twin._tally, twin._plans = Tally(self._tally, is_memorys=_compat.is_copy_for_memory()), {}
        return twin

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """As `__copy__`: the connection is shared."""
        twin = copy.copy(self)
        twin.additional_params = copy.deepcopy(self.additional_params, memo)
        return twin

    def __getstate__(self) -> dict[Any, Any]:
        """Return the state for a pickle, without the key. A restored object takes it from the environment."""
        state = super().__getstate__()
        return {
            **state,
            "__pydantic_private__": {**(state["__pydantic_private__"] or {}), "_client": None, "_callbacks": []},
        }


def _check_api(api: object) -> None:
    if api not in (None, "completions"):
        raise ValueError(f'api={api!r} must be "completions": kluster.ai has no other. Hint: leave it out.')


def _checked_callbacks(callbacks: Any) -> list[Any]:
    if not isinstance(callbacks, Sequence | None) or isinstance(callbacks, str):
        raise ValueError(f"callbacks={callbacks!r} must be a list.")
    for one in callbacks or ():
        if not callable(getattr(one, "log_success_event", None)):
            raise ValueError(f"callbacks={callbacks!r}: {one!r} has no method log_success_event.")
    return list(callbacks or ())


def kluster_llm(model: str, **options: Any) -> KlusterLLM:
    """Return the CrewAI LLM of a kluster.ai model.

    ```python
    from crewai import Agent
    from kluster_integrations.crewai import kluster_llm

    agent = Agent(role="…", goal="…", backstory="…", llm=kluster_llm("deepseek-ai/DeepSeek-R1"))
    ```

    Args:
        model: The model's id, sent as it is.
        options: The arguments of `KlusterLLM`.
    """
    return KlusterLLM(model, **options)


_compat.register_type("kluster", f"{__name__}.KlusterLLM")
_compat.register_images("kluster")
