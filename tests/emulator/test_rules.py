from __future__ import annotations

import math
from typing import Any

import pytest

from kluster_integrations.catalog import ModelSpec

from .conftest import BGE, GEMMA, LLAMA, NEMO, QWEN, R1, Api, tool, user

WEATHER = tool("get_weather", "Get the weather", city={"type": "string"})
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1),
        ("n", 2),
        ("store", False),
        ("modalities", ["text"]),
        ("response_format", {"type": "text"}),
        ("service_tier", "auto"),
        ("stream_options", {"include_usage": True}),
        ("max_tokens", 5),
        ("functions", []),
        ("function_call", "auto"),
        ("user", "u"),
        ("reasoning_effort", "low"),
        ("store", None),
        ("response_format", None),
        ("n", None),
    ],
)
def test_strict_refuses_undocumented_fields(api: Api, field: str, value: object) -> None:
    error = api.refused(**{field: value})
    assert error["message"] == f"Unsupported parameter: '{field}'"
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")


def test_all_documented_fields_pass(api: Api) -> None:
    answer = api.chat(
        metadata={"@kluster.ai": {"async": False}, "k": 1},
        frequency_penalty=-2,
        presence_penalty=2,
        logit_bias={"5": -100},
        logprobs=True,
        top_logprobs=20,
        max_completion_tokens=50,
        seed=7,
        stop=["a", "b", "c", "d"],
        stream=False,
        temperature=2,
        top_p=1,
        tools=[WEATHER],
        tool_choice="auto",
        parallel_tool_calls=False,
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", 1.5),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -2.5),
        ("top_logprobs", 3),
        ("stop", ["1", "2", "3", "4", "5"]),
        ("stop", [""]),
        ("stop", 5),
        ("max_completion_tokens", 0),
        ("max_completion_tokens", 1.5),
        ("seed", 1.5),
        ("stream", "yes"),
        ("metadata", []),
        ("metadata", None),
        ("logit_bias", {"1": "x"}),
        ("tools", None),
        ("tools", []),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "web_search"}]),
        ("messages", []),
        ("messages", "hi"),
    ],
)
def test_wrong_values_name_their_field(api: Api, field: str, value: object) -> None:
    error = api.refused(**{field: value})
    assert error["param"].split("[")[0] == field
    assert field in error["message"]


def test_top_logprobs_range(api: Api) -> None:
    assert api.refused(logprobs=True, top_logprobs=21)["param"] == "top_logprobs"
    assert api.refused(logprobs=False, top_logprobs=1)["param"] == "top_logprobs"


def test_documented_nulls_pass(api: Api) -> None:
    fields = ("temperature", "top_p", "stop", "seed", "stream", "max_completion_tokens", "logprobs", "top_logprobs")
    assert api.chat(**dict.fromkeys(fields)).status_code == 200


def test_nan_is_refused(api: Api) -> None:
    body = f'{{"model": "{LLAMA}", "messages": [{{"role": "user", "content": "x"}}], "temperature": {math.nan}}}'
    answer = api.http.post("/chat/completions", content=body.replace("nan", "NaN"))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "temperature"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_bodies_that_are_not_an_object_are_refused(api: Api, raw: bytes) -> None:
    answer = api.http.post("/chat/completions", content=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": "x", "name": "bob"}, "messages[0].name"),
        ({"role": "assistant", "content": "x", "refusal": None}, "messages[0].refusal"),
        ({"role": "assistant", "content": "x", "audio": None}, "messages[0].audio"),
        ({"role": "assistant", "content": "x", "function_call": None}, "messages[0].function_call"),
        ({"role": "assistant", "content": "x", "tool_calls": None}, "messages[0].tool_calls"),
        ({"role": "assistant", "content": "x", "tool_calls": []}, "messages[0].tool_calls"),
        ({"role": "assistant", "content": "x", "reasoning_content": "t"}, "messages[0].reasoning_content"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0].tool_calls"),
        ({"role": "developer", "content": "x"}, "messages[0].role"),
        ({"role": "function", "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": ["user"], "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]},
            "messages[0].content[0].cache_control",
        ),
        ({"role": "tool", "content": "x", "tool_call_id": "c1"}, "messages[0].tool_call_id"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ("x", "messages[0]"),
    ],
)
def test_messages(api: Api, message: object, param: str) -> None:
    assert api.refused([message, *user("y")])["param"] == param


def test_tool_messages_answer_a_call(api: Api) -> None:
    ask = user("Weather in Paris?")
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    assert api.chat([*ask, calls, result], tools=[WEATHER]).status_code == 200
    wrong = {**result, "tool_call_id": "c2"}
    assert api.refused([*ask, calls, wrong])["param"] == "messages[2].tool_call_id"
    assert api.refused([*ask, calls, *ask, result])["param"] == "messages[3].tool_call_id"


@pytest.mark.parametrize("field", ["tools", "tool_choice", "parallel_tool_calls"])
def test_tools_need_a_model_that_has_them(api: Api, field: str) -> None:
    value = {"tools": [WEATHER], "tool_choice": "none", "parallel_tool_calls": True}[field]
    error = api.refused(model=NEMO, **{field: value})
    assert error["param"] == field
    assert NEMO in error["message"]


@pytest.mark.parametrize(
    "choice", ["any", 5, {"type": "function", "function": {"name": "other"}}, {"type": "function"}]
)
def test_tool_choice(api: Api, choice: object) -> None:
    assert api.refused(tools=[WEATHER], tool_choice=choice)["param"] == "tool_choice"


def test_tool_choice_needs_tools(api: Api) -> None:
    assert api.refused(tool_choice="required")["param"] == "tool_choice"


def test_images_need_a_vision_model(api: Api) -> None:
    content = [{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}]
    error = api.refused(user(content))
    assert error["param"] == "messages[0].content[0]"
    assert api.chat(user(content), model=GEMMA).status_code == 200
    bad = [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]
    assert api.refused(user(bad), model=GEMMA)["param"] == "messages[0].content[0].image_url.url"


def test_unknown_model_and_embedding_model(api: Api) -> None:
    error = api.refused(model="nobody/knows", status=404)
    assert (error["message"], error["code"]) == ("The model 'nobody/knows' does not exist", "model_not_found")
    assert api.refused(model=BGE)["param"] == "model"
    assert api.refused(model="")["param"] == "model"


def test_extra_models(serve) -> None:
    spec = ModelSpec(id="my/finetune", supports_tools=True, context_window=100, max_output_tokens=50)
    _, api = serve(models=[spec])
    assert api.chat(model="my/finetune", tools=[WEATHER]).status_code == 200
    assert api.refused(model="my/finetune", max_completion_tokens=51)["param"] == "max_completion_tokens"
    assert api.http.get("/models/my/finetune").json()["id"] == "my/finetune"


def test_windows_follow_the_plan(serve) -> None:
    _, api = serve(plan="trial")
    assert api.chat(max_completion_tokens=4_096).status_code == 200
    error = api.refused(max_completion_tokens=4_097)
    assert "4096" in error["message"]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("vllm", "This model's maximum context length is 32768 tokens. However, you requested 40010 tokens (40005 in"),
        ("sglang", "The input (40010 tokens) is longer than the model's context length (32768 tokens)."),
    ],
)
def test_prompt_past_the_window(serve, shape: str, words: str) -> None:
    _, api = serve(plan="trial", shape=shape)
    error = api.refused(user("word " * 40_000), max_completion_tokens=5)
    assert words in error["message"]
    assert error["code"] == "context_length_exceeded"


