from __future__ import annotations

import dataclasses
import pickle
import threading
import warnings
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec, PlanLimits, Prices
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import specs
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import NotFoundError

from .catalog_tables import BGE, GEMMA, LLAMA_8B, LLAMA_70B, MODELS, PRICES, PURPOSES, R1

# Plan: requests a minute, concurrent, batch requests, fine-tuned models.
PLANS: dict[str, tuple[int | None, int | None, int | None, int | None]] = {
    "trial": (30, 20, 1000, 1),
    "core": (600, 100, 100_000, 10),
    "scale": (1200, 100, 500_000, 25),
    "enterprise": (None, 100, None, None),
}


class TestTables:
    def test_the_catalog_holds_these_models_and_no_others(self) -> None:
        assert {spec.id for spec in catalog.all_models()} == set(MODELS)

    @pytest.mark.parametrize("model", MODELS)
    def test_capabilities(self, model: str) -> None:
        spec = catalog.get(model)
        context, output, tools, vision, reasoning, tunable, since, until = MODELS[model]
        assert spec.id == model
        assert (spec.context_window, spec.max_output_tokens) == (context, output)
        assert (spec.supports_tools, spec.supports_vision, spec.reasoning) == (tools, vision, reasoning)
        assert spec.fine_tunable is tunable
        assert (spec.since, spec.until) == (since, until)

    @pytest.mark.parametrize("model", MODELS)
    def test_status_is_retired_exactly_where_the_docs_give_an_end(self, model: str) -> None:
        assert catalog.get(model).status == ("retired" if MODELS[model][7] else "current")

    @pytest.mark.parametrize("model", MODELS)
    def test_purpose(self, model: str) -> None:
        assert catalog.get(model).purpose == PURPOSES.get(model, "chat")

    def test_vectors_have_1024_dimensions(self) -> None:
        assert {spec.id: spec.embedding_dimensions for spec in catalog.all_models() if spec.embedding_dimensions} == {
            BGE: 1024
        }

    def test_only_the_r1_family_opens_in_thought(self) -> None:
        opening = {spec.id for spec in catalog.all_models() if spec.opens_in_thought}
        assert opening == {R1, "deepseek-ai/DeepSeek-R1-0528"}

    @pytest.mark.parametrize("model", PRICES)
    def test_prices(self, model: str) -> None:
        spec = catalog.get(model)
        assert spec.prices == Prices(*PRICES[model][0])
        assert dict(spec.batch_prices) == PRICES[model][1]

    @pytest.mark.parametrize("model", sorted(set(MODELS) - set(PRICES)))
    def test_a_blank_price_is_none_and_never_zero(self, model: str) -> None:
        spec = catalog.get(model)
        assert spec.prices is None
        assert dict(spec.batch_prices) == {}
        assert spec.cost(1_000, 1_000) is None

    @pytest.mark.parametrize("model", MODELS)
    def test_every_figure_has_a_dated_source(self, model: str) -> None:
        spec = catalog.get(model)
        groups = {"capabilities"}
        groups |= {"prices"} if spec.prices else set()
        groups |= {"batch_prices"} if spec.batch_prices else set()
        assert set(spec.sources) == groups
        assert all("2025" in source for source in spec.sources.values())

    @pytest.mark.parametrize("model", [R1, "meta-llama/Llama-4-Scout-17B-16E-Instruct"])
    def test_where_sources_disagree_a_note_says_so(self, model: str) -> None:
        note = catalog.get(model).note
        assert note is not None
        assert "Input price" in note

    def test_cost_is_per_million_tokens(self) -> None:
        spec = catalog.get("deepseek-ai/DeepSeek-V3-0324")
        assert spec.cost(1_000_000, 0) == pytest.approx(0.70)
        assert spec.cost(0, 1_000_000) == pytest.approx(1.40)
        assert spec.cost(1_500, 200) == pytest.approx(0.00133)
        assert spec.cost(0, 0) == 0

    def test_chat_models_come_in_the_tables_order(self) -> None:
        assert [spec.id for spec in catalog.all_models()] == list(MODELS)


