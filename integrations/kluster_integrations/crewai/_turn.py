"""One call of the LLM: its request, the events while the answer comes, and what CrewAI gets back.

`KlusterLLM.call` and `acall` differ only in how they wait for the server; everything else is here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Self

from crewai.events.types.llm_events import LLMCallType
from crewai.llms.base_llm import BaseLLM, llm_call_context
from pydantic import BaseModel, ValidationError

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.core.client import find_calls, find_json
from kluster_integrations.core.types import ChatRequest, Completion, Delta, ToolCall, ToolCallDelta, Usage
from kluster_integrations.crewai import _compat, _plans, _react
from kluster_integrations.crewai._errors import for_crewai
from kluster_integrations.errors import KlusterError, OutputValidationError

__all__ = ["Turn"]

_logger = logging.getLogger(__name__)

# CrewAI's request for a final answer, without tools, when an agent has used up its iterations.
_FORCED = _compat.prompt("errors", "force_final_answer")
_NO_MORE_CALLS = "No tool can be called any more: give the answer itself."


class Turn:
    """One call.

    Args:
        llm: The model that is called.
        build: A function that makes a request from messages, parameters and `stream`.
        count: A function that takes the tokens of the call.
        callbacks: The user's callbacks; see `KlusterLLM`.
        plans: The numbers of plans that were not ready, for `plan_accepted`.
        model: The pydantic class of the answer.
        messages: CrewAI's messages.
        tools: OpenAI's tool objects.
        functions: The functions that run tool calls here; None returns the calls to the caller.
        task: The task of the call, for events.
        agent: The agent of the call, for events.
    """

    def __init__(
        self,
        llm: BaseLLM,
        build: Callable[..., ChatRequest],
        count: Callable[[Usage], None],
        callbacks: Sequence[Any],
        plans: dict[str, int],
        model: type[BaseModel] | None,
        messages: str | Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None,
        functions: Mapping[str, Any] | None,
        task: Any,
        agent: Any,
    ) -> None:
        self._llm = llm
        self._build = build
        self._add = count
        self._callbacks = callbacks
        self._begun = datetime.now()
        self._spec: ModelSpec | None = None
        self._messages: Any = messages
        self._tools: Any = tools
        self._functions = dict(functions or {})
        self._is_plan = _plans.FUNCTION in self._functions
        self._is_plan_in_text = self._is_step = self._reacts = self._is_forced = False
        self._accepts_plan = partial(_plans.plan_accepted, plans, task, agent)
        self._agent = agent
        self._whom: dict[str, Any] = {"from_task": task, "from_agent": agent}
        self._model = self._checked = model
        if tools and not (model or functions or getattr(agent, "planning_enabled", False)):
            # What a final answer after tools must be: CrewAI asks for it in the task's prompt. The steps of a plan are
            # not final answers, and have a `response_model` of their own.
            self._checked = getattr(task, "output_pydantic", None) or getattr(task, "output_json", None)
        self._instance: BaseModel | None = None
        self._whose = dict(self._whom)  # with the answer's id, for the events of its deltas
        self.stream = _compat.streams(llm)

    @contextmanager
    def reported(self) -> Iterator[Self]:
        """Turn errors into this adapter's classes, and emit one event for each."""
        with llm_call_context():
            try:
                yield self
            except (_compat.HookAborted, _compat.LLMCallBlockedError) as err:
                _compat.emit_denied(self._llm, err, **self._whom)
                raise
            except BaseException as err:  # a cancelled call ends, too
                _compat.emit_failed(self._llm, f"kluster.ai: {str(err) or type(err).__name__}", **self._whom)
                self._tell("log_failure_event", {"exception": err}, None)
                if isinstance(err, KlusterError):
                    raise for_crewai(err, is_step=self._is_step) from None
                raise

    def begin(self) -> ChatRequest:
        """Emit the first event, let CrewAI's hooks change the messages, and return the request."""
        llm = self._llm
        given = {"messages": self._messages, "tools": self._tools, "available_functions": self._functions or None}
        _compat.emit_started(llm, **given, **self._whom)
        self._messages = _compat.format_messages(llm, self._messages)
        self._is_step = _plans.is_step(self._messages, self._agent)
        if not self._tools:
            self._is_plan_in_text = _plans.wanted_as_text(self._messages, self._agent)
            self._reacts = _react.is_asked_for(self._messages)
        if self._reacts:  # a `LiteAgent` wants an object behind its tools, and asks for it in that prompt
            self._model = self._checked = None
        self._is_forced = bool(_FORCED and self._messages) and self._messages[-1].get("content") == _FORCED
        _compat.run_before_hooks(llm, self._messages, self._agent)
        params: dict[str, Any] = {"tools": [_openai_tool(tool) for tool in self._tools or ()] or None}
        if self._is_plan:
            params["tool_choice"] = _plans.FUNCTION
        if self._model is not None:
            schema = {"name": self._model.__name__, "schema": self._model.model_json_schema()}
            params["response_format"] = {"type": "json_schema", "json_schema": schema}
        request = self._build(self._messages, params, stream=self.stream)
        self._spec = request.spec
        if self._checked is not None:
            # Any JSON, because the class checks it: it accepts "21" as a number, but its schema does not.
            request.schema = {"title": self._checked.__name__}
        if self._checked or self._reacts or self._is_forced:
            request.check = self._check
        return request

    def _check(self, completion: Completion) -> str | None:
        """Return why CrewAI could not use an answer, in words for the model, or None; keep the answer's object."""
        if self._reacts:
            completion.text = _react.first_action(completion.text)
        if self._is_forced and (completion.tool_calls or self._is_call(completion.text)):
            return _NO_MORE_CALLS
        if self._reacts:
            return _react.problem(completion.text, is_cut=completion.is_cut)
        if self._checked is not None and not (self._tools and completion.tool_calls):
            value = find_json(completion.text, is_cut=completion.is_cut)
            try:  # as JSON, so that strict models take texts for dates, enums and the like
                self._instance = self._checked.model_validate_json(json.dumps(value))
            except ValidationError as err:
                return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the value'}: {e['msg']}" for e in err.errors())
        return None

    def _is_call(self, text: str) -> bool:
        """Return whether a text calls a tool; for a tool that was called before, in any form."""
        called = [call for message in self._messages for call in message.get("tool_calls") or ()]
        names = frozenset(call["function"]["name"] for call in called)
        return bool(find_calls(text, names)) or _react.is_action(text)

    def watch(self, delta: Delta) -> Delta:
        """Emit the events of a delta, and return it."""
        if delta.meta and "id" in delta.meta:
            self._whose["response_id"] = delta.meta["id"]
        if delta.reasoning:
            _compat.emit_thinking(self._llm, delta.reasoning, **self._whose)
        if delta.content:
            _compat.emit_chunk(self._llm, delta.content, **self._whose)
        for call in delta.tool_calls:  # each comes whole, once it is right
            made = _as_dict(call, call.index)
            _compat.emit_chunk(
                self._llm, call.arguments, tool_call=made, call_type=LLMCallType.TOOL_CALL, **self._whose
            )
        return delta

    def take_wrong(self, error: OutputValidationError) -> Completion:
        """Return an answer that stays wrong if CrewAI can continue with it (a plan); else raise the error."""
        completion: Completion = error.completion
        if self._is_plan or self._is_plan_in_text:
            return completion
        self._count(completion.usage)
        raise error

    def result(self, completion: Completion) -> Any:
        """Count the tokens of an answer, emit the last event, and return the result for CrewAI."""
        self._count(completion.usage)
        if completion.reasoning and not self.stream:
            _compat.emit_thinking(self._llm, completion.reasoning, response_id=completion.id, **self._whom)
        calls = completion.tool_calls if self._tools else []
        if self._is_plan:
            return self._run(_plans.FUNCTION, self._plan(completion))
        if call := next((call for call in calls if call.name in self._functions), None):
            return self._run(call.name, json.loads(call.arguments))
        if calls and not self._functions:
            made = [_as_dict(call, i) for i, call in enumerate(calls)]
            self._complete(completion, made, LLMCallType.TOOL_CALL)
            return made
        if self._model is not None and self._instance is not None:
            self._complete(completion, completion.text)
            return self._instance
        # Listeners can tell attempts apart by their `response_id`. A server may not know the stops.
        text = _compat.cut_at_stops(self._llm, completion.text.removeprefix(completion.earlier))
        if calls and not text:
            text = f"There is no function {calls[0].name!r}."
        self._complete(completion, text)
        if self._is_plan_in_text and self._accepts_plan(ready=_plans.is_ready(text)):
            text = f"{text}\n\n{_plans.READY}".lstrip()
        return _compat.run_after_hooks(self._llm, self._messages, text, self._agent)

    def _complete(self, completion: Completion, response: Any, kind: LLMCallType = LLMCallType.LLM_CALL) -> None:
        _compat.emit_completed(
            self._llm,
            response=response,
            call_type=kind,
            messages=self._messages,
            usage=self._usage(completion),
            finish_reason=completion.finish_reason,
            response_id=completion.id,
            **self._whom,
        )

    def _run(self, name: str, arguments: dict[str, Any]) -> Any:
        """Run a function, as CrewAI's own classes do; its events are CrewAI's."""
        result = _compat.run_function(self._llm, name, arguments, available_functions=self._functions, **self._whom)
        return "" if result is None else result

    def _plan(self, completion: Completion) -> dict[str, Any]:
        """Return the arguments of the function for plans, also for an answer that did not call it correctly."""
        calls = [call for call in completion.tool_calls if call.name == _plans.FUNCTION]
        if calls and not calls[0].error:
            plan = json.loads(calls[0].arguments)
        else:
            plan = _plans.read_plan(completion.text or "".join(call.arguments for call in calls))
        plan = _plans.renumber_steps(plan, self._messages, self._agent)
        return {**plan, "ready": self._accepts_plan(ready=plan["ready"])}

    def _count(self, usage: Usage) -> None:
        self._add(usage)
        self._tell("log_success_event", {}, {"usage": _tokens(usage)})

    def _tell(self, event: str, more: Mapping[str, Any], response: Any) -> None:
        """Call the user's callbacks. A failing callback is logged and does not end the call."""
        for one in self._callbacks:
            try:
                if (log := getattr(one, event, None)) is not None:
                    log(
                        {"model": self._llm.model, "messages": self._messages, **more},
                        response,
                        self._begun,
                        datetime.now(),
                    )
            except Exception:
                _logger.exception("The callback %r of an LLM has failed.", type(one).__name__)

    def _usage(self, completion: Completion) -> dict[str, Any]:
        """Return the tokens, the cost and the log probabilities for the last event."""
        usage = completion.usage
        spec = completion.priced or self._spec
        cost = spec.cost_to_show(usage.prompt_tokens, usage.completion_tokens) if spec else None
        more = {"cost": cost, "logprobs": completion.logprobs}
        return _tokens(usage) | {name: value for name, value in more.items() if value is not None}


def _openai_tool(tool: Any) -> Any:
    """Return a tool in OpenAI's form; CrewAI also documents a dict of `name`, `description` and `parameters`."""
    if isinstance(tool, Mapping) and "name" in tool and "function" not in tool:
        return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
    return tool


def _as_dict(call: ToolCall | ToolCallDelta, index: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function, "index": index}


def _tokens(usage: Usage) -> dict[str, Any]:
    """Return the tokens under CrewAI's names, without those that the server does not send."""
    numbers = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_prompt_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "estimated": usage.estimated or None,
    }
    return {name: number for name, number in numbers.items() if number is not None}
