"""The judgement, on its endpoint and as a model; on the subjects of the docs' examples it is the docs' own."""

from __future__ import annotations

from typing import Any

import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.langchain import ChatKluster

from .conftest import Api, user

VERIFY = "klusterai/verify-reliability"
INVOICE = "No:INV2041K Co:Northwind Client:Acme Amt:7116GBP Date:22May25 Due:21Jun25 Net:30 Ref:PO451C"
CURE = "Yes, large doses of vitamin C have been proven to cure the common cold within 24 hours."
INTEREST = "Compound interest is earned on the investment and on the interest already earned, so it grows over time."
TOWER = "The Eiffel Tower was built in 1889 for the Paris Exposition."


def verify(api: Api, prompt: object = "Where is it?", output: object = "In Porto.", **fields: object):
    return api.http.post("/verify/reliability", json={"prompt": prompt, "output": output, **fields})


def verdict(api: Api, prompt: str, output: str, **fields: object) -> dict[str, Any]:
    answer = verify(api, prompt, output, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def conversation(question: str, answer: str, system: str = "You are a helpful assistant.") -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}, *user(question), {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("prompt", "output", "wrong"),
    [
        ("What's the invoice date?", "The Invoice date is: May 22, 2025 ", False),
        ("What's the invoice date?", "The invoice date is May 23, 2025.", True),
        ("What's the total amount on the invoice?", "The total amount is 8500 USD.", True),
        ("What's the total amount on the invoice?", "It is 7,116 GBP.", False),
        ("Who is the client mentioned in the document?", "The client is Acme.", False),
        ("Who is the client mentioned in the document?", "acme", False),
        ("Who is the client mentioned in the document?", "The client is Initech.", True),
        ("What is the reference?", "The reference is O451C.", True),
        ("Is the client Initech?", "Yes.", True),
        ("Is the client Initech?", "No.", False),
    ],
)
def test_an_answer_is_held_against_its_context(api: Api, prompt: str, output: str, wrong: bool) -> None:
    found = verdict(api, prompt, output, context=INVOICE, return_search_results=True)
    assert found["is_hallucination"] is wrong
    assert "the context" in found["explanation"]
    assert found["search_results"] == []


def test_most_of_an_answer_without_names_must_be_in_the_context(api: Api) -> None:
    context = "Research shows apples are high in fiber and vitamin C. They may help lower cholesterol levels."
    asked = "What are the health benefits of apples?"
    assert not verdict(api, asked, "Apples have fiber and lower your cholesterol.", context=context)["is_hallucination"]
    found = verdict(api, asked, "Apples contain compounds that fight cancer.", context=context)
    assert found["is_hallucination"]
    assert '"cancer"' in found["explanation"]


@pytest.mark.parametrize(
    ("prompt", "output", "wrong"),
    [
        ("What is the capital of France?", "The capital of France is London.", True),
        ("What is the capital of France?", "Paris", False),
        ("Where is the Eiffel Tower?", "The Eiffel Tower is located in Rome.", True),
        ("When was the Eiffel Tower built?", TOWER, False),
        ("When was the Eiffel Tower built?", TOWER.replace("1889", "1898"), True),
        ("Is earth flat?", "Yes, my friend", True),
        ("Is earth flat?", "Yes, 100%.", True),
        ("Is earth flat?", "No, it is round.", False),
        ("Are ghosts real?", "Yes, there is a recent scientific study from Harvard that confirms ghosts exist.", True),
        ("Does vitamin C cure the common cold?", CURE, True),
        ("What is compound interest?", INTEREST, False),
    ],
)
def test_the_subjects_of_the_docs_get_their_verdicts(api: Api, prompt: str, output: str, wrong: bool) -> None:
    assert verdict(api, prompt, output)["is_hallucination"] is wrong
    asked = api.text(conversation(prompt, output), model=VERIFY)
    assert asked.startswith(f"Hallucination: {'Yes' if wrong else 'No'}\n\nExplanation: Scripted judgement: ")


@pytest.mark.parametrize(("output", "wrong"), [("法国的首都是巴黎。", False), ("法国的首都是伦敦。", True)])
def test_scripts_without_spaces(api: Api, output: str, wrong: bool) -> None:
    found = verdict(api, "法国的首都是哪里?", output, context="巴黎是法国的首都。")
    assert found["is_hallucination"] is wrong


@pytest.mark.parametrize("prompt", ["What is the capital of Spain?", "France?", "?"])
def test_of_the_rest_the_emulator_knows_nothing(api: Api, prompt: str) -> None:
    found = verdict(api, prompt, "It is Lisbon.", context="", return_search_results=True)
    assert not found["is_hallucination"]
    assert "no context" in found["explanation"]
    assert found["search_results"] == []


def test_search_results_come_only_when_asked_for(api: Api) -> None:
    asked = "What is the capital of France?", "London"
    for more in ({}, {"return_search_results": False}, {"return_search_results": None}):
        assert set(verdict(api, *asked, **more)) == {"is_hallucination", "usage", "explanation"}
    for flag in (True, "true"):  # the docs' workflows send the text
        (result,) = verdict(api, *asked, return_search_results=flag)["search_results"]
        assert set(result) == {"title", "snippet", "link"}
        assert "Paris" in result["snippet"]


