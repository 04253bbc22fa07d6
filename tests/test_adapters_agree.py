"""A server's answer means the same in every adapter, whole and streamed, sync and async."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.core.types import Completion, collect

from .agreeing import SCHEMA, TOOLS, WAYS, City, Question, Seen, Way
from .answers import LLAMA, NEMO, QWEN, R1
from .raw_server import DONE, RawRequest, RawServer, Reply, chunk, event, whole

GEMMA = "google/gemma-3-27b-it"
USAGE = {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}
TWIN = '"twin": {"name": "Bergen", "size": 40}'
GOOD = '{"name": "Oslo", "size": 7}'
OSLO = City(name="Oslo", size=7)
WITH_TWIN = City(name="Oslo", size=7, twin=City(name="Bergen", size=40))


@dataclass(frozen=True)
class Answer:
    """One answer of the server: a message, how it ends, and what stands beside it."""

    content: str | None = None
    finish: str = "stop"
    usage: Mapping[str, Any] | None = field(default_factory=lambda: USAGE)
    calls: tuple[tuple[str, str], ...] = ()
    reasoning: str = ""
    choice: Mapping[str, Any] = field(default_factory=dict)
    event: Mapping[str, Any] | None = None
    """In place of an answer, at status 200."""

    def reply(self, *, stream: bool) -> Reply:
        calls = [
            {"index": i, "id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(self.calls)
        ]
        if not stream and self.event is not None:
            return Reply([json.dumps(self.event).encode()], content_type="application/json", framing="length")
        if not stream:
            made = whole({"content": self.content, "tool_calls": calls}, finish=self.finish)
            body = json.loads(made.pieces[0])
            body["usage"] = self.usage
            body["choices"][0] |= self.choice
            if self.reasoning:
                body["choices"][0]["message"]["reasoning_content"] = self.reasoning
            return Reply([json.dumps(body).encode()], content_type="application/json", framing="length")
        if self.event is not None:
            return Reply([event(chunk({"content": "so far"})), event(self.event)])
        deltas: list[dict[str, Any]] = [{"reasoning_content": letter} for letter in self.reasoning]
        deltas += [{"content": letter} for letter in self.content or ""]
        for call in calls:
            function = call["function"]
            deltas.append({"tool_calls": [{**call, "function": {**function, "arguments": ""}}]})
            pieces = function["arguments"]
            deltas += [{"tool_calls": [{"index": call["index"], "function": {"arguments": p}}]} for p in pieces]
        last = chunk({}, self.finish, usage=self.usage)
        last["choices"][0] |= self.choice
        return Reply([b"".join([*(event(chunk(delta)) for delta in deltas), event(last)]), DONE])


@dataclass(frozen=True)
class Row:
    """What a server answers, and what everybody is to see of it."""

    question: Question
    answers: tuple[Answer, ...]
    seen: Seen
    crewai: Seen | None = None
    """Where CrewAI sees something else, for a reason that stands beside it."""
    requests: int | None = None
    """Default: one per answer."""
    crewai_requests: int | None = None


def city(*texts: str | Answer, model: str = LLAMA, **seen: Any) -> Row:
    answers = tuple(text if isinstance(text, Answer) else Answer(text) for text in texts)
    tries = len(answers)
    if "error" in seen:
        return Row(Question(model, city=True), answers, Seen(**seen))
    expected = {"city": OSLO, "usage": (10 * tries, 8 * tries, None), **seen}
    return Row(Question(model, city=True), answers, Seen(**expected))


def calling(*answers: Answer, model: str = LLAMA, **seen: Any) -> Row:
    expected = {"usage": (10 * len(answers), 8 * len(answers), None), **seen} if "error" not in seen else seen
    return Row(Question(model, tools=True), answers, Seen(**expected))


def block(text: str) -> str:
    return f"<tool_call>\n{text}\n</tool_call>"


CITY = '{"city": {"name": "Oslo"}, "role": null}'
CREATED = (("create_city", CITY),)
PARIS = '{"name": "Paris", "parameters": {}}'
CALL = block('{"name": "create_city", "arguments": {"city": {"name": "Oslo"}, "role": null}}')
DRAFT = f"Maybe I should write {CALL} or {GOOD} or"

ROWS = {
    # A value is not found inside one that began and failed.
    **{
        f"json-{name}": city(text, GOOD)
        for name, text in {
            "comment": f'{{"name": "Oslo", // capital\n"size": 7, {TWIN}}}',
            "unquoted-key": f'{{name: "Oslo", "size": 7, {TWIN}}}',
            "unescaped-quote": f'{{"name": "the "real" Oslo", "size": 7, {TWIN}}}',
            "undefined": f'{{"name": "Oslo", "size": 7, "mayor": undefined, {TWIN}}}',
            "ends-early": f'{{"name": "Oslo", {TWIN}, "size":',
        }.items()
    },
    **{
        f"json-{name}": city(text, city=WITH_TWIN)
        for name, text in {
            "none": f'{{"name": "Oslo", "size": 7, "mayor": None, {TWIN}}}',
            "trailing-comma": f'{{"name": "Oslo", "size": 7, {TWIN},}}',
            "single-quotes": "{'name': 'Oslo', 'size': 7, 'twin': {'name': 'Bergen', 'size': 40}}",
        }.items()
    },
    "json-fenced": city(f"Sure!\n```json\n{GOOD}\n```\nAnything else?"),
    "json-cut": city(Answer(f'{{"name": "Oslo", {TWIN}, "si', "length"), error="OutputValidationError"),
    "json-cut-python": city(Answer("{'name': 'Oslo', 'size': 7}", "length"), error="OutputValidationError"),
    "json-wrong-three-times": city("no", "no", "no", error="OutputValidationError"),
    # Calls.
    "prompted-none": calling(
        Answer(block('{"name": "create_city", "arguments": {"city": {"name": "Oslo"}, "role": None}}')),
        model=NEMO,
        calls=CREATED,
    ),
    "prompted-comment": calling(
        Answer(block('{"name": "create_city", "arguments": {"city": {"name": "Oslo"}, /* */ "role": 1}}')),
        Answer(CALL),
        model=NEMO,
        calls=CREATED,
    ),
    "prompted-arguments-text": calling(
        Answer(block('{"name": "create_city", "arguments": "in Oslo"}')), Answer(CALL), model=NEMO, calls=CREATED
    ),
    "native-words-around": calling(
        Answer(None, "tool_calls", calls=(("create_city", 'Sure: {"city": "Oslo"}'),)),
        Answer(None, "tool_calls", calls=(("create_city", '{"city": "Oslo"}'),)),
        calls=(("create_city", '{"city": "Oslo"}'),),
    ),
    "native-none": calling(
        Answer(None, "tool_calls", calls=(("create_city", "{'city': None}"),)),
        calls=(("create_city", '{"city": null}'),),
    ),
    "native-never-right": calling(
        *[Answer(None, "tool_calls", calls=(("create_city", '["Oslo"]'),))] * 3, error="OutputValidationError"
    ),
    "native-cut": calling(
        Answer(None, "length", calls=(("create_city", '{"city": "Os'),)), error="OutputValidationError"
    ),
    "native-text-before": replace(
        calling(
            Answer("Let me look.", "tool_calls", calls=(("create_city", "Oslo"),)),
            Answer("Again.", "tool_calls", calls=(("create_city", CITY),)),
            text="Let me look.\n\nAgain.",
            calls=CREATED,
        ),
        crewai=Seen(calls=CREATED, usage=(20, 16, None)),  # which takes calls or text
    ),
    "prompted-text-before": replace(
        calling(
            Answer("Let me look. <tool_call>oops</tool_call>"),
            Answer(f"Again. {CALL}"),
            model=NEMO,
            text="Let me look. \n\nAgain. ",
            calls=CREATED,
        ),
        crewai=Seen(calls=CREATED, usage=(20, 16, None)),
    ),
    # A final answer behind a call that was wrong. CrewAI's answer is what a crew returns, so it has only the last.
    "text-behind-a-wrong-call": replace(
        calling(
            Answer("Let me look.", "tool_calls", calls=(("create_city", "Oslo"),)),
            Answer("Oslo is small."),
            text="Let me look.\n\nOslo is small.",
        ),
        crewai=Seen("Oslo is small.", usage=(20, 16, None)),
    ),
    # A call of a tool that nobody has offered.
    "invented": Row(
        Question(LLAMA),
        (Answer(None, "tool_calls", calls=CREATED), Answer("Small.")),
        Seen("Small.", usage=(20, 16, None)),
    ),
    "invented-behind-text": Row(
        Question(LLAMA),
        (Answer("Let me look.", "tool_calls", calls=CREATED), Answer("Small.", reasoning="Hm.")),
        Seen("Let me look.\n\nSmall.", "Hm.", usage=(20, 16, 3)),
        crewai=Seen("Small.", "Hm.", usage=(20, 16, 3)),
    ),
    "invented-without-end": Row(
        Question(LLAMA),
        (Answer(None, "tool_calls", calls=CREATED),) * 3,
        Seen(error="OutputValidationError"),
    ),
    "invented-for-json": city(Answer(GOOD, "tool_calls", calls=CREATED), GOOD),
    "prompted-result-made-up": calling(
        Answer("<tool_response>\n3\n</tool_response>"), Answer(CALL), model=NEMO, calls=CREATED
    ),
    "native-nothing": calling(Answer(None, "tool_calls", calls=(("Oslo", ""),)), calls=(("Oslo", "{}"),)),
    **{
        f"text-call-{name}": calling(Answer(text), calls=CREATED)
        for name, text in {
            "hermes": CALL,
            "llama": f'{{"type": "function", "name": "create_city", "parameters": {CITY}}}',
            "python-tag": f'<|python_tag|>{{"name": "create_city", "parameters": {CITY}}}',
            "mistral": f'[TOOL_CALLS][{{"name": "create_city", "arguments": {CITY}}}]',
        }.items()
    },
    "text-that-is-not-a-call": calling(
        Answer('{"name": "Paris", "parameters": {}}'), text='{"name": "Paris", "parameters": {}}'
    ),
    # An object with a name is not a call of the tool of that name.
    "named-object": calling(Answer('{"name": "Oslo", "size": 7}'), text='{"name": "Oslo", "size": 7}'),
    "named-objects": calling(
        Answer('[{"name": "Oslo", "size": 7}, {"name": "create_city"}]'),
        text='[{"name": "Oslo", "size": 7}, {"name": "create_city"}]',
    ),
    "prompted-arguments-under-another-name": calling(
        Answer(block('{"name": "create_city", "input": {"city": "Oslo"}}')), Answer(CALL), model=NEMO, calls=CREATED
    ),
    # A call that cannot be read is not an answer.
    **{
        f"broken-{name}": calling(Answer(text), Answer(CALL), calls=CREATED)
        for name, text in {
            "hermes": '<tool_call>{"name": "create_city", "arguments": {"a": undefined}}</tool_call>',
            "llama": '{"name": "create_city", "parameters": {"a": undefined}}',
            "python-tag": '<|python_tag|>{"name": "create_city", "parameters": {"a": undefined}}<|eom_id|>',
            "mistral": '[TOOL_CALLS][{"name": "create_city", "arguments": {"a": undefined}}]',
        }.items()
    },
    "broken-mistral-prompted": calling(
        Answer('[TOOL_CALLS][{"name": "create_city", "arguments": {"a": undefined}}]'),
        Answer(CALL),
        model=NEMO,
        calls=CREATED,
    ),
    "broken-cut": calling(
        Answer('{"name": "create_city", "parameters": {"a": 1', "length"), error="OutputValidationError"
    ),
    "lenient-llama": calling(
        Answer('{"name": "create_city", "parameters": {"city": {"name": "Oslo"}, "role": None}}<|eot_id|>'),
        calls=CREATED,
    ),
    "two-in-one-block": calling(
        Answer(block('{"name": "create_city", "arguments": {}}\n{"name": "Oslo", "arguments": {}}')),
        calls=(("create_city", "{}"), ("Oslo", "{}")),
    ),
    "nameless": calling(
        Answer(None, "tool_calls", calls=(("", "{}"),)), Answer(None, "tool_calls", calls=CREATED), calls=CREATED
    ),
    "call-behind-a-stop": Row(
        Question(R1, tools=True, params={"stop": ["Observation"]}),
        (Answer(f"t</think>Hi Observation: {CALL}"),),
        Seen("Hi ", "t"),
    ),
    "call-in-a-reopened-thought": Row(
        Question(R1, tools=True),
        (Answer(f"p</think>ok <think>{CALL}"), Answer(f"x</think>{CALL}")),
        Seen("ok <think>", f"p{CALL}\n\nx", CREATED),
        crewai=Seen("", f"p{CALL}\n\nx", CREATED),
    ),
    "tag-in-code": Row(
        Question(LLAMA), (Answer('re.sub(r"<think>.*</think>", "", t)'),), Seen('re.sub(r"<think>.*</think>", "", t)')
    ),
    "constructor": city("City(name='Bergen', twin={'name': 'Bergen', 'size': 40})", GOOD),
    # Thoughts stay thoughts.
    "thought-cut-with-tools": Row(
        Question(R1, tools=True),
        (Answer(DRAFT, "length"),),
        Seen(reasoning=DRAFT, usage=(10, 8, 8)),
        crewai=Seen(error="OutputValidationError"),  # an agent can do nothing with an empty answer
    ),
    "thought-cut-plain": Row(
        Question(R1),
        (Answer(DRAFT, "length"),),
        Seen(reasoning=DRAFT, usage=(10, 8, 8)),
        crewai=Seen(error="OutputValidationError"),
    ),
    "thought-stopped": Row(
        Question(R1),
        (Answer(DRAFT, "stop", choice={"stop_reason": "or"}), Answer("x</think>Oslo")),
        Seen(reasoning=DRAFT, usage=(10, 8, 8)),
        crewai=Seen("Oslo", f"{DRAFT}\n\nx", usage=(20, 16, 12)),  # asks again for an answer that is empty
        requests=1,
        crewai_requests=2,
    ),
    "thought-cut-json": city(Answer(DRAFT, "length"), model=R1, error="OutputValidationError"),
    "thought-then-json": city(f"<think>{DRAFT}</think>{GOOD}", model=R1, reasoning=DRAFT, usage=(10, 8, 7)),
    "thought-in-a-field": Row(
        Question(QWEN), (Answer("Oslo", reasoning="plan"),), Seen("Oslo", "plan", usage=(10, 8, 4))
    ),
    "thoughts-of-all-attempts": city(
        Answer("no", reasoning="one"),
        Answer(GOOD, reasoning="two"),
        model=QWEN,
        reasoning="one\n\ntwo",
        usage=(20, 16, 5),
    ),
    "stop-applied-behind-the-thought": Row(
        Question(R1, params={"stop": ["END"]}),
        (Answer("END is near</think>Oslo END more"),),
        Seen("Oslo ", "END is near"),
    ),
    # Errors inside a 200.
    **{
        f"finish-{finish}": Row(Question(LLAMA), (Answer("Os", finish),), Seen(error="InternalServerError"))
        for finish in ("abort", "error")
    },
    "event-detail": Row(Question(LLAMA), (Answer(event={"detail": "no slot"}),), Seen(error="InternalServerError")),
    "event-message": Row(
        Question(LLAMA), (Answer(event={"message": "overloaded"}),), Seen(error="InternalServerError")
    ),
    # Refused before any request.
    "async-request": Row(
        Question(LLAMA, params={"extra_body": {"metadata": {"@kluster.ai": {"async": True}}}}),
        (),
        Seen(error="UnsupportedParameterError"),
    ),
    # Estimates, where the server counts nothing.
    "estimate-image": Row(
        Question(
            GEMMA,
            content=[{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "https://a/b.png"}}],
        ),
        (Answer("A cat", usage=None),),
        Seen("A cat", usage=(262, 2, None)),
    ),
    "estimate-limit": Row(
        Question(LLAMA, params={"max_tokens": 3}),
        (Answer("word " * 20, "length", usage=None),),
        Seen("word " * 20, usage=(8, 3, None)),
    ),
    "estimate-thought": Row(
        Question(R1), (Answer("1234" * 3 + "</think>" + "1234", usage=None),), Seen("1234", "1234" * 3, usage=(8, 4, 3))
    ),
}


REPAIRED = [name for name, row in ROWS.items() if len(row.answers) > 1 and not (row.seen.error or row.requests)]


@pytest.fixture
def asked() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_everybody_sees_the_same(name: str, way: Way, asked: RawServer) -> None:
    row = ROWS[name]

    def answer(request: RawRequest) -> Reply:
        return row.answers[len(asked.requests) - 1].reply(stream=bool(request.json.get("stream")))

    asked.answer = answer
    config = KlusterConfig(api_key="kk-secret-key", base_url=asked.base_url, max_retries=0, timeout=20)
    expected, requests = row.seen, row.requests
    if way.adapter == "crewai" and row.crewai is not None:
        expected, requests = row.crewai, row.crewai_requests
    seen = way.ask(config, row.question)
    assert replace(seen, usage=expected.usage and seen.usage) == expected
    assert len(asked.requests) == (len(row.answers) if requests is None else requests)


@pytest.mark.parametrize("name", REPAIRED)
def test_a_repaired_stream_adds_up_to_the_whole_answer(name: str, asked: RawServer) -> None:
    row, question = ROWS[name], ROWS[name].question

    def answer(request: RawRequest) -> Reply:
        attempt = (len(asked.requests) - 1) % len(row.answers)
        reply = row.answers[attempt].reply(stream=bool(request.json.get("stream")))
        own_id = b"chatcmpl-%d" % attempt
        return replace(reply, pieces=[piece.replace(b"chatcmpl-1", own_id) for piece in reply.pieces])

    def comparable(completion: Completion) -> dict[str, Any]:
        fields = asdict(completion)
        for call in fields["tool_calls"]:  # of a call out of a text it is made here
            call["id"] = call["id"].startswith("call_") or call["id"]
        return {**fields, "headers": None}  # a stream's are those of a stream

    asked.answer = answer
    client = Client(KlusterConfig(api_key="kk-secret-key", base_url=asked.base_url, max_retries=0, timeout=20))
    params = {"tools": TOOLS} if question.tools else {"response_format": SCHEMA} if question.city else {}
    whole = client.complete(client.build(question.model, question.messages, params))
    streamed = collect(client.stream(client.build(question.model, question.messages, params, stream=True)))
    assert comparable(streamed) == comparable(whole)
    assert whole.id == f"chatcmpl-{len(row.answers) - 1}"
