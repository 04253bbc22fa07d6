"""Embeddings, models, files and batch jobs."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import anthropic
import httpx
import openai
import pytest

from kluster_integrations.emulator import Emulator, Fault

from .conftest import LLAMA, R1, Serve, user

BGE = "BAAI/bge-m3"


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings(client: openai.OpenAI, emulator: Emulator, encoding: Any) -> None:
    given = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model=BGE, input=["One", "Two"], **given)
    again = client.embeddings.create(model=BGE, input="Two", encoding_format="float", dimensions=1024)
    vectors = [row.embedding for row in answer.data]
    if encoding != "base64":  # the SDK decodes what it has asked for itself, and no more
        assert [len(vector) for vector in vectors] == [1024, 1024]
        assert vectors[1] == again.data[0].embedding
    assert [row.index for row in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens > 0
    assert not any("dimensions" in body for body in (r.body for r in emulator.requests) if isinstance(body, dict))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dimensions": 256}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": [1, 2, 3]}, "token ids"),
        ({"input": [[1, 2], [3]]}, "token ids"),
        ({"input": ["x"] * 2_049}, "2048"),
        ({"input": [""]}, "input"),
        ({"input": {}}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": LLAMA}, "makes no embeddings"),
    ],
)
def test_embeddings_that_cannot_be_had(http: httpx.Client, emulator: Emulator, given: Any, said: str) -> None:
    answer = http.post("/embeddings", json={"model": BGE, "input": "One", **given})
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (400, True)
    assert not emulator.requests


def test_models(client: openai.OpenAI, claude: anthropic.Anthropic, serve: Serve) -> None:
    ids = [model.id for model in client.models.list()]
    assert {LLAMA, R1, BGE} <= set(ids)
    assert [model.id for model in claude.models.list()] == ids
    assert client.models.retrieve(R1).owned_by
    assert claude.models.retrieve(R1).created_at.year >= 2024
    with pytest.raises(openai.NotFoundError, match="nobody/knows-it"):
        client.models.retrieve("nobody/knows-it")
    with pytest.raises(anthropic.NotFoundError, match="nobody/knows-it"):
        claude.models.retrieve("nobody/knows-it")
    known = openai.OpenAI(base_url=serve(aliases={"gpt-4o": R1}).base_url, api_key="any")
    assert known.models.retrieve("gpt-4o").id == "gpt-4o"


def test_models_of_a_service_that_fails(client: openai.OpenAI, emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=503, path="/v1/models"))
    with pytest.raises(openai.InternalServerError):
        client.models.list()


def test_a_batch_job(client: openai.OpenAI, emulator: Emulator) -> None:
    body = {"model": LLAMA, "messages": user("Hello!")}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("jobs.jsonl", io.BytesIO(json.dumps(line).encode() + b"\n")), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"of": "test"}
    )
    until = time.monotonic() + 30
    while (batch := client.batches.retrieve(made.id)).status != "completed" and time.monotonic() < until:
        time.sleep(0.02)
    assert batch.output_file_id
    result = json.loads(client.files.content(batch.output_file_id).text)
    assert result["response"]["body"]["choices"][0]["message"]["content"] == "Echo: Hello!"
    assert [one.id for one in client.batches.list(limit=5)] == [made.id]
    with pytest.raises(openai.APIStatusError):
        client.batches.cancel(made.id)


def test_files_that_cannot_be_had(client: openai.OpenAI, http: httpx.Client) -> None:
    assert http.post("/files", data={"purpose": "batch"}).status_code == 400
    assert http.get("/batches?limit=x").status_code == 400
    with pytest.raises(openai.NotFoundError):
        client.files.content("file-gone")
    with pytest.raises(openai.APIStatusError):  # kluster.ai documents no list of files
        client.files.list()
