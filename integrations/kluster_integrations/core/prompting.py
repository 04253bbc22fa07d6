"""Tool calls and JSON answers from models and servers that have neither: asked for in the prompt, read from the text.

The wording of tools is Hermes', which many open-weight models were trained on: a `<tools>` block in the system message,
calls as `<tool_call>{"name": …, "arguments": …}</tool_call>`, results as `<tool_response>…</tool_response>`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from kluster_integrations.core.errors import BadRequestError, OutputValidationError

if TYPE_CHECKING:
    from kluster_integrations.core.request import ChatRequest
    from kluster_integrations.core.response import Completion

__all__ = [
    "PromptedCall",
    "ToolCallSplitter",
    "answer_error",
    "ask_for_json",
    "attempts",
    "calls_in",
    "check_schema",
    "find_json",
    "render",
    "repair_text",
    "schema_error",
]

Message = dict[str, Any]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_RESULT = "<tool_response>"

_TOOLS = """You can call tools. These are the tools, one JSON object a line:
<tools>
{tools}
</tools>
To call a tool, write exactly this, with arguments that follow the tool's parameters:
<tool_call>
{{"name": "the tool's name", "arguments": {{"parameter": "value"}}}}
</tool_call>
Write nothing after a call: the result comes in the next message, as <tool_response>. Never write one yourself.
{parallel}
If no tool is needed, answer in plain text."""
_PARALLEL = "Several independent calls may follow one another, each in a <tool_call> of its own."
_SINGLE = "Make one call at a time."
_REQUIRED = "In this answer you must call at least one tool."
_NAMED = "In this answer you must call the tool `{name}`."

_JSON_SCHEMA = """Answer with one JSON value that is valid against this JSON schema, and with nothing else:
<schema>
{schema}
</schema>"""
_JSON_OBJECT = "Answer with one JSON object and with nothing else."


class PromptedCall(NamedTuple):
    """A tool call that was read from text; `arguments` is JSON."""

    name: str
    arguments: str


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """Add to the system message, or begin with one: templates take only one, and only at the beginning."""
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{text}".lstrip()}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def render(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    choice: str | Mapping[str, Any] | None,
    *,
    parallel: bool = True,
) -> list[Message]:
    """Return the messages with tools, earlier calls and their results as text.

    Args:
        messages: Wire-shaped messages; without calls, results and `tools` they come back as they are.
        tools: OpenAI's tool objects.
        choice: `auto`, `none`, `required`, a named function as OpenAI has it, or None for `auto`.
        parallel: Whether several calls in one answer are welcome.
    """
    rendered: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            _append_result(rendered, message)
        elif message.get("tool_calls"):
            rendered.append({"role": "assistant", "content": _calls_as_text(message)})
        else:
            rendered.append(message)
    if not tools or choice == "none":
        return rendered
    lines = "\n".join(_compact(tool) for tool in tools)
    text = _TOOLS.format(tools=lines, parallel=_PARALLEL if parallel else _SINGLE)
    if choice == "required":
        text += f"\n{_REQUIRED}"
    elif isinstance(choice, Mapping):
        text += "\n" + _NAMED.format(name=choice["function"]["name"])
    return _with_system(rendered, text)


def _calls_as_text(message: Message) -> str:
    parts = [message["content"]] if message["content"] else []
    for call in message["tool_calls"]:
        function = call["function"]
        arguments = function["arguments"] or "{}"
        parts.append(f'{_OPEN}\n{{"name": {_compact(function["name"])}, "arguments": {arguments}}}\n{_CLOSE}')
    return "\n".join(parts)


def _append_result(rendered: list[Message], message: Message) -> None:
    """Put a result into a user message; parallel ones share it, since templates want roles to alternate."""
    text = f"<tool_response>\n{message['content']}\n</tool_response>"
    last = rendered[-1] if rendered else None
    if last is not None and last["role"] == "user" and str(last["content"]).endswith("</tool_response>"):
        rendered[-1] = {"role": "user", "content": f"{last['content']}\n{text}"}
    else:
        rendered.append({"role": "user", "content": text})


class ToolCallSplitter:
    """Takes `<tool_call>` blocks out of a text that comes in pieces. What is no call stays text.

    A call of a tool that does not exist is a call, too: who runs the tools tells the model so. White space behind a
    call goes with it.

    Attributes:
        found: Whether there was a call.
    """

    __slots__ = ("_behind_call", "_held", "found")

    def __init__(self) -> None:
        self._held = ""
        self._behind_call = False
        self.found = False

    def feed(self, text: str) -> tuple[str, list[PromptedCall]]:
        """Return text that is certain, and the calls that this piece completes."""
        text = self._held + text
        out: list[str] = []
        calls: list[PromptedCall] = []
        while text:
            at = _find_open(text)
            out.append(self._text(text[:at]))
            text = text[at:]
            size = self._block(text, out, calls) if text.startswith(_OPEN) else 0
            if not size:
                break
            text = text[size:]
        self._held = text
        return "".join(out), calls

    def close(self) -> tuple[str, list[PromptedCall]]:
        """Return what was held: a call whose closing tag the model left out (or a stop cut off), or text."""
        held, self._held = self._held, ""
        call = _read_call(held[len(_OPEN) :]) if held.startswith(_OPEN) else None
        if call is None:
            return self._text(held), []
        self.found = True
        return "", [call]

    def _block(self, text: str, out: list[str], calls: list[PromptedCall]) -> int:
        """Return the length of the block at the beginning of a text, 0 where more must come to know."""
        first = end = text.find(_CLOSE)
        while end >= 0:
            if call := _read_call(text[len(_OPEN) : end]):
                calls.append(call)
                self.found = self._behind_call = True
                return end + len(_CLOSE)
            end = text.find(_CLOSE, end + 1)  # the tag may stand in an argument
        again = text.find(_OPEN, first) if first >= 0 else -1
        if again < 0:
            return 0
        out.append(self._text(text[:again]))
        return again

    def _text(self, text: str) -> str:
        if self._behind_call and text:
            text = text.lstrip()
            self._behind_call = not text
        return text


def calls_in(text: str) -> tuple[str, list[PromptedCall]]:
    """Return a whole text without its calls, and the calls."""
    splitter = ToolCallSplitter()
    (before, calls), (rest, last) = splitter.feed(text), splitter.close()
    return before + rest, [*calls, *last]


def _read_call(text: str) -> PromptedCall | None:
    """Return the call that stands in a block, also in a fence or with words around it."""
    try:
        value = json.loads(text, strict=False) if _OPEN in text else find_json(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = find_json(arguments)
    return PromptedCall(value["name"], _compact(arguments if isinstance(arguments, dict) else {}))


def _find_open(text: str) -> int:
    """Return where `<tool_call>` begins, or may be beginning at the end; else the length."""
    at = text.find(_OPEN)
    if at >= 0:
        return at
    for size in range(min(len(text), len(_OPEN) - 1), 0, -1):
        if _OPEN.startswith(text[-size:]):
            return len(text) - size
    return len(text)


def ask_for_json(messages: Sequence[Message], schema: Mapping[str, Any]) -> list[Message]:
    """Return the messages with the wish for JSON in the system message; an empty schema is any object."""
    text = _JSON_SCHEMA.format(schema=_compact(schema)) if schema else _JSON_OBJECT
    return _with_system(messages, text)


_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
_MAX_SAID = 1_000
_MAX_STARTS = 500  # a model that repeats itself may open a hundred thousand braces; each costs a pass over the text
_START = re.compile(r"[{\[]")


def find_json(text: str) -> Any:
    """Return the JSON value in a text: the text itself, in a fence, or the longest object or array in prose.

    Returns:
        The decoded value, or None where there is none (`null` counts as none).
    """
    for candidate in (text, *_FENCE.findall(text)):
        try:
            return json.loads(candidate, strict=False)  # models write line breaks into strings
        except (ValueError, RecursionError):
            continue
    best: Any = None
    size = at = 0
    decoder = json.JSONDecoder(strict=False)
    for _ in range(_MAX_STARTS):
        if not (found := _START.search(text, at)):
            break
        try:
            value, at = decoder.raw_decode(text, found.start())
        except ValueError:
            at = found.end()
            continue
        except RecursionError:  # a model that repeats itself: nothing in there is meant
            break
        if at - found.start() > size:
            best, size = value, at - found.start()
    return best


def schema_error(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a value under a JSON schema (an empty one: any object), None if nothing is.

    References to other documents are not followed: nothing is fetched.

    Raises:
        BadRequestError: If the schema itself cannot be used.
    """
    if not schema:
        return None if isinstance(value, dict) else "The answer is not a JSON object."
    import jsonschema
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    check_schema(schema)
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        worst = jsonschema.exceptions.best_match(validator(schema, registry=Registry()).iter_errors(value))
    except (Unresolvable, re.error) as err:
        raise _unusable(str(err)) from None
    return f"{worst.json_path}: {worst.message[:_MAX_SAID]}" if worst else None


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuse what is no JSON schema. References in it are followed only when there is a value.

    Raises:
        BadRequestError: If the schema cannot be used.
    """
    if wrong := _wrong_with(json.dumps(dict(schema))):
        raise _unusable(wrong)


@functools.lru_cache(maxsize=256)  # a check takes milliseconds, and a schema is asked for again and again
def _wrong_with(schema: str) -> str | None:
    import jsonschema

    loaded = json.loads(schema)
    try:
        jsonschema.validators.validator_for(loaded, default=jsonschema.Draft202012Validator).check_schema(loaded)
    except jsonschema.SchemaError as err:
        return str(err.message)
    return None


def _unusable(why: str) -> BadRequestError:
    said = why.splitlines()[0][:_MAX_SAID]
    return BadRequestError(f"The JSON schema cannot be used: {said}", hint="correct the schema.")


def answer_error(request: ChatRequest, answer: Completion) -> str | None:
    """Return what an answer lacks of what was asked for in the prompt, None if nothing."""
    if isinstance(request.must_call, str) and request.must_call not in {c.name for c in answer.tool_calls}:
        return f"The answer must call the tool `{request.must_call}`, in a <tool_call> block."
    if request.tools and not answer.tool_calls:
        if _OPEN in answer.text:
            return 'A <tool_call> block must hold one JSON object with "name" and "arguments".'
        if _RESULT in answer.text:
            return f"No tool was called, so there is no {_RESULT}: call the tool, or answer without."
        if request.must_call:
            return "The answer must call a tool, in a <tool_call> block."
    if request.schema is None or answer.tool_calls:
        return None
    value = find_json(answer.text)
    if value is None:
        return "The answer holds no JSON."
    return schema_error(value, request.schema)


def attempts(
    request: ChatRequest,
    max_repairs: int,
    check: Callable[[ChatRequest, Completion], str | None] = answer_error,
) -> Generator[ChatRequest, Completion, Completion]:
    """Yield requests, take their answers, and return the first that is what was asked for.

    What is wrong with an answer goes back to the model, at most `max_repairs` times; a negative number takes the first
    answer as it is. `check` says what is wrong. The answer that is returned has the tokens of all, and where JSON was
    asked for its text is JSON alone.

    Raises:
        OutputValidationError: If the last answer is wrong, too; it carries the raw text.
    """
    answer = yield request
    if max_repairs < 0:
        return answer
    spent = answer.usage
    for _ in range(max_repairs):
        problem = check(request, answer)
        if problem is None:
            break
        request = replace(request, body={**request.body, "messages": _ask_again(request, answer, problem)})
        answer = yield request
        spent = spent.plus(answer.usage)
    answer.usage = spent
    if problem := check(request, answer):
        error = OutputValidationError(
            f"The model's answer is not what was asked for: {problem}",
            hint="see .raw_text; ask more simply, raise max_completion_tokens or max_repairs, or take a larger model.",
        )
        error.raw_text = answer.text
        raise error
    if request.schema is not None and not answer.tool_calls:
        answer.text = _compact(find_json(answer.text))
    return answer


def _ask_again(request: ChatRequest, answer: Completion, problem: str) -> list[Message]:
    return [
        *request.body["messages"],
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": repair_text(problem)},
    ]


def repair_text(problem: str) -> str:
    """Return what the model is told of an answer that is wrong."""
    return f"That is not what was asked for. {problem} Answer again, correctly and completely."
