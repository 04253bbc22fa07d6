"""LiteLLM's proxy, started for real: two instances with one Redis, driven by the plain openai SDK."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from kluster_integrations import catalog
from kluster_integrations.batch import BatchJob
from kluster_integrations.cli import app
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import BatchBehavior, Emulator, Fault
from kluster_integrations.verify import Verifier
from tests.litellm.asking import ASK, LLAMA, WEATHER, bodies, weather_tool
from tests.litellm.proxy_server import MASTER_KEY, running_proxies
from tests.redis_server import running_redis
from tests.stated import stated

LLAMA_ID = LLAMA.removeprefix("kluster/")


@dataclass
class Fleet:
    """Two proxies and what is behind them."""

    urls: list[str]
    server: Emulator
    redis_url: str
    folder: Path

    @property
    def logs(self) -> list[Path]:
        """What each proxy has printed."""
        return list(self.folder.glob("*.log"))

    def client(self, number: int = 0, key: str = MASTER_KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.urls[number], api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("backoff") is None:
        reason = 'LiteLLM\'s proxy is not installed: pip install "litellm[proxy]"'
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    config = tmp_path_factory.mktemp("proxy") / "config.yaml"
    with running_redis() as redis_url, Emulator(api_keys=["the-good-key"], engine=stated) as server:
        arguments = ["--plan", "trial", "--redis", redis_url, "--max-wait", "0", "--output", str(config)]
        address = {"KLUSTER_BASE_URL": server.base_url}
        written = CliRunner().invoke(app, ["export", "litellm", *arguments], env=address)
        assert written.exit_code == 0, written.output
        source = str(Path(__file__).parents[2] / "integrations")
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        environment = {"KLUSTER_API_KEY": "the-good-key", "KLUSTER_BASE_URL": server.base_url, "PYTHONPATH": path}
        with running_proxies(config, environment, count=2) as urls:
            yield Fleet(urls, server, redis_url, config.parent)


@pytest.fixture
def fleet(_running: Fleet) -> Iterator[Fleet]:
    """Without what earlier tests have asked; the minute of the limits begins anew."""
    import redis

    redis.Redis.from_url(_running.redis_url).flushall()
    _running.server.clear()
    yield _running
    _running.server.clear()


def test_chat_and_its_cost(fleet: Fleet) -> None:
    raw = fleet.client().chat.completions.with_raw_response.create(model=LLAMA_ID, messages=ASK)
    answer = raw.parse()
    assert "breakfast sandwich" in answer.choices[0].message.content
    spec = catalog.get(LLAMA_ID)
    expected = spec.cost(answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert float(raw.headers["x-litellm-response-cost"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}], ids=["plain", "usage"])
def test_streaming_sends_no_stream_options(fleet: Fleet, options: dict[str, Any]) -> None:
    chunks = list(fleet.client().chat.completions.create(model=LLAMA_ID, messages=ASK, stream=True, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "breakfast sandwich" in text
    assert set(bodies(fleet.server)[0]) == {"model", "messages", "stream"}
    if options:
        assert chunks[-1].usage.completion_tokens > 0


def test_tools(fleet: Fleet) -> None:
    answer = fleet.client().chat.completions.create(model="tools", messages=WEATHER, tools=[weather_tool()])
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"city": "Boston"}'


def test_reasoning(fleet: Fleet) -> None:
    answer = fleet.client().chat.completions.create(model="deepseek-ai/DeepSeek-R1-0528", messages=ASK)
    assert "breakfast sandwich" in answer.choices[0].message.reasoning_content


def test_what_is_not_taken_is_dropped(fleet: Fleet) -> None:
    fleet.client().chat.completions.create(
        model=LLAMA_ID, messages=ASK, n=2, store=True, service_tier="flex", user="me", max_tokens=9
    )
    assert set(bodies(fleet.server)[0]) == {"model", "messages", "max_completion_tokens"}


def test_metadata_of_ours_reaches_the_server(fleet: Fleet) -> None:
    ours = {"callback_url": "https://example.com/done"}
    fleet.client().chat.completions.create(
        model=LLAMA_ID, messages=ASK, extra_body={"metadata": {"@kluster.ai": ours, "team": "a"}}
    )
    assert bodies(fleet.server)[0]["metadata"] == {"@kluster.ai": ours}


def test_an_asynchronous_request_is_refused(fleet: Fleet) -> None:
    ours = {"async": True, "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError, match=r"\['async'\]"):
        fleet.client().chat.completions.create(
            model=LLAMA_ID, messages=ASK, extra_body={"metadata": {"@kluster.ai": ours}}
        )
    assert fleet.server.requests == []


def test_fallback(fleet: Fleet) -> None:
    fleet.server.add_fault(Fault("status", status=500, times=None, model=LLAMA_ID))
    answer = fleet.client().chat.completions.create(model=LLAMA_ID, messages=ASK)
    assert "breakfast sandwich" in answer.choices[0].message.content
    asked = [body["model"] for body in bodies(fleet.server)]
    assert asked[:-1] == [LLAMA_ID] * 3
    assert asked[-1] != LLAMA_ID


def test_fallback_of_a_stream(fleet: Fleet) -> None:
    fleet.server.add_fault(Fault("status", status=500, times=None, model=LLAMA_ID))
    chunks = list(fleet.client().chat.completions.create(model=LLAMA_ID, messages=ASK, stream=True))
    assert "breakfast sandwich" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert bodies(fleet.server)[-1]["model"] != LLAMA_ID


def test_embeddings(fleet: Fleet) -> None:
    answer = fleet.client().embeddings.create(model="BAAI/bge-m3", input=["a", "b"])
    assert [len(row.embedding) for row in answer.data] == [1024, 1024]


def test_responses(fleet: Fleet) -> None:
    assert "Say this" in fleet.client().responses.create(model=LLAMA_ID, input="Say this").output_text


def test_models(fleet: Fleet) -> None:
    listed = {model.id for model in fleet.client().models.list()}
    assert {LLAMA_ID, "BAAI/bge-m3", "tools", "vision", "reasoning", "cheap"} <= listed


@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages"])
@pytest.mark.parametrize("status", [401, 404])
def test_what_is_refused_of_a_stream_has_its_status(fleet: Fleet, path: str, status: int) -> None:
    """Codex shows an error inside a 200 as "stream disconnected"."""
    fleet.server.add_fault(Fault("status", status=status, times=None))
    asked = {"input": "Hi"} if path == "/responses" else {"messages": ASK, "max_tokens": 9}
    with pytest.raises(openai.APIStatusError) as caught:
        fleet.client().post(path, cast_to=object, body={"model": LLAMA_ID, "stream": True, **asked})
    assert caught.value.status_code == status


def test_what_an_operator_must_know_is_in_the_log(fleet: Fleet) -> None:
    fleet.client().chat.completions.create(model=LLAMA_ID, messages=ASK, n=2)
    logs = "".join(log.read_text("utf-8") for log in fleet.logs)
    assert "kluster.ai does not take n=2: left out." in logs


def test_a_wrong_key_for_the_proxy(fleet: Fleet) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        fleet.client(key="sk-wrong").chat.completions.create(model=LLAMA_ID, messages=ASK)
    assert 400 <= caught.value.status_code < 500
    assert fleet.server.requests == []


def test_a_wrong_key_behind_the_proxy_locks_nobody_out(fleet: Fleet) -> None:
    fleet.server.add_fault(Fault("status", status=401, times=20))
    with pytest.raises(openai.AuthenticationError):
        fleet.client().chat.completions.create(model=LLAMA_ID, messages=ASK)
    fleet.server.clear()
    assert fleet.client().chat.completions.create(model=LLAMA_ID, messages=ASK).choices


def test_a_prompt_that_is_too_long(fleet: Fleet) -> None:
    with pytest.raises(openai.BadRequestError, match="ContextWindowExceededError"):
        fleet.client().chat.completions.create(model=LLAMA_ID, messages=[{"role": "user", "content": "word " * 40_000}])
    assert fleet.server.requests == []


def upstream(fleet: Fleet, key: str = MASTER_KEY) -> openai.OpenAI:
    url = fleet.urls[0].removesuffix("/v1") + "/upstream/kluster"
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


def test_files_and_batches_pass_through(fleet: Fleet) -> None:
    client = upstream(fleet)
    body = {"model": LLAMA_ID, "messages": ASK}
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("a.jsonl", (json.dumps(line) + "\n").encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"team": "a"}
    )
    assert batch.metadata is None  # LiteLLM takes it for its own (1.105)
    for _ in range(400):
        batch = client.batches.retrieve(batch.id)
        if batch.status == "completed":
            break
        time.sleep(0.01)
    assert [one.id for one in client.batches.list(limit=1).data] == [batch.id]
    assert batch.output_file_id is not None
    [result] = client.files.content(batch.output_file_id).text.splitlines()
    assert "breakfast sandwich" in json.loads(result)["response"]["body"]["choices"][0]["message"]["content"]
    with pytest.raises(openai.APIStatusError):
        client.batches.cancel(batch.id)  # it has ended: the service's own refusal
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("none")
    asked = {(request.method, request.path.replace(batch.id, "ID")) for request in fleet.server.requests}
    assert {("POST", "/v1/files"), ("POST", "/v1/batches"), ("POST", "/v1/batches/ID/cancel")} <= asked


def test_a_batch_job_goes_through_the_proxy(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_BATCH_POLL", "0.01")
    config = KlusterConfig(api_key=MASTER_KEY, base_url=str(upstream(fleet).base_url).rstrip("/"), max_retries=0)
    fleet.server.batches.behavior = BatchBehavior(pre_schedule=0.05, text_timestamps=True, errors="list")
    with BatchJob.create([ASK, ASK], folder=tmp_path, model=LLAMA_ID, config=config) as job:
        job.wait()
        assert ["breakfast" in r.completion.text for r in job.results() if r.completion] == [True, True]


def test_verify_passes_through(fleet: Fleet) -> None:
    config = KlusterConfig(api_key=MASTER_KEY, base_url=str(upstream(fleet).base_url).rstrip("/"), max_retries=0)
    context = "The capital of France is Paris."
    verdict = {"is_hallucination": True, "explanation": "Lyon is not in it."}
    fleet.server.reply(json=verdict, when="It is Lyon.")
    assert not Verifier(config).check("What is the capital of France?", "It is Lyon.", context).reliable
    [request] = fleet.server.requests
    assert (request.path, request.body["context"]) == ("/v1/verify/reliability", context)


def test_a_wrong_key_does_not_pass_through(fleet: Fleet) -> None:
    for key in ("sk-wrong", "the-good-key"):
        client = upstream(fleet, key)
        for call in (
            lambda: client.files.create(file=b"{}", purpose="batch"),  # noqa: B023
            lambda: client.batches.list(),  # noqa: B023
            lambda: client.files.content("file-1"),  # noqa: B023
            lambda: client.post("/verify/reliability", cast_to=object, body={"prompt": "p", "output": "o"}),  # noqa: B023
        ):
            with pytest.raises(openai.APIStatusError) as caught:
                call()
            assert 400 <= caught.value.status_code < 500
    assert fleet.server.requests == []


def test_two_proxies_hold_one_limit(fleet: Fleet) -> None:
    clients = [fleet.client(0), fleet.client(1)]

    def ask(number: int) -> str | None:
        try:
            clients[number % 2].chat.completions.create(model=LLAMA_ID, messages=ASK)
        except openai.RateLimitError as err:
            return err.response.headers["retry-after"]
        return None

    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(ask, range(40)))
    assert waits.count(None) == len(fleet.server.requests) == 30
    assert all(int(wait) > 0 for wait in waits if wait is not None)
