"""LangChain's `ChatOpenAI(base_url=…)` and `ChatKluster` on the same server, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.tools import tool
from pydantic import BaseModel

pytest.importorskip("langchain_openai")

from langchain_openai import ChatOpenAI

from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import TruncatedStreamError, UnsupportedParameterError
from kluster_integrations.langchain import ChatKluster

from ..raw_server import RawServer, whole

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"
LISBON = "name: Lisbon, country: Portugal"


class City(BaseModel):
    """A city."""

    name: str
    country: str


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"Sunny in {city}"


def theirs(server: Any, model: str = LLAMA, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=server.base_url, **{"api_key": "a-key", "max_retries": 0, **options})


def ours(server: Any, model: str = LLAMA, **options: Any) -> ChatKluster:
    return ChatKluster(model=model, base_url=server.base_url, **{"api_key": "a-key", "max_retries": 0, **options})


def streamed(model: Any) -> Any:
    whole_ = None
    for chunk in model.stream("What is the capital of France?"):
        whole_ = chunk if whole_ is None else whole_ + chunk
    return whole_


@pytest.fixture
def raw() -> Iterator[RawServer]:
    with RawServer() as running:
        yield running


@pytest.mark.parametrize("model", [LLAMA, R1])
def test_structured_output_needs_a_response_format(model: str, emulator: Emulator) -> None:
    with pytest.raises(openai.BadRequestError, match="response_format"):
        theirs(emulator, model).with_structured_output(City).invoke(LISBON)

    assert ours(emulator, model).with_structured_output(City).invoke(LISBON) == City(name="Lisbon", country="Portugal")


def test_tools_go_to_models_that_have_none(emulator: Emulator) -> None:
    with pytest.raises(openai.BadRequestError, match="'tools' is not supported by the model"):
        theirs(emulator, R1).bind_tools([get_weather]).invoke("What is the weather in Paris?")

    (call,) = ours(emulator, R1).bind_tools([get_weather]).invoke("What is the weather in Paris?").tool_calls
    assert call["args"] == {"city": "Paris"}


def test_thoughts_are_lost(emulator: Emulator) -> None:
    answer = theirs(emulator, R1).invoke("What is 6 times 7?")
    assert "reasoning_content" not in answer.additional_kwargs
    assert [block["type"] for block in answer.content_blocks] == ["text"]

    assert ours(emulator, R1).invoke("What is 6 times 7?").additional_kwargs["reasoning_content"]


@pytest.mark.parametrize("style", ["think", "open"])
def test_thoughts_are_in_the_answer(style: Any) -> None:
    with Emulator(reasoning=style) as server:
        assert "</think>" in theirs(server, R1).invoke("What is 6 times 7?").text

        assert "</think>" not in ours(server, R1).invoke("What is 6 times 7?").text


def test_streams_have_no_usage(emulator: Emulator) -> None:
    assert streamed(theirs(emulator)).usage_metadata is None
    with pytest.raises(openai.BadRequestError, match="stream_options"):
        streamed(theirs(emulator, stream_usage=True))

    answer = streamed(ours(emulator))
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["usage_estimated"] is True


def test_a_stream_that_ends_early_is_a_short_answer(emulator: Emulator) -> None:
    emulator.reply("Stated answer, and more of it.", times=None)
    emulator.add_fault(Fault("end", chunks=3, times=2))
    assert streamed(theirs(emulator)).text == "Stated answer"

    with pytest.raises(TruncatedStreamError):
        streamed(ours(emulator))


def test_no_price_and_no_window(emulator: Emulator) -> None:
    assert theirs(emulator).profile is None
    assert "cost" not in theirs(emulator).invoke("Hello!").response_metadata

    assert ours(emulator).profile["max_input_tokens"] > 100_000  # type: ignore[index]
    assert ours(emulator).invoke("Hello!").response_metadata["cost"] > 0


def test_what_is_not_taken_is_sent(emulator: Emulator) -> None:
    with pytest.raises(openai.BadRequestError):
        theirs(emulator, n=2).invoke("Hello!")
    assert len(emulator.requests) == 1

    with pytest.raises(UnsupportedParameterError, match="n=2"):
        ours(emulator).invoke("Hello!", n=2)
    assert len(emulator.requests) == 1


def test_names_of_messages_are_sent(emulator: Emulator) -> None:
    message = {"role": "user", "content": "Hello!", "name": "ada"}
    with pytest.raises(openai.BadRequestError, match="name"):
        theirs(emulator).invoke([message])

    assert ours(emulator).invoke([message]).text


def test_openai_variables_go_to_kluster(raw: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another-companys-key")
    monkeypatch.setenv("OPENAI_ORG_ID", "another-companys-organization")
    raw.script(whole({"content": "hi"}), whole({"content": "hi"}))
    ChatOpenAI(model=LLAMA, base_url=raw.base_url).invoke("Hello!")
    ours(raw).invoke("Hello!")

    first, second = (request.raw for request in raw.requests)
    assert first.count(b"another-companys") == 2
    assert b"another-companys" not in second
