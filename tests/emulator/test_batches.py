"""Files, uploads, batch jobs and asynchronous requests, over bare HTTP."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import pytest

from kluster_integrations.emulator import BatchBehavior, Emulator

from .conftest import LLAMA, Api, user

OVER = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    body = {"model": LLAMA, "messages": user(f"Hello {custom_id}"), **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


class Batch:
    """A bare client of files and batches."""

    def __init__(self, server: Emulator) -> None:
        self.server = server
        self.http = Api(server.base_url).http

    def upload(self, *lines: Any, name: str = "a.jsonl", purpose: str = "batch") -> httpx.Response:
        data = b"\n".join(raw if isinstance(raw, bytes) else json.dumps(raw).encode() for raw in lines)
        return self.http.post("/files", data={"purpose": purpose}, files={"file": (name, data)})

    def create(self, file_id: str, **fields: Any) -> httpx.Response:
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
        return self.http.post("/batches", json=body)

    def start(self, *lines: Any, **fields: Any) -> dict[str, Any]:
        answer = self.create(self.upload(*lines).json()["id"], **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def end(self, id_: str) -> dict[str, Any]:
        while (batch := self.http.get(f"/batches/{id_}").json())["status"] not in OVER:
            time.sleep(0.002)
        return batch

    def lines(self, file_id: str) -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in self.http.get(f"/files/{file_id}/content").text.splitlines()]


@pytest.fixture
def batch(emulator: Emulator) -> Batch:
    return Batch(emulator)


def refused(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    message: str = answer.json()["error"]["message"]
    return message


class TestFiles:
    def test_upload_and_content(self, batch: Batch) -> None:
        file = batch.upload(line("a")).json()
        assert {k: file[k] for k in ("object", "filename", "purpose")} == {
            "object": "file",
            "filename": "a.jsonl",
            "purpose": "batch",
        }
        assert batch.lines(file["id"]) == [line("a")]
        assert batch.http.get(f"/files/{file['id']}").json() == file

    def test_404_right_after_the_upload(self, batch: Batch) -> None:
        batch.server.batches.behavior = BatchBehavior(file_lag=60)
        file = batch.upload(line("a")).json()
        assert refused(batch.http.get(f"/files/{file['id']}"), 404) == f"No such file: {file['id']}."
        assert batch.create(file["id"]).status_code == 200

    def test_what_is_refused(self, batch: Batch) -> None:
        assert "'purpose'" in refused(batch.upload(line("a"), purpose="assistants"))
        assert ".jsonl" in refused(batch.upload(line("a"), name="a.txt"))
        assert "'file'" in refused(batch.http.post("/files", data={"purpose": "batch"}, files={"other": b"x"}))
        assert "multipart" in refused(batch.http.post("/files", json={}))
        refused(batch.http.get("/files/none/content"), 404)
        refused(batch.http.get("/files"), 405)

    def test_more_than_100_mb(self, batch: Batch) -> None:
        assert "100000001 bytes" in refused(batch.upload(b"x" * 100_000_001), 413)

    def test_the_log_keeps_no_uploads(self, batch: Batch) -> None:
        batch.upload(line("a"))
        assert [(r.path, r.body) for r in batch.server.requests] == [("/v1/files", None)]

    def test_without_a_key(self, emulator: Emulator) -> None:
        http = Api(emulator.base_url, key=None).http
        for answer in (http.post("/files"), http.post("/batches"), http.get("/batches"), http.get("/files/x/content")):
            refused(answer, 401)


class TestUploads:
    def begin(self, batch: Batch, data: bytes) -> str:
        body = {"filename": "a.jsonl", "purpose": "batch", "bytes": len(data), "mime_type": "application/jsonl"}
        answer = batch.http.post("/uploads", json=body).json()
        assert (answer["object"], answer["status"], answer["expires_at"] - answer["created_at"]) == (
            "upload",
            "pending",
            3_600,
        )
        return str(answer["id"])

    def part(self, batch: Batch, upload: str, data: bytes) -> httpx.Response:
        return batch.http.post(f"/uploads/{upload}/parts", files={"data": ("part", data)})

    def test_parts_in_the_order_that_is_named(self, batch: Batch) -> None:
        data = json.dumps(line("a")).encode()
        upload = self.begin(batch, data)
        last, first = (self.part(batch, upload, piece).json()["id"] for piece in (data[10:], data[:10]))
        done = batch.http.post(f"/uploads/{upload}/complete", json={"part_ids": [first, last]}).json()
        assert (done["status"], done["file"]["bytes"]) == ("completed", len(data))
        assert batch.end(batch.create(done["file"]["id"]).json()["id"])["status"] == "completed"

    def test_what_is_refused(self, batch: Batch) -> None:
        upload = self.begin(batch, b"xy")
        part = self.part(batch, upload, b"x").json()["id"]
        assert "64000000" in refused(self.part(batch, upload, b"x" * 64_000_001))
        assert "1 bytes; the upload was to have 2" in refused(
            batch.http.post(f"/uploads/{upload}/complete", json={"part_ids": [part]})
        )
        assert "part_ids" in refused(batch.http.post(f"/uploads/{upload}/complete", json={"part_ids": ["none"]}))
        assert batch.http.post(f"/uploads/{upload}/cancel").json()["status"] == "cancelled"
        assert "cancelled" in refused(self.part(batch, upload, b"x"))
        refused(self.part(batch, "none", b"x"), 404)
        for wrong in ({"bytes": 0}, {"bytes": 8_000_000_001}, {"filename": ""}, {"purpose": "x"}):
            refused(batch.http.post("/uploads", json={"filename": "a.jsonl", "purpose": "batch", "bytes": 1, **wrong}))


class TestJobs:
    def test_lines_are_answered_as_requests_are(self, batch: Batch) -> None:
        job = batch.end(batch.start(line("b"), line("a", response_format={"type": "text"}))["id"])
        assert job["status"] == "completed"
        assert job["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        [good] = batch.lines(job["output_file_id"])
        assert (good["custom_id"], good["response"]["status_code"], good["error"]) == ("b", 200, None)
        assert good["response"]["body"]["choices"][0]["message"]["content"] == "Echo: Hello b"
        [bad] = batch.lines(job["error_file_id"])
        assert (bad["custom_id"], bad["response"]["status_code"]) == ("a", 400)
        assert "response_format" in bad["response"]["body"]["error"]["message"]

    def test_the_object(self, batch: Batch) -> None:
        job = batch.start(line("a"), metadata={"for": "me"}, completion_window="72h")
        assert job["expires_at"] - job["created_at"] == 3 * 86_400
        assert (job["metadata"], job["errors"], job["output_file_id"]) == ({"for": "me"}, None, None)
        job = batch.end(job["id"])
        assert isinstance(job["completed_at"], int)
        assert job["failed_at"] is None

    def test_what_is_refused(self, batch: Batch) -> None:
        file = batch.upload(line("a")).json()["id"]
        tuning = batch.upload(line("a"), purpose="fine-tune").json()["id"]
        assert "No such file" in refused(batch.create("none"), 404)
        assert "fine-tune" in refused(batch.create(tuning))
        assert "endpoint" in refused(batch.create(file, endpoint="/v1/completions"))
        assert "24h, 48h, 72h" in refused(batch.create(file, completion_window="12h"))
        assert "metadata" in refused(batch.create(file, metadata="x"))
        assert "Unsupported parameter: 'priority'" in refused(batch.create(file, priority=1))
        refused(batch.http.get("/batches/none"), 404)

    def test_a_file_that_is_wrong(self, batch: Batch) -> None:
        wrong_url = {**line("c"), "url": "/v1/completions"}
        job = batch.end(batch.start(line("a"), b"{", line("a"), wrong_url, {**line("d"), "body": []}, [])["id"])
        assert job["status"] == "failed"
        assert [(e["line"], e["code"]) for e in job["errors"]["data"]] == [
            (2, "invalid_json_line"),
            *((number, "invalid_request") for number in (3, 4, 5, 6)),
        ]
        assert job["output_file_id"] is None

    def test_the_plan_counts_lines(self) -> None:
        with Emulator(plan="trial") as server:
            api = Batch(server)
            job = api.end(api.start(*(line(str(n)) for n in range(1_001)))["id"])
        assert job["errors"]["data"][0]["message"] == "The file has 1001 requests; allowed are 1000."

    def test_list(self, batch: Batch) -> None:
        ids = [batch.start(line("a"))["id"] for _ in range(3)][::-1]
        page = batch.http.get("/batches", params={"limit": 2}).json()
        assert [job["id"] for job in page["data"]] == ids[:2]
        assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[0], ids[1], True)
        assert (page["page_count"], page["items_per_page"]) == (-1, 2)
        rest = batch.http.get("/batches", params={"after": ids[1]}).json()
        assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (ids[2:], False)
        for wrong in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"after": "none"}):
            refused(batch.http.get("/batches", params=wrong))

    def test_cancel(self, batch: Batch) -> None:
        batch.server.batches.behavior = BatchBehavior(line_time=0.01)
        id_ = batch.start(*(line(str(n)) for n in range(100)))["id"]
        while not batch.http.get(f"/batches/{id_}").json()["request_counts"]["completed"]:
            time.sleep(0.002)
        assert batch.http.post(f"/batches/{id_}/cancel").json()["status"] == "cancelling"
        job = batch.end(id_)
        assert job["status"] == "cancelled"
        assert 0 < len(batch.lines(job["output_file_id"])) < 100
        assert "cancelled and cannot" in refused(batch.http.post(f"/batches/{id_}/cancel"))


class TestBehavior:
    def test_text_timestamps(self, batch: Batch) -> None:
        batch.server.batches.behavior = BatchBehavior(text_timestamps=True)
        job = batch.start(line("a"))
        assert job["created_at"].isdecimal()
        assert job["failed_at"] is None

    @pytest.mark.parametrize(
        ("form", "seen"), [("auto", None), ("null", None), ("list", []), ("object", {"object": "list", "data": []})]
    )
    def test_errors_of_a_good_job(self, batch: Batch, form: Any, seen: object) -> None:
        batch.server.batches.behavior = BatchBehavior(errors=form)
        assert batch.start(line("a"))["errors"] == seen

    def test_pre_schedule_and_the_list_that_lags(self, batch: Batch) -> None:
        batch.server.batches.behavior = BatchBehavior(pre_schedule=0.05, list_lag=60)
        job = batch.start(line("a"))
        assert job["status"] == "pre_schedule"
        assert batch.http.get("/batches").json()["data"] == []
        assert batch.end(job["id"])["status"] == "completed"

    def test_lines(self, batch: Batch) -> None:
        batch.server.batches.script(BatchBehavior(missing=[0], failing={1: 503}, texts={2: "No."}, expires_after=3))
        job = batch.end(batch.start(*map(line, "abcd"))["id"])
        assert job["status"] == "expired"
        [answered] = batch.lines(job["output_file_id"])
        assert answered["custom_id"] == "c"
        assert answered["response"]["body"]["choices"][0]["message"]["content"] == "No."
        [failed] = batch.lines(job["error_file_id"])
        assert (failed["custom_id"], failed["response"]["status_code"]) == ("b", 503)
        assert batch.end(batch.start(line("a"))["id"])["status"] == "completed"  # that was for one job

    @pytest.mark.parametrize(("how", "jobs"), [("500 before", 0), ("500 after", 1)])
    def test_500_at_the_creation(self, batch: Batch, how: Any, jobs: int) -> None:
        batch.server.batches.script(BatchBehavior(create=how))
        assert batch.create(batch.upload(line("a")).json()["id"]).status_code == 500
        assert len(batch.server.batches.jobs) == jobs

    @pytest.mark.parametrize(("how", "jobs"), [("hang before", 0), ("hang after", 1)])
    def test_no_answer_to_the_creation(self, batch: Batch, how: Any, jobs: int) -> None:
        batch.server.batches.script(BatchBehavior(create=how))
        file = batch.upload(line("a")).json()["id"]
        batch.http.timeout = httpx.Timeout(0.05)
        with pytest.raises(httpx.ReadTimeout):
            batch.create(file)
        assert len(batch.server.batches.jobs) == jobs

    def test_a_hanging_creation_does_not_keep_it_from_stopping(self) -> None:
        server = Emulator().start()
        server.batches.behavior = BatchBehavior(create="hang after", line_time=60)
        api = Batch(server)
        file = api.upload(line("a")).json()["id"]
        client = threading.Thread(target=lambda: api.create(file))
        client.start()
        while not server.batches.jobs:
            time.sleep(0.002)
        server.stop()
        client.join(5)
        assert not client.is_alive()


class TestAsyncRequests:
    def ask(self, batch: Batch, window: str) -> httpx.Response:
        metadata = {"@kluster.ai": {"async": True, "completion_window": window}}
        body = {"model": LLAMA, "messages": user("Hello async"), "metadata": metadata}
        return batch.http.post("/chat/completions", json=body)

    def test_a_notice_and_a_job(self, batch: Batch) -> None:
        notice = self.ask(batch, "48h").json()
        assert notice["choices"][0]["message"]["content"].startswith("Your request has been queued")
        id_, _, stamp = notice["id"].partition("_")
        assert stamp.isdecimal()
        [answer] = batch.lines(batch.end(id_)["output_file_id"])
        assert "Hello async" in answer["response"]["body"]["choices"][0]["message"]["content"]

    def test_unknown_window(self, batch: Batch) -> None:
        refused(self.ask(batch, "1h"))
