"""`KlusterLLM`, CrewAI's LLM for kluster.ai, and `kluster_llm`, which makes one."""

from __future__ import annotations

import copy
import json
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args
from weakref import WeakValueDictionary

from crewai.agents.agent_builder import base_agent
from crewai.llms.base_llm import BaseLLM, llm_call_context
from crewai.llms.context_window import CONTEXT_WINDOW_USAGE_RATIO
from crewai.types.usage_metrics import UsageMetrics
from crewai.utilities.message_utils import message_content_text
from pydantic import BaseModel, PrivateAttr, SecretStr

from kluster_integrations import catalog
from kluster_integrations.catalog import Plan
from kluster_integrations.config import KlusterConfig, Unsupported
from kluster_integrations.core import request, tokens
from kluster_integrations.core.response import read
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.core.types import Delta, ToolCall, ToolCalling, collect
from kluster_integrations.crewai._turn import Turn, model_of

__all__ = ["KlusterLLM", "ToolUse", "kluster_llm"]

ToolUse = Literal[ToolCalling, "react"]
_Method = TypeVar("_Method", bound=Callable[..., Any])
_FIELDS = ("temperature", "top_p", "max_tokens", "seed", "frequency_penalty", "presence_penalty", "n")
_CONNECTION = frozenset(KlusterConfig.model_fields) - {"api_key", "base_url", "default_headers"}  # what a dump may hold
_NOT_BODY = frozenset({*_CONNECTION, "connection", "tool_calling", "max_repairs", "extra_body"})
_TOKENS_A_MESSAGE = 4


def _retried_below(method: _Method) -> _Method:
    """Keep CrewAI from wrapping its own three tries around the transport's: this is the mark it sets when it has."""
    method._crewai_rate_limit_wrapped = True  # type: ignore[attr-defined]
    return method


