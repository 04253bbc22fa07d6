"""`cassette` records real calls of an emulator, and replays them when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import httpx
import openai
import pytest

from kluster_integrations import catalog
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.transport import Transport
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import AuthenticationError, KlusterError, RateLimitError
from kluster_integrations.recording import CassetteError, Mode, cassette

from ..raw_server import RawServer, Reply
from ..ways import JSON, LLAMA, Way, text_of

NOWHERE = "http://127.0.0.1:9/v1"
KEY = "kk-a-key-of-the-recording"
NO_SERVER = {"base_url": NOWHERE, "api_key": "kk-another-key-of-the-replay", "max_retries": 0}
Answering = Callable[..., Any]


def config(base_url: str = NOWHERE, **fields: Any) -> KlusterConfig:
    return KlusterConfig(**{"api_key": KEY, "base_url": base_url, "max_retries": 0, **fields})


@pytest.fixture(params=["sync", "aiohttp", "async-httpx"])
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cassettes" / "calls.yaml"


def ask(base_url: str = NOWHERE, text: str = "hi") -> str:
    body = {"model": LLAMA, "messages": [{"role": "user", "content": text}]}
    answer: str = Transport(config(base_url)).post("/chat/completions", body).data["choices"][0]["message"]["content"]
    return answer


def ask_all(*texts: str) -> None:
    for text in texts:
        ask(text=text)


def test_what_one_way_records_each_replays(way: Way, emulator: Emulator, file: Path) -> None:
    with cassette(file):
        said = way.post(config(emulator.base_url)), text_of(way.stream(config(emulator.base_url)))
    assert len(emulator.requests) == 2

    for other in ("sync", "aiohttp", "async-httpx"):
        with cassette(file, "none"):
            assert Way(other).post(config()) == said[0]
            assert text_of(Way(other).stream(config())) == said[1]
    assert len(emulator.requests) == 2


def test_the_sdk_itself(emulator: Emulator, file: Path) -> None:
    message: Any = {"role": "user", "content": "hi"}

    def run(client: Any) -> list[Any]:
        whole = client.chat.completions.create(model=LLAMA, messages=[message])
        stream = client.chat.completions.create(model=LLAMA, messages=[message], stream=True)
        pieces = [chunk.choices[0].delta.content for chunk in stream]
        return [whole.model_dump(), pieces, [model.id for model in client.models.list()]]

    with cassette(file):
        recorded = run(openai.OpenAI(api_key=KEY, base_url=emulator.base_url))
    with cassette(file):
        assert run(openai.OpenAI(**NO_SERVER)) == recorded  # type: ignore[arg-type]


@pytest.mark.usefixtures("own_catalog")
def test_a_query_matters(emulator: Emulator, file: Path) -> None:
    with cassette(file):
        catalog.refresh(config(emulator.base_url))
    with pytest.raises(CassetteError, match=r"GET /v1/models: the query is"), cassette(file, "none"):
        Transport(config()).get("/models")
    with cassette(file, "none"):
        catalog.refresh(config())


def test_errors_come_back(way: Way, emulator: Emulator, file: Path) -> None:
    emulator.add_fault(Fault("status", status=429, retry_after=7, headers={"x-request-id": "req-seven"}))
    with cassette(file), pytest.raises(RateLimitError):
        way.post(config(emulator.base_url))
    with cassette(file, "none"), pytest.raises(RateLimitError) as caught:
        way.post(config())
    assert (caught.value.retry_after, caught.value.request_id) == (7, "req-seven")


def test_a_request_that_was_tried_again_is_two(emulator: Emulator, file: Path) -> None:
    emulator.add_fault(Fault("status", status=500, retry_after=0.001))
    with cassette(file):
        Way("sync").post(config(emulator.base_url, max_retries=1))
    with cassette(file, "none") as tape:
        Way("sync").post(config(max_retries=1))
        assert tape.play_count == 2


def test_no_key_is_in_the_file(way: Way, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", "kk-a-key-of-the-environment")
    headers = {"x-api-key": "kk-a-key-in-another-header", "cookie": "session=kk-a-cookie"}
    text = f"My keys are {KEY}, kk-a-key-of-the-environment and a word-to-mask."
    with Emulator(api_keys=[KEY]) as server, cassette(file, secrets=["word-to-mask"]):
        way.post(config(server.base_url, default_headers=headers))
        way.stream(config(server.base_url, default_headers=headers))
        ask(server.base_url, text)
    written = file.read_text("utf-8")
    for secret in (KEY, "kk-a-key-of-the-environment", "kk-a-key-in-another-header", "kk-a-cookie", "word-to-mask"):
        assert secret not in written
    assert written.count("My keys are ***, *** and a ***.") == 2  # in the question, and as the emulator quotes it
    assert not [name for name in ("authorization", "cookie", "user-agent", "x-stainless") if name in written.lower()]
    with cassette(file, "none", secrets=["word-to-mask"]):
        way.post(config())
        way.stream(config())
        ask(text=text)


def test_a_server_that_echoes_the_key(way: Way, answering: Answering, file: Path) -> None:
    said = json.dumps({"error": {"message": f"Invalid key {KEY}", "code": "invalid_api_key"}}).encode()
    server = answering(said, status=401, headers={"x-request-id": KEY, "set-cookie": "a=secret-cookie"})
    with cassette(file), pytest.raises(AuthenticationError):
        way.post(config(server.base_url))
    assert KEY not in file.read_text("utf-8")
    assert "secret-cookie" not in file.read_text("utf-8")
    with cassette(file, "none"), pytest.raises(AuthenticationError, match=r"Invalid key \*\*\*"):
        way.post(config())


def test_a_key_that_a_stream_spells_out(way: Way, answering: Answering, file: Path) -> None:
    pieces = ["Your key ", *KEY, " is ", "fine."]
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    server = answering(events.encode(), headers={"content-type": "text/event-stream"})
    with cassette(file):
        way.stream(config(server.base_url))
    with cassette(file, "none"):
        assert text_of(way.stream(config())) == f"Your key {'*' * len(KEY)} is fine."


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_key_that_events_of_several_lines_spell_out(answering: Answering, file: Path, end: str) -> None:
    pieces = ["Your key ", *KEY, " is ", "fine."]
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events = [json.dumps(chunk, indent=1).splitlines() for chunk in chunks]
    body = "".join(end.join([f"id: 1{end}: said", *(f"data:{line}" for line in lines)]) + end * 2 for lines in events)
    server = answering(f"{body}data: [DONE]{end}{end}".encode(), headers={"content-type": "text/event-stream"})
    with cassette(file):
        Way("sync").stream(config(server.base_url))
    assert not [text for text in (KEY, *KEY.split("-")[1:]) if f'"{text}"' in file.read_text("utf-8")]
    with cassette(file, "none"):
        assert text_of(Way("sync").stream(config())) == f"Your key {'*' * len(KEY)} is fine."


def test_a_key_in_the_reason_phrase(file: Path) -> None:
    with RawServer() as server:
        head = Reply([b'{"error": "no"}'], status=401, **JSON).head().replace(b"Whatever", f"No {KEY}".encode())

        class Odd(Reply):
            def head(self) -> bytes:
                return head

        server.script(Odd([b'{"error": "no"}'], status=401, **JSON))
        with cassette(file), pytest.raises(AuthenticationError):
            Way("sync").post(config(server.base_url))
    assert "No ***" in file.read_text("utf-8")
    assert KEY not in file.read_text("utf-8")


def test_a_compressed_answer_is_readable(way: Way, answering: Answering, file: Path) -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "Hello!"}, "finish_reason": "stop"}]}
    body = gzip.compress(json.dumps(answer).encode())
    server = answering(body, headers={"content-encoding": "gzip"})
    with cassette(file):
        assert way.post(config(server.base_url)) == "Hello!"
    assert '"content": "Hello!"' in file.read_text("utf-8")
    with cassette(file, "none"):
        assert way.post(config()) == "Hello!"


def test_a_missing_request_says_what_and_how(way: Way, emulator: Emulator, file: Path) -> None:
    with pytest.raises(CassetteError) as none, cassette(file, "none"):
        way.post(config())
    assert f"There is no cassette {file}" in str(none.value)
    assert f"POST /v1/chat/completions ({LLAMA}, 1 message)" in str(none.value)
    assert 'cassette(…, mode="rewrite")' in str(none.value)

    with cassette(file):
        ask(emulator.base_url)
    with pytest.raises(CassetteError, match=r"messages\[0\]\.content is 'ho', 'hi' is recorded"), cassette(file):
        ask(text="ho")
    with pytest.raises(CassetteError, match="not as often as it is sent"), cassette(file):
        ask_all("hi", "hi")
    with pytest.raises(CassetteError, match="all that it holds has been replayed"), cassette(file):
        ask_all("hi", "ho")
    assert KEY not in str(none.value)


def test_no_fallback_hides_it(file: Path) -> None:
    def with_fallback() -> None:
        with contextlib.suppress(Exception):
            ask()

    with pytest.raises(CassetteError), cassette(file, "none"):
        with_fallback()


def test_what_is_left_over(emulator: Emulator, file: Path) -> None:
    with cassette(file):
        ask(emulator.base_url)
        ask(emulator.base_url, "ho")
    said = r"1 of 2 requests that were not sent: POST /v1/chat/completions"
    with pytest.raises(CassetteError, match=said), cassette(file, "none"):
        ask(text="ho")
    # An error of one's own is not overlaid.
    with pytest.raises(ZeroDivisionError), cassette(file, "none"):
        raise ZeroDivisionError


def test_modes(emulator: Emulator, file: Path) -> None:
    for number, (mode, texts, sent, held) in enumerate(
        [
            ("once", ["a"], 1, 1),
            ("once", ["a"], 0, 1),
            ("new_episodes", ["a", "b"], 1, 2),
            ("all", ["b"], 1, 2),
            ("rewrite", ["c", "c"], 2, 2),
            ("none", ["c", "c"], 0, 2),
        ]
    ):
        emulator.clear()
        with cassette(file, mode) as tape:  # type: ignore[arg-type]
            for text in texts:
                ask(emulator.base_url, text)
        assert (number, len(emulator.requests), file.read_text("utf-8").count("request:")) == (number, sent, held)
        assert tape is not None


def test_an_unknown_mode(file: Path) -> None:
    unknown: Any = "sometimes"
    with pytest.raises(ValueError, match="mode='sometimes' is not allowed") as caught, cassette(file, unknown):
        pass
    assert all(mode in str(caught.value) for mode in get_args(Mode))


def test_a_file_that_is_not_a_cassette(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("interactions: 1")
    with pytest.raises(CassetteError, match="is not a cassette: it has no list `interactions`"), cassette(file):
        pass


def test_a_block_that_fails_records_nothing(emulator: Emulator, file: Path) -> None:
    with pytest.raises(KeyError), cassette(file):
        {}[ask(emulator.base_url)]
    assert not file.exists()


def test_a_broken_answer_is_not_recorded(way: Way, emulator: Emulator, file: Path) -> None:
    emulator.add_fault(Fault("cut"))
    with cassette(file), pytest.raises(KlusterError):
        way.stream(config(emulator.base_url))
    assert not file.exists()


def test_other_addresses_are_left_alone(answering: Answering, file: Path) -> None:
    server = answering(b'{"a": 1}')
    elsewhere = server.base_url.removesuffix("/v1") + "/elsewhere"
    with cassette(file, "none"):
        assert httpx.get(elsewhere).json() == {"a": 1}
    assert [request for request, _ in server.requests] == ["GET /elsewhere"]
    assert not file.exists()


def test_what_an_emulator_asks_its_upstream_is_not_ours(file: Path) -> None:
    with Emulator(strict=False) as model, Emulator(upstream=model.base_url) as server, cassette(file):
        ask(server.base_url)
    assert len(model.requests) > 1
    assert file.read_text("utf-8").count("request:") == 1


def test_an_upload_matches_whatever_its_boundary(answering: Answering, file: Path) -> None:
    server = answering(b'{"id": "file-1"}')

    def upload(base_url: str) -> Any:
        files = {"file": ("batch.jsonl", b'{"custom_id": "1"}\n')}
        with httpx.Client(trust_env=False) as client:
            return client.post(f"{base_url}/files", files=files, data={"purpose": "batch"}).json()

    with cassette(file):
        upload(server.base_url)
    with cassette(file, "none"):
        assert upload(NOWHERE) == {"id": "file-1"}


def test_equal_requests_of_several_threads(emulator: Emulator, file: Path) -> None:
    def many(base_url: str) -> list[str]:
        with ThreadPoolExecutor(8) as pool:
            return sorted(pool.map(lambda _: ask(base_url), range(24)))

    with cassette(file):
        said = many(emulator.base_url)
    with cassette(file, "none"):
        assert many(NOWHERE) == said


def test_equal_requests_of_several_tasks(emulator: Emulator, file: Path) -> None:
    async def many(base_url: str) -> list[Any]:
        sender = Transport(config(base_url))
        body = {"model": LLAMA, "messages": [{"role": "user", "content": "hi"}]}
        answers = await asyncio.gather(*(sender.apost("/chat/completions", body) for _ in range(12)))
        return sorted(answer.data["id"] for answer in answers)

    with cassette(file):
        said = asyncio.run(many(emulator.base_url))
    with cassette(file, "none"):
        assert asyncio.run(many(NOWHERE)) == said


def test_the_file_says_where_it_is_from(emulator: Emulator, file: Path) -> None:
    with cassette(file, about={"text": "scripted"}):
        ask(emulator.base_url)
    head = file.read_text("utf-8").splitlines()[:7]
    assert head[0].startswith("# Recorded, not written")
    assert [line.partition(":")[0].strip() for line in head[1:]] == [
        "recorded",
        "date",
        "server",
        "by",
        "text",
        "version",
    ]
    assert str(emulator.port) not in file.read_text("utf-8")
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_afterwards_all_is_as_it_was(emulator: Emulator, file: Path) -> None:
    with cassette(file):
        ask(emulator.base_url)
    ask(emulator.base_url)
    assert len(emulator.requests) == 2
