from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import Prices
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import specs
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import APIConnectionError, InternalServerError, KlusterError, NotFoundError

from .catalog_tables import BGE, GEMMA, LLAMA_8B, MODELS, PRICES, PURPOSES, R1


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
    def test_what_is_not_a_cache_is_named_and_changes_nothing(self, tmp_path: Path, content: bytes) -> None:
        cache = tmp_path / "models.json"
        cache.write_bytes(content)
        before = catalog.all_models()
        with pytest.raises(ValueError, match=r"models\.json"):
            catalog.load(cache)
        assert catalog.all_models() == before
