"""The page at `/`, in a real browser and over HTTP; the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from kluster_integrations import catalog
from kluster_integrations.emulator import Fault
from kluster_integrations.emulator.records import LOGGER, MAX_BYTES, RecordedRequest, Records

from .browser import Browser, need_browser
from .conftest import LLAMA, QWEN, Api, tool, user

KEY = "kk-a-key-that-no-page-shows"
EVIL = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with need_browser() as running:
        yield running


def cells(row: int) -> str:
    return f"[...document.querySelectorAll('#rows tr:not(.detail)')[{row}].cells].map(one => one.textContent)"


def count(number: int) -> str:
    return f"document.querySelectorAll('#rows tr:not(.detail)').length === {number}"


def test_requests_come_as_they_are_made(serve: Any, browser: Browser) -> None:
    server, _ = serve()
    api = Api(server.base_url, KEY)
    server.reply("The answer.", reasoning="A thought.", when=QWEN)
    browser.open(server.base_url.removesuffix("v1"))
    browser.until("document.getElementById('state').textContent === 'No request yet.'")

    usage = api.chat(user(EVIL), model=QWEN).json()["usage"]
    browser.until(f"{count(1)} && {cells(0)}[4] === '200'")
    first = browser.js(cells(0))
    cost = catalog.get(QWEN).cost(usage["prompt_tokens"], usage["completion_tokens"])
    assert first[2:4] == ["POST /v1/chat/completions", QWEN]
    assert first[5:7] == [f"{usage['prompt_tokens']} + {usage['completion_tokens']}", f"{cost:.6f}"]
    assert first[7].endswith(" ms")

    api.chat(store=True)
    browser.until(f"{count(2)} && {cells(0)}[4] === '400'")
    assert browser.js(cells(0))[8] == "Unsupported parameter: 'store'"
    server.add_fault(Fault("status", status=503))
    api.chat()
    browser.until(count(3))
    assert browser.until(f"{cells(0)}[8]") == "fault: status"
    assert browser.js("document.title") == "kluster.ai emulator"


def test_a_click_shows_the_body_and_the_answer(serve: Any, browser: Browser) -> None:
    server, api = serve()
    call = {"name": "get_weather", "arguments": {"city": "Oslo"}}
    server.reply(f"The answer. {EVIL}", reasoning="A thought.")
    server.reply(tool_calls=[call])
    api.chat(user(EVIL), model=QWEN)
    api.chunks(model=LLAMA, tools=[tool("get_weather")])
    browser.open(server.base_url.removesuffix("v1"))
    browser.until(count(2))

    browser.js("document.querySelectorAll('#rows button')[1].click()")
    browser.until("document.querySelectorAll('.detail pre').length === 2")
    asked, answered = browser.js("[...document.querySelectorAll('.detail pre')].map(one => one.textContent)")
    assert '"role": "user"' in asked
    assert "onerror" in asked
    assert "A thought." in answered
    assert browser.js("document.querySelectorAll('.detail img, .detail script').length") == 0
    assert browser.js("document.title") == "kluster.ai emulator"
    browser.js("document.querySelectorAll('#rows button')[1].click()")
    browser.until("document.querySelectorAll('.detail').length === 0")

    browser.js("document.querySelectorAll('#rows button')[0].click()")
    streamed = browser.until("document.querySelectorAll('.detail pre')[1]?.textContent")
    assert streamed.startswith('Tool calls:\nget_weather {"city": "Oslo"}\n\nfinish_reason: tool_calls')
    assert browser.console == []


def test_a_request_shows_before_its_answer_ends_and_goes_when_forgotten(serve: Any, browser: Browser) -> None:
    server, api = serve()
    browser.open(server.base_url.removesuffix("v1"))
    server.add_fault(Fault("hang", delay=0))
    with pytest.raises(httpx.TimeoutException):
        api.http.post("/chat/completions", json={"model": LLAMA, "messages": user("Hi")}, timeout=1.0)
    browser.until(f"{count(1)} && {cells(0)}[8].includes('hang')")
    server.clear()
    browser.until(count(0))
    api.chat()
    browser.until(count(1))


def test_no_key_is_anywhere(serve: Any) -> None:
    server, _ = serve(api_keys=[KEY])
    api = Api(server.base_url, KEY)
    api.chat(user(f"My key is {KEY}"))
    api.http.post("/chat/completions", content=KEY.encode(), headers={"x-api-key": KEY, "cookie": KEY})
    api.http.get("/models")
    Api(server.base_url, "wrong-" + KEY).chat()
    root = server.base_url.removesuffix("v1")
    texts = [httpx.get(f"{root}{path}").text for path in ("", "log", *(f"log/{number}" for number in range(1, 5)))]
    assert all(KEY not in text for text in texts)
    assert "so it is not shown" in texts[2]
    assert KEY not in str([request.headers for request in server.requests])
    assert KEY not in server.requests[3].line() + str(server.requests[3].row())


def test_the_page_stands_alone_and_is_not_recorded(serve: Any) -> None:
    server, api = serve()
    root = server.base_url.removesuffix("v1")
    page = httpx.get(root)
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert not any(word in page.text for word in ("http://", "https://", "innerHTML", "src="))
    assert httpx.get(f"{root}log/7").status_code == 404
    assert httpx.get(f"{root}other").status_code == 401
    api.chat()
    assert [request.path for request in server.requests] == ["/other", "/v1/chat/completions"]


@pytest.mark.parametrize(
    ("host", "status"), [("localhost", 200), ("[::1]", 200), ("10.1.2.3:80", 200), ("evil.example", 403)]
)
def test_a_host_name_of_others_sees_nothing(serve: Any, host: str, status: int) -> None:
    server, _ = serve()
    root = server.base_url.removesuffix("v1")
    for path in ("", "log", "log/1"):
        answer = httpx.get(f"{root}{path}", headers={"host": host})
        assert answer.status_code == (404 if status == 200 and path == "log/1" else status)
    assert status == 200 or "localhost" in answer.json()["error"]["message"]


def test_only_what_has_changed_is_sent(serve: Any) -> None:
    server, api = serve()
    api.chat()
    api.chat()
    root = server.base_url.removesuffix("v1")
    found = httpx.get(f"{root}log").json()
    assert [row["number"] for row in found["rows"]] == [1, 2]
    api.chat()
    later = httpx.get(f"{root}log?after={found['version']}").json()
    assert [row["number"] for row in later["rows"]] == [3]
    assert httpx.get(f"{root}log?after={later['version']}").json()["rows"] == []


def test_a_refusal_has_its_reason(serve: Any) -> None:
    server, api = serve(plan="trial", api_keys=["test-key"])
    api.chat(n=2)
    Api(server.base_url, "another").chat()
    api.http.get("/nothing")
    for _ in range(30):
        api.chat()
    reasons = [request.reason for request in server.requests]
    assert reasons[0] == "Unsupported parameter: 'n'"
    assert reasons[1] == "Invalid API key provided."
    assert reasons[2] == "Unknown request URL: GET /v1/nothing."
    assert reasons[-1].startswith("Rate limit reached: 30 requests per minute.")
    assert set(reasons[3:-1]) == {""}


def test_the_log_has_a_line_per_request(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    server, api = serve()
    api.chat(user("Hi"))
    api.http.post("/chat/completions", json={"model": "a\nb", "messages": []})
    server.stop()
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(lines) == 2
    assert f"POST /v1/chat/completions  200  {LLAMA}  5 + 3 tokens  $0." in lines[0]
    assert "a\\nb" in lines[1]
    assert "refused: The model" in lines[1]
    assert caplog.records[-1].__dict__["request"].status == 404


def test_the_newest_bodies_are_kept() -> None:
    records = Records()
    for number in range(5):
        records.add(RecordedRequest("POST", f"/{number}", size=MAX_BYTES // 2))
    assert [record.path for record in records] == ["/3", "/4"]
    assert [record.number for record in records] == [4, 5]
