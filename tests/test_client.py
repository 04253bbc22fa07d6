"""The one door: what a caller sees when, what is held, and the account's limits around it."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kluster_integrations import budget, catalog
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.core.types import Completion, Delta, collect
from kluster_integrations.errors import (
    BadRequestError,
    BudgetExceededError,
    InternalServerError,
    OutputValidationError,
    RateLimitError,
)
from kluster_integrations.limits import Limits

from .answers import LLAMA, NEMO, QWEN, R1, WEATHER
from .answers import call as fragment
from .raw_server import RawServer, Reply, sse, whole

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
AS_CITY = {"response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}}
BLOCK = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


def client(server: RawServer, **options: Any) -> Client:
    return Client(KlusterConfig(api_key="kk-secret-key", base_url=server.base_url, max_retries=0), **options)


def ask(made: Client, params: dict[str, Any] | None = None, model: str = LLAMA, **options: Any) -> list[Delta]:
    messages = [{"role": "user", "content": "hi"}]
    return list(made.stream(made.build(model, messages, params or {}, stream=True, **options)))


class TestWhatStreams:
    def test_text_is_passed_on_unchanged(self, server: RawServer) -> None:
        server.script(Reply(sse({"content": "Hel"}, {"content": "lo"}, usage=None)))
        deltas = ask(client(server))
        assert [d.content for d in deltas] == ["Hel", "lo", "", ""]
        assert [bool(d.headers) for d in deltas] == [True, False, False, False]
        assert deltas[-1].usage is not None
        assert deltas[-1].usage.estimated

    def test_text_beside_tools_is_passed_on_and_calls_come_whole(self, server: RawServer) -> None:
        call = fragment("weather", "", index=0, id="c0")
        pieces = [{"tool_calls": [fragment(arguments=letter, index=0)]} for letter in '{"city": "Oslo"}']
        server.script(Reply(sse({"content": "Let me "}, {"content": "look."}, {"tool_calls": [call]}, *pieces)))
        deltas = ask(client(server), {"tools": [WEATHER]})
        assert [d.content for d in deltas if d.content] == ["Let me ", "look."]
        (calls,) = (d.tool_calls for d in deltas if d.tool_calls)
        assert [(c.id, c.name, c.arguments) for c in calls] == [("c0", "weather", '{"city": "Oslo"}')]

    def test_json_comes_in_one_piece_and_its_reasoning_at_once(self, server: RawServer) -> None:
        content = [{"content": letter} for letter in 'Sure: {"city": "Oslo"}']
        server.script(Reply(sse({"reasoning_content": "pl"}, {"reasoning_content": "an"}, *content)))
        deltas = ask(client(server), AS_CITY, model=QWEN)
        assert [d.reasoning for d in deltas if d.reasoning] == ["pl", "an"]
        assert [d.content for d in deltas if d.content] == ['{"city": "Oslo"}']

    def test_unchecked_everything_passes(self, server: RawServer) -> None:
        server.script(Reply(sse({"content": "Sure: "}, {"content": '{"town": 1}'})))
        deltas = ask(client(server), AS_CITY, max_repairs=-1)
        assert [d.content for d in deltas if d.content] == ["Sure: ", '{"town": 1}']

    def test_a_malformed_prompted_call_is_not_shown_and_asked_for_again(self, server: RawServer) -> None:
        bad = "Let me look. <tool_call>{weather}</tool_call>"
        server.script(Reply(sse(*({"content": c} for c in bad))), Reply(sse(*({"content": c} for c in BLOCK))))
        deltas = ask(client(server), {"tools": [WEATHER]}, model=NEMO)
        assert "".join(d.content for d in deltas) == "Let me look. "
        assert [c.name for d in deltas for c in d.tool_calls] == ["weather"]
        assert len(server.requests) == 2
        assert deltas[-1].usage is not None

    @pytest.mark.parametrize("empty", ["", " \n"])
    def test_an_answer_that_must_not_be_empty_passes_at_once(self, server: RawServer, empty: str) -> None:
        server.script(Reply(sse({"content": empty})), Reply(sse({"content": "Hel"}, {"content": "lo"})))
        made = client(server)
        request = made.build(LLAMA, [{"role": "user", "content": "hi"}], {}, stream=True)
        request.must_answer = True
        deltas = list(made.stream(request))
        assert [d.content for d in deltas if d.content] == ["Hel", "lo"]
        assert deltas[-1].usage is not None
        assert deltas[-1].usage.requests == 2

    @pytest.mark.parametrize(
        ("content", "shown"),
        [
            ("Look:\n<tool_call>{bad}</tool_call>", "Look:\n"),
            ("Look:\n  [TOOL_CALLS][{bad", "Look:\n  "),
            ("<|python_tag|>{bad", ""),
            ("In a line <tool_call>{bad}</tool_call>", None),
            ("The mark is [TOOL_CALLS] {x}", None),
        ],
    )
    def test_what_begins_a_line_as_a_call_does_is_not_shown_by_a_native_model(
        self, server: RawServer, content: str, shown: str | None
    ) -> None:
        good = fragment("weather", "{}", index=0, id="c0")
        server.script(Reply(sse(*({"content": c} for c in content))), Reply(sse({"tool_calls": [good]})))
        deltas = ask(client(server), {"tools": [WEATHER]})
        assert "".join(d.content for d in deltas) == (content if shown is None else shown)
        assert len(server.requests) == (1 if shown is None else 2)

    def test_logprobs_go_with_the_text(self, server: RawServer) -> None:
        probs = {"content": [{"token": "Hi", "logprob": -0.1}]}
        body = sse({"content": "Hi"})
        body[0] = body[0].replace(b'"index": 0', b'"index": 0, "logprobs": ' + json.dumps(probs).encode())
        server.script(Reply(body))
        assert [d.logprobs for d in ask(client(server), {"tools": [WEATHER]}) if d.logprobs] == [probs]


class TestRepairs:
    def test_the_caller_says_what_else_must_be_true(self, server: RawServer) -> None:
        server.script(whole({"content": "no"}), whole({"content": "yes"}))
        made = client(server)

        def check(completion: Completion) -> str | None:
            return None if completion.text == "yes" else "It must be yes."

        done = made.complete(made.build(LLAMA, [{"role": "user", "content": "hi"}], {}, check=check))
        assert done.text == "yes"
        said = server.requests[1].json["messages"]
        assert [m["role"] for m in said] == ["user", "assistant", "user"]
        assert "It must be yes." in said[-1]["content"]
        assert done.usage.total_tokens == 14

    def test_a_native_call_that_is_wrong_is_told_so_by_its_result(self, server: RawServer) -> None:
        good, bad = ({"tool_calls": [fragment("weather", a, id=f"c{i}")]} for i, a in enumerate(("{}", "Oslo")))
        server.script(whole(bad, finish="tool_calls"), whole(good, finish="tool_calls"))
        made = client(server)
        made.complete(made.build(LLAMA, [{"role": "user", "content": "hi"}], {"tools": [WEATHER]}))
        _, assistant, result = server.requests[1].json["messages"]
        assert assistant["tool_calls"][0]["function"]["arguments"] == '{"invalid_arguments": "Oslo"}'
        assert (result["role"], result["tool_call_id"]) == ("tool", "c1")
        assert "not valid JSON" in result["content"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_cut_answer_is_not_asked_for_again(self, server: RawServer, stream: bool) -> None:
        server.answer = lambda r: (
            Reply(sse({"content": '{"ci'}, finish="length")) if stream else whole({"content": '{"ci'}, finish="length")
        )
        made = client(server)
        request = made.build(
            LLAMA, [{"role": "user", "content": "hi"}], {**AS_CITY, "max_completion_tokens": 2}, stream=stream
        )
        with pytest.raises(OutputValidationError, match=r"cut.*max_completion_tokens=2") as caught:
            collect(made.stream(request)) if stream else made.complete(request)
        assert caught.value.raw_text == '{"ci'
        assert caught.value.completion.is_cut
        assert len(server.requests) == 1

    def test_an_answer_that_is_all_reasoning_says_why_it_is_empty(
        self, server: RawServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.answer = lambda r: whole({"content": "I should"}, finish="length")
        made = client(server)
        with caplog.at_level(logging.WARNING):
            done = made.complete(made.build(R1, [{"role": "user", "content": "hi"}], {}))
        assert (done.text, done.reasoning, done.is_cut) == ("", "I should", True)
        assert "max_completion_tokens" in caplog.text


class TestLimits:
    def test_one_minute_for_all_clients_of_a_key(self, server: RawServer) -> None:
        limits = Limits(requests=3, max_wait=0.0)
        one, two = client(server, limits=limits), client(server, limits=Limits(requests=3, max_wait=0.0, concurrent=9))
        ask(one)
        server.script(whole({"content": "x"}))
        one.complete(one.build(LLAMA, [{"role": "user", "content": "hi"}], {}))
        ask(two)
        for refused in (lambda: ask(two), lambda: ask(one), lambda: one.embed("BAAI/bge-m3", ["a"])):
            with pytest.raises(RateLimitError, match="3 requests"):
                refused()
        assert len(server.requests) == 3

    @pytest.mark.parametrize("leave", [lambda deltas: deltas.close(), list])
    def test_a_stream_holds_its_slot_until_it_ends(self, server: RawServer, leave: Callable[[Any], Any]) -> None:
        made = client(server, limits=Limits(concurrent=1, max_wait=0.0))
        server.answer = lambda r: Reply(sse({"content": "a"}, {"content": "b"}))
        request = made.build(LLAMA, [{"role": "user", "content": "hi"}], {}, stream=True)
        first = made.stream(request)
        next(first)
        with pytest.raises(RateLimitError, match="1 concurrent"):
            next(made.stream(request))
        leave(first)
        assert collect(made.stream(request)).text == "ab"

    async def test_async_streams_too(self, server: RawServer) -> None:
        made = client(server, limits=Limits(concurrent=1, max_wait=0.0))
        server.answer = lambda r: Reply(sse({"content": "a"}, {"content": "b"}))
        request = made.build(LLAMA, [{"role": "user", "content": "hi"}], {}, stream=True)
        first: Any = made.astream(request)
        await anext(first)
        with pytest.raises(RateLimitError, match="1 concurrent"):
            await anext(made.astream(request))  # type: ignore[arg-type]
        await first.aclose()
        assert [d.content async for d in made.astream(request) if d.content] == ["a", "b"]
        await made.aclose()

    async def test_a_cancelled_call_gives_its_slot_back(self, server: RawServer) -> None:
        made = client(server, limits=Limits(concurrent=1, max_wait=0.0))
        server.script(Reply(silent=True, end="hang"))
        request = made.build(LLAMA, [{"role": "user", "content": "hi"}], {})
        task = asyncio.create_task(made.acomplete(request))
        while not server.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await made.acomplete(request)).text == "Hello"
        await made.aclose()


class TestBudget:
    """How budgets count over threads and tasks: tests/test_budget.py."""

    cost = catalog.get(LLAMA).cost(5, 2) or 0.0  # what `whole` says that an answer took

    @pytest.mark.parametrize("stream", [False, True])
    def test_every_request_is_counted_repairs_too_and_the_next_is_refused(
        self, server: RawServer, stream: bool
    ) -> None:
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        texts = iter(["no", '{"city": "Oslo"}', '{"city": "Oslo"}'])
        server.answer = lambda r: (
            Reply(sse({"content": next(texts)}, usage=usage)) if stream else whole({"content": next(texts)})
        )
        made = client(server)
        request = made.build(LLAMA, [{"role": "user", "content": "hi"}], AS_CITY, stream=stream)
        with budget(usd=self.cost * 2) as spent:
            collect(made.stream(request)) if stream else made.complete(request)
            with pytest.raises(BudgetExceededError):
                collect(made.stream(request)) if stream else made.complete(request)
        assert len(server.requests) == 2
        assert (spent.requests, spent.by_model[LLAMA].prompt_tokens) == (2, 10)
        assert spent.usd == pytest.approx(self.cost * 2, rel=1e-12)

    @pytest.mark.parametrize("stream", [False, True])
    def test_requests_that_wait_for_a_slot_see_what_was_spent_meanwhile(self, server: RawServer, stream: bool) -> None:
        server.answer = lambda r: Reply(sse({"content": "x"})) if stream else whole({"content": "x"})
        made = client(server, limits=Limits(concurrent=1))
        request = made.build(LLAMA, [{"role": "user", "content": "hi"}], {}, stream=stream)
        refused: list[Exception] = []

        def one() -> None:
            try:
                collect(made.stream(request)) if stream else made.complete(request)
            except BudgetExceededError as err:
                refused.append(err)

        with budget(usd=1e-9):
            threads = [threading.Thread(target=one) for _ in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert (len(server.requests), len(refused)) == (1, 9)

    def test_an_answer_that_cannot_be_read_was_paid_for(self, server: RawServer) -> None:
        server.script(whole({"content": "x"}, finish="abort"))
        made = client(server)
        with budget(usd=1) as spent, pytest.raises(InternalServerError):
            made.complete(made.build(LLAMA, [{"role": "user", "content": "hi"}], {}))
        assert spent.usd == pytest.approx(self.cost)

    def test_a_stream_that_nobody_reads_to_its_end_is_counted(self, server: RawServer) -> None:
        server.script(Reply(sse({"content": "four"}, {"content": "more"})))
        made = client(server)
        with budget(usd=1) as spent:
            deltas: Any = made.stream(made.build(LLAMA, [{"role": "user", "content": "hi"}], {}, stream=True))
            next(deltas)
            deltas.close()
        assert spent.estimated
        assert spent.by_model[LLAMA].completion_tokens >= 1

    def test_what_the_server_refuses_costs_nothing(self, server: RawServer) -> None:
        server.answer = lambda r: Reply([b"{}"], status=400, content_type="application/json", framing="length")
        made = client(server)
        with budget(usd=1) as spent:
            for ask_once in (lambda: ask(made), lambda: made.embed("BAAI/bge-m3", ["a"])):
                with pytest.raises((BadRequestError, BudgetExceededError)):
                    ask_once()
        assert (spent.requests, spent.usd) == (0, 0)
