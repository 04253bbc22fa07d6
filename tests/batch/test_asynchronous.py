"""The service's asynchronous requests, as the docs have them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import errors
from kluster_integrations.batch import PendingAnswer, asubmit_async, submit_async
from kluster_integrations.emulator import BatchBehavior, Emulator, Fault

from .jobs import KEY, LLAMA, connection, questions

ASK: dict[str, Any] = {"model": LLAMA, "messages": questions(1)[0]}


def test_the_answer_comes_later(service: Emulator) -> None:
    service.batches.behavior = BatchBehavior(pre_schedule=0.05)
    pending = submit_async(ASK, window="48h", config=connection(service))
    assert pending.notice.startswith("Your request has been queued")
    assert pending.fetch() is None
    while (completion := pending.fetch()) is None:
        time.sleep(0.005)
    assert completion.text == "Echo: Question 0"


async def test_async(service: Emulator) -> None:
    pending = await asubmit_async(ASK, config=connection(service))
    while (completion := await pending.afetch()) is None:
        await asyncio.sleep(0.005)
    assert completion.text == "Echo: Question 0"


def test_what_is_sent(service: Emulator) -> None:
    metadata = {"for": "me"}
    submit_async(
        {**ASK, "metadata": metadata}, callback_url="https://a.example/b", strict=True, config=connection(service)
    )
    [sent] = service.requests
    assert isinstance(sent.body, dict)
    assert sent.body["metadata"] == {
        "for": "me",
        "@kluster.ai": {
            "async": True,
            "completion_window": "24h",
            "strict_completion_window": True,
            "callback_url": "https://a.example/b",
        },
    }


def test_it_is_sent_once(service: Emulator) -> None:
    service.add_fault(Fault("status", status=500, times=None))
    with pytest.raises(errors.InternalServerError):
        submit_async(ASK, config=connection(service, max_retries=2))
    assert len(service.requests) == 1


def test_a_line_that_failed(service: Emulator) -> None:
    service.batches.behavior = BatchBehavior(failing={0: 503})
    pending = submit_async(ASK, config=connection(service))
    [job] = service.batches.jobs.values()
    while job.error_file_id is None:
        time.sleep(0.005)
    with pytest.raises(errors.InternalServerError) as caught:
        pending.fetch()
    assert caught.value.status_code == 503


def test_an_id_that_names_no_job(service: Emulator) -> None:
    pending = submit_async(ASK, config=connection(service))
    service.batches.jobs.clear()
    with pytest.raises(errors.NotFoundError):
        pending.fetch()


def test_no_repr_has_the_key(service: Emulator, tmp_path: Path) -> None:
    pending = submit_async(ASK, config=connection(service))
    assert isinstance(pending, PendingAnswer)
    assert KEY not in repr(pending)


def test_a_wrong_request(service: Emulator) -> None:
    with pytest.raises(errors.BadRequestError):
        submit_async({"model": LLAMA}, config=connection(service))
    assert service.requests == []
