from __future__ import annotations

import contextlib
import threading
import time

import httpx
import pytest

from kluster_integrations.catalog import PlanLimits
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.service import Limiter

from .conftest import LLAMA, Api, user


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", "test-key", "Bearer a b"])
def test_key_is_needed(api: Api, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    url = str(api.http.base_url)
    answer = httpx.post(f"{url}chat/completions", json={"model": LLAMA, "messages": user("x")}, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{url}models", headers=headers).status_code == 401
    assert httpx.get(f"{url}models?extended=true", headers=headers).status_code == 200


def test_only_the_given_keys(serve) -> None:
    server, api = serve(api_keys=["right"])
    assert api.chat().status_code == 401
    assert Api(server.base_url, "right").chat().status_code == 200


def test_unknown_routes(api: Api) -> None:
    answer = api.http.get("/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "Unknown request URL: GET /v1/nothing."
    assert api.http.get("/chat/completions").status_code == 405
    assert api.http.post("/chat/completions/", json={}).status_code == 404
    root = str(api.http.base_url).removesuffix("/v1/")
    answer = httpx.post(f"{root}/chat/completions", json={}, headers={"authorization": "Bearer k"})
    assert answer.status_code == 404


def test_requests_a_minute(serve) -> None:
    server, api = serve(plan="trial")
    codes = [api.chat().status_code for _ in range(31)]
    assert codes == [200] * 30 + [429]
    answer = api.chat()
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    # Limits are by key, and reading the models does not count.
    assert Api(server.base_url, "other").chat().status_code == 200
    assert api.http.get("/models").status_code == 200


def test_window_slides() -> None:
    now = [0.0]
    limiter = Limiter(PlanLimits(requests_per_minute=2), clock=lambda: now[0])
    for at in (0.0, 30.0):
        now[0] = at
        limiter.enter("k")
        limiter.leave("k")
    now[0] = 59.5
    with pytest.raises(ApiError) as caught:
        limiter.enter("k")
    assert caught.value.headers["Retry-After"] == "1"
    now[0] = 60.0
    limiter.enter("k")
    with pytest.raises(ApiError) as caught:
        limiter.enter("k")
    assert caught.value.headers["Retry-After"] == "30"


def test_concurrent_requests(serve) -> None:
    server, api = serve(plan="trial", delay=0.2)

    def read() -> None:
        with contextlib.suppress(httpx.HTTPError):
            Api(server.base_url).chat(stream=True)

    threads = [threading.Thread(target=read) for _ in range(20)]
    with httpx.Client() as client:
        for thread in threads:
            thread.start()
        while len(server.requests) < 20:
            time.sleep(0.005)
        answer = api.chat()
        assert answer.status_code == 429
        assert "20 concurrent" in answer.json()["error"]["message"]
        assert client.get(f"{server.base_url}/models?extended=true").status_code == 200
    server.stop()
    for thread in threads:
        thread.join(5)


def test_a_client_that_leaves_frees_its_place(serve) -> None:
    server, api = serve(plan="trial", delay=0.05)
    for _ in range(2):
        opened = []
        for _ in range(14):
            request = api.http.build_request(
                "POST",
                "/chat/completions",
                json={"model": LLAMA, "messages": user("x"), "stream": True},
                headers={"authorization": f"Bearer k{len(server.requests) // 28}"},
            )
            opened.append(api.http.send(request, stream=True))
        assert {answer.status_code for answer in opened} == {200}
        for answer in opened:
            answer.close()
        time.sleep(0.1)
