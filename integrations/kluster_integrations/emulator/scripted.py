"""The scripted engine: deterministic answers, made out of nothing but the request.

Its text says that it is scripted. It restates what is asked, quotes what the conversation says about it, and names what
it has seen; it calls tools and fills schemas as `planning` and `instances` decide.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field

from kluster_integrations.emulator import react, tokens
from kluster_integrations.emulator.conversation import Call, Conversation, Turn, read, text_of
from kluster_integrations.emulator.engine import CallDelta, ChatRequest, Delta, Finish
from kluster_integrations.emulator.images import describe
from kluster_integrations.emulator.instances import instance
from kluster_integrations.emulator.judge import judge_conversation
from kluster_integrations.emulator.planning import plan
from kluster_integrations.emulator.schemas import ANY_OBJECT
from kluster_integrations.emulator.shapes import new_call_id
from kluster_integrations.emulator.words import sentences, shorten, stems

__all__ = ["Reply", "ScriptedEngine", "reply"]

_QUOTES = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """What the engine has to say.

    Args:
        text: The answer, "" with calls.
        reasoning: The thought before it, "" for models that do not think.
        calls: The tool calls.
    """

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)


class ScriptedEngine:
    """Answers without a model."""

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    async def run(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Yield the reply a token at a time, up to a stop string or the last token that is allowed."""
        answer = reply(request)
        text, stop = _until_stop(answer.text, request.stop)
        used = 0
        for delta in _pieces(answer, text):
            if used == request.max_tokens:
                yield _finish(request, "length", None, used)
                return
            used += 1
            yield delta
        reason = "tool_calls" if answer.calls else "stop"
        yield _finish(request, reason, stop, used)


def _finish(request: ChatRequest, reason: str, stop: str | None, used: int) -> Delta:
    why = "length" if reason == "length" else "tool_calls" if reason == "tool_calls" else "stop"
    return Delta(finish=Finish(why, stop, request.prompt_tokens, used))  # type: ignore[arg-type]


def _pieces(answer: Reply, text: str) -> Iterator[Delta]:
    for token in tokens.split(answer.reasoning):
        yield Delta(reasoning=token)
    for token in tokens.split(text):
        yield Delta(content=token)
    for index, call in enumerate(answer.calls):
        # Half of all servers escape what is not ASCII; the emulator keeps it.
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        yield Delta(call=CallDelta(index, new_call_id(), call.name))
        for token in tokens.split(arguments):
            yield Delta(call=CallDelta(index, arguments=token))


def _until_stop(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """Return the text before the first stop string, and that string."""
    spots = [(at, -len(stop), stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not spots:
        return text, None
    at, _, stop = min(spots)
    return text[:at], stop


def reply(request: ChatRequest) -> Reply:
    """Return the reply to a request."""
    if request.spec.purpose == "verification":
        return Reply(judge_conversation((str(one["role"]), text_of(one)) for one in request.messages).text)
    conversation = read(request)
    calls = plan(conversation)
    reasoning = _thought(conversation, calls) if request.spec.reasoning else ""
    if conversation.react:
        return Reply(_react(conversation, calls), reasoning)
    if calls and not conversation.prompted:
        return Reply(reasoning=reasoning, calls=calls)
    if calls:
        return Reply("\n".join(map(_written, calls)), reasoning)
    if conversation.schema is not None:
        return Reply(json.dumps(_fitting(conversation), ensure_ascii=False), reasoning)
    return Reply(_text(conversation), reasoning)


def _react(conversation: Conversation, calls: list[Call]) -> str:
    if calls:
        return react.action(calls[0].name, calls[0].arguments)
    if conversation.schema is not None:
        return react.final(json.dumps(_fitting(conversation), ensure_ascii=False))
    return react.final(_text(conversation))


def _written(call: Call) -> str:
    value = {"name": call.name, "arguments": call.arguments}
    return f"<tool_call>\n{json.dumps(value, ensure_ascii=False)}\n</tool_call>"


def _fitting(conversation: Conversation) -> object:
    """Return an instance of the schema; where any object will do, one that holds the text."""
    if conversation.schema == ANY_OBJECT:
        return {"answer": _text(conversation)}
    found = [text for _, text in conversation.results]
    return instance(conversation.schema, "\n".join([*found, _matter(conversation)]), conversation.listed)


def _matter(conversation: Conversation) -> str:
    """Return what a schema is filled from: the last user message, or the one before it if that asks for a repair."""
    users = [turn.text for turn in conversation.turns if turn.role == "user"]
    assistants = [turn.text for turn in conversation.turns if turn.role == "assistant"]
    tried = bool(assistants) and assistants[-1].lstrip().startswith(("{", "[", "```"))
    if tried and len(users) > 1:
        return "\n".join(users[:-1])
    return conversation.matter


def _thought(conversation: Conversation, calls: list[Call]) -> str:
    about = shorten(conversation.matter, 120)
    if calls:
        names = " and ".join(dict.fromkeys(call.name for call in calls))
        return f'The user says "{about}". The fitting tool is {names}.'
    if conversation.results:
        return f'The user says "{about}". The tools have answered, so I can say what they found.'
    return f'The user says "{about}". I look for what the conversation says about it, and answer.'


def _text(conversation: Conversation) -> str:
    parts = [f'Scripted answer to "{shorten(conversation.matter)}":']
    parts += [f"{name} returned {text.strip() or 'nothing'}." for name, text in conversation.results]
    images = conversation.turns[conversation.ask_index].images if conversation.ask_index >= 0 else ()
    parts += [f"Image {number} is {describe(url)}." for number, url in enumerate(images, 1)]
    if quotes := _quotes(conversation):
        parts.append("What was said about it: " + " ".join(f'"{quote}"' for quote in quotes))
    parts.append(_seen(conversation))
    return " ".join(parts)


def _seen(conversation: Conversation) -> str:
    number = sum(turn.role == "user" for turn in conversation.turns)
    seen = f"I see {number} user message{'' if number == 1 else 's'}"
    system = " ".join(turn.text for turn in conversation.turns if turn.role == "system").strip()
    return f'{seen} and the system prompt "{shorten(system, 80)}".' if system else f"{seen}."


def _quotes(conversation: Conversation) -> list[str]:
    """Return up to three sentences of the conversation that share the most words with the question.

    Each must bring a word of the question that none before it had; later ones come first among equals.
    """
    question, others = _split_question(conversation.ask)
    missing = stems(question)
    pool: list[str] = []
    for turn in conversation.turns[: max(conversation.ask_index, 0)]:
        pool += _statements(turn)
    pool += others
    quotes: list[str] = []
    while missing and pool and len(quotes) < _QUOTES:
        best = max(range(len(pool)), key=lambda i: (len(missing & stems(pool[i])), i))
        common = missing & stems(pool[best])
        if not common:
            break
        missing -= common
        quotes.append(shorten(pool.pop(best), 300))
    return quotes


def _statements(turn: Turn) -> list[str]:
    # The engine's own words repeat the question, and would be found before what answers it.
    if turn.text.startswith("Scripted answer to"):
        return []
    return [text for text in sentences(turn.text) if not text.endswith("?")]


def _split_question(ask: str) -> tuple[str, list[str]]:
    """Return the question of a message (its last one, else its last sentence), and the other sentences."""
    parts = sentences(ask)
    if not parts:
        return "", []
    last = len(parts) - 1
    at = max((i for i, part in enumerate(parts) if part.endswith("?")), default=last)
    return parts[at], parts[:at] + parts[at + 1 :]