class TestPlans:
    def test_these_four(self) -> None:
        assert list(catalog.PLANS) == list(PLANS)

    @pytest.mark.parametrize("plan", PLANS)
    def test_limits(self, plan: str) -> None:
        limits = catalog.PLANS[plan]
        figures = (limits.requests_per_minute, limits.concurrent_requests)
        assert (*figures, limits.max_batch_requests, limits.fine_tuned_models) == PLANS[plan]

    @pytest.mark.parametrize("plan", ["core", "scale", "enterprise"])
    def test_only_trial_caps_the_windows(self, plan: Any) -> None:
        assert catalog.PLANS[plan].context_window is None
        assert [catalog.get(model, plan=plan) for model in MODELS] == catalog.all_models()

    @pytest.mark.parametrize("model", MODELS)
    def test_trial_has_32k_context_and_4k_output(self, model: str) -> None:
        spec = catalog.get(model, plan="trial")
        assert spec.context_window == min(MODELS[model][0], 32768)
        assert spec.max_output_tokens == min(MODELS[model][1], 4096)

    def test_trial_changes_nothing_else(self) -> None:
        capped, full = catalog.get(LLAMA_8B, plan="trial"), catalog.get(LLAMA_8B)
        windows = {"context_window": full.context_window, "max_output_tokens": full.max_output_tokens}
        assert dataclasses.replace(capped, **windows) == full

    def test_a_cap_does_not_stay(self) -> None:
        catalog.get(LLAMA_8B, plan="trial")
        assert catalog.get(LLAMA_8B).context_window == 131072

    def test_the_cap_holds_for_unknown_and_added_models(self, own_catalog: None) -> None:
        catalog.add(ModelSpec(id="acme/big", context_window=200_000, max_output_tokens=100_000))
        assert catalog.get("acme/big", plan="trial").context_window == 32768
        assert catalog.get("acme/none", plan="trial").max_output_tokens == 4096

    @pytest.mark.parametrize("plan", ["Trial", " TRIAL\n"])
    def test_case_and_spaces_of_a_plan_do_not_matter(self, plan: Any) -> None:
        assert catalog.get(LLAMA_8B, plan=plan) == catalog.get(LLAMA_8B, plan="trial")

    @pytest.mark.parametrize("plan", ["gold", "", 3])
    def test_an_unknown_plan_is_named(self, plan: Any) -> None:
        with pytest.raises(ValueError, match=r"plan=.*trial, core, scale, enterprise"):
            catalog.get(LLAMA_8B, plan=plan)

    def test_limits_are_constants(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            catalog.PLANS["trial"].requests_per_minute = 1_000  # type: ignore[misc]
        assert isinstance(catalog.PLANS["trial"], PlanLimits)


class TestUnknownIds:
    UNKNOWN = "acme/llama-ft-7f3a"

    def test_they_are_legal_and_get_conservative_defaults(self) -> None:
        spec = catalog.get(self.UNKNOWN)
        assert (spec.id, spec.status, spec.known) == (self.UNKNOWN, "unknown", False)
        assert (spec.context_window, spec.max_output_tokens) == (32768, 4096)
        assert (spec.supports_tools, spec.supports_vision, spec.reasoning) == (False, False, False)
        assert (spec.prices, dict(spec.batch_prices)) == (None, {})
        assert spec.purpose == "chat"

    def test_they_are_not_listed(self) -> None:
        catalog.get(self.UNKNOWN)
        assert self.UNKNOWN not in [spec.id for spec in catalog.all_models()]

    @pytest.mark.parametrize(
        "model", [UNKNOWN, "endpoint-0193fa", "ft:llama:2025-05-01", "gpt-4o", "x", "modèle/ünïcode", "a/b/c/d"]
    )
    def test_they_are_taken_without_a_warning(self, model: str) -> None:
        specs._unknown.cache_clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert catalog.get(model).id == model

    @pytest.mark.parametrize("model", MODELS)
    def test_every_known_id_is_taken_without_a_warning(self, model: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert catalog.get(model).known

    @pytest.mark.parametrize("model", ["", "  ", None, 3, b"x", [LLAMA_8B], {"id": LLAMA_8B}])
    def test_what_is_not_an_id_is_refused(self, model: Any) -> None:
        with pytest.raises(ValueError, match="id="):
            catalog.get(model)


class TestDidYouMean:
    SLIPS = (
        ("deepseek-ai/deepseek-r1", R1),
        ("DeepSeek-R1", R1),
        ("kluster/deepseek-ai/DeepSeek-R1", R1),
        ("klusterai/Meta-Llama-3.1-8B-Instruct-Trubo", LLAMA_8B),
        ("Meta-Llama-3.3-70B-Instruct-Turbo", LLAMA_70B),
        ("google/gemma-3-27b", GEMMA),
        ("bge-m3", BGE),
        ("Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-235B-A22B-FP8"),
    )

    @pytest.mark.parametrize(("slip", "meant"), SLIPS)
    def test_a_near_miss_is_named(self, slip: str, meant: str) -> None:
        assert catalog.suggest(slip) == meant

    @pytest.mark.parametrize("model", ["gpt-4o", "claude-3-opus", "acme/ft-1", "llama", "", "deepseek"])
    def test_what_is_far_from_all_gets_no_suggestion(self, model: str) -> None:
        assert catalog.suggest(model) is None

    @pytest.mark.parametrize("model", MODELS)
    def test_a_known_id_needs_no_suggestion(self, model: str) -> None:
        assert catalog.suggest(model) is None

    def test_the_warning_names_both_and_comes_once(self, own_catalog: None) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            specs = [catalog.get("deepseek-ai/deepseek-r1") for _ in range(3)]
        assert [spec.id for spec in specs] == ["deepseek-ai/deepseek-r1"] * 3  # sent as it is, never corrected
        assert len(caught) == 1
        text = str(caught[0].message)
        assert "did you mean" in text
        assert repr(R1) in text
        assert "'deepseek-ai/deepseek-r1'" in text

    def test_the_404_names_it_too(self, own_catalog: None, emulator: Emulator) -> None:
        transport = Transport(KlusterConfig(base_url=emulator.base_url, api_key="any"))
        messages = [{"role": "user", "content": "Hello!"}]
        with pytest.raises(NotFoundError) as caught:
            transport.post(CHAT_PATH, {"model": R1.lower(), "messages": messages})
        assert (caught.value.hint or "").startswith(f"did you mean {R1!r}?")

    def test_the_warning_points_at_the_caller(self, own_catalog: None) -> None:
        with pytest.warns(UserWarning, match="did you mean") as caught:
            catalog.get("deepseek-ai/deepseek-r1")
        assert caught[0].filename == __file__

    def test_an_added_model_may_be_meant(self, own_catalog: None) -> None:
        catalog.add(ModelSpec(id="acme/support-bot-2025"))
        assert catalog.suggest("acme/suport-bot-2025") == "acme/support-bot-2025"


@pytest.mark.usefixtures("own_catalog")
class TestAdd:
    def test_an_unknown_id_becomes_known(self) -> None:
        assert not catalog.get("acme/ft").known
        spec = ModelSpec(id="acme/ft", context_window=131072, supports_tools=True, prices=Prices(1.0, 2.0))
        catalog.add(spec)
        assert catalog.get("acme/ft") is spec
        assert catalog.get("acme/ft").known
        assert catalog.all_models()[-1] is spec

    def test_a_known_id_is_replaced(self) -> None:
        catalog.add(dataclasses.replace(catalog.get(GEMMA), supports_tools=True))
        assert catalog.get(GEMMA).supports_tools
        assert len(catalog.all_models()) == len(MODELS)

    @pytest.mark.parametrize("spec", ["acme/ft", None, {"id": "acme/ft"}])
    def test_only_specs_are_taken(self, spec: Any) -> None:
        with pytest.raises(TypeError, match="ModelSpec"):
            catalog.add(spec)

    def test_adding_and_reading_from_many_threads(self) -> None:
        failures: list[BaseException] = []
        start = threading.Barrier(8)

        def work(number: int) -> None:
            try:
                start.wait()
                for i in range(150):
                    model = f"acme/t{number}-{i}"
                    catalog.add(ModelSpec(id=model, context_window=i + 1))
                    assert catalog.get(model).context_window == i + 1
                    assert catalog.get(LLAMA_8B).context_window == 131072
                    catalog.get(f"zzz-{number}-{i}")  # looks for near misses among all
                    assert len(catalog.all_models()) >= len(MODELS)
            except BaseException as err:  # a thread's failure is the test's
                failures.append(err)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(catalog.all_models()) == len(MODELS) + 8 * 150


class TestSpec:
    @pytest.mark.parametrize("values", [{"id": ""}, {"id": " "}, {"id": None}, {"id": 3}])
    def test_an_empty_id_is_refused(self, values: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"ModelSpec: id="):
            ModelSpec(**values)

    @pytest.mark.parametrize("field", ["context_window", "max_output_tokens"])
    @pytest.mark.parametrize("value", [-1, 1.5, "32k", None])
    def test_a_bad_window_is_named(self, field: str, value: Any) -> None:
        with pytest.raises(ValueError, match=rf"{field}={value!r}.*0 or more"):
            ModelSpec(id="acme/ft", **{field: value})

    def test_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            catalog.get(GEMMA).context_window = 1  # type: ignore[misc]

    def test_pickles(self) -> None:
        assert [pickle.loads(pickle.dumps(spec)) for spec in catalog.all_models()] == catalog.all_models()

    def test_hashable(self) -> None:
        assert len(set(catalog.all_models())) == len(MODELS)

    def test_the_list_is_a_copy(self) -> None:
        catalog.all_models().clear()
        assert len(catalog.all_models()) == len(MODELS)
