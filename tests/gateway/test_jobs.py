"""Batch jobs and the budget: each counts by an estimate when it is created, and is refused where it does not fit."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import httpx
import openai
import pytest

from kluster_integrations import Budget
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.gateway import Gateway, jobs

from ..raw_server import RawServer, Reply
from .conftest import GEMMA, LLAMA, Serve, settings, user

WINDOW = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
TOKENS = 1_000_000  # of an answer: a line costs its price in the list, and a little for its prompt


def line(number: int = 0, model: str = LLAMA, **body: Any) -> dict[str, Any]:
    body = {"model": model, "messages": user("Hello!"), "max_completion_tokens": TOKENS, **body}
    return {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}


def as_file(*lines: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def client_of(server: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0)


def upload(client: openai.OpenAI, *lines: object) -> str:
    return client.files.create(file=("jobs.jsonl", io.BytesIO(as_file(*lines))), purpose="batch").id


def create(client: openai.OpenAI, file_id: str, **more: Any) -> Any:
    return client.batches.create(input_file_id=file_id, **{**WINDOW, **more})


def created(emulator: Emulator) -> int:
    return sum(request.method == "POST" and request.path == "/v1/batches" for request in emulator.requests)


def test_a_job_counts_when_it_is_created(serve: Serve, emulator: Emulator) -> None:
    server = serve(budget=(spent := Budget(1.0)))
    client = client_of(server)
    create(client, upload(client, line(0), line(1), line(2, GEMMA)))
    # A million tokens in 24 hours: $0.20 and $0.30.
    assert spent.usd == pytest.approx(2 * 0.20 + 0.30, rel=1e-4)
    row = spent.by_model[LLAMA]
    assert (row.requests, row.completion_tokens, spent.requests, spent.estimated) == (2, 2 * TOKENS, 3, True)
    assert 0 < row.prompt_tokens < 100


def test_one_that_does_not_fit_is_refused(serve: Serve, emulator: Emulator) -> None:
    server = serve(budget=(spent := Budget(0.55)))
    client = client_of(server)
    create(client, upload(client, line()))
    before = spent.usd
    large = upload(client, line(0), line(1))
    said = r"would cost about 0\.40\d* US\$; the budget of 0\.55 US\$ has 0\.3\d* US\$ left"
    with pytest.raises(openai.APIStatusError, match=said) as caught:
        create(client, large)
    assert (caught.value.status_code, caught.value.type) == (402, "insufficient_quota")
    assert (created(emulator), spent.usd) == (1, before)
    create(client, large, completion_window="72h")  # $0.15 a million
    assert spent.usd == pytest.approx(0.20 + 2 * 0.15, rel=1e-4)


def test_jobs_at_the_same_time_do_not_both_fit(serve: Serve, emulator: Emulator) -> None:
    server = serve(budget=(spent := Budget(0.3)))
    file_id = upload(client_of(server), line())
    emulator.add_fault(Fault("hang", path="/v1/batches", delay=0.2, times=None))
    statuses: list[int] = []

    def one() -> None:
        body = {"input_file_id": file_id, **WINDOW}
        statuses.append(httpx.post(f"{server.base_url}/batches", json=body, trust_env=False, timeout=20).status_code)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 402, 402, 402]
    assert spent.usd == pytest.approx(0.20, rel=1e-4)


@pytest.mark.parametrize(("status", "counts"), [(400, False), (404, False), (429, False), (500, True), (503, True)])
def test_what_the_service_refuses_does_not_count(serve: Serve, emulator: Emulator, status: int, counts: bool) -> None:
    server = serve(budget=(spent := Budget(1.0)))
    client = client_of(server)
    file_id = upload(client, line())
    emulator.add_fault(Fault("status", status=status, path="/v1/batches"))
    with pytest.raises(openai.APIStatusError):
        create(client, file_id)
    assert (spent.usd > 0) is counts  # after a 500 there may be a job
    assert spent.remaining == pytest.approx(0.8 if counts else 1.0, rel=1e-4)


def test_a_file_that_did_not_pass_is_read_at_the_service(serve: Serve, emulator: Emulator) -> None:
    elsewhere = openai.OpenAI(base_url=emulator.base_url, api_key=settings(emulator).require_key(), max_retries=0)
    file_id = upload(elsewhere, line())
    server = serve(budget=(spent := Budget(1.0)))
    create(client_of(server), file_id)
    assert spent.usd == pytest.approx(0.20, rel=1e-4)
    with pytest.raises(openai.APIStatusError, match=r"'file-gone' cannot be read.*upload the file through") as caught:
        create(client_of(server), "file-gone")
    assert (caught.value.status_code, created(emulator)) == (402, 1)


def test_one_that_is_too_large_is_not_read_to_the_end(
    serve: Serve, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_FILE", 100_000)
    with RawServer() as upstream:
        upstream.script(Reply([b"a" * 60_000] * 2, content_type="application/jsonl", end="hang"))
        server = serve(settings(emulator, base_url=upstream.base_url), budget=Budget(1.0))
        with pytest.raises(openai.APIStatusError, match="larger than 100000 bytes"):
            create(client_of(server), "file-large")
        assert upstream.hung_up.wait(5)
        assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("text", "is not a JSON object"),
        (line(model="deepseek-ai/DeepSeek-R1-0528"), "no known price for this batch job"),
        (line(model="nobody/knows-it"), "no known price for this batch job"),
        (line(model=None), "model='None'"),
        (line(messages=None), "no list of messages"),
        (line(messages=[{"role": "user", "content": 5}]), "unknown form"),
        (line(max_completion_tokens=-1_000_000), "max_completion_tokens='-1000000'"),
        (line(max_tokens="many"), "max_tokens='many'"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_cannot_be_estimated_is_refused(serve: Serve, emulator: Emulator, wrong: object, said: str) -> None:
    server = serve(budget=(spent := Budget(1.0)))
    client = client_of(server)
    file_id = upload(client, line(0), wrong)
    with pytest.raises(openai.APIStatusError) as caught:
        create(client, file_id)
    assert said in str(caught.value)
    assert caught.value.status_code in (400, 402)
    assert (created(emulator), spent.usd) == (0, 0.0)
    for more in ({"completion_window": "12h"}, {"completion_window": None}, {"input_file_id": 5}):
        assert (
            httpx.post(f"{server.base_url}/batches", json={"input_file_id": file_id, **WINDOW, **more}).status_code
            == 400
        )


def test_prices_of_ones_own_models_and_models_without_one(serve: Serve, emulator: Emulator, tmp_path: Any) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f'[[models]]\nid = "{LLAMA}"\nbatch_prices = {{ 24h = 0.5 }}\n', "utf-8")
    budget = Budget(1.0, allow_unpriced=True)
    client = client_of(serve(settings(emulator, catalog=path), budget=budget))
    create(client, upload(client, line(0), line(1, "deepseek-ai/DeepSeek-R1-0528")))
    assert budget.usd == pytest.approx(0.5, rel=1e-4)
    assert budget.unpriced == ["deepseek-ai/DeepSeek-R1-0528"]


def test_without_a_budget_nothing_is_looked_at(client: openai.OpenAI, emulator: Emulator) -> None:
    create(client, upload(client, line(model="deepseek-ai/DeepSeek-R1-0528")))
    assert [request.path for request in emulator.requests] == ["/v1/files", "/v1/batches"]


def test_it_forgets_the_oldest_files(serve: Serve, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_MOST_ROWS", 2)
    client = client_of(serve(budget=Budget(10.0)))
    ids = [upload(client, line()) for _ in range(3)]
    for file_id in ids:
        create(client, file_id)
    read = [request.path for request in emulator.requests if request.method == "GET"]
    assert read == [f"/v1/files/{ids[0]}/content"]
