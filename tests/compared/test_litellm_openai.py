"""LiteLLM's `openai/<model id>` with `api_base=` and `kluster/<model id>` on the same server, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import litellm
import pytest
from pydantic import BaseModel, ValidationError

from kluster_integrations import catalog
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import BatchBehavior, Emulator, Fault
from kluster_integrations.errors import TruncatedStreamError
from kluster_integrations.litellm import create_batch, create_file, register

from ..raw_server import RawServer, whole

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class City(BaseModel):
    name: str
    country: str


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(litellm, "disable_hf_tokenizer_download", True)
    monkeypatch.setattr(litellm, "suppress_debug_info", True)
    monkeypatch.setattr(litellm, "custom_provider_map", [])
    prices = dict(litellm.model_cost)
    yield
    litellm.model_cost.clear()
    litellm.model_cost.update(prices)


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def theirs(server: Any, model: str = LLAMA, text: str = "Hello!", **call: Any) -> Any:
    options = {"api_key": "a-key", "max_retries": 0, **call}
    return litellm.completion(f"openai/{model}", messages=_said(text), api_base=server.base_url, **options)


def ours(server: Any, model: str = LLAMA, text: str = "Hello!", **call: Any) -> Any:
    register(KlusterConfig(api_key="a-key", base_url=server.base_url, max_retries=0))
    return litellm.completion(f"kluster/{model}", messages=_said(text), **call)


def streamed(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_response_format_is_sent(emulator: Emulator) -> None:
    call = {"text": "name: Lisbon, country: Portugal", "response_format": City}
    with pytest.raises(litellm.BadRequestError, match="response_format"):
        theirs(emulator, **call)

    answer = ours(emulator, **call).choices[0].message.content
    assert City.model_validate_json(answer) == City(name="Lisbon", country="Portugal")


def test_tools_go_to_models_that_have_none(emulator: Emulator) -> None:
    call = {"model": R1, "text": "What is the weather in Paris?", "tools": [WEATHER]}
    with pytest.raises(litellm.BadRequestError, match="'tools' is not supported by the model"):
        theirs(emulator, **call)

    assert ours(emulator, **call).choices[0].message.tool_calls[0].function.name == "get_weather"


def test_max_tokens_goes_by_its_old_name(emulator: Emulator) -> None:
    with pytest.raises(litellm.BadRequestError, match="max_tokens"):
        theirs(emulator, max_tokens=5)

    emulator.reply("More than five tokens, as one can count.")
    assert ours(emulator, max_tokens=5).usage.completion_tokens == 5


def test_stream_options_are_sent(emulator: Emulator) -> None:
    call = {"stream": True, "stream_options": {"include_usage": True}}
    with pytest.raises(litellm.BadRequestError, match="stream_options"):
        streamed(theirs(emulator, **call))

    assert list(ours(emulator, **call))[-1].usage.completion_tokens > 0


def test_there_is_no_price(emulator: Emulator) -> None:
    answer = theirs(emulator)
    with pytest.raises(Exception, match="isn't mapped yet"):
        litellm.completion_cost(answer)

    answer = ours(emulator)
    usage = answer.usage
    assert litellm.completion_cost(answer) == catalog.get(LLAMA).cost(usage.prompt_tokens, usage.completion_tokens)


def test_thoughts_are_in_the_answer() -> None:
    with Emulator(reasoning="open") as server:
        assert "</think>" in theirs(server, R1).choices[0].message.content
        assert "</think>" not in ours(server, R1).choices[0].message.content
    with Emulator(reasoning="think") as server:
        assert "</think>" in streamed(theirs(server, R1, stream=True))
        assert "</think>" not in streamed(ours(server, R1, stream=True))


def test_a_stream_that_ends_early_is_a_short_answer(emulator: Emulator) -> None:
    emulator.reply("Stated answer, and more of it.", times=None)
    emulator.add_fault(Fault("end", chunks=3, times=2))
    assert streamed(theirs(emulator, stream=True)) == "Stated answer"

    with pytest.raises(litellm.exceptions.MidStreamFallbackError) as caught:  # for a Router, which falls back
        streamed(ours(emulator, stream=True))
    assert isinstance(caught.value.original_exception, TruncatedStreamError)


def test_openai_variables_go_to_kluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another-companys-key")
    monkeypatch.setenv("OPENAI_ORGANIZATION", "another-companys-organization")
    with RawServer() as raw:
        raw.script(whole({"content": "hi"}), whole({"content": "hi"}))
        theirs(raw, api_key=None)
        ours(raw)

    first, second = (request.raw for request in raw.requests)
    assert first.count(b"another-companys") == 2
    assert b"another-companys" not in second


BATCH: Any = ("24h", "/v1/chat/completions")
LINE = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


def job_of_theirs(server: Emulator, **options: Any) -> Any:
    connection: Any = {"custom_llm_provider": "openai", "api_key": "a-key", "api_base": server.base_url}
    file: Any = litellm.create_file(file=("a.jsonl", LINE), purpose="batch", **connection)
    return litellm.create_batch(*BATCH, file.id, **connection, **options)


def job_of_ours(server: Emulator, **options: Any) -> Any:
    register(KlusterConfig(api_key="a-key", base_url=server.base_url))
    return create_batch(*BATCH, create_file(("a.jsonl", LINE), "batch").id, **options)


def test_a_job_is_made_and_its_status_cannot_be_read(emulator: Emulator) -> None:
    emulator.batches.behavior = BatchBehavior(pre_schedule=3600)
    with pytest.raises(ValidationError, match="pre_schedule"):
        job_of_theirs(emulator)
    assert len(emulator.batches.jobs) == 1

    assert job_of_ours(emulator).status == "validating"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_job_is_made_and_its_errors_cannot_be_read(emulator: Emulator) -> None:
    emulator.batches.behavior = BatchBehavior(line_time=3600, errors="list")
    with pytest.raises(ValidationError, match="errors"):
        job_of_theirs(emulator)
    assert len(emulator.batches.jobs) == 1

    assert job_of_ours(emulator).errors is None


def test_a_job_is_made_twice(emulator: Emulator) -> None:
    emulator.batches.script(BatchBehavior(create="500 after"))
    job_of_theirs(emulator)
    assert len(emulator.batches.jobs) == 2

    emulator.clear()
    emulator.batches.script(BatchBehavior(create="500 after"))
    with pytest.raises(litellm.InternalServerError):
        job_of_ours(emulator)
    assert len(emulator.batches.jobs) == 1
