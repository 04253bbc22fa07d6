from __future__ import annotations

import dataclasses
import json
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec, PlanLimits, Prices
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import specs
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import APIConnectionError, InternalServerError, KlusterError, NotFoundError

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
    def test_what_is_no_id_is_refused(self, model: Any) -> None:
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


def _row(**fields: Any) -> dict[str, Any]:
    return {"id": "acme/new", "object": "model", "created": 1, "owned_by": "acme", **fields}


def _list(*rows: Any) -> bytes:
    return json.dumps({"object": "list", "data": list(rows)}).encode()


@pytest.mark.usefixtures("own_catalog")
class TestRefresh:
    def test_reads_the_emulators_models(self, emulator: Emulator) -> None:
        specs = catalog.refresh(KlusterConfig(base_url=emulator.base_url))
        assert [spec.id for spec in specs] == list(MODELS)
        for spec in specs:
            assert (spec.context_window, spec.max_output_tokens) == MODELS[spec.id][:2]
            assert (spec.supports_tools, spec.supports_vision) == MODELS[spec.id][2:4]
            assert spec.fine_tunable is MODELS[spec.id][5]
            assert spec.purpose == PURPOSES.get(spec.id, "chat")

    def test_asks_for_the_extended_list_and_needs_no_key(self, emulator: Emulator) -> None:
        catalog.refresh(KlusterConfig(base_url=emulator.base_url))
        (request,) = emulator.requests
        assert (request.method, request.path, dict(request.query)) == ("GET", "/v1/models", {"extended": "true"})
        assert "authorization" not in {name.lower() for name in request.headers}

    def test_a_key_of_another_company_is_not_sent(
        self, answering: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
        monkeypatch.setenv("OPENAI_ORG_ID", "org-openai")
        server = answering(_list(_row()))
        catalog.refresh(KlusterConfig(base_url=server.base_url))
        assert "openai" not in str(server.requests).lower()

    def test_without_a_config_the_environment_decides(
        self, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
        assert len(catalog.refresh()) == len(MODELS)

    def test_prices_and_what_is_not_said_stay(self, emulator: Emulator) -> None:
        catalog.refresh(KlusterConfig(base_url=emulator.base_url))
        for model, (prices, batch) in PRICES.items():
            spec = catalog.get(model)
            assert (spec.prices, dict(spec.batch_prices)) == (Prices(*prices), batch)
            assert (spec.reasoning, spec.since) == (MODELS[model][4], MODELS[model][6])
        assert catalog.get(R1).opens_in_thought
        assert catalog.get(BGE).embedding_dimensions == 1024

    def test_a_listed_model_is_current_and_its_source_is_the_server(self, answering: Callable[..., Any]) -> None:
        server = answering(_list(_row(id=R1)))
        (spec,) = catalog.refresh(KlusterConfig(base_url=server.base_url))
        assert spec.status == "current"
        assert spec.sources["refreshed"] == "server"
        assert spec.sources["prices"]
        assert catalog.get(R1) is spec

    def test_reads_the_window_of_a_server_of_ones_own(self, answering: Callable[..., Any]) -> None:
        rows = [
            _row(id="vllm", max_model_len=16_384),
            _row(
                id="llama.cpp", meta={"n_ctx": 4_096, "n_ctx_train": 8_192}, architecture={"input_modalities": ["text"]}
            ),
            _row(id="llama.cpp/eye", meta={"n_ctx": 9}, architecture={"input_modalities": ["text", "image"]}),
            _row(id=LLAMA_8B, max_model_len=8_192),
            _row(id="both", context_length=5, max_model_len=16_384),
        ]
        found = catalog.refresh(KlusterConfig(base_url=answering(_list(*rows)).base_url))
        windows = [(spec.context_window, spec.max_output_tokens, spec.known) for spec in found]
        assert windows[:4] == [(16_384, 16_384, False), (4_096, 4_096, True), (9, 9, True), (8_192, 8_192, True)]
        assert windows[4][0] == 5
        assert [spec.supports_vision for spec in found[1:3]] == [False, True]

    @pytest.mark.parametrize(
        "row",
        [
            *({"max_model_len": "8k"}, {"meta": 3}, {"meta": {"n_ctx": "8k"}}, {"meta": {"n_ctx": True}}),
            *({"limits": {"concurrent_requests": "5"}}, {"architecture": {"input_modalities": 5}}),
        ],
    )
    def test_a_value_of_another_type_is_refused(self, answering: Callable[..., Any], row: dict[str, Any]) -> None:
        with pytest.raises(InternalServerError, match="must be"):
            catalog.refresh(KlusterConfig(base_url=answering(_list(_row(**row))).base_url))

    def test_takes_each_field(self, answering: Callable[..., Any]) -> None:
        row = _row(
            name="New",
            description="A new one",
            tags=["vision", "fine-tunable"],
            model_purpose="multimodal",
            tools_supported=True,
            context_length=200_000,
            output_length=10_000,
            limits={"concurrent_requests": 7},
        )
        (spec,) = catalog.refresh(KlusterConfig(base_url=answering(_list(row)).base_url))
        assert (spec.context_window, spec.max_output_tokens, spec.concurrent_requests) == (200_000, 10_000, 7)
        assert (spec.supports_tools, spec.supports_vision, spec.fine_tunable) == (True, True, True)
        assert spec.prices is None
        assert catalog.get("acme/new").known

    @pytest.mark.parametrize(
        ("fields", "vision"),
        [
            ({"tags": ["vision"]}, True),
            ({"tags": [], "model_purpose": "multimodal"}, True),
            ({"tags": [], "model_purpose": "text"}, False),
            ({"tags": None, "model_purpose": None}, True),  # not said: stays
            ({}, True),
        ],
    )
    def test_vision(self, answering: Callable[..., Any], fields: dict[str, Any], vision: bool) -> None:
        (spec,) = catalog.refresh(KlusterConfig(base_url=answering(_list(_row(id=GEMMA, **fields))).base_url))
        assert spec.supports_vision is vision

    def test_an_embedding_model_is_known_by_its_purpose(self, answering: Callable[..., Any]) -> None:
        row = _row(model_purpose="embeddings")
        (spec,) = catalog.refresh(KlusterConfig(base_url=answering(_list(row)).base_url))
        assert spec.purpose == "embeddings"

    def test_null_fields_change_nothing(self, answering: Callable[..., Any]) -> None:
        row = _row(
            id=LLAMA_8B,
            name=None,
            tags=None,
            model_purpose=None,
            tools_supported=None,
            context_length=None,
            output_length=None,
            limits=None,
        )
        before = catalog.get(LLAMA_8B)
        (spec,) = catalog.refresh(KlusterConfig(base_url=answering(_list(row)).base_url))
        assert dataclasses.replace(spec, sources=before.sources) == before

    def test_null_limits_inside(self, answering: Callable[..., Any]) -> None:
        row = _row(limits={"concurrent_requests": None})
        (spec,) = catalog.refresh(KlusterConfig(base_url=answering(_list(row)).base_url))
        assert spec.concurrent_requests is None

    def test_an_empty_list_is_an_answer(self, answering: Callable[..., Any]) -> None:
        assert catalog.refresh(KlusterConfig(base_url=answering(_list()).base_url)) == []
        assert len(catalog.all_models()) == len(MODELS)

    HOSTILE = (
        (b"", "empty"),
        (b"not json", "text"),
        (b"<html><body>Welcome</body></html>", "html"),
        (b"[]", "list"),
        (b"null", "null"),
        (b"3", "number"),
        (b'"text"', "string"),
        (b"{}", "no-data"),
        (b'{"data": null}', "null-data"),
        (b'{"data": {"id": "a"}}', "dict-data"),
        (b'{"data": [1, 2]}', "number-rows"),
        (b'{"data": [null]}', "null-row"),
        (_list({"object": "model"}), "no-id"),
        (_list(_row(id=None)), "null-id"),
        (_list(_row(id="")), "empty-id"),
        (_list(_row(id=" ")), "blank-id"),
        (_list(_row(id=7)), "number-id"),
        (_list(_row(id=["a"])), "list-id"),
        (_list(_row(id={"a": 1})), "dict-id"),
        (_list(_row(context_length="131072")), "text-window"),
        (_list(_row(context_length=-5)), "negative-window"),
        (_list(_row(context_length=1.5)), "fraction-window"),
        (_list(_row(output_length=[1])), "list-window"),
        (_list(_row(limits=[1])), "list-limits"),
        (_list(_row(limits="many")), "text-limits"),
        (_list(_row(tags=5)), "number-tags"),
        (_list(_row(tags={"vision": 1}, tools_supported="yes")), "text-flag"),
        (b'{"data": [{"id": "acme/x\xff"}]}', "bad-utf8"),
    )

    @pytest.mark.parametrize("body", [b for b, _ in HOSTILE], ids=[name for _, name in HOSTILE])
    def test_a_hostile_answer_is_an_error_and_changes_nothing(
        self, answering: Callable[..., Any], body: bytes, tmp_path: Path
    ) -> None:
        before, cache = catalog.all_models(), tmp_path / "models.json"
        cache.write_text("[]")
        with pytest.raises(KlusterError):
            catalog.refresh(KlusterConfig(base_url=answering(body).base_url), cache=cache)
        assert catalog.all_models() == before
        assert cache.read_text() == "[]"
        assert list(tmp_path.iterdir()) == [cache]

    def test_one_bad_row_among_good_ones_changes_nothing(self, answering: Callable[..., Any]) -> None:
        before = catalog.all_models()
        body = _list(_row(id=LLAMA_8B, context_length=5), {"object": "model"})
        with pytest.raises(InternalServerError):
            catalog.refresh(KlusterConfig(base_url=answering(body).base_url))
        assert catalog.all_models() == before

    def test_an_http_error_is_raised_as_its_kind(self, answering: Callable[..., Any]) -> None:
        server = answering(b'{"error": {"message": "no such path"}}', status=404)
        with pytest.raises(NotFoundError, match="no such path"):
            catalog.refresh(KlusterConfig(base_url=server.base_url))

    def test_no_server_is_a_connection_error(self, answering: Callable[..., Any]) -> None:
        server = answering(b"{}")
        server.stop()
        with pytest.raises(APIConnectionError):
            catalog.refresh(KlusterConfig(base_url=server.base_url, max_retries=0))


@pytest.mark.usefixtures("own_catalog")
class TestCache:
    def test_what_refresh_writes_load_reads(
        self, answering: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = tmp_path / "models.json"
        server = answering(_list(_row(context_length=77_000, tools_supported=True), _row(id=LLAMA_8B)))
        fresh = catalog.refresh(KlusterConfig(base_url=server.base_url), cache=cache)
        monkeypatch.setattr(specs, "_models", {k: v for k, v in specs._models.items() if k != "acme/new"})
        assert not catalog.get("acme/new").known
        loaded = catalog.load(cache)
        assert loaded == fresh
        assert catalog.get("acme/new").context_window == 77_000
        assert len(server.requests) == 1

    def test_the_cache_is_all_there_is(self, answering: Callable[..., Any], tmp_path: Path) -> None:
        cache = tmp_path / "models.json"
        catalog.refresh(KlusterConfig(base_url=answering(_list(_row())).base_url), cache=cache)
        assert list(tmp_path.iterdir()) == [cache]

    def test_the_cache_holds_no_key(self, answering: Callable[..., Any], tmp_path: Path) -> None:
        cache = tmp_path / "models.json"
        server = answering(_list(_row()))
        catalog.refresh(KlusterConfig(base_url=server.base_url, api_key="kk-secret"), cache=cache)
        assert "kk-secret" not in cache.read_text()

    def test_a_text_is_a_path_too(self, answering: Callable[..., Any], tmp_path: Path) -> None:
        cache = str(tmp_path / "models")
        catalog.refresh(KlusterConfig(base_url=answering(_list(_row())).base_url), cache=cache)
        assert [spec.id for spec in catalog.load(cache)] == ["acme/new"]

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            catalog.load(tmp_path / "none.json")

    @pytest.mark.parametrize(
        "content",
        [
            *(b"", b"{", b"{}", b"null", b"[1]", b'[{"object": "model"}]', b'{"data": []}', b"\xff\xfe"),
            *(b'[{"id": ["a"]}]', b'[{"id": 7}]', b'[{"id": "a", "limits": [1]}]', b'[{"id": "a", "tags": 5}]'),
        ],
    )
    def test_what_is_no_cache_is_named_and_changes_nothing(self, tmp_path: Path, content: bytes) -> None:
        cache = tmp_path / "models.json"
        cache.write_bytes(content)
        before = catalog.all_models()
        with pytest.raises(ValueError, match=r"models\.json"):
            catalog.load(cache)
        assert catalog.all_models() == before
