"""`Verifier`: is an answer reliable?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kluster_integrations import errors
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator
from kluster_integrations.verify import Verdict, Verifier

QUESTION = "What is the capital of France?"
CONTEXT = "The capital of France is Paris."


def verifier(base_url: str) -> Verifier:
    return Verifier(KlusterConfig(api_key="kk-secret-key", base_url=base_url, max_retries=0))


@pytest.mark.parametrize(("output", "reliable"), [("The capital of France is Paris.", True), ("It is Lyon.", False)])
def test_by_its_context(emulator: Emulator, output: str, reliable: bool) -> None:
    emulator.reply(json={"is_hallucination": not reliable, "explanation": "By the context."})
    verdict = verifier(emulator.base_url).check(QUESTION, output, CONTEXT)
    assert (verdict.reliable, bool(verdict)) == (reliable, reliable)
    assert verdict.explanation
    assert verdict.usage.total_tokens == verdict.usage.prompt_tokens + verdict.usage.completion_tokens > 0
    assert verdict.search_results == ()


async def test_async(emulator: Emulator) -> None:
    assert (await verifier(emulator.base_url).acheck(QUESTION, "The capital of France is Paris.", CONTEXT)).reliable


def test_what_is_sent(emulator: Emulator) -> None:
    verifier(emulator.base_url).check("p", "o", search=True)
    [sent] = emulator.requests
    assert sent.path == "/v1/verify/reliability"
    assert sent.body == {"prompt": "p", "output": "o", "return_search_results": True}


@pytest.mark.parametrize(
    ("prompt", "output", "name"), [("", "o", "prompt"), ("p", " ", "output"), ("p", None, "output")]
)
def test_an_empty_text(emulator: Emulator, prompt: str, output: Any, name: str) -> None:
    with pytest.raises(errors.BadRequestError, match=f"{name}="):
        verifier(emulator.base_url).check(prompt, output)
    assert emulator.requests == []


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"is_hallucination": null}'])
def test_an_answer_that_is_not_a_verdict(answering: Callable[..., Any], body: bytes) -> None:
    with pytest.raises(errors.InternalServerError, match="not a verdict"):
        verifier(answering(body).base_url).check("p", "o")


def test_less_than_the_docs_promise(answering: Callable[..., Any]) -> None:
    found = answering(b'{"is_hallucination": false, "search_results": [{"title": "t"}, null]}')
    verdict = verifier(found.base_url).check("p", "o")
    assert isinstance(verdict, Verdict)
    assert (verdict.explanation, verdict.usage.estimated, verdict.search_results) == ("", True, ({"title": "t"},))


@pytest.mark.parametrize(
    ("results", "found"),
    [
        (None, ()),
        (5, ()),
        ({"title": "x"}, ()),
        (["x", None, {"title": "A", "link": None, "rank": 1}], ({"title": "A", "rank": "1"},)),
    ],
)
def test_odd_search_results(emulator: Emulator, results: Any, found: Any) -> None:
    emulator.reply(json={"is_hallucination": False, "explanation": 5, "search_results": results, "usage": "none"})
    verdict = verifier(emulator.base_url).check(QUESTION, "Paris.", search=True)
    assert (verdict.search_results, verdict.explanation) == (found, "5")


@pytest.mark.parametrize("context", [5, ["a"], {"a": 1}])
def test_a_context_that_is_not_a_text(emulator: Emulator, context: Any) -> None:
    with pytest.raises(errors.BadRequestError, match="context="):
        verifier(emulator.base_url).check(QUESTION, "Paris.", context)
    assert emulator.requests == []