def test_usage_adds_up(api: Api) -> None:
    short, long = (verdict(api, "a b", "c", context=context)["usage"] for context in ("d", "d e f"))
    assert set(short) == {"completion_tokens", "prompt_tokens", "total_tokens"}
    assert (short["prompt_tokens"], long["prompt_tokens"]) == (4, 6)
    assert short["total_tokens"] == short["prompt_tokens"] + short["completion_tokens"] > short["prompt_tokens"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"output": ["a"]}, "output", "invalid_value"),
        ({"context": ["a"]}, "context", "invalid_value"),
        ({"return_search_results": "yes"}, "return_search_results", "invalid_value"),
        ({"return_search_results": 1}, "return_search_results", "invalid_value"),
        ({"return_search_results": []}, "return_search_results", "invalid_value"),
        ({"model": VERIFY}, "model", "unsupported_parameter"),
        ({"context": "word " * 100_000}, None, "context_length_exceeded"),
    ],
)
def test_refusals(api: Api, fields: dict[str, object], param: str | None, code: str) -> None:
    answer = verify(api, **fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


@pytest.mark.parametrize("name", ["prompt", "output"])
def test_a_missing_field(api: Api, name: str) -> None:
    body = {"prompt": "a", "output": "b"}
    del body[name]
    answer = api.http.post("/verify/reliability", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (name, "missing_required_parameter")


def test_gate_and_lenience(serve) -> None:
    server, api = serve(strict=False, plan="trial", api_keys=["good"])
    assert verify(api).status_code == 401
    right = Api(server.base_url, "good")
    assert verify(right, max_tokens=5).status_code == 200
    assert verify(right, context="word " * 33_000).json()["error"]["code"] == "context_length_exceeded"
    assert api.http.get("/verify/reliability").status_code in {401, 405}


def test_a_conversation_is_its_own_context(api: Api) -> None:
    hours = "The warehouse in Porto opens at 8. "
    asked = "When does the warehouse in Porto open?"
    for said in (
        conversation(asked, "At 9.", system=hours),
        conversation(hours + asked, "At 9."),
        [
            *user("Tell me."),
            {"role": "assistant", "content": hours},
            *user(asked),
            {"role": "assistant", "content": "9"},
        ],
    ):
        assert '"9"' in api.text(said, model=VERIFY)
        said[-1]["content"] = "It opens at 8."
        assert api.text(said, model=VERIFY).startswith("Hallucination: No")


def test_a_request_is_no_statement(api: Api) -> None:
    for request in ("Name the warehouse in Porto.", "Be brief. Name the warehouse in Porto."):
        assert "no context" in api.text(conversation(request, "Armazém Sul"), model=VERIFY)
    said = conversation("The warehouse in Porto is Armazém Norte. Name the warehouse in Porto.", "Armazém Sul")
    assert '"Sul"' in api.text(said, model=VERIFY)


def test_it_is_a_chat_completion_like_any_other(api: Api) -> None:
    said = conversation("What is the capital of France?", "London")
    whole = api.chat(said, model=VERIFY, temperature=0, max_completion_tokens=500).json()
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["tool_calls"] == []
    assert whole["usage"]["completion_tokens"] > 0
    pieces = [row["choices"][0]["delta"]["content"] for row in api.chunks(said, model=VERIFY)]
    assert "".join(pieces) == choice["message"]["content"]
    cut = api.choice(said, model=VERIFY, max_completion_tokens=2)
    assert (cut["finish_reason"], cut["message"]["content"]) == ("length", "Hallucination:")


@pytest.mark.parametrize(
    "messages",
    [
        user("Is it so?"),
        [{"role": "assistant", "content": "It is so."}, *user("Is it?")],
        [*user("Is it so?"), {"role": "assistant", "content": ""}],
    ],
)
def test_the_last_message_must_be_the_answer(api: Api, messages: list[dict[str, Any]]) -> None:
    assert api.refused(messages, model=VERIFY)["param"] == "messages"


def test_tools_and_images_are_refused(api: Api) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert api.refused(conversation("a?", "b"), model=VERIFY, tools=[tool])["param"] == "tools"
    image = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhAgADAAAAACw="}}
    messages = [*user([image]), {"role": "assistant", "content": "A cat."}]
    assert api.refused(messages, model=VERIFY)["param"] == "messages[0].content[0]"


def test_lenient_judges_the_last_answer_there_is(serve) -> None:
    _, api = serve(strict=False)
    said = [*conversation("What is the capital of France?", "London"), *user("Judge it.")]
    assert api.text(said, model=VERIFY).startswith("Hallucination: Yes")
    assert api.refused(user("Judge it."), model=VERIFY)["param"] == "messages"


def test_a_prompt_that_speaks_of_tools_is_judged_all_the_same(api: Api) -> None:
    system = (
        "Action: the action to take, should be one of [search]\nAction Input: ...\nObservation: ...\nFinal Answer: ..."
    )
    said = conversation("Question: Is it so?", "Action: search\nAction Input: {}\nObservation: it is", system=system)
    assert api.text(said, model=VERIFY).startswith("Hallucination: ")


def test_an_upstream_does_not_judge(serve) -> None:
    _, api = serve(upstream="http://127.0.0.1:9/v1")
    assert api.text(conversation("Is earth flat?", "Yes, 100%."), model=VERIFY).startswith("Hallucination: Yes")


def test_chat_kluster_asks_for_a_verdict(api: Api) -> None:
    config = KlusterConfig(api_key="any", base_url=str(api.http.base_url), max_retries=0)
    model = ChatKluster(model=VERIFY, config=config)
    said = [("user", "Does vitamin C cure the common cold?"), ("assistant", CURE)]
    assert model.invoke(said).text.startswith("Hallucination: Yes")
    assert "".join(chunk.text for chunk in model.stream(said)).startswith("Hallucination: Yes")