def test_prompt_and_completion_share_the_window(api: Api) -> None:
    error = api.refused(user("word " * 30_000), model=QWEN, max_completion_tokens=20_000)
    assert "(30005 in the messages, 20000 in the completion)" in error["message"]
    assert api.chat(user("word " * 30_000), model=QWEN).status_code == 200


def test_lenient_ignores_what_strict_refuses(serve) -> None:
    _, api = serve(strict=False, engine=lambda _: "Stated, and longer than three tokens.")
    message = {"role": "user", "content": "Hello", "name": "bob"}
    choice = api.choice([message], n=3, store=True, user="u", max_tokens=3, response_format=None)
    assert choice["finish_reason"] == "length"
    assert api.choice(max_tokens=3, max_completion_tokens=1)["message"]["content"] == "Stated"
    assert api.refused(model=NEMO, tools=[WEATHER])["param"] == "tools"


def test_reasoning_model_takes_no_tools(api: Api) -> None:
    assert api.refused(model=R1, tools=[WEATHER])["param"] == "tools"


def turns(*roles: str) -> list[dict[str, Any]]:
    calls = [{**CALL, "id": "c1"}]
    more: dict[str, dict[str, Any]] = {"call": {"tool_calls": calls}, "tool": {"tool_call_id": "c1"}}
    return [
        {"role": "assistant" if role == "call" else role, "content": f"message {number}", **more.get(role, {})}
        for number, role in enumerate(roles)
    ]


STRICT = [GEMMA, NEMO, "mistralai/Magistral-Small-2506", "mistralai/Mistral-Small-24B-Instruct-2501"]
ALTERNATING = [
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant"),
]
MIXED = [
    (("system", "system", "user"), 1, "system"),
    (("user", "system"), 1, "system"),
    (("system", "user", "assistant", "system", "user"), 3, "system"),
    (("user", "user"), 1, "user"),
    (("system", "user", "user"), 2, "user"),
    (("user", "assistant", "assistant", "user"), 2, "assistant"),
    (("assistant", "user"), 0, "assistant"),
    (("user", "call", "tool"), 2, "tool"),
]


@pytest.mark.parametrize("model", STRICT)
@pytest.mark.parametrize("roles", ALTERNATING)
def test_alternating_roles_suit_every_template(model: str, roles: tuple[str, ...], api: Api) -> None:
    api.choice(turns(*roles), model=model)


@pytest.mark.parametrize("model", STRICT)
@pytest.mark.parametrize(("roles", "at", "role"), MIXED)
def test_other_roles_are_refused_as_the_template_does(
    model: str, roles: tuple[str, ...], at: int, role: str, api: Api
) -> None:
    error = api.refused(turns(*roles), model=model)
    assert error["param"] == f"messages[{at}].role"
    assert f"messages[{at}].role is '{role}' where the chat template of the model '{model}' wants" in error["message"]
    assert "alternate user/assistant/user/assistant" in error["message"]


@pytest.mark.parametrize(("roles", "at", "role"), MIXED)
def test_other_templates_and_a_lenient_server_take_any_order(
    roles: tuple[str, ...], at: int, role: str, api: Api, serve: Any
) -> None:
    api.choice(turns(*roles), model=LLAMA)
    _, lenient = serve(strict=False)
    lenient.choice(turns(*roles), model=GEMMA)
