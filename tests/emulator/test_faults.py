from __future__ import annotations

import json
import time

import httpx
import pytest

from kluster_integrations.emulator import Fault

from .conftest import LLAMA, NEMO, R1, Api, user


def stream(api: Api, model: str = LLAMA) -> tuple[list[str], Exception | None]:
    """Return the events of a stream, and what broke it."""
    lines: list[str] = []
    body = {"model": model, "messages": user("Hello there"), "stream": True}
    try:
        with api.http.stream("POST", "/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            for line in filter(None, answer.iter_lines()):
                lines.append(line.removeprefix("data: "))  # noqa: PERF401 - kept when the stream breaks
    except httpx.HTTPError as exc:
        return lines, exc
    return lines, None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "boom"),
        ("times", 0),
        ("times", -1),
        ("times", True),
        ("after", -1),
        ("status", 200),
        ("status", 600),
        ("retry_after", -1),
        ("body", 5),
        ("chunks", -1),
        ("delay", -1),
        ("delay", float("inf")),
    ],
)
def test_bad_fault(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Fault: {field}="):
        Fault(**{"kind": "status", field: value})


def test_add_fault_takes_a_fault(serve) -> None:
    with pytest.raises(ValueError, match="dict"):
        serve()[0].add_fault({"kind": "status"})


def test_status_after_and_times(serve) -> None:
    server, api = serve(faults=[Fault("status", after=1, times=2, status=503)])
    assert [api.chat().status_code for _ in range(4)] == [200, 503, 503, 200]
    server.add_fault(Fault("status", times=None))
    assert [api.chat().status_code for _ in range(3)] == [500] * 3
    server.clear()
    assert api.chat().status_code == 200


def test_status_bodies_and_headers(serve) -> None:
    server, api = serve()

    def hit(**fields: object) -> httpx.Response:
        server.add_fault(Fault("status", **fields))
        return api.chat()

    answer = hit(status=429, retry_after=3, headers={"x-request-id": "r1"})
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["x-request-id"]) == (429, "3", "r1")
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert "retry-after" not in hit(status=429).headers
    vendor = {"message": "Unexpected error occurred", "errorCode": 4000, "type": "invalid_request_error"}
    assert hit(body="vendor").json() == {"error": vendor}
    html = hit(body="html", status=502)
    assert html.headers["content-type"].startswith("text/html")
    assert "502 Bad Gateway" in html.text
    assert hit(body="empty").content == b""
    assert hit(body={"x": 1}).json() == {"x": 1}
    assert hit(body="plain words").text == "plain words"


def test_faults_pick_path_and_model(serve) -> None:
    server, api = serve(faults=[Fault("status", model=NEMO), Fault("status", path="/v1/models", status=500)])
    assert api.chat(model=LLAMA).status_code == 200
    assert api.chat(model=NEMO).status_code == 500
    assert api.http.get("/models").status_code == 500
    assert api.http.get("/models").status_code == 200
    server.add_fault(Fault("status", path=None))
    assert api.http.get("/models").status_code == 500


def test_faults_queue(serve) -> None:
    _, api = serve(faults=[Fault("status", status=500), Fault("status", status=429)])
    assert [api.chat().status_code for _ in range(3)] == [500, 429, 200]


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_cut_breaks_the_connection(serve, chunks: int) -> None:
    _, api = serve(faults=[Fault("cut", chunks=chunks)])
    lines, error = stream(api)
    assert len(lines) == chunks
    assert isinstance(error, httpx.RemoteProtocolError)
    assert stream(api)[0][-1] == "[DONE]"


@pytest.mark.parametrize("kind", ["cut", "end"])
def test_no_finish_reason_even_if_the_stream_is_short(serve, kind: str) -> None:
    _, api = serve(faults=[Fault(kind, chunks=10_000)], replies=[{"text": "An answer of several tokens."}])
    lines, error = stream(api)
    assert (error is None) == (kind == "end")
    assert len(lines) > 5
    assert all(json.loads(line)["choices"][0]["finish_reason"] is None for line in lines)


def test_end_is_clean_but_short(serve) -> None:
    _, api = serve(faults=[Fault("end", chunks=3)])
    lines, error = stream(api)
    assert error is None
    assert len(lines) == 3
    assert "[DONE]" not in lines


def test_error_event(serve) -> None:
    _, api = serve(faults=[Fault("error_event", chunks=2, status=503)])
    lines, error = stream(api)
    assert error is None
    assert len(lines) == 3
    assert "overloaded" in json.loads(lines[-1])["error"]["message"]


def test_stream_faults_on_a_whole_answer(serve) -> None:
    _, api = serve(faults=[Fault("cut"), Fault("end"), Fault("error_event")])
    with pytest.raises(httpx.RemoteProtocolError):
        api.chat()
    answer = api.chat()
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert "error" in api.chat().json()
    assert api.chat().json()["choices"]


def test_slow(serve) -> None:
    _, api = serve(faults=[Fault("slow", delay=0.01)])
    started = time.perf_counter()
    lines, error = stream(api)
    assert error is None
    assert lines[-1] == "[DONE]"
    assert time.perf_counter() - started >= 0.01 * len(lines)


def test_hang_for_a_while_and_for_ever(serve) -> None:
    server, api = serve(faults=[Fault("hang", delay=0.1), Fault("hang")])
    started = time.perf_counter()
    assert api.chat().status_code == 200
    assert time.perf_counter() - started >= 0.1
    with pytest.raises(httpx.ReadTimeout):
        api.http.post("/chat/completions", json={"model": R1, "messages": user("x")}, timeout=0.2)
    assert len(server.requests) == 2
    assert api.chat().status_code == 200


def test_nothing_is_logged(serve, caplog) -> None:
    _, api = serve(faults=[Fault("cut"), Fault("end")])
    stream(api)
    stream(api)
    assert caplog.records == [] or {record.name for record in caplog.records} <= {"httpx", "httpcore"}