class KlusterLLM(BaseLLM):
    """A kluster.ai model as a CrewAI LLM: `Agent(llm=kluster_llm("<model id>"))`.

    Tools, `output_pydantic`, `output_json`, `response_model` and planning work on every model. Thoughts of reasoning
    models are in `LLMThinkingChunkEvent`, never in an answer.

    Args:
        model: The model's id, sent as it is; `kluster models` lists them.
        api_key: Default: `KLUSTER_API_KEY` or its aliases; see `KlusterConfig`. It is in no dump, copy to disk or log.
        base_url: Default: `KLUSTER_BASE_URL`, else `https://api.kluster.ai/v1`.
        plan: The account's plan, which decides windows. Default: `KLUSTER_PLAN`, else unknown.
        timeout: Seconds to wait between bytes. Default: `KLUSTER_TIMEOUT`, else 600.
        max_retries: Further tries after 408, 409, 429, 5xx and broken connections, the only ones that are made.
            Default: `KLUSTER_MAX_RETRIES`, else 2.
        unsupported: `error` or `drop` for parameters that kluster.ai does not take. Default: `error`.
        config: All of the connection at once; arguments given beside it win.
        default_headers: Sent with every request; in no dump.
        http_client: An `httpx.Client` to use in place of the shared one.
        http_async_client: The same for async calls.
        tool_calling: How agents use tools. `auto`: native where the model has them, else prompted tool calls.
            `native`, `prompted`: one of the two. `react`: CrewAI's own text format, as for models without tools.
        max_repairs: How often an answer that is not what was asked for (a call, JSON, anything at all) is asked for
            again, with what is wrong.
        params: CrewAI's (`temperature`, `top_p`, `max_tokens` or `max_completion_tokens`, `seed`, `stop`, `stream`,
            `frequency_penalty`, `presence_penalty`, `response_format`) and further ones of OpenAI's API: `logprobs`,
            `top_logprobs`, `logit_bias`, `metadata`, `parallel_tool_calls`, and `extra_body` for fields beyond it.

    Raises:
        ValueError: At construction, if an argument is not acceptable; also the core's `BadRequestError`.
        KlusterError: At calls; see `_errors`.
    """

    llm_type: str = "kluster"
    # Not "openai": CrewAI's InternalInstructor would send OPENAI_API_KEY to kluster.ai.
    provider: str = "kluster"
    response_format: Any = None
    """A pydantic class, or OpenAI's `response_format`; holds for every call without tools."""

    _transport: Transport | None = PrivateAttr(default=None)
    _plans: dict[str, int] = PrivateAttr(default_factory=dict)
    _summed_into: object = PrivateAttr(default=None)

    # CrewAI rebuilds some LLMs of a crew (planning, chat) from their dumps, which have no key: they find it here.
    _connections: ClassVar[WeakValueDictionary[str, Transport]] = WeakValueDictionary()

    def __init__(
        self,
        model: str,
        *,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        plan: Plan | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        unsupported: Unsupported | None = None,
        config: KlusterConfig | None = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: Any = None,
        http_async_client: Any = None,
        tool_calling: ToolUse | None = None,
        max_repairs: int | None = None,
        **params: Any,
    ) -> None:
        options = {
            **(params.pop("additional_params", None) or {}),
            **_given(
                plan=plan,
                timeout=timeout,
                max_retries=max_retries,
                unsupported=unsupported,
                tool_calling=tool_calling,
                max_repairs=max_repairs,
            ),
        }
        most = params.pop("max_completion_tokens", None)
        if params.get("max_tokens") is None and most is not None:  # of the two, CrewAI lets the old name win
            params["max_tokens"] = most
        if isinstance(stop := params.get("stop"), str):
            params["stop"] = [stop]
        elif stop is not None and not isinstance(stop, Iterable):
            raise ValueError(f"stop={stop!r} must be a text or a list of texts.")
        params |= {"llm_type": "kluster", "provider": "kluster", "additional_params": options}
        super().__init__(model=model, **params)
        known = self._connections.get(self.additional_params.get("connection", ""))
        if known is not None and api_key is None and config is None:
            self._transport = known
        else:
            given = _given(api_key=api_key, base_url=base_url, default_headers=default_headers)
            self._transport = self._connect(config, given, http_client, http_async_client)
        self.base_url = self.transport.config.base_url
        self._check()

    def _connect(
        self,
        config: KlusterConfig | None,
        given: dict[str, Any],
        http_client: Any = None,
        http_async_client: Any = None,
    ) -> Transport:
        own = {name: self.additional_params.get(name) for name in _CONNECTION}
        made = Transport(
            KlusterConfig.merged(config, **own, **given), http_client=http_client, http_async_client=http_async_client
        )
        name = uuid.uuid4().hex
        self.additional_params["connection"] = name
        self._connections[name] = made
        return made

    def _check(self) -> None:
        """Refuse at once what no call could send."""
        if self.tool_calling not in (*get_args(ToolCalling), "react"):
            raise ValueError(f"tool_calling={self.tool_calling!r} must be auto, native, prompted or react.")
        if not isinstance(self.max_repairs, int) or self.max_repairs < 0:
            raise ValueError(f"max_repairs={self.max_repairs!r} must be a whole number, 0 or more.")
        request.build(self.model, [{"role": "user", "content": ""}], self._params(), config=self.transport.config)

    @property
    def transport(self) -> Transport:
        """The way to the server."""
        made = self._transport
        if made is None:  # restored from a pickle
            made = self._transport = self._connect(None, {"base_url": self.base_url})
        return made

    @property
    def spec(self) -> catalog.ModelSpec:
        """What the catalog knows of the model, under the account's plan."""
        return catalog.get(self.model, plan=self.transport.config.plan)

    @property
    def tool_calling(self) -> ToolUse:
        """How agents use tools."""
        chosen: ToolUse = self.additional_params.get("tool_calling", "auto")
        return chosen

    @property
    def max_repairs(self) -> int:
        """How often a wrong answer is asked for again."""
        return int(self.additional_params.get("max_repairs", 2))

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
        if self.response_format is not None and model_of(self.response_format) is None:
            params["response_format"] = self.response_format
        return params | {k: v for k, v in self.additional_params.items() if k not in _NOT_BODY}

    @_retried_below
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
            available_functions: What to run a tool call with; without them the calls are returned.
            from_task: For whom, in events.
            from_agent: For whom, in events.
            response_model: The pydantic class that the answer is to become.

        Returns:
            The answer's text; a `response_model`; a list of tool calls; or the result of the function that was called.

        Raises:
            KlusterError: See `_errors`.
        """
        with llm_call_context():
            turn = Turn(self, messages, tools, available_functions, from_task, from_agent, response_model)
            with turn.reported():
                sent = turn.begin()
                while True:
                    if turn.stream:
                        deltas, calls = [], list[ToolCall]()
                        for delta in turn.transport.stream(sent.body, ChatStream(sent)):
                            turn.watch(delta, calls)
                            deltas.append(delta)
                        answer = collect(deltas)
                    else:
                        answer = read(turn.transport.post(CHAT_PATH, sent.body).data, sent)
                    if (more := turn.take(answer)) is None:
                        return turn.result()
                    sent = more

    @_retried_below
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
        with llm_call_context():
            turn = Turn(self, messages, tools, available_functions, from_task, from_agent, response_model)
            with turn.reported():
                sent = turn.begin()
                while True:
                    if turn.stream:
                        deltas, calls = list[Delta](), list[ToolCall]()
                        async for delta in turn.transport.astream(sent.body, ChatStream(sent)):
                            turn.watch(delta, calls)
                            deltas.append(delta)
                        answer = collect(deltas)
                    else:
                        answer = read((await turn.transport.apost(CHAT_PATH, sent.body)).data, sent)
                    if (more := turn.take(answer)) is None:
                        return turn.result()
                    sent = more

    def supports_function_calling(self) -> bool:
        """Whether agents give tools and response models to the LLM: yes, unless CrewAI's ReAct is wanted."""
        return self.tool_calling != "react"

    def supports_stop_words(self) -> bool:
        """Whether stop words are honored: they are sent, and applied to the answer."""
        return True

    def supports_multimodal(self) -> bool:
        """Whether the model takes images; of a model that the catalog does not know, only the server can say."""
        return self.spec.supports_vision or not self.spec.known

    def _multimodal_formatter_name(self) -> str:
        return "openai"

    def get_context_window_size(self) -> int:
        """Return the tokens of the model's window under the account's plan, less the part that CrewAI reserves."""
        return int(self.spec.context_window * CONTEXT_WINDOW_USAGE_RATIO)

    def get_input_tokens_count(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        response_model: type[BaseModel] | None = None,
    ) -> int:
        """Estimate the tokens of a prompt, without a tokenizer or a request."""
        if isinstance(messages, str):
            return tokens.estimate(messages)
        count = sum(tokens.estimate(_text(message)) + _TOKENS_A_MESSAGE for message in messages)
        if tools:
            count += tokens.estimate(json.dumps(tools, default=str))
        if response_model is not None:
            count += tokens.estimate(json.dumps(response_model.model_json_schema()))
        return count

    def get_token_usage_summary(self) -> UsageMetrics:
        """Return the tokens of all calls of this object.

        `Crew` adds up the LLMs of its agents, one that several share once for each of them (crewAI issue 7259). In that
        sum it counts once here.
        """
        caller = sys._getframe(1)
        if caller.f_code.co_name == "calculate_usage_metrics":
            total = caller.f_locals.get("total_usage_metrics")
            if total is not None and total is self._summed_into:
                return UsageMetrics()
            self._summed_into = total
        return super().get_token_usage_summary()

    def to_config_dict(self) -> dict[str, Any]:
        """Return what `crewai.LLM(**config)` makes an LLM of the same model and address of.

        CrewAI does so when a flow resumes after human feedback. It then is CrewAI's own class, unfiltered, with the key
        from `VLLM_API_KEY`: CrewAI can be told of no other, and must not send its `OPENAI_API_KEY` here.
        """
        params = {n: v for n in _FIELDS if (v := getattr(self, n)) is not None}
        stop = {"stop": list(self.stop)} if self.stop else {}
        return {"model": self.model, "provider": "hosted_vllm", "base_url": self.base_url, **params, **stop}

    def __copy__(self) -> Self:
        """Return a copy with the same connection and its own usage, as `kickoff_for_each` needs."""
        twin = super().__copy__()
        twin.stop, twin.additional_params = list(self.stop), dict(self.additional_params)
        twin._begin_anew()
        return twin

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """As `__copy__`: the connection is shared."""
        twin = copy.copy(self)
        twin.additional_params = copy.deepcopy(self.additional_params, memo)
        return twin

    def _begin_anew(self) -> None:
        self._token_usage = dict.fromkeys(self._token_usage, 0)
        self._plans, self._summed_into = {}, None

    def __getstate__(self) -> dict[Any, Any]:
        """Return the state for a pickle: without the key, which a restored object takes from the environment."""
        state = super().__getstate__()
        private = state["__pydantic_private__"] or {}
        return {**state, "__pydantic_private__": {**private, "_transport": None, "_summed_into": None}}


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _text(message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls")
    return message_content_text(message) + (json.dumps(calls, default=str) if calls else "")  # type: ignore[arg-type]


def kluster_llm(model: str, **options: Any) -> KlusterLLM:
    """Return the CrewAI LLM of a kluster.ai model.

    ```python
    from crewai import Agent
    from kluster_integrations.crewai import kluster_llm

    agent = Agent(role="…", goal="…", backstory="…", llm=kluster_llm("deepseek-ai/DeepSeek-R1"))
    ```

    Args:
        model: The model's id, sent as it is.
        options: As `KlusterLLM` takes them.
    """
    return KlusterLLM(model, **options)


# So that CrewAI finds the class for dumps that say llm_type="kluster": its table has no public door.
if isinstance(_types := getattr(base_agent, "_LLM_TYPE_REGISTRY", None), dict):
    _types["kluster"] = f"{__name__}.KlusterLLM"
