"""Find what is wrong with a completion, and ask the model again."""

from __future__ import annotations

import functools
from collections.abc import Generator
from dataclasses import replace

from kluster_integrations.core import prompting
from kluster_integrations.core.errors import OutputValidationError
from kluster_integrations.core.json_text import MISSING, compact, find_json, read_arguments
from kluster_integrations.core.schemas import schema_error
from kluster_integrations.core.types import NO_USAGE, ChatRequest, Completion, Message, Usage

__all__ = ["attempts", "find_problem", "repair_text"]

_NOT_RUN = "Not run, for another call of the same answer is wrong."


def attempts(request: ChatRequest) -> Generator[ChatRequest, Completion, Completion]:
    """Yield requests, receive their completions, and return the first valid one.

    The model is told what is wrong, at most `request.max_repairs` times. An answer that was cut at its limit of tokens
    is not repaired: the limit would cut it again. The returned completion has the tokens and the reasoning of all
    attempts. If the text is not checked, it also has the text of all attempts, because a stream has shown it already.
    If JSON was asked for, its text is only JSON. Each of several answers (`n`) is checked and repaired separately.

    Raises:
        OutputValidationError: If the last answer is wrong, too; it carries the raw text and the completion.
    """
    if request.n > 1:
        return (yield from _several(request))
    completion = yield request
    _check_calls(request, completion)
    if request.max_repairs < 0:
        return completion
    usage, reasoning, text, left = completion.usage, [completion.reasoning], list[str](), request.max_repairs
    while (problem := find_problem(request, completion)) and left and not completion.is_cut:
        left -= 1
        if not request.is_checked:
            text.append(_shown_text(request, completion.text))
        request = replace(request, body={**request.body, "messages": _ask_again(request, completion, problem)})
        completion = yield request
        _check_calls(request, completion)
        usage = usage.plus(completion.usage)
        reasoning.append(completion.reasoning)
    completion.usage, completion.reasoning = usage, "\n\n".join(filter(None, reasoning))
    if problem and not (request.returns_invalid_calls and _invalid_call(completion)):
        raise _failure(request, completion, problem)
    completion.earlier = "\n\n".join(filter(None, text))
    if completion.earlier and completion.text:
        completion.earlier += "\n\n"
    completion.text = completion.earlier + completion.text
    if request.schema is not None and not completion.tool_calls:
        completion.text = compact(find_json(completion.text, is_cut=completion.is_cut))
    return completion


def _several(request: ChatRequest) -> Generator[ChatRequest, Completion, Completion]:
    """Check and repair each of several answers as if it were the only one."""
    answer = yield request
    alone = replace(request, body={name: value for name, value in request.body.items() if name != "n"})
    done: list[Completion] = []
    for completion in (answer, *answer.others):
        tries = attempts(alone)
        next(tries)  # skip its first request: its answer is here already
        try:
            current = tries.send(completion)
            while True:
                current = tries.send((yield current))
        except StopIteration as ended:
            done.append(ended.value)
    first, *others = done
    first.usage = functools.reduce(Usage.plus, (completion.usage for completion in done))
    first.others = others
    for other in others:
        other.usage = NO_USAGE
    return first


def _shown_text(request: ChatRequest, text: str) -> str:
    """Return the part of a wrong answer's text that a stream has shown."""
    shown = text[: prompting.doubtful_from(text, request.tool_names, prompted=bool(request.tools))]
    return shown if shown.strip() or not request.must_answer else ""


def _check_calls(request: ChatRequest, completion: Completion) -> None:
    """Set the arguments of each call to one JSON object, or set its error.

    A call of an unknown tool is not an error if tools were offered: the code that runs tools refuses it. Without tools
    nobody runs a call, so every call is an error.
    """
    for call in completion.tool_calls:
        call.arguments, call.error = read_arguments(call.arguments, is_cut=completion.is_cut)
        if not call.name:
            call.error = "It names no tool."
        if not request.tool_names:
            call.error = "No tool was offered."


def find_problem(request: ChatRequest, completion: Completion) -> str | None:
    """Return what is wrong with a completion, in words for the model; None if it is valid."""
    if problem := _invalid_call(completion):
        return problem
    calls, text = completion.tool_calls, completion.text
    if isinstance(request.must_call, str) and request.must_call not in {c.name for c in calls}:
        return f"The answer must call the tool `{request.must_call}`{_how(request)}."
    if request.tool_names and not calls:
        doubtful = text[prompting.doubtful_from(text, request.tool_names, prompted=bool(request.tools)) :]
        if doubtful.startswith(prompting.RESULT_OPEN):
            return f"No tool was called, so there is no {prompting.RESULT_OPEN}: call the tool, or answer without."
        if doubtful:
            return 'A tool call must be one JSON object with the "name" of a tool and "arguments"' + _how(request) + "."
        if request.must_call:
            return f"The answer must call a tool{_how(request)}."
    if request.schema is not None and not calls:
        value = find_json(text, is_cut=completion.is_cut, default=MISSING)
        if value is MISSING:
            return "The answer holds no JSON."
        if problem := schema_error(value, request.schema):
            return problem
    if request.check is not None and (problem := request.check(completion)):
        return problem
    if request.must_answer and not completion.text.strip() and not (calls and request.tool_names):
        return "The answer is empty."
    return None


def _how(request: ChatRequest) -> str:
    return ", in a <tool_call> block" if request.tools else ""


def _invalid_call(completion: Completion) -> str | None:
    broken = next((call for call in completion.tool_calls if call.error), None)
    return None if broken is None else f"The call of `{broken.name}` cannot be run: {broken.error}"


def _failure(request: ChatRequest, completion: Completion, problem: str) -> OutputValidationError:
    limit = request.max_tokens
    if completion.is_cut:
        where = "while the model was reasoning, " if completion.reasoning and not completion.text else ""
        limit = f"max_completion_tokens={limit}" if limit else "the server's limit of tokens"
        problem = f"it was cut off {where}at {limit}. {problem}"
        hint = "raise max_completion_tokens; the text so far is in .raw_text."
    else:
        hint = "look at .raw_text; then simplify the prompt or the schema, raise max_repairs, or use a larger model."
    error = OutputValidationError(f"The model's answer is not what was asked for: {problem}", hint=hint)
    error.raw_text = completion.text or "\n".join(call.arguments for call in completion.tool_calls)
    error.completion = completion
    return error


def _ask_again(request: ChatRequest, completion: Completion, problem: str) -> list[Message]:
    """Return the messages, the wrong answer and the problem, in an order that chat templates accept."""
    said = repair_text(problem)
    answer: Message = {"role": "assistant", "content": completion.text}
    more: list[Message] = [{"role": "user", "content": said}]
    calls = completion.tool_calls if request.tool_names else []
    if calls:
        answer["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": prompting.wire_arguments(call.arguments)},
            }
            for call in calls
        ]
        if request.tools:
            [answer] = prompting.render([answer], [], None)
        else:
            broken = any(call.error for call in calls)
            results = [(call.id, said if call.error or not broken else _NOT_RUN) for call in calls]
            more = [{"role": "tool", "tool_call_id": id_, "content": content} for id_, content in results]
    return [*request.body["messages"], answer, *more]


def repair_text(problem: str) -> str:
    """Return the text that tells the model about its wrong answer."""
    return f"That is not what was asked for. {problem} Answer again, correctly and completely."
