"""One call of the LLM: what is asked, what CrewAI is told meanwhile, what comes back.

`KlusterLLM.call` and `acall` differ in nothing but the way they wait for the server; all else is here.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crewai.events.types.llm_events import LLMCallType
from crewai.hooks.dispatch import HookAborted
from crewai.llms.base_llm import LLMCallBlockedError
from crewai.utilities.i18n import I18N_DEFAULT
from pydantic import BaseModel, ValidationError

from kluster_integrations.core import prompting, request
from kluster_integrations.core.types import ChatRequest, Completion, Delta, ToolCall, ToolCallDelta, Usage
from kluster_integrations.crewai import _plans, _react
from kluster_integrations.crewai._errors import for_crewai
from kluster_integrations.crewai._messages import to_wire
from kluster_integrations.errors import KlusterError, OutputValidationError

if TYPE_CHECKING:
    from kluster_integrations.crewai.llm import KlusterLLM

__all__ = ["Turn", "model_of"]

# What CrewAI asks an agent that is out of iterations, without tools.
_FORCED = I18N_DEFAULT.errors("force_final_answer")
_NO_MORE_CALLS = "No tool can be called any more: give the answer itself."


class Turn:
    """One call.

    Args:
        llm: The model that is called.
        messages: CrewAI's messages.
        tools: OpenAI's tool objects.
        functions: What to run a tool call with here; None hands calls to the caller.
        task: For whom, in events.
        agent: For whom, in events; decides which errors end the task.
        model: The pydantic class that the answer is to become.
    """

    def __init__(
        self,
        llm: KlusterLLM,
        messages: str | Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None,
        functions: Mapping[str, Any] | None,
        task: Any,
        agent: Any,
        model: type[BaseModel] | None,
    ) -> None:
        self._llm = llm
        self._given: Any = messages
        self._messages: Any = messages
        self._tools: Any = tools
        self._functions = dict(functions or {})
        self._plans = _plans.FUNCTION in self._functions
        self._whom: dict[str, Any] = {"from_task": task, "from_agent": agent}
        self._model = model or model_of(llm.response_format)
        self._checked = self._model or self._task_model()
        self._response_id: str | None = None
        self.transport = llm.transport
        self.stream = bool(llm._effective_stream())

    def _task_model(self) -> type[BaseModel] | None:
        """Return what a final answer after tools must be: CrewAI asks for it in the task's prompt.

        The steps of a plan are not final answers; CrewAI asks for those with a `response_model` of their own.
        """
        task, agent = self._whom["from_task"], self._whom["from_agent"]
        if not self._tools or self._functions or getattr(agent, "planning_enabled", False):
            return None
        return getattr(task, "output_pydantic", None) or getattr(task, "output_json", None)

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Turn errors into CrewAI's, and tell of them once."""
        try:
            with self.transport.errors:
                yield
        except (HookAborted, LLMCallBlockedError) as err:
            self._llm._emit_call_denied_event(err, **self._whom)
            raise
        except BaseException as err:  # a cancelled call ends, too
            self._llm._emit_call_failed_event(f"kluster.ai: {str(err) or type(err).__name__}", **self._whom)
            if isinstance(err, KlusterError):
                raise for_crewai(err, by_agent=self._whom["from_agent"] is not None) from None
            raise

    def begin(self) -> ChatRequest:
        """Tell CrewAI that the call begins, let its hooks change the messages, and return the first request."""
        llm = self._llm
        llm._emit_call_started_event(
            messages=self._given, tools=self._tools, available_functions=self._functions or None, **self._whom
        )
        self._messages = llm._format_messages(self._given)
        self._plans_in_text = not self._tools and _plans.wanted_as_text(self._messages, self._whom["from_agent"])
        self._reacts = not self._tools and _react.is_asked_for(self._messages)
        if self._reacts:  # a `LiteAgent` wants an object behind its tools, and asks for it in that prompt
            self._model = self._checked = None
        self._is_forced = bool(self._messages) and self._messages[-1].get("content") == _FORCED
        llm._invoke_before_llm_call_hooks(self._messages, self._whom["from_agent"])
        sent = self._build()
        self._tries = prompting.attempts(sent, llm.max_repairs, self._problem)
        return next(self._tries)

    def _build(self) -> ChatRequest:
        llm, params = self._llm, self._llm._params()
        if self._tools:
            params["tools"] = list(self._tools)
            if self._plans:
                params["tool_choice"] = _plans.FUNCTION
        if self._model is not None:
            params["response_format"] = _json_schema(self._model)
        mode = llm.tool_calling
        sent = request.build(
            llm.model,
            to_wire(self._messages),
            params,
            config=self.transport.config,
            stream=self.stream,
            tool_calling="auto" if mode == "react" else mode,
            extra_body=llm.additional_params.get("extra_body"),
        )
        if self._checked is not None and sent.schema is None:
            sent.schema = self._checked.model_json_schema()  # asked for by CrewAI already: only to be checked
        if extra := [s for s in llm.stop_sequences if s not in llm.stop]:
            _stop_here(sent, extra)
        return sent

    def _problem(self, sent: ChatRequest, answer: Completion) -> str | None:
        """Return what is wrong with an answer, in words for the model."""
        if problem := prompting.answer_error(replace(sent, schema=None) if self._checked else sent, answer):
            return problem
        if answer.tool_calls:
            return None if sent.tools or "tools" in sent.body else _NO_MORE_CALLS
        if not answer.text.strip():
            return "The answer is empty."
        if self._is_forced and (prompting.calls_in(answer.text)[1] or _react.is_action(answer.text)):
            return _NO_MORE_CALLS
        if self._reacts and (problem := _react.problem(answer.text, is_cut=answer.finish_reason == "length")):
            return problem
        if self._checked is None:
            return None
        value = prompting.find_json(answer.text)
        if value is None:
            return "The answer holds no JSON."
        try:
            _instance(self._checked, value)
        except ValidationError as err:
            return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the value'}: {e['msg']}" for e in err.errors())
        return None

    def watch(self, delta: Delta, calls: list[ToolCall]) -> None:
        """Tell CrewAI of a piece of the answer; `calls` collects tool calls as they grow."""
        llm = self._llm
        if delta.meta and (found := delta.meta.get("id")):
            self._response_id = found
        if delta.reasoning:
            llm._emit_thinking_chunk_event(delta.reasoning, response_id=self._response_id, **self._whom)
        if delta.content:
            llm._emit_stream_chunk_event(delta.content, response_id=self._response_id, **self._whom)
        for piece in delta.tool_calls:
            llm._emit_stream_chunk_event(
                piece.arguments,
                tool_call=_grow(calls, piece),
                call_type=LLMCallType.TOOL_CALL,
                response_id=self._response_id,
                **self._whom,
            )

    def take(self, answer: Completion) -> ChatRequest | None:
        """Take an answer; return the next request, or None if the answer is what was asked for."""
        self._llm._track_token_usage_internal(_usage(answer.usage))
        if answer.reasoning and not self.stream:
            self._llm._emit_thinking_chunk_event(answer.reasoning, response_id=answer.id, **self._whom)
        if self._reacts:
            answer.text = _react.first_action(answer.text)
        elif self._tools and not answer.tool_calls:
            self._find_calls(answer)
        try:
            return self._tries.send(answer)
        except StopIteration as done:
            self.answer: Completion = done.value
        except OutputValidationError:
            if not (self._plans or self._plans_in_text):
                raise
            self.answer = answer  # the work can go on without a plan
        return None

    def _find_calls(self, answer: Completion) -> None:
        """Find calls that a model with native tools wrote as text, which its server did not read."""
        text, found = prompting.calls_in(answer.text)
        names = {tool["function"]["name"] for tool in self._tools}
        if found and names.issuperset(call.name for call in found):
            answer.text = text.rstrip()
            answer.tool_calls = [ToolCall(f"call_{uuid.uuid4().hex}", *call) for call in found]

    def result(self) -> Any:
        """Tell CrewAI that the call is complete, and return what it wants of it."""
        answer = self.answer
        if self._plans and not answer.tool_calls:
            plan = _plans.arguments_from(answer.text)
            answer.tool_calls = [ToolCall("", _plans.FUNCTION, json.dumps(plan))]
        if answer.tool_calls and self._functions:
            return self._run(answer.tool_calls)
        if answer.tool_calls:
            calls = [_as_dict(call, i) for i, call in enumerate(answer.tool_calls)]
            self._complete(calls, LLMCallType.TOOL_CALL)
            return calls
        if self._model is not None:
            value = prompting.find_json(answer.text)
            instance = _instance(self._model, value)
            self._complete(instance.model_dump_json(), LLMCallType.LLM_CALL)
            return instance
        text = self._llm._apply_stop_words(answer.text)
        self._complete(text, LLMCallType.LLM_CALL)
        if self._plans_in_text and self._enough(ready=_plans.is_ready(text)):
            text = f"{text}\n\n{_plans.READY}".lstrip()
        return self._llm._invoke_after_llm_call_hooks(self._messages, text, self._whom["from_agent"])

    def _complete(self, response: Any, kind: LLMCallType) -> None:
        self._llm._emit_call_completed_event(
            response=response,
            call_type=kind,
            messages=self._messages,
            usage=_usage(self.answer.usage),
            finish_reason=self.answer.finish_reason,
            response_id=self.answer.id,
            **self._whom,
        )

    def _run(self, calls: Sequence[ToolCall]) -> Any:
        """Run the first call that can be run, as CrewAI's own classes do; its events are CrewAI's."""
        for call in calls:
            if call.name not in self._functions:
                continue
            found = prompting.find_json(call.arguments)
            arguments: dict[str, Any] = found if isinstance(found, dict) else {}
            if self._plans:
                plan = _plans.carried_out(arguments, self._messages, self._whom["from_agent"])
                arguments = {**plan, "ready": self._enough(ready=plan["ready"])}
            result = self._llm._handle_tool_execution(
                call.name, arguments, available_functions=self._functions, **self._whom
            )
            return "" if result is None else result
        text = self.answer.text or f"There is no function {calls[0].name!r}."
        self._complete(text, LLMCallType.LLM_CALL)
        return text

    def _enough(self, *, ready: bool) -> bool:
        """Return whether a plan is to be carried out: when it is ready, or was asked for often enough."""
        if _plans.is_bounded(self._whom["from_agent"]):
            return ready
        counts = self._llm._plans
        key = "/".join(str(getattr(who, "id", "")) for who in self._whom.values())
        count = counts.pop(key, 0) + 1
        if ready or count >= _plans.MAX_ATTEMPTS:
            return True
        counts[key] = count
        return False


