"""Deployments from the catalog, and a real Router over them."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import litellm
import pytest

from kluster_integrations import catalog
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.litellm import _versions, model_list, register, router
from kluster_integrations.litellm.routing import GROUPS, fallbacks
from tests.litellm.asking import ASK, LLAMA, SCOUT, WEATHER, bodies, weather_tool
from tests.litellm.test_errors import BY_STATUS

LLAMA_ID = LLAMA.removeprefix("kluster/")
SCOUT_ID = SCOUT.removeprefix("kluster/")
SMALL = "mistralai/Mistral-Small-24B-Instruct-2501"  # 32k
Say = Callable[..., Any]


async def _astream(made: Any, **call: Any) -> list[Any]:
    return [chunk async for chunk in await made.acompletion(stream=True, **call)]


THROUGH: dict[str, Say] = {
    "completion": lambda made, **call: made.completion(**call),
    "acompletion": lambda made, **call: asyncio.run(made.acompletion(**call)),
    "stream": lambda made, **call: litellm.stream_chunk_builder(list(made.completion(stream=True, **call))),
    "astream": lambda made, **call: litellm.stream_chunk_builder(asyncio.run(_astream(made, **call))),
}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, emulator: Emulator) -> Emulator:
    monkeypatch.setenv("KLUSTER_API_KEY", "test-key")
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
    return emulator


def models_asked(server: Emulator) -> list[str]:
    return [body["model"] for body in bodies(server)]


STRATEGIES = ["simple-shuffle", "least-busy", "latency-based-routing", "cost-based-routing", "usage-based-routing-v2"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_of_litellms_routes(service: Emulator, strategy: str) -> None:
    """In a process of its own: some leave a callback behind that goes on counting."""
    code = f"""
import asyncio
from kluster_integrations.litellm import router
made = router(plan="core", routing_strategy={strategy!r})
async def ask():
    for _ in range(2):
        assert (await made.acompletion(model="tools", messages={ASK!r})).choices
        assert [chunk async for chunk in await made.acompletion(model="tools", messages={ASK!r}, stream=True)]
