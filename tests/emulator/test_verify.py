"""Verdicts, on their endpoint and as a model: what a test states, and none of the emulator's own."""

from __future__ import annotations

from typing import Any

import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import ChatRequest, Reply
from kluster_integrations.langchain import ChatKluster

from .conftest import Api, user

VERIFY = "klusterai/verify-reliability"


def verify(api: Api, prompt: object = "Where is it?", output: object = "In Porto.", **fields: object):
    return api.http.post("/verify/reliability", json={"prompt": prompt, "output": output, **fields})


def verdict(api: Api, prompt: str, output: str, **fields: object) -> dict[str, Any]:
    answer = verify(api, prompt, output, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def conversation(question: str, answer: str, system: str = "You are a helpful assistant.") -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}, *user(question), {"role": "assistant", "content": answer}]


WRONG = "Hallucination: Yes\n\nExplanation: It is Paris."
PAGE = {"title": "Paris", "snippet": "Paris is the capital of France.", "link": "https://example.com/"}


def test_without_a_stated_verdict_an_answer_is_reliable(api: Api) -> None:
    found = verdict(api, "What is the capital of France?", "London", context="Paris is the capital.")
    assert found["is_hallucination"] is False
    assert "judges nothing" in found["explanation"]
    asked = api.text(conversation("What is the capital of France?", "London"), model=VERIFY)
    assert asked == f"Hallucination: No\n\nExplanation: {found['explanation']}"


def test_one_text_serves_the_endpoint_and_the_model(serve) -> None:
    server, api = serve()
    server.reply(WRONG, when="London")
    found = verdict(api, "What is the capital of France?", "London")
    assert (found["is_hallucination"], found["explanation"]) == (True, "It is Paris.")
    assert api.text(conversation("What is the capital of France?", "London"), model=VERIFY) == WRONG
    assert not verdict(api, "What is the capital of France?", "Paris")["is_hallucination"]


def test_search_results_come_only_when_asked_for(serve) -> None:
    server, api = serve()
    stated = {"is_hallucination": True, "explanation": "It is Paris.", "search_results": [PAGE]}
    server.reply(json=stated, when=VERIFY)
    asked = "What is the capital of France?", "London"
    for more in ({}, {"return_search_results": False}, {"return_search_results": None}):
        assert set(verdict(api, *asked, **more)) == {"is_hallucination", "usage", "explanation"}
    for flag in (True, "true"):  # the docs' workflows send the text
        assert verdict(api, *asked, return_search_results=flag)["search_results"] == [PAGE]
    assert verdict(api, *asked, return_search_results=True, context="Paris")["search_results"] == []


def test_an_engine_sees_what_is_to_be_judged(serve) -> None:
    def judge(request: ChatRequest) -> Reply:
        context, said = request.messages[0]["content"], request.text
        return Reply(json={"is_hallucination": said not in str(context), "explanation": "Looked up."})

    _, api = serve(engine=judge)
    assert not verdict(api, "Who?", "Acme", context="Client: Acme")["is_hallucination"]
    assert verdict(api, "Who?", "Initech", context="Client: Acme")["is_hallucination"]


def test_a_stated_error(serve) -> None:
    server, api = serve()
    server.reply(status=503, text="No judge is free.")
    answer = verify(api)
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "No judge is free.")


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


def test_a_prompt_that_speaks_of_tools_is_judged_all_the_same(api: Api) -> None:
    system = (
        "Action: the action to take, should be one of [search]\nAction Input: ...\nObservation: ...\nFinal Answer: ..."
    )
    said = conversation("Question: Is it so?", "Action: search\nAction Input: {}\nObservation: it is", system=system)
    assert api.text(said, model=VERIFY).startswith("Hallucination: ")


def test_lenient_takes_the_last_answer_there_is(serve) -> None:
    server, api = serve(strict=False)
    server.reply(WRONG)
    said = [*conversation("What is the capital of France?", "London"), *user("Judge it.")]
    assert api.text(said, model=VERIFY) == WRONG
    assert api.refused(user("Judge it."), model=VERIFY)["param"] == "messages"


def test_an_upstream_does_not_judge(serve) -> None:
    _, api = serve(upstream="http://127.0.0.1:9/v1")
    assert api.text(conversation("Is earth flat?", "Yes, 100%."), model=VERIFY).startswith("Hallucination: No")


def test_chat_kluster_asks_for_a_verdict(serve) -> None:
    server, api = serve()
    server.reply(WRONG, times=2)
    config = KlusterConfig(api_key="any", base_url=str(api.http.base_url), max_retries=0)
    model = ChatKluster(model=VERIFY, config=config)
    said = [("user", "What is the capital of France?"), ("assistant", "London.")]
    assert model.invoke(said).text == WRONG
    assert "".join(chunk.text for chunk in model.stream(said)) == WRONG