def model_of(response_format: object) -> type[BaseModel] | None:
    """Return the `response_format` if it is a pydantic class."""
    if isinstance(response_format, type) and issubclass(response_format, BaseModel):
        return response_format
    return None


def _json_schema(model: type[BaseModel]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": model.__name__, "schema": model.model_json_schema()}}


def _instance(model: type[BaseModel], value: Any) -> BaseModel:
    # As JSON, so that strict models take texts for dates, enums and the like.
    return model.model_validate_json(json.dumps(value))


def _stop_here(sent: ChatRequest, extra: Sequence[str]) -> None:
    """Apply the stops that CrewAI adds for a call on this side, where the model thinks in its text.

    It adds one for its ReAct format to every call, and a server would end an answer at it within the thoughts.
    """
    if sent.spec.reasoning and (stops := sent.body.pop("stop", None)):
        if kept := [s for s in stops if s not in extra]:
            sent.body["stop"] = kept
        sent.client_stops = (*sent.client_stops, *(s for s in extra if s not in sent.client_stops))


def _grow(calls: list[ToolCall], piece: ToolCallDelta) -> dict[str, Any]:
    """Add a piece to its call, and return the call so far."""
    if piece.id is not None:
        calls.append(ToolCall(piece.id, piece.name or "", ""))
    call = calls[piece.index]
    call.arguments += piece.arguments
    return _as_dict(call, piece.index)


def _as_dict(call: ToolCall, index: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function, "index": index}


def _usage(usage: Usage) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached_tokens is not None:
        numbers["cached_prompt_tokens"] = usage.cached_tokens
    if usage.reasoning_tokens is not None:
        numbers["reasoning_tokens"] = usage.reasoning_tokens
    if usage.estimated:
        numbers["estimated"] = True
    return numbers