asyncio.run(ask())
"""
    subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=True)
    assert len(service.requests) == 4


@pytest.mark.parametrize("status", [401, 500])
def test_responses_that_stream_fall_back(service: Emulator, status: int) -> None:
    if _versions.numbers(str(_versions.installed())) < (1, 100):
        pytest.skip("this version's Router has no fallback for them")
    service.add_fault(Fault("status", status=status, times=None, model=LLAMA_ID, headers={"retry-after-ms": "1"}))
    made = router([LLAMA_ID, SCOUT_ID], groups=False, num_retries=0, fallbacks=[{LLAMA_ID: [SCOUT_ID]}])

    async def ask() -> list[Any]:
        return [event async for event in await made.aresponses(model=LLAMA_ID, input="Say this", stream=True)]

    assert asyncio.run(ask())[-1].type == "response.completed"
    assert models_asked(service)[-1] == SCOUT_ID


@pytest.mark.parametrize(("name", "model"), [("kluster/*", LLAMA), ("*", LLAMA_ID)])
def test_wildcards(service: Emulator, name: str, model: str) -> None:
    register()
    made = litellm.Router(model_list=[{"model_name": name, "litellm_params": {"model": "kluster/*"}}])
    assert made.completion(model=model, messages=ASK).choices
    assert models_asked(service) == [LLAMA_ID]


def test_making_deployments_does_not_import_litellm() -> None:
    code = (
        "import sys; from kluster_integrations.litellm.routing import fallbacks, model_list; "
        "from kluster_integrations.litellm.config_file import config_yaml; "
        "model_list(plan='core'); fallbacks(); config_yaml(); assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=True)


def test_a_deployment_says_limits_and_prices() -> None:
    first = next(d for d in model_list(plan="scale") if d["model_name"] == LLAMA_ID)
    assert first["litellm_params"] == {"model": LLAMA, "rpm": 1_200, "max_parallel_requests": 100}
    info = first["model_info"]
    assert (info["id"], info["mode"], info["max_input_tokens"]) == (LLAMA, "chat", 131_072)
    assert (info["input_cost_per_token"], info["output_cost_per_token"]) == (0.7 / 1_000_000, 0.7 / 1_000_000)


def test_the_trial_plan_caps_windows() -> None:
    assert {d["model_info"]["max_input_tokens"] for d in model_list(plan="trial")} == {32_768, 8_192}
    assert {d["litellm_params"]["rpm"] for d in model_list(plan="trial")} == {30}


def test_each_deployment_has_an_id_of_its_own_without_a_key() -> None:
    made = model_list(api_keys=["secret-one", "secret-two"])
    ids = [d["model_info"]["id"] for d in made]
    assert len(set(ids)) == len(ids) == 2 * len(model_list())
    assert not any(":" in id_ for id_ in ids), "some strategies would cut it there"
    assert not any("secret" in id_ for id_ in ids)
    assert ids == [d["model_info"]["id"] for d in model_list(api_keys=["a", "b"])], "the same on each instance"


def test_groups_come_from_the_catalog() -> None:
    made = model_list()
    members = {name: {d["litellm_params"]["model"] for d in made if d["model_name"] == name} for name in GROUPS}
    current = [spec for spec in catalog.all_models() if spec.status == "current" and spec.purpose == "chat"]
    assert members["tools"] == {f"kluster/{spec.id}" for spec in current if spec.supports_tools}
    assert members["vision"] == {f"kluster/{spec.id}" for spec in current if spec.supports_vision}
    assert members["reasoning"] == {f"kluster/{spec.id}" for spec in current if spec.reasoning}
    assert len(members["cheap"]) == 3
    assert LLAMA not in members["cheap"]


def test_models_can_be_named_with_or_without_the_prefix() -> None:
    assert model_list([LLAMA], groups=False) == model_list([LLAMA_ID], groups=False)
    with pytest.raises(TypeError, match="list of model ids"):
        model_list(LLAMA_ID)


def test_the_plan_of_the_environment_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_PLAN", " Core ")
    assert model_list() == model_list(plan="core")
    assert router().model_list == router(plan="core").model_list


def test_an_unknown_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_PLAN", "gold")
    with pytest.raises(ValueError, match="plan='gold'"):
        model_list()


def test_fallbacks_can_do_what_they_stand_in_for() -> None:
    general, longer = fallbacks()
    assert general
    for entry in general:
        for name, others in entry.items():
            spec = catalog.get(name)
            for other in map(catalog.get, others):
                assert other.id != name
                assert (other.supports_tools, other.supports_vision, other.reasoning) >= (
                    spec.supports_tools and other.supports_tools,
                    spec.supports_vision and other.supports_vision,
                    spec.reasoning and other.reasoning,
                )
                assert not (spec.supports_tools and not other.supports_tools)
                assert not (spec.supports_vision and not other.supports_vision)
    for entry in longer:
        for name, others in entry.items():
            windows = [catalog.get(other).context_window for other in others]
            assert windows == sorted(windows)
            if name not in GROUPS:
                assert windows[0] > catalog.get(name).context_window


def test_the_trial_plan_has_no_longer_window_to_fall_back_to() -> None:
    assert fallbacks(plan="trial")[1] == []


@pytest.mark.parametrize("way", THROUGH)
def test_another_model_answers_after_errors(service: Emulator, way: str) -> None:
    service.add_fault(Fault("status", status=500, times=None, model=LLAMA_ID))
    response = THROUGH[way](router(retry_after=0), model=LLAMA_ID, messages=ASK)
    assert response.choices[0].message.content
    asked = models_asked(service)
    assert asked[-1] == fallbacks()[0][_at(LLAMA_ID)][LLAMA_ID][0]
    assert asked[:-1] == [LLAMA_ID] * 3, "each try is one request"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
@pytest.mark.parametrize("way", THROUGH)
def test_another_model_answers_whatever_the_error(service: Emulator, way: str, status: int) -> None:
    service.add_fault(Fault("status", status=status, times=None, model=LLAMA_ID))
    made = router([LLAMA_ID, SCOUT_ID], groups=False, num_retries=0, fallbacks=[{LLAMA_ID: [SCOUT_ID]}])
    assert THROUGH[way](made, model=LLAMA_ID, messages=ASK).choices[0].message.content
    assert models_asked(service) == [LLAMA_ID, SCOUT_ID]


def refused(way: str, made: Any) -> Exception:
    """Return the error of a call."""
    with pytest.raises(litellm.exceptions.openai.APIError) as caught:
        THROUGH[way](made, model=LLAMA_ID, messages=ASK)
    return caught.value


@pytest.mark.parametrize("status", [401, 429, 503])
@pytest.mark.parametrize("way", THROUGH)
def test_without_another_model_the_error_is_the_models_own(service: Emulator, way: str, status: int) -> None:
    service.add_fault(Fault("status", status=status, times=None, retry_after=0))
    made = router([LLAMA_ID], groups=False, num_retries=0)
    error = refused(way, made)
    assert isinstance(error, BY_STATUS[status][0])
    assert isinstance(pickle.loads(pickle.dumps(error)), BY_STATUS[status][0])
    assert len(models_asked(service)) == 1


@pytest.mark.parametrize("way", ["acompletion", "astream"])
def test_a_prompt_that_is_too_long_by_the_servers_word_goes_to_a_longer_window(service: Emulator, way: str) -> None:
    body = {"error": {"message": "This model's maximum context length is 32768 tokens.", "code": 400}}
    service.add_fault(Fault("status", status=400, body=body, times=None, model=SMALL))
    THROUGH[way](router([SMALL, LLAMA_ID], groups=False, fallbacks=[]), model=SMALL, messages=ASK)
    assert models_asked(service) == [SMALL, LLAMA_ID]


@pytest.mark.parametrize("way", ["acompletion", "astream"])
def test_what_fails_twice_is_asked_of_the_same_model_again(service: Emulator, way: str) -> None:
    service.add_fault(Fault("status", status=500, times=2, headers={"retry-after-ms": "1"}))
    THROUGH[way](router([LLAMA_ID, SCOUT_ID], groups=False, retry_after=0), model=LLAMA_ID, messages=ASK)
    assert models_asked(service) == [LLAMA_ID] * 3


@pytest.mark.parametrize("way", THROUGH)
def test_with_a_bound_for_waiting_a_refusal_is_not_waited_for(service: Emulator, way: str) -> None:
    service.add_fault(Fault("status", status=429, times=None, retry_after=50))
    made = router([LLAMA_ID], plan="core", max_wait=1.0, groups=False)
    assert isinstance(refused(way, made), litellm.RateLimitError)
    assert len(models_asked(service)) == 1


def _at(name: str) -> int:
    return next(i for i, entry in enumerate(fallbacks()[0]) if name in entry)


@pytest.mark.parametrize("way", THROUGH)
def test_a_prompt_that_is_too_long_goes_to_a_longer_window(service: Emulator, way: str) -> None:
    long = [{"role": "user", "content": "word " * 33_000}]
    THROUGH[way](router(), model=SMALL, messages=long)
    (asked,) = models_asked(service)
    assert catalog.get(asked).context_window == 40_960


@pytest.mark.parametrize("way", THROUGH)
def test_a_prompt_that_the_server_finds_too_long_goes_to_a_longer_window(service: Emulator, way: str) -> None:
    body = {"error": {"message": "This model's maximum context length is 32768 tokens.", "code": 400}}
    service.add_fault(Fault("status", status=400, body=body, model=SMALL, times=None))
    longer = next(entry[SMALL] for entry in fallbacks()[1] if SMALL in entry)
    THROUGH[way](router(num_retries=0, fallbacks=[]), model=SMALL, messages=ASK)
    assert models_asked(service) == [SMALL, longer[0]]


def test_a_group_answers_with_tools(service: Emulator) -> None:
    response = router().completion(model="tools", messages=WEATHER, tools=[weather_tool()])
    assert response.choices[0].message.tool_calls[0].function.name == "get_weather"
    assert catalog.get(models_asked(service)[0]).supports_tools


@pytest.mark.parametrize("way", THROUGH)
def test_one_bad_key_of_two_costs_nobody_an_answer(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    with Emulator(api_keys=["good"]) as server:
        made = router([LLAMA_ID], api_keys=["bad", "good"], base_url=server.base_url, groups=False, retry_after=0)
        for _ in range(6):
            assert THROUGH[way](made, model=LLAMA_ID, messages=ASK).choices[0].message.content


def test_one_key_that_fails_for_a_time_locks_nobody_out(service: Emulator) -> None:
    made = router([LLAMA_ID], groups=False, num_retries=0)
    service.add_fault(Fault("status", status=401, times=5))
    for _ in range(5):
        with pytest.raises(litellm.AuthenticationError):
            made.completion(model=LLAMA_ID, messages=ASK)
    assert made.completion(model=LLAMA_ID, messages=ASK).choices


def test_the_plans_limit_holds_over_all_deployments(service: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", "of-this-test")  # a key's minute is one in a process, and so for all tests
    made = router(plan="trial", max_wait=0.0, fallbacks=[])
    names = [LLAMA_ID, "tools", SMALL]
    for number in range(30):
        made.completion(model=names[number % 3], messages=ASK)
    for name in names:
        with pytest.raises(litellm.RateLimitError, match="30 requests in 60 s"):
            made.completion(model=name, messages=ASK)
    assert len(service.requests) == 30


async def test_embeddings_through_the_router(service: Emulator) -> None:
    response = await router().aembedding(model="BAAI/bge-m3", input=["a", "b"])
    assert len(response.data) == 2


def test_cost_through_the_router(service: Emulator) -> None:
    response = router().completion(model="cheap", messages=ASK)
    spec = catalog.get(models_asked(service)[0])
    usage = response.usage
    assert response._hidden_params["response_cost"] == spec.cost(usage.prompt_tokens, usage.completion_tokens)
