"""`verify_guardrail`: an output that is not reliable is asked for again, with the explanation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from kluster_integrations import errors
from kluster_integrations.config import KlusterConfig
from kluster_integrations.crewai import kluster_llm, verify_guardrail
from kluster_integrations.emulator import Emulator, Fault

from ..raw_server import RawRequest, RawServer, Reply, whole
from .crews import KEY, LLAMA, Report, crew, make_agent

WRONG, RIGHT = "Lyon is the capital.", "Paris is the capital."
QUESTION = "What is the capital of France?"


class Service:
    """Answers with one text after the other, and says of one that it is a hallucination."""

    def __init__(self, server: RawServer, *answers: str) -> None:
        self.answers = list(answers)
        self.verified: list[dict[str, Any]] = []
        self.prompts: list[str] = []
        self.llm = kluster_llm(LLAMA, base_url=server.base_url, api_key=KEY)
        self.config = KlusterConfig(api_key=KEY, base_url=server.base_url, max_retries=0)
        server.answer = self._answer

    def _answer(self, request: RawRequest) -> Reply:
        if request.path.endswith("/verify/reliability"):
            self.verified.append(request.json)
            found = [{"title": "France", "snippet": "", "link": "https://example.com/france"}]
            verdict = {
                "is_hallucination": "Lyon" in request.json["output"],
                "explanation": "Lyon is not in it.",
                "search_results": found if request.json["return_search_results"] else [],
            }
            return Reply([json.dumps(verdict).encode()], content_type="application/json", framing="length")
        self.prompts.append(json.dumps(request.json["messages"]))
        return whole({"content": self.answers.pop(0)})

    def guardrail(self, context: Any = None, **options: Any) -> Any:
        return verify_guardrail(context, config=self.config, **options)


def test_an_unreliable_output_is_asked_for_again(server: RawServer) -> None:
    service = Service(server, WRONG, RIGHT)
    assert crew(service.llm, QUESTION, guardrail=service.guardrail(RIGHT)).kickoff().raw == RIGHT
    assert service.verified == [
        {"prompt": QUESTION, "output": output, "context": RIGHT, "return_search_results": False}
        for output in (WRONG, RIGHT)
    ]
    assert "Lyon is not in it." not in service.prompts[0]
    assert "Lyon is not in it." in service.prompts[1]


async def test_async(server: RawServer) -> None:
    service = Service(server, WRONG, RIGHT)
    assert (await crew(service.llm, QUESTION, guardrail=service.guardrail()).kickoff_async()).raw == RIGHT
    assert (len(service.prompts), len(service.verified)) == (2, 2)


def test_an_output_that_stays_unreliable_ends_the_crew(server: RawServer) -> None:
    service = Service(server, *[WRONG] * 9)
    with pytest.raises(Exception, match=r"after 1 retries.*Lyon is not in it"):
        crew(service.llm, QUESTION, guardrail=service.guardrail(RIGHT), guardrail_max_retries=1).kickoff()
    assert len(service.prompts) == 2


@pytest.mark.parametrize(
    ("context", "sent"),
    [
        (lambda output: f"{output.description} {RIGHT}", f"{QUESTION} {RIGHT}"),
        (lambda output: None, None),
        (None, None),
    ],
    ids=["function", "function without", "none"],
)
def test_contexts(server: RawServer, context: Any, sent: str | None) -> None:
    service = Service(server, RIGHT)
    crew(service.llm, QUESTION, guardrail=service.guardrail(context)).kickoff()
    assert service.verified[0].get("context") == sent


def test_what_was_found_is_named(server: RawServer) -> None:
    service = Service(server, WRONG, RIGHT)
    crew(service.llm, QUESTION, guardrail=service.guardrail(search=True)).kickoff()
    assert "https://example.com/france" in service.prompts[1]


def test_an_object_stays_one(server: RawServer) -> None:
    service = Service(server, '{"city": "Paris", "temperature": 21}')
    output = crew(service.llm, QUESTION, guardrail=service.guardrail(RIGHT), output_pydantic=Report).kickoff()
    assert output.pydantic == Report(city="Paris", temperature=21)
    assert len(service.prompts) == 1


def test_with_other_guardrails(server: RawServer) -> None:
    service = Service(server, WRONG, RIGHT)
    seen: list[str] = []

    def note(output: Any) -> tuple[bool, Any]:
        seen.append(output.raw)
        return True, output.raw

    assert crew(service.llm, QUESTION, guardrails=[service.guardrail(RIGHT), note]).kickoff().raw == RIGHT
    assert seen == [RIGHT]


def test_of_an_agent(server: RawServer) -> None:
    service = Service(server, WRONG, RIGHT)
    output: Any = make_agent(service.llm, guardrail=service.guardrail(RIGHT, prompt=QUESTION)).kickoff(QUESTION)
    assert output.raw == RIGHT
    assert output.pydantic is None
    assert [check["prompt"] for check in service.verified] == [QUESTION, QUESTION]


def test_an_agent_without_a_prompt(server: RawServer) -> None:
    service = Service(server, RIGHT)
    with pytest.raises(errors.BadRequestError, match="prompt=None"):
        make_agent(service.llm, guardrail=service.guardrail(RIGHT)).kickoff(QUESTION)


def test_a_failing_check_ends_the_crew(emulator: Emulator, llm: Callable[..., Any]) -> None:
    emulator.add_fault(Fault("status", status=401, path="/v1/verify/reliability", times=None))
    config = KlusterConfig(api_key=KEY, base_url=emulator.base_url, max_retries=0)
    with pytest.raises(errors.AuthenticationError):
        crew(llm(), QUESTION, guardrail=verify_guardrail(config=config)).kickoff()
    assert [request.path for request in emulator.requests] == ["/v1/chat/completions", "/v1/verify/reliability"]


@pytest.mark.parametrize("raw", ["", " \n", None])
def test_an_empty_output_is_not_checked(server: RawServer, raw: Any) -> None:
    service = Service(server)
    output = type("Output", (), {"raw": raw, "description": QUESTION})()
    assert service.guardrail(RIGHT)(output) == (False, "The output is empty: write an answer.")
    assert service.verified == []
