"""`ChatKluster.batch_job`: LangChain's inputs as a batch job, its results as messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableBinding
from pydantic import BaseModel, Field

from kluster_integrations import catalog, errors
from kluster_integrations.emulator import BatchBehavior, Emulator
from kluster_integrations.langchain import ChatKluster, KlusterOutputValidationError

from ..stated import stated
from .conftest import GEMMA, LLAMA, R1, get_time, get_weather, model_of

Make = Callable[..., ChatKluster]
PROSE = "I would rather not."


class Invoice(BaseModel):
    """An invoice."""

    customer: str
    amount: float = Field(gt=0)


@pytest.fixture(scope="module")
def _service() -> Iterator[Emulator]:
    with Emulator(plan="core", engine=stated) as server:
        yield server


@pytest.fixture
def service(_service: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    monkeypatch.setenv("KLUSTER_BATCH_POLL", "0.005")
    monkeypatch.setenv("KLUSTER_BATCH_SETTLE", "0.05")
    _service.clear()
    yield _service
    _service.clear()


@pytest.fixture
def chat(service: Emulator) -> Make:
    return partial(model_of, service)


def outputs(runnable: Any, inputs: Any, folder: Path, **options: Any) -> list[Any]:
    with runnable.batch_job(inputs, folder=folder, **options) as job:
        job.wait()
        return [runnable.batch_output(result) for result in job.results()]


def lines(server: Emulator) -> list[dict[str, Any]]:
    return [line["body"] for job in server.batches.jobs.values() for line in job.lines]


def test_inputs_as_invoke_takes_them(service: Emulator, chat: Make, tmp_path: Path) -> None:
    prompt = ChatPromptTemplate([("user", "Question {number}")])
    inputs = ["Question 0", [SystemMessage("Be brief."), HumanMessage("Question 1")], prompt.invoke({"number": 2})]
    messages = outputs(chat(), inputs, tmp_path)
    assert all(isinstance(message, AIMessage) for message in messages)
    assert [f"Echo: Question {n}" == message.text for n, message in enumerate(messages)] == [True] * 3
    assert len(service.batches.jobs) == 1


@pytest.mark.parametrize("model", [LLAMA, R1], ids=["native", "prompted"])
def test_a_line_is_what_invoke_sends(service: Emulator, chat: Make, tmp_path: Path, model: str) -> None:
    runnable = chat(model, temperature=0.5, max_tokens=900).bind_tools([get_weather, get_time]).bind(seed=3)
    ask = "What is the weather in Paris?"
    direct = runnable.invoke(ask, stop=["END"])
    [message] = outputs(runnable, [ask], tmp_path, stop=["END"])
    [sent] = [request.body for request in service.requests if request.path == "/v1/chat/completions"]
    assert lines(service) == [sent]
    assert sent["seed"] == 3
    assert [call["args"] for call in message.tool_calls] == [call["args"] for call in direct.tool_calls]
    assert [call["args"] for call in message.tool_calls] == [{"city": "Paris"}]


def test_images(service: Emulator, chat: Make, tmp_path: Path) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    blocks: list[Any] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "base64": pixel, "mime_type": "image/png"},
    ]
    service.reply("A pixel.", when="What is this?")
    [message] = outputs(chat(GEMMA), [[HumanMessage(blocks)]], tmp_path)
    assert message.text == "A pixel."
    [line] = lines(service)
    assert line["messages"][0]["content"][1]["image_url"]["url"] == f"data:image/png;base64,{pixel}"


def test_cost_is_the_batch_price(chat: Make, tmp_path: Path) -> None:
    [message] = outputs(chat(), ["Question 0"], tmp_path, window="72h")
    usage = message.usage_metadata
    price = catalog.get(LLAMA).batch_prices["72h"]
    assert message.response_metadata["cost"] == pytest.approx(usage["total_tokens"] * price / 1_000_000)
    assert message.response_metadata["model_name"] == LLAMA


def test_no_cost_where_no_price_is_known(chat: Make, tmp_path: Path, own_catalog: None) -> None:
    catalog.add(replace(catalog.get(LLAMA), batch_prices={}))
    [message] = outputs(chat(), ["Question 0"], tmp_path)
    assert "cost" not in message.response_metadata


def test_reasoning_is_apart(chat: Make, tmp_path: Path) -> None:
    [message] = outputs(chat(R1), ["Question 0"], tmp_path)
    assert message.additional_kwargs["reasoning_content"]
    assert "<think>" not in message.text


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_message_is_what_invoke_returns(chat: Make, tmp_path: Path, version: str) -> None:
    runnable = chat(R1, output_version=version).bind_tools([get_weather])
    ask = "What is the weather in Paris?"
    [message], direct = outputs(runnable, [ask], tmp_path), runnable.invoke(ask)
    assert [block["type"] for block in message.content_blocks] == [block["type"] for block in direct.content_blocks]
    kinds = [[b["type"] for b in m.content] if isinstance(m.content, list) else m.content for m in (message, direct)]
    assert kinds[0] == kinds[1]
    assert message.tool_calls[0]["args"] == direct.tool_calls[0]["args"]
    assert message.additional_kwargs == direct.additional_kwargs
    assert message.usage_metadata == direct.usage_metadata
    assert message.response_metadata.keys() - {"cost"} == direct.response_metadata.keys() - {"cost"}


@pytest.mark.parametrize("model", [LLAMA, R1], ids=["tool", "prompted"])
def test_structured_output(service: Emulator, chat: Make, tmp_path: Path, model: str) -> None:
    mails = ["Ada owes 12.50.", "Grace owes 1250.50."]
    invoices = [Invoice(customer="Ada", amount=12.5), Invoice(customer="Grace", amount=1250.5)]
    for mail, invoice in zip(mails, invoices, strict=True):
        call = {"name": "Invoice", "arguments": invoice.model_dump()}
        answer: dict[str, Any] = {"tool_calls": [call]} if model == LLAMA else {"json": invoice.model_dump()}
        service.reply(**answer, when=mail)
    structured = chat(model).with_structured_output(Invoice)
    assert outputs(structured, mails, tmp_path) == invoices
    assert len(service.batches.jobs) == 1


def test_a_wrong_answer_is_asked_for_again(service: Emulator, chat: Make, tmp_path: Path) -> None:
    right = '{"customer": "Ada", "amount": 12.5}'
    service.batches.script(BatchBehavior(texts={0: PROSE}), BatchBehavior(texts={0: right}))
    structured = chat(R1).with_structured_output(Invoice)
    assert outputs(structured, ["customer: Ada\namount: 12.5"], tmp_path) == [Invoice(customer="Ada", amount=12.5)]
    assert len(service.batches.jobs) == 2


def test_an_answer_that_stays_wrong(service: Emulator, chat: Make, tmp_path: Path) -> None:
    service.batches.behavior = BatchBehavior(texts={0: PROSE})
    structured = chat(R1, max_repairs=1).with_structured_output(Invoice)
    with pytest.raises(KlusterOutputValidationError) as caught:
        outputs(structured, ["customer: Ada\namount: 12.5"], tmp_path)
    assert caught.value.raw_text == PROSE
    assert len(service.batches.jobs) == 2
    [raw] = outputs(
        chat(R1, max_repairs=1).with_structured_output(Invoice, include_raw=True), ["a mail"], tmp_path / "raw"
    )
    assert (raw["parsed"], raw["raw"].text) == (None, PROSE)
    assert isinstance(raw["parsing_error"], KlusterOutputValidationError)


def test_what_only_the_class_can_check(service: Emulator, chat: Make, tmp_path: Path) -> None:
    class Even(BaseModel):
        """A number and its kind."""

        amount: int
        kind: Literal["even"]

        def model_post_init(self, _: Any) -> None:
            if self.amount % 2:
                raise ValueError("amount must be even")

    service.batches.behavior = BatchBehavior(texts={0: json.dumps({"amount": 3, "kind": "even"})})
    structured = chat(R1).with_structured_output(Even)
    with pytest.raises(KlusterOutputValidationError, match="amount must be even"):
        outputs(structured, ["amount: 3"], tmp_path)
    assert len(service.batches.jobs) == 1


def test_a_line_that_fails_is_langchains_error(service: Emulator, chat: Make, tmp_path: Path) -> None:
    service.batches.behavior = BatchBehavior(failing={1: 400})
    model = chat()
    with model.batch_job(["Question 0", "Question 1"], folder=tmp_path) as job:
        job.wait()
        good, bad = job.results()
    assert "Question 0" in model.batch_output(good).text
    with pytest.raises(openai.BadRequestError):
        model.batch_output(bad)


async def test_async_and_from_another_process(service: Emulator, chat: Make, tmp_path: Path) -> None:
    for runnable in (chat(), chat().bind(seed=1), chat().with_structured_output(Invoice)):
        folder = tmp_path / type(runnable).__name__
        job = await runnable.abatch_job(["customer: Ada\namount: 12.5"], folder=folder)  # type: ignore[attr-defined]
        await job.asubmit()
        job.close()
        with await runnable.abatch_job(["customer: Ada\namount: 12.5"], folder=folder) as again:  # type: ignore[attr-defined]
            await again.await_()
            assert [runnable.batch_output(r) async for r in again.aresults()]  # type: ignore[attr-defined]
    assert len(service.batches.jobs) == 3


def test_errors(service: Emulator, chat: Make, tmp_path: Path) -> None:
    model = chat()
    model.batch_job(["Question 0"], folder=tmp_path).close()
    with pytest.raises(openai.BadRequestError, match="other requests"):
        model.batch_job(["Question 1"], folder=tmp_path)
    with model.batch_job(["Question 0"], folder=tmp_path, max_cost=0) as job, pytest.raises(errors.CostLimitError):
        job.submit()
    assert service.batches.jobs == {}


def test_a_bound_model_is_loaded_as_langchains_own(chat: Make) -> None:
    bound = chat().bind(seed=1)
    assert dumpd(bound)["id"] == ["langchain", "schema", "runnable", "RunnableBinding"]
    restored = load(
        dumpd(bound),
        allowed_objects=[ChatKluster, RunnableBinding],
        valid_namespaces=["kluster_integrations"],
        secrets_map={"KLUSTER_API_KEY": "given"},
    )
    assert restored.kwargs == {"seed": 1}
