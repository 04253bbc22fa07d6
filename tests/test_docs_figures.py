"""The figures of docs/limits-and-prices.md are those of the catalog and of the request builder."""

from __future__ import annotations

import re

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec, PlanLimits
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import embeddings, request
from kluster_integrations.errors import BadRequestError

from .pages import ROOT, tables

PAGE = ROOT / "docs" / "limits-and-prices.md"
UNKNOWN = "?"  # no source says it
WINDOWS = ("24h", "48h", "72h")


def _yes(flag: bool) -> str:
    return "yes" if flag else ""


def _model(spec: ModelSpec) -> dict[str, str]:
    return {
        "id": f"`{spec.id}`",
        "context": f"{spec.context_window:,}",
        "output": f"{spec.max_output_tokens:,}" if spec.purpose == "chat" else "",
        "tools": _yes(spec.supports_tools),
        "images": _yes(spec.supports_vision),
        "thinks": _yes(spec.reasoning),
        "fine-tunable": _yes(spec.fine_tunable),
        "since": spec.since or UNKNOWN,
        "until": spec.until or "",
    }


def _price(spec: ModelSpec) -> dict[str, str]:
    prices = spec.prices
    batch = {f"batch {w}": f"{spec.batch_prices[w]:.2f}" if w in spec.batch_prices else UNKNOWN for w in WINDOWS}
    named = (spec.sources.get("prices"), spec.sources.get("batch_prices"))
    return {
        "id": f"`{spec.id}`",
        "input": f"{prices.input:.2f}" if prices else UNKNOWN,
        "output": f"{prices.output:.2f}" if prices else UNKNOWN,
        **batch,
        "sources": "; batch: ".join(filter(None, named)) or "none",
    }


def _plan(name: str, limits: PlanLimits) -> dict[str, str]:
    def said(number: int | None) -> str:
        return "unlimited" if number is None else f"{number:,}"

    def cap(number: int | None) -> str:
        return "the model's" if number is None else f"{number:,}"

    return {
        "plan": f"`{name}`",
        "requests a minute": said(limits.requests_per_minute),
        "at once": said(limits.concurrent_requests),
        "in a batch": said(limits.max_batch_requests),
        "fine-tuned models": said(limits.fine_tuned_models),
        "context": cap(limits.context_window),
        "output": cap(limits.max_output_tokens),
    }


def _allowed(name: str) -> str:
    """Return what a parameter may be, in the words of the error."""
    with pytest.raises(BadRequestError) as caught:
        request.build("google/gemma-3-27b-it", [{"role": "user", "content": "hi"}], {name: "?"}, config=KlusterConfig())
    found = re.search(r"must be (.*)\.$", caught.value.message)
    assert found
    return found.group(1)


def expected() -> list[list[dict[str, str]]]:
    models = catalog.all_models()
    checked = [{"parameter": f"`{name}`", "may be": _allowed(name)} for name in request._CHECKS]
    stops = {"parameter": "`stop`", "may be": f"up to {request.MAX_SERVER_STOPS} texts; further ones are applied here"}
    notes = [{"id": f"`{spec.id}`", "note": spec.note} for spec in models if spec.note]
    return [
        [_model(spec) for spec in models],
        [_price(spec) for spec in models if spec.purpose != "verification"],
        notes,
        [_plan(name, limits) for name, limits in catalog.PLANS.items()],
        [*checked, stops],
    ]


def _markdown(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    right = [all(re.fullmatch(r"[\d,.]*|\?", row[name]) for row in rows) for name in rows[0]]
    lines.insert(1, ["--:" if numbers else "---" for numbers in right])
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)


@pytest.mark.parametrize("number", range(5), ids=["models", "prices", "notes", "plans", "parameters"])
def test_the_table_is_the_catalogs(number: int) -> None:
    there = tables(PAGE.read_text("utf-8"))
    assert len(there) == 5 + 1  # the last is that of the sources
    wanted = expected()[number]
    assert there[number] == wanted, f"write into {PAGE.name}:\n{_markdown(wanted)}"


def test_each_source_is_explained() -> None:
    sources = " ".join(source for spec in catalog.all_models() for source in spec.sources.values())
    explained = [row["source"] for row in tables(PAGE.read_text("utf-8"))[-1]]
    words = set(re.findall(r"docs|fork|curator|Lava", sources))
    assert words <= set(explained)
    assert {spec.sources["capabilities"] for spec in catalog.all_models()} == {"docs 2025-07-31"}  # the text says so


def test_figures_in_the_text() -> None:
    text = PAGE.read_text("utf-8")
    spec = catalog.get(embeddings.DEFAULT_MODEL)
    assert f"up to {spec.context_window:,} tokens per text, {spec.embedding_dimensions:,} numbers" in text
    assert f"{embeddings.MAX_BATCH:,} texts per request" in text


def test_versions_of_what_runs_through_the_gateway() -> None:
    files = [ROOT / f"constraints-{name}.txt" for name in ("frameworks", "clients-openai2", "openai3")]
    pins = "".join(file.read_text("utf-8") for file in files)
    [rows] = [table for table in tables((ROOT / "docs" / "gateway.md").read_text("utf-8")) if "version" in table[0]]
    assert [row for row in rows if f"\n{row['package']}=={row['version']}\n" not in pins] == []


def test_the_bill_of_the_batch_page() -> None:
    spec = catalog.get("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo")
    real_time = spec.cost(300 * 100_000, 50 * 100_000)
    in_72h = 350 * 100_000 * spec.batch_prices["72h"] / 1_000_000
    page = " ".join((ROOT / "docs" / "batch.md").read_text("utf-8").split())
    assert f"cost ${real_time:.2f} in real time, and ${in_72h:.2f} in a job" in page
