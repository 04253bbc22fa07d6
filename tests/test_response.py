"""One answer, however it comes: whole, streamed in one piece, or streamed byte by byte, it must read the same."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from kluster_integrations.core.response import read
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.types import Usage, collect
from kluster_integrations.errors import (
    ContextWindowExceededError,
    InternalServerError,
    KlusterError,
    RateLimitError,
)

from .answers import (
    LLAMA,
    MAGISTRAL,
    NEMO,
    PARIS,
    QWEN,
    R1,
    R1_0528,
    UNKNOWN,
    WEATHER,
    asked,
    body_of,
    call,
    cuts,
    every_way,
    same,
    streamed,
)
from .raw_server import DONE, chunk, event, one_by_one, sse


@dataclass(frozen=True)
class Text:
    """What a `content` is to become; `reasoning=None` does not say what, only that it is the same every way."""

    content: str
    text: str
    reasoning: str | None = ""
    model: str = LLAMA


TEXTS = {
    "plain": Text("Hello there", "Hello there"),
    "empty": Text("", ""),
    "emoji": Text("Grüße 👋🏽 日本", "Grüße 👋🏽 日本"),
    "outer-space-stays": Text("  two\n\nlines \n", "  two\n\nlines \n"),
    "only-space": Text(" \n ", " \n "),
    "less-than": Text("if a < b or c <d> <", "if a < b or c <d> <"),
    "almost-tags": Text("<thin <think <thinks> </thin> <<", "<thin <think <thinks> </thin> <<"),
    "html": Text("<b>bold</b><br/>", "<b>bold</b><br/>"),
    "inline": Text("<think>plan</think>Answer", "Answer", "plan", QWEN),
    "inline-space": Text("<think>\n plan A \n</think>\n\nAnswer \n", "Answer \n", "plan A", QWEN),
    "inline-space-before": Text("\n <think>\nplan\n</think>\nAnswer", "Answer", "plan", MAGISTRAL),
    "inline-less-than": Text("<think>a < b, <i></think>x < y", "x < y", "a < b, <i>", MAGISTRAL),
    "inline-double-less-than": Text("<<think>a<</think>b", "<b", "a<", QWEN),
    "inline-empty-thought": Text("<think>\n\n</think>\n\nAnswer", "Answer", "", QWEN),
    "inline-only-thought": Text("<think>plan</think>", "", "plan", QWEN),
    "inline-unclosed": Text("<think>plan, still pl", "", "plan, still pl", QWEN),
    "inline-unknown-model": Text("<think>plan</think>Answer", "Answer", "plan", UNKNOWN),
    "inline-other-model": Text("<think>plan</think>Answer", "Answer", "plan", LLAMA),
    "two-thoughts": Text("<think>a</think>b<think>c</think>d", "bd", "ac", QWEN),
    "quoted-tag": Text("Use `<think>` and `</think>` here", "Use `<think>` and `</think>` here", "", QWEN),
    "unclosed-in-answer": Text("Use the <think> tag", "Use the <think> tag", None, QWEN),
    "stray-close-plain-model": Text("What is </think> for?", "What is </think> for?", "", LLAMA),
    "r1-closing-only": Text("\nplan\n</think>\n\nAnswer", "Answer", "plan", R1),
    "r1-0528-closing-only": Text("plan</think>Answer", "Answer", "plan", R1_0528),
    "r1-both": Text("<think>\nplan\n</think>\n\nAnswer", "Answer", "plan", R1),
    "r1-no-tag": Text("Hello there, no thought", "Hello there, no thought", None, R1),
    "r1-no-tag-less-than": Text("if a < b", "if a < b", None, R1),
    "r1-empty-thought": Text("\n</think>\n\nAnswer", "Answer", "", R1),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_and_thoughts_of_content(name: str) -> None:
    case = TEXTS[name]
    sent = asked(case.model)
    found = [read(body_of({"content": case.content}), sent)]
    for pieces in cuts(case.content):
        found += every_way({"content": case.content}, [{"content": p} for p in pieces], sent)
    answer = same(found)
    assert answer.text == case.text
    if case.reasoning is not None:
        assert answer.reasoning == case.reasoning


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("model", [R1, QWEN, LLAMA, UNKNOWN])
@pytest.mark.parametrize(
    ("thought", "content", "reasoning", "text"),
    [
        ("plan", "Answer", "plan", "Answer"),
        ("\nplan A\n", "\n\nAnswer\n", "plan A", "Answer\n"),
        ("a < b <i>", "x < y", "a < b <i>", "x < y"),
        ("plan", "", "plan", ""),
        ("plan", None, "plan", ""),
    ],
)
def test_thoughts_in_a_field_of_their_own(
    field: str, model: str, thought: str, content: str | None, reasoning: str, text: str
) -> None:
    sent = asked(model)
    found = []
    for thoughts, texts in itertools.product(cuts(thought), cuts(content or "")):
        deltas = [{field: t} for t in thoughts] + [{"content": t} for t in texts]
        events = b"".join(sse({"role": "assistant", "content": ""}, *deltas))
        found.append(streamed([events], sent))
    answer = same([read(body_of({field: thought, "content": content}), sent), *found])
    assert (answer.reasoning, answer.text) == (reasoning, text)


@pytest.mark.parametrize("content", ["Use the <think> tag", "a <think>b</think> c"])
def test_tags_in_content_beside_thoughts_in_a_field_do_not_depend_on_the_pieces(content: str) -> None:
    sent = asked(QWEN)
    found = [read(body_of({"reasoning_content": "plan", "content": content}), sent)]
    for pieces in cuts(content):
        deltas = [{"reasoning_content": "plan"}, *({"content": p} for p in pieces)]
        found.append(streamed([b"".join(sse(*deltas))], sent))
    same(found)


def test_an_unclosed_tag_in_content_beside_thoughts_in_a_field_is_text() -> None:
    answer = read(body_of({"reasoning_content": "plan", "content": "Use the <think> tag"}), asked(QWEN))
    assert answer.text == "Use the <think> tag"


@pytest.mark.parametrize("model", [LLAMA, QWEN, MAGISTRAL, R1, UNKNOWN])
def test_any_text_reads_the_same_however_it_is_cut_and_loses_nothing(model: str) -> None:
    rng = random.Random(7)
    sent = asked(model)
    alphabet = ["<think>", "</think>", "<", ">", "`", " ", "\n", "<thi", "nk>", "</", "é", "👋", "a b", "x"]
    for number in range(150):
        parts = [rng.choice(alphabet) + (f"[{number}.{i}]" if rng.random() < 0.5 else "") for i in range(8)]
        content = "".join(parts)
        places = sorted(rng.sample(range(len(content) + 1), 3))
        cut = [content[a:b] for a, b in itertools.pairwise([0, *places, len(content)])]
        found = [read(body_of({"content": content}), sent)]
        found += [streamed([b"".join(sse(*({"content": p} for p in way)))], sent) for way in (list(content), cut)]
        answer = same(found)
        for part in parts:
            for mark in part.split("[")[1:]:
                assert f"[{mark}" in answer.text + answer.reasoning, content


@pytest.mark.parametrize("content", [[{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]])
def test_content_as_a_list_of_parts(content: Any) -> None:
    answer = same(every_way({"content": content}, [{"content": [part]} for part in content], asked()))
    assert answer.text == "Hello"


# Stop sequences beyond the server's four


@pytest.mark.parametrize(
    ("stops", "content", "text"),
    [
        (["END"], "one END two", "one "),
        (["END"], "EN EN D", "EN EN D"),
        (["aab"], "aaab", "a"),
        (["nope", "END"], "x END nope", "x "),
        (["👋"], "Grüße 👋!", "Grüße "),
        (["bc", "abcd"], "xabcd", "xa"),  # the one that is complete first ends the answer, as on a server
    ],
)
def test_stops_applied_here(stops: list[str], content: str, text: str) -> None:
    sent = asked(stop=["1st", "2nd", "3rd", "4th", *stops])
    assert sent.client_stops == tuple(stops)
    found = []
    for pieces in cuts(content):
        found += every_way({"content": content}, [{"content": p} for p in pieces], sent, "length")
    answer = same(found)
    assert answer.text == text
    assert answer.finish_reason == ("stop" if text != content else "length")


# Usage, finish reason, metadata, logprobs

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
EXACT = Usage(11, 7, 18)


@pytest.mark.parametrize(
    "chunks",
    {
        "on-every-chunk": [
            chunk({"content": "a"}, usage={"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}),
            chunk({"content": "b"}, usage={"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}),
            chunk({}, "stop", usage=USAGE),
        ],
        "with-choices-empty": [chunk({"content": "ab"}), chunk({}, "stop"), {"choices": [], "usage": USAGE}],
        "with-choices-null": [chunk({"content": "ab"}), chunk({}, "stop"), {"choices": None, "usage": USAGE}],
        "without-choices": [chunk({"content": "ab"}), chunk({}, "stop"), {"usage": USAGE}],
        "on-the-first": [chunk({"content": "ab"}, usage=USAGE), chunk({}, "stop", usage=None)],
        "on-finish-and-again": [
            chunk({"content": "ab"}),
            chunk({}, "stop", usage=USAGE),
            {"choices": [], "usage": USAGE},
        ],
        "with-null-details": [
            chunk({"content": "ab"}, usage=None),
            chunk({}, "stop", usage={**USAGE, "completion_tokens_details": None, "prompt_tokens_details": None}),
        ],
        "without-total": [
            chunk({"content": "ab"}),
            chunk({}, "stop", usage={"prompt_tokens": 11, "completion_tokens": 7}),
        ],
    }.items(),
    ids=lambda item: item[0],
)
def test_usage_is_exact_wherever_it_comes(chunks: tuple[str, list[dict[str, Any]]]) -> None:
    events = b"".join([*map(event, chunks[1]), DONE])
    for pieces in ([events], one_by_one(events)):
        answer = streamed(pieces, asked())
        assert answer.usage == EXACT
        assert answer.text == "ab"
    deltas = ChatStream(asked()).feed(events)
    assert all(d.usage is None for d in deltas), "usage on more than one delta is added up by frameworks"


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}])
def test_usage_that_a_stream_does_not_bring_is_estimated_and_marked(usage: object) -> None:
    answer = streamed(sse({"content": "Hello there"}, usage=usage), asked())
    assert answer.usage.estimated
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_usage_is_not_waited_for() -> None:
    assert streamed([*sse({"content": "x"}), event({"choices": [], "usage": USAGE})], asked()).usage.estimated


def test_estimates_grow_with_thoughts_and_calls() -> None:
    plain = streamed(sse({"content": "x"}), asked()).usage.completion_tokens
    more = [{"reasoning_content": "a long thought " * 9}, {"tool_calls": [call("weather", PARIS * 9, index=0, id="a")]}]
    assert all(streamed(sse({"content": "x"}, d), asked()).usage.completion_tokens > plain for d in more)


def test_details_of_usage() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 4}, "prompt_tokens_details": {"cached_tokens": 9}}
    usage = {**USAGE, **details}
    expected = Usage(11, 7, 18, reasoning_tokens=4, cached_tokens=9)
    assert read(body_of({"content": "x"}, usage=usage), asked()).usage == expected
    assert streamed(sse({"content": "x"}, usage=usage), asked()).usage == expected


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls", "content_filter"])
def test_finish_reasons(finish: str) -> None:
    assert same(every_way({"content": "x"}, [{"content": "x"}], asked(), finish)).finish_reason == finish


@pytest.mark.parametrize(("model", "content"), [(LLAMA, "ab"), (R1, "no thought"), (QWEN, "Use the <think> tag")])
def test_a_finish_reason_that_comes_twice_is_returned_once(model: str, content: str) -> None:
    # OpenRouter repeats it on the chunk with usage; LangChain would add up "stopstop".
    chunks = [chunk({"content": content}), chunk({}, "stop"), chunk({"content": ""}, "stop", usage=USAGE)]
    stream = ChatStream(asked(model))
    deltas = stream.feed(b"".join([*map(event, chunks), DONE]))
    assert collect([*deltas, *stream.close()]).text == content
    assert [d.finish_reason for d in deltas if d.finish_reason] == ["stop"]


def test_finish_reason_on_the_chunk_with_the_last_text() -> None:
    events = b"".join([event(chunk({"content": "a"})), event(chunk({"content": "b <"}, "stop")), DONE])
    assert streamed([events], asked()).text == "ab <"


def test_extra_fields_of_vllm() -> None:
    extra = {"refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": []}
    body = body_of({"content": "x", "reasoning_content": None, **extra}, usage=USAGE, prompt_logprobs=None)
    body["choices"][0] |= {"stop_reason": "END", "logprobs": None, "token_ids": None}
    answer = read(body | {"service_tier": None, "system_fingerprint": None, "kv_transfer_params": None}, asked())
    assert (answer.text, answer.reasoning, answer.tool_calls, answer.usage) == ("x", "", [], EXACT)
    assert answer.meta == {"matched_stop": "END"}


def test_extra_fields_of_sglang() -> None:
    body = body_of(
        {"content": "x", "reasoning_content": None, "tool_calls": None}, usage={**USAGE, "reasoning_tokens": 0}
    )
    body["choices"][0] |= {"matched_stop": 128009, "hidden_states": None}
    answer = read(body | {"metadata": {"weight_version": "default"}}, asked())
    assert (answer.text, answer.meta) == ("x", {"matched_stop": 128009})


def test_metadata_comes_once() -> None:
    stream = ChatStream(asked())
    deltas = [*stream.feed(b"".join(sse({"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"})))]
    assert [d.meta for d in deltas if d.meta] == [{"id": "chatcmpl-1", "model": "served", "created": 1}]


def test_logprobs_are_put_together() -> None:
    rows = [{"token": t, "logprob": -0.5, "bytes": None, "top_logprobs": []} for t in "ab"]
    chunks = [chunk({"content": r["token"]}) for r in rows]
    for part, row in zip(chunks, rows, strict=True):
        part["choices"][0]["logprobs"] = {"content": [row]}
    events = b"".join([*map(event, chunks), event(chunk({}, "stop")), DONE])
    body = body_of({"content": "ab"})
    body["choices"][0]["logprobs"] = {"content": rows}
    for answer in (read(body, asked()), streamed([events], asked()), streamed(one_by_one(events), asked())):
        assert answer.logprobs is not None
        assert answer.logprobs["content"] == rows


# What is no answer


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"error": {"message": "slow down", "code": 429}}, RateLimitError),
        ({"error": {"message": "Unexpected error occurred", "errorCode": 4000, "type": "x"}}, InternalServerError),
        ({"error": "bad"}, InternalServerError),
        (
            {"object": "error", "message": "maximum context length is 10 tokens", "code": 400},
            ContextWindowExceededError,
        ),
        ({"id": "x", "choices": []}, InternalServerError),
        ({"id": "x", "choices": None}, InternalServerError),
        ({}, InternalServerError),
        ([], InternalServerError),
        (None, InternalServerError),
        ("text", InternalServerError),
    ],
)
def test_what_is_not_an_answer_is_an_error(data: Any, kind: type[KlusterError]) -> None:
    with pytest.raises(kind):
        read(data, asked())


def test_a_whole_answer_without_a_finish_reason_is_an_answer() -> None:
    assert read(body_of({"content": "x"}, None), asked()).finish_reason == "stop"


ODD = [None, True, 5, -1, float("nan"), float("inf"), "x", "", [], {}, [None], ["x"], [[]], {"x": 1}, [{"x": None}]]


def _spoiled(value: Any) -> Iterable[Any]:
    """Return copies of a JSON value in which one node, in turn, is each of `ODD`."""
    yield from ODD
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        for odd in _spoiled(inner):
            copy = value.copy()
            copy[key] = odd
            yield copy


FULL = {
    **chunk({"role": "assistant", "content": "a", "reasoning_content": "b", "reasoning": "c"}, "stop", usage=USAGE),
}
FULL["choices"][0]["delta"]["tool_calls"] = [call("weather", "{}", index=0, id="a")]
FULL["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -1.0}]}


@pytest.mark.parametrize("model", [LLAMA, NEMO])
@pytest.mark.parametrize("as_whole", [False, True])
def test_a_field_of_the_wrong_type_is_an_answer_or_an_error_of_ours(model: str, as_whole: bool) -> None:
    sent = asked(model, tools=[WEATHER])
    leaks = {}
    for data in _spoiled(FULL):
        try:
            if as_whole:
                read(data, sent)
            else:
                streamed([event(chunk({"content": "x"})), event(data), *sse({"content": "y"})], sent)
        except KlusterError:
            pass
        except Exception as err:
            leaks.setdefault(f"{type(err).__name__}: {err}", data)
    assert not leaks
