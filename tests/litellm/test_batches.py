"""Files and batch jobs with LiteLLM's signatures, and what LiteLLM's own functions make of the same service."""

from __future__ import annotations

import inspect
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import litellm
import pytest

from kluster_integrations import litellm as ours
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import BatchBehavior, Emulator, Fault
from kluster_integrations.litellm import register

NAMES = ("create_file", "create_batch", "retrieve_batch", "list_batches", "cancel_batch", "file_content")
MODEL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
ENDPOINT = "/v1/chat/completions"
LINES = [
    {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": ENDPOINT,
        "body": {"model": MODEL, "messages": [{"role": "user", "content": f"Question {number}"}]},
    }
    for number in range(3)
]
DATA = "".join(json.dumps(line) + "\n" for line in LINES).encode()


@pytest.fixture
def service() -> Iterator[Emulator]:
    with Emulator(plan="core", api_keys=["the-good-key"]) as server:
        register(KlusterConfig(api_key="the-good-key", base_url=server.base_url, max_retries=0))
        yield server


Call = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Call one of the functions in one of the two ways; async, it is to be awaited."""

    async def run(name: str, *args: Any, **kwargs: Any) -> Any:
        found = getattr(ours, name if request.param == "sync" else f"a{name}")(*args, **kwargs)
        return await found if inspect.isawaitable(found) else found

    return run


async def submit(call: Call) -> Any:
    file = await call("create_file", ("requests.jsonl", DATA), "batch")
    return await call("create_batch", "24h", ENDPOINT, file.id, metadata={"team": "a"})


async def ended(call: Call, batch_id: str) -> Any:
    for _ in range(400):
        batch = await call("retrieve_batch", batch_id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.01)
    raise AssertionError(f"the job is still {batch.status}")


async def test_from_the_file_to_the_results(service: Emulator, call: Call) -> None:
    file = await call("create_file", ("requests.jsonl", DATA), "batch")
    assert isinstance(file, litellm.types.llms.openai.OpenAIFileObject)
    assert (file.bytes, file.filename, file.purpose, file.object) == (len(DATA), "requests.jsonl", "batch", "file")

    batch = await call("create_batch", "24h", ENDPOINT, file.id, metadata={"team": "a"})
    assert isinstance(batch, litellm.types.utils.LiteLLMBatch)
    assert (batch.input_file_id, batch.completion_window, batch.metadata) == (file.id, "24h", {"team": "a"})
    assert batch["status"] == batch.status  # as LiteLLM's own

    batch = await ended(call, batch.id)
    assert (batch.status, batch.errors) == ("completed", None)
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 3, 0)
    content = await call("file_content", batch.output_file_id)
    assert isinstance(content, litellm.types.llms.openai.HttpxBinaryResponseContent)
    results = [json.loads(line) for line in content.text.splitlines()]
    assert [r["custom_id"] for r in results] == [line["custom_id"] for line in LINES]
    assert content.content == content.read() == content.text.encode()


@pytest.mark.parametrize("errors", ["null", "list", "object"])
async def test_what_was_seen_live(service: Emulator, call: Call, errors: Any) -> None:
    service.batches.behavior = BatchBehavior(pre_schedule=3600, text_timestamps=True, errors=errors)
    batch = await submit(call)
    for seen in (batch, await call("retrieve_batch", batch.id), (await call("list_batches")).data[0]):
        assert seen.status == "validating"
        assert seen._hidden_params["kluster_status"] == "pre_schedule"
        assert isinstance(seen.created_at, int)
        assert abs(seen.created_at - time.time()) < 3600
        assert seen.expires_at == seen.created_at + 86_400
        assert (seen.completed_at, seen.errors) == (None, None)


@pytest.mark.parametrize("form", ["list", "object"])
async def test_errors_of_a_job(service: Emulator, call: Call, form: Any) -> None:
    service.batches.behavior = BatchBehavior(fails="No such model.", errors=form)
    batch = await ended(call, (await submit(call)).id)
    assert batch.status == "failed"
    assert batch.errors.object == "list"
    assert [(e.code, e.message, e.line) for e in batch.errors.data] == [("invalid_request", "No such model.", None)]


async def test_cancel(service: Emulator, call: Call) -> None:
    service.batches.behavior = BatchBehavior(line_time=0.01)
    batch = await submit(call)
    assert (await call("cancel_batch", batch.id)).status in ("cancelling", "cancelled")
    assert (await ended(call, batch.id)).status == "cancelled"


async def test_pages(service: Emulator, call: Call) -> None:
    made = [(await submit(call)).id for _ in range(5)]
    page = await call("list_batches", limit=2)
    assert [one.id for one in page.data] == made[:-3:-1]
    assert page.has_more is True
    following = await call("list_batches", after=page.data[-1].id, limit=2)
    assert [one.id for one in following.data] == made[-3:-5:-1]
    all_ids = [one.id async for one in page] if hasattr(page, "__aiter__") else [one.id for one in page]
    assert all_ids == made[::-1]
    lists = [r for r in service.requests if (r.method, r.path) == ("GET", "/v1/batches")]
    assert len(lists) == 4


@pytest.mark.parametrize("form", ["bytes", "path", "open", "named", "named path", "named open"])
async def test_files_as_litellm_takes_them(service: Emulator, call: Call, tmp_path: Path, form: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(DATA)
    with path.open("rb") as opened:
        files: dict[str, tuple[Any, str]] = {
            "bytes": (DATA, "requests.jsonl"),
            "path": (path, "lines.jsonl"),
            "open": (opened, "lines.jsonl"),
            "named": (("mine.jsonl", DATA, "application/jsonl"), "mine.jsonl"),
            "named path": (("mine.jsonl", path), "mine.jsonl"),
            "named open": (("mine.jsonl", io.BytesIO(DATA)), "mine.jsonl"),
        }
        given, name = files[form]
        file = await call("create_file", given, "batch")
    assert (file.filename, file.bytes) == (name, len(DATA))
    [stored] = service.batches.files.values()
    assert stored.data == DATA


async def test_the_connection_of_a_call(service: Emulator, call: Call) -> None:
    with pytest.raises(litellm.AuthenticationError):
        await call("list_batches", api_key="wrong")
    with Emulator() as other:
        await call("list_batches", api_base=other.base_url, api_key="k", extra_headers={"X-Team": "a"})
        [request] = other.requests
        assert request.headers["x-team"] == "a"
    assert [request.path for request in service.requests] == ["/v1/batches"]


async def test_without_register_the_environment_holds(
    service: Emulator, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    litellm.custom_provider_map = []
    monkeypatch.setenv("KLUSTER_API_KEY", "the-good-key")
    monkeypatch.setenv("KLUSTER_BASE_URL", service.base_url)
    assert (await call("list_batches")).data == []


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("create_file", {"file": "requests.jsonl"}, "pathlib"),
        ("create_file", {"file": DATA, "expires_after": {"seconds": 3600}}, "expires_after"),
        ("list_batches", {"custom_llm_provider": "openai"}, "custom_llm_provider='openai'"),
    ],
)
async def test_what_is_refused(service: Emulator, call: Call, name: str, arguments: Any, message: str) -> None:
    with pytest.raises(litellm.BadRequestError, match=message):
        await call(name, **arguments)
    assert service.requests == []


async def test_a_job_that_is_not_there(service: Emulator, call: Call) -> None:
    for name in ("retrieve_batch", "cancel_batch", "file_content"):
        with pytest.raises(litellm.NotFoundError):
            await call(name, "../models")


async def test_a_job_is_created_once(service: Emulator, call: Call) -> None:
    register(KlusterConfig(api_key="the-good-key", base_url=service.base_url, max_retries=3))
    service.batches.behavior = BatchBehavior(create="500 after")
    with pytest.raises(litellm.InternalServerError):
        await submit(call)
    assert len(service.batches.jobs) == 1


async def test_other_requests_are_retried(service: Emulator, call: Call) -> None:
    batch = await submit(call)
    service.add_fault(Fault("status", status=500, path=f"/v1/batches/{batch.id}"))
    with pytest.raises(litellm.InternalServerError):
        await call("retrieve_batch", batch.id)
    service.add_fault(Fault("status", status=500, path=f"/v1/batches/{batch.id}"))
    assert (await call("retrieve_batch", batch.id, max_retries=1)).id == batch.id


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("create_file", b"[]"),
        ("retrieve_batch", b"{}"),
        ("list_batches", b'{"error": {"message": "busy"}}'),
        ("list_batches", b'{"data": [null]}'),
    ],
)
async def test_an_answer_that_is_something_else(answering: Call, call: Call, name: str, body: bytes) -> None:
    given = {"create_file": [DATA], "retrieve_batch": ["1"], "list_batches": []}[name]
    with pytest.raises(litellm.InternalServerError):
        await call(name, *given, api_key="k", api_base=answering(body).base_url)


async def test_less_than_openai_promises(answering: Call, call: Call) -> None:
    fields = {"id": "1", "status": "napping", "created_at": "1743267849.5", "request_counts": {"total": "7"}}
    server = answering(json.dumps({**fields, "errors": [None, {"line": "3", "message": 5}]}).encode())
    batch = await call("retrieve_batch", "1", api_key="k", api_base=server.base_url)
    assert (batch.status, batch._hidden_params["kluster_status"], batch.created_at) == (
        "in_progress",
        "napping",
        1743267849,
    )
    assert (batch.request_counts.total, batch.request_counts.completed) == (7, 0)
    assert [(e.line, e.message) for e in batch.errors.data] == [(3, "5")]


@pytest.mark.parametrize("name", NAMES)
def test_the_signatures_are_litellms(name: str) -> None:
    for full in (name, f"a{name}"):
        mine, theirs = (
            list(inspect.signature(getattr(module, full)).parameters.values()) for module in (ours, litellm)
        )
        names = [p.name for p in mine]
        assert names == [p.name for p in theirs if p.name in names]
        # These go to `kwargs`: `stream` changes nothing, and the service has no such expiry.
        assert {p.name for p in theirs} - set(names) <= {"chunk_size", "stream", "output_expires_after"}


# What LiteLLM's own functions do, tests/compared shows, too.


@pytest.mark.parametrize("name", NAMES)
def test_litellm_refuses_the_provider(service: Emulator, name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "create_file": (("a.jsonl", DATA), "batch"),
        "create_batch": ("24h", ENDPOINT, "file-1"),
        "list_batches": (),
    }
    with pytest.raises(Exception, match=r"kluster|[Pp]rovider"):
        getattr(litellm, name)(*arguments.get(name, ("1",)), custom_llm_provider="kluster")
    assert service.requests == []


class TestOddArguments:
    async def test_a_file_of_text(self, service: Emulator, call: Call, tmp_path: Path) -> None:
        path = tmp_path / "requests.jsonl"
        path.write_bytes(DATA)
        with path.open(encoding="utf-8") as file:
            for given, name in ((file, path.name), (io.StringIO(DATA.decode()), "requests.jsonl")):
                made = await call("create_file", given, "batch")
                assert (made.filename, (await call("file_content", made.id)).content) == (name, DATA)

    @pytest.mark.parametrize(
        "file",
        [Path("no-such-file.jsonl"), Path("/"), (), ("name",), ("name", None), (1, b"x"), None, "text", 5, [b"x"]],
    )
    async def test_what_is_not_a_file(self, service: Emulator, call: Call, file: Any) -> None:
        with pytest.raises(litellm.BadRequestError, match="file"):
            await call("create_file", file, "batch")
        assert service.requests == []

    @pytest.mark.parametrize("id_", [None, "", ".", "..", 5])
    @pytest.mark.parametrize("name", ["retrieve_batch", "cancel_batch", "file_content"])
    async def test_what_is_not_an_id(self, service: Emulator, call: Call, name: str, id_: Any) -> None:
        with pytest.raises(litellm.BadRequestError, match="must be the id of a file or a batch job"):
            await call(name, id_)
        assert service.requests == []

    @pytest.mark.parametrize(
        ("name", "kind"), [("retrieve_batch", "batch job"), ("cancel_batch", "batch job"), ("file_content", "file")]
    )
    async def test_what_is_not_there(self, service: Emulator, call: Call, name: str, kind: str) -> None:
        with pytest.raises(litellm.NotFoundError, match=f"check base_url and the id of the {kind}"):
            await call(name, "none")

    async def test_a_timeout_of_httpx(self, service: Emulator, call: Call) -> None:
        assert (await call("list_batches", timeout=httpx.Timeout(5, read=7))).data == []
        service.add_fault(Fault("hang", path="/v1/batches"))
        with pytest.raises(litellm.Timeout):
            await call("list_batches", timeout=httpx.Timeout(60, read=0.1))

    @pytest.mark.parametrize("options", [{"timeout": "x"}, {"timeout": -1}, {"max_retries": "x"}])
    async def test_what_is_not_a_number(self, service: Emulator, call: Call, options: dict[str, Any]) -> None:
        with pytest.raises(litellm.BadRequestError, match=next(iter(options))):
            await call("list_batches", **options)
