"""`ChatKluster` written down and read again: `dumps` and `load`, pickles, copies; and LangChain's registry."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import langchain.chat_models
import langchain.embeddings
import pytest
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.prompts import ChatPromptTemplate, HumanMessagePromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableSequence

from kluster_integrations.emulator import Emulator
from kluster_integrations.langchain import (
    ChatKluster,
    KlusterEmbeddings,
    register,
)

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"


def bodies(emulator: Emulator) -> list[Any]:
    return [request.body for request in emulator.requests]


# Serialization.


def test_dumps_and_loads_round_trip(chat: Callable[..., ChatKluster], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", "from-env")
    model = chat(R1, api_key="sekret", temperature=0.5, max_tokens=70, stop=["#"], default_headers={"x": "sekret"})

    text = dumps(model)
    restored = loads(
        text, allowed_objects=[ChatKluster], valid_namespaces=["kluster_integrations"], secrets_from_env=True
    )

    assert "sekret" not in text
    assert isinstance(restored, ChatKluster)
    assert restored.api_key is not None
    assert restored.api_key.get_secret_value() == "from-env"
    assert dumps(restored) == text
    assert restored.invoke("hi").text


def test_load_with_a_secrets_map(chat: Callable[..., ChatKluster]) -> None:
    restored = load(
        dumpd(chat(api_key="sekret")),
        allowed_objects=[ChatKluster],
        valid_namespaces=["kluster_integrations"],
        secrets_map={"KLUSTER_API_KEY": "given"},
    )

    assert restored.api_key.get_secret_value() == "given"


def test_a_key_from_the_environment_is_not_dumped(
    chat: Callable[..., ChatKluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", "sekret")

    assert "sekret" not in dumps(chat(api_key=None))


def test_dumped_namespace_is_the_modules_own() -> None:
    assert dumpd(ChatKluster(model=LLAMA))["id"] == ["kluster_integrations", "langchain", "chat_models", "ChatKluster"]


def test_a_chain_can_be_dumped_and_loaded(chat: Callable[..., ChatKluster]) -> None:
    chain = ChatPromptTemplate([("user", "{q}")]) | chat()
    parts = [RunnableSequence, ChatPromptTemplate, HumanMessagePromptTemplate, PromptTemplate, ChatKluster]

    restored = loads(
        dumps(chain),
        allowed_objects=parts,
        valid_namespaces=["kluster_integrations"],
        secrets_map={"KLUSTER_API_KEY": "key"},
    )

    assert restored.invoke({"q": "hi"}).text


def test_messages_round_trip(chat: Callable[..., ChatKluster]) -> None:
    message = chat(R1).invoke("hi")

    assert load(dumpd(message), allowed_objects="core") == message


def test_pickles_hold_no_key_and_work(chat: Callable[..., ChatKluster], monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat(R1, api_key="sekret", temperature=0.5, default_headers={"x": "sekret"})
    assert model.invoke("hi").text  # so that there is a client

    data = pickle.dumps(model)
    monkeypatch.setenv("KLUSTER_API_KEY", "from-env")
    restored = pickle.loads(data)

    assert b"sekret" not in data
    assert restored.temperature == 0.5
    assert restored.invoke("hi").text


def test_copies_work(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    model = chat(temperature=0.5)
    model.invoke("hi")

    model.model_copy(update={"temperature": 0.1}).invoke("hi")
    model.model_copy(deep=True).invoke("hi")

    assert [body["temperature"] for body in bodies(emulator)] == [0.5, 0.1, 0.5]


def test_a_copy_with_another_base_url_goes_there(chat: Callable[..., ChatKluster], emulator: Emulator) -> None:
    model = chat()
    model.invoke("hi")

    with Emulator() as other:
        model.model_copy(update={"base_url": other.base_url}).invoke("hi")
        assert (len(emulator.requests), len(other.requests)) == (1, 1)


def test_nothing_shows_the_key(chat: Callable[..., ChatKluster]) -> None:
    model = chat(api_key="sekret", default_headers={"x": "sekret"})

    assert (
        "sekret" not in f"{model!r} {model} {model.model_dump()} {model.model_dump_json()} {model._identifying_params}"
    )


# init_chat_model.


def get_time(city: str) -> str:
    """Get the time in a city."""
    return city


@pytest.fixture
def registered() -> Iterator[None]:
    tables = []
    for name in ("langchain.chat_models.base", "langchain.embeddings.base"):
        if not hasattr(module := importlib.import_module(name), "_BUILTIN_PROVIDERS"):
            with pytest.raises(RuntimeError, match=r"ChatKluster\(model=…\), or a newer langchain"):
                register()
            pytest.skip("langchain has a table of providers from 1.2.10 on")
        tables.append(module._BUILTIN_PROVIDERS)
    before = [dict(table) for table in tables]
    register()
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


@pytest.mark.usefixtures("registered")
def test_init_chat_model(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", "key")
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)

    model = langchain.chat_models.init_chat_model(f"kluster:{R1}", temperature=0.5)
    same = langchain.chat_models.init_chat_model(R1, model_provider="kluster")

    assert isinstance(model, ChatKluster)
    assert (model.model, model.temperature, same.model) == (R1, 0.5, R1)  # type: ignore[attr-defined]
    assert model.invoke("hi").text


@pytest.mark.usefixtures("registered")
def test_init_chat_model_configurable(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", "key")
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)

    model = langchain.chat_models.init_chat_model(configurable_fields="any").bind_tools([get_time])
    config: Any = {"configurable": {"model": R1, "model_provider": "kluster"}}
    emulator.reply(tool_calls=[{"name": "get_time", "arguments": {"city": "Rome"}}])

    assert model.invoke("What time is it in Rome?", config=config).tool_calls[0]["args"] == {"city": "Rome"}


@pytest.mark.usefixtures("registered")
def test_init_embeddings(emulator: Emulator) -> None:
    model = langchain.embeddings.init_embeddings("kluster:BAAI/bge-m3", api_key="key", base_url=emulator.base_url)

    assert isinstance(model, KlusterEmbeddings)
    assert len(model.embed_query("hi")) == 1024


@pytest.mark.usefixtures("registered")
def test_registering_again_does_no_harm() -> None:
    register()

    assert langchain.chat_models.init_chat_model(f"kluster:{R1}", api_key="key").model == R1  # type: ignore[attr-defined]


def test_importing_registers_nothing() -> None:
    code = (
        "import langchain.chat_models, kluster_integrations.langchain\n"
        f"langchain.chat_models.init_chat_model('kluster:{R1}', api_key='key')"
    )

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "ValueError" in out.stderr
    assert "kluster" in out.stderr


def test_import_needs_langchain_core_only() -> None:
    code = (
        "import sys, kluster_integrations.langchain\n"
        "print([m for m in ('langchain', 'langgraph', 'transformers', 'tiktoken') if m in sys.modules])\n"
    )

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"
