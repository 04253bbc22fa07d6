"""What `ChatKluster` shows, writes and leaves behind: never the key, never an open connection."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.load import dumpd, dumps, loads

from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import (
    AuthenticationError,
)
from kluster_integrations.langchain import ChatKluster
from kluster_integrations.limits import Limits

from ..programs import check_nothing_is_left_open
from ..raw_server import RawServer, Reply, sse, whole
from .conftest import KEY, LLAMA, get_weather, model_of


def body(server: Emulator) -> dict[str, Any]:
    """Return the body of the last request."""
    found = server.requests[-1].body
    assert isinstance(found, dict)
    return found


@pytest.fixture(params=["api_key", "config"])
def secretive(request: pytest.FixtureRequest, emulator: Emulator) -> Iterator[ChatKluster]:
    headers = {"X-Token": "other-secret"}
    if request.param == "api_key":
        yield model_of(emulator, default_headers=headers, limits=Limits(redis_url="redis://:other-secret@localhost"))
    else:
        settings = KlusterConfig(api_key=KEY, base_url=emulator.base_url, default_headers=headers)
        yield ChatKluster(model=LLAMA, config=settings)


def test_nothing_that_is_written_of_a_model_has_the_key(secretive: ChatKluster) -> None:
    secretive.invoke("hi")
    bound = secretive.bind_tools([get_weather])
    told = [
        repr(secretive),
        str(secretive),
        repr(secretive.model_dump()),
        secretive.model_dump_json(exclude={"custom_get_token_ids"}),
        dumps(secretive),
        repr(dumpd(secretive)),
        repr(pickle.dumps(secretive)),
        repr(bound),
        dumps(bound),
        repr(secretive._identifying_params),
        repr(secretive._get_ls_params()),
        repr(secretive._get_llm_string()),
        secretive.model_copy().__repr__(),
        str(vars(secretive)),
        str(vars(secretive._client.config)),
        *("".join(map(repr, pair)) for pair in secretive),
    ]
    for text in told:
        assert KEY not in text
        assert "other-secret" not in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "model"),
        ({"model": LLAMA, "temperature": "hot"}, "temperature.*hot"),
        ({"model": LLAMA, "api_key": [KEY]}, "api_key"),
        ({"model": LLAMA, "default_headers": f"X: {KEY}"}, "default_headers"),
        ({"model": LLAMA, "default_headers": {"X": [KEY]}}, "default_headers.X"),
        ({"model": LLAMA, "base_url": f"https://user:{KEY}@example.com"}, "base_url"),
        ({"model": LLAMA, "openai_api_key": KEY}, "openai_api_key .* pass api_key"),
    ],
    ids=str,
)
def test_a_refused_argument_does_not_show_the_key(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){said}") as caught:
        ChatKluster(**{"api_key": KEY, **fields})
    err = caught.value
    frames = traceback.StackSummary.extract(traceback.walk_tb(caught.tb.tb_next), capture_locals=True)
    assert KEY not in f"{err} {err!r} {err.errors()} {''.join(frames.format())}"  # type: ignore[attr-defined]


def test_headers_are_what_was_given(emulator: Emulator) -> None:
    given = {"X-Token": "other-secret"}
    model = model_of(emulator, default_headers=given)
    assert model.default_headers == given
    assert copy.deepcopy(model).default_headers == given
    assert model_of(emulator, default_headers=model.default_headers).default_headers == given
    model.invoke("hi")
    assert emulator.requests[-1].headers["x-token"] == "other-secret"
    with pytest.raises(ValueError, match="valid string"):
        model_of(emulator, default_headers={"X-Token": 7})


def test_a_pickled_model_takes_its_key_from_the_environment(
    secretive: ChatKluster, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pickle.dumps(secretive)
    with pytest.raises(AuthenticationError):
        pickle.loads(data).invoke("hi")
    assert "authorization" not in emulator.requests[-1].headers
    monkeypatch.setenv("KLUSTER_API_KEY", "kk-of-the-environment")
    restored = pickle.loads(data)
    assert restored._client.config.base_url == emulator.base_url, "a key must not go to another host than before"
    assert restored.invoke("hi").content == secretive.invoke("hi").content


def test_a_pickled_model_keeps_its_fields(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    model = model_of(emulator, temperature=0.5, max_tokens=9, stop=["x"], unsupported="drop", max_retries=7)
    restored = pickle.loads(pickle.dumps(model))
    restored.invoke("hi")
    assert {k: v for k, v in body(emulator).items() if k != "messages"} == {
        "model": LLAMA,
        "temperature": 0.5,
        "max_completion_tokens": 9,
        "stop": ["x"],
    }
    assert restored._client.config.max_retries == 7


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_dumps_and_loads(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)
    text = dumps(model_of(emulator, temperature=0.5))
    kept = json.loads(text)["kwargs"]
    assert kept["api_key"] == {"lc": 1, "type": "secret", "id": ["KLUSTER_API_KEY"]}
    restored = loads(
        text,
        secrets_map={"KLUSTER_API_KEY": KEY},
        valid_namespaces=["kluster_integrations"],
        allowed_objects=[ChatKluster],
    )
    assert restored.invoke("hi").content
    assert restored.temperature == 0.5


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancelled_call_does_not_show_the_key(server: RawServer, streamed: bool) -> None:
    # What a cancelled call raises passes through the frames of the HTTP client, which hold the headers.
    server.script(Reply(silent=True, end="hang"))

    async def go() -> None:
        if streamed:
            async for _ in model_of(server).astream("hi"):
                pass
        else:
            await model_of(server).ainvoke("hi")

    with pytest.raises(TimeoutError) as caught:
        await asyncio.wait_for(go(), 0.2)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert KEY not in "".join(shown.format())


def test_keys_of_another_company_never_leave(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-foreign")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-foreign")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Foreign: 1")
    ChatKluster(model=LLAMA, base_url=server.base_url).invoke("hi")  # a server on loopback may need no key
    model_of(server).invoke("hi")
    assert all(b"foreign" not in request.raw.lower() for request in server.requests)
    assert b"authorization" not in server.requests[0].raw.lower()


def test_nothing_is_left_open_at_exit(server: RawServer) -> None:
    server.answer = lambda r: Reply(sse({"content": "x"})) if r.json.get("stream") else whole({"content": "x"})
    code = f"""
        import asyncio
        from kluster_integrations.langchain import ChatKluster

        model = ChatKluster(model="{LLAMA}", api_key="kk", base_url="{server.base_url}")

        async def go():
            await asyncio.gather(*(model.ainvoke("hi") for _ in range(3)))
            async for part in model.astream("hi"):
                pass
            async for part in model.astream("hi"):
                break

        asyncio.run(go())
        asyncio.run(go())
        model.invoke("hi")
        model.close()
        print("done")
    """
    check_nothing_is_left_open(code)
