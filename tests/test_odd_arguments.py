"""An argument of a wrong type is refused before any request, in the core's words, by every adapter that lets it in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.errors import BadRequestError

from .answers import LLAMA
from .raw_server import RawServer, whole

HELLO = [{"role": "user", "content": "Hello!"}]
TOOL = {"type": "function", "function": {"name": "look"}}


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer() as made:
        made.answer = lambda _: whole({"content": "Hi"})
        yield made


@pytest.fixture
def config(server: RawServer) -> KlusterConfig:
    return KlusterConfig(base_url=server.base_url, max_retries=0)


def langchain(config: KlusterConfig, arguments: dict[str, Any]) -> None:
    from kluster_integrations.langchain import ChatKluster

    ChatKluster(model=LLAMA, config=config).invoke("Hello!", **arguments)


def lite(config: KlusterConfig, arguments: dict[str, Any]) -> None:
    litellm = pytest.importorskip("litellm")
    from kluster_integrations.litellm import register

    register(config)
    litellm.completion(f"kluster/{LLAMA}", **{"messages": HELLO, **arguments})


def alite(config: KlusterConfig, arguments: dict[str, Any]) -> None:
    litellm = pytest.importorskip("litellm")
    from kluster_integrations.litellm import register

    register(config)
    asyncio.run(litellm.acompletion(f"kluster/{LLAMA}", **{"messages": HELLO, **arguments}))


def crewai(config: KlusterConfig, arguments: dict[str, Any]) -> None:
    pytest.importorskip("crewai")
    from kluster_integrations.crewai import kluster_llm

    call = {name: value for name, value in arguments.items() if name == "messages"}
    own = {name: value for name, value in arguments.items() if name not in call}
    kluster_llm(LLAMA, config=config, **own).call(**{"messages": "Hello!", **call})


Adapter = Callable[[KlusterConfig, dict[str, Any]], None]
ALL: tuple[Adapter, ...] = (langchain, lite, alite, crewai)
LITE: tuple[Adapter, ...] = (lite, alite)
LIST = r"must be a list of message objects\."
FORM = r"response_format=.* must have type text, json_object or json_schema\."

# Others refuse the rest themselves: LangChain's and CrewAI's own checks, and pydantic's of fields.
ODD: list[tuple[dict[str, Any], str, tuple[Adapter, ...]]] = [
    ({"extra_body": 5}, r"extra_body=5 must be a mapping of names to values\.", ALL),
    ({"extra_body": []}, r"extra_body=\[\] must be a mapping of names to values\.", ALL),
    ({"response_format": "json"}, FORM, ALL),
    ({"response_format": 5}, FORM, ALL),
    ({"response_format": {}}, FORM, ALL),
    ({"tool_choice": "look"}, r"tool_choice='look' needs tools\.", ALL),
    ({"parallel_tool_calls": "yes"}, r"parallel_tool_calls='yes' must be True or False\.", ALL),
    ({"max_tokens": 0}, r"max_tokens=0 must be a whole number of 1 or more\.", ALL),
    ({"n": 2}, r"kluster.ai does not take n=2; allowed are .*Hint: send the request n times", ALL),
    ({"tools": {}}, r"tools=\{\} must be a list of tools\.", (langchain, *LITE)),
    ({"tools": "look"}, r"tools='look' must be a list of tools\.", (langchain, *LITE)),
    ({"tools": [TOOL, 5]}, r"tools\[1\]\.type='int' must be 'function'", (langchain, *LITE)),
    ({"stop": 5}, r"stop=5 must be a text or a list of texts\.", (langchain, *LITE)),
    ({"max_repairs": "2"}, r"max_repairs='2' must be a whole number\.", (langchain, *LITE)),
    ({"timeout": -1}, r"timeout=-1\S* must be a number of seconds above 0\.", (langchain, *LITE)),
    ({"timeout": float("inf")}, r"timeout=inf must be a number of seconds above 0\.", LITE),
    ({"messages": None}, f"messages=None {LIST}", (*LITE, crewai)),
    ({"messages": "Hello!"}, f"messages='Hello!' {LIST}", LITE),
    ({"messages": {}}, rf"messages=\{{\}} {LIST}", LITE),
    ({"messages": [5]}, r"messages\[0\]=5 must be a message object\.", LITE),
    ({"messages": [{"role": "user", "content": 5}]}, r"messages\[0\]\.content=5 must be a text or a", (*LITE, crewai)),
    ({"metadata": 5}, r"metadata=5 must be a mapping\.", (*LITE, crewai)),
    ({"max_retries": "2"}, r"max_retries='2' must be a whole number, 0 or more\.", LITE),
]


@pytest.mark.parametrize(
    ("arguments", "message", "adapter"),
    [pytest.param(a, m, one, id=f"{one.__name__}-{a}") for a, m, adapters in ODD for one in adapters],
)
def test_it_is_refused_by_name(
    server: RawServer, config: KlusterConfig, arguments: dict[str, Any], message: str, adapter: Adapter
) -> None:
    before = len(server.requests)
    with pytest.raises(BadRequestError, match=message):
        adapter(config, arguments)
    assert len(server.requests) == before


async def key() -> str:
    return "kk-secret-key"


@pytest.mark.parametrize("adapter", [*LITE, crewai])
@pytest.mark.parametrize("given", [key, lambda: "kk-secret-key"])
def test_a_function_for_the_key_is_refused_where_it_cannot_be_called(
    config: KlusterConfig, adapter: Adapter, given: Any
) -> None:
    with pytest.raises(ValueError if adapter is crewai else BadRequestError, match="api_key must be a text, not a fun"):
        adapter(config, {"api_key": given})


def test_a_mapping_is_not_a_list_of_stops(config: KlusterConfig) -> None:
    pytest.importorskip("crewai")
    with pytest.raises(ValueError, match=r"stop=\{'a': 1\} must be a text or a list of texts"):
        crewai(config, {"stop": {"a": 1}})


def test_litellm_names_an_empty_model(config: KlusterConfig) -> None:
    litellm = pytest.importorskip("litellm")
    lite(config, {})
    with pytest.raises(BadRequestError, match="model='' must be a model id"):
        litellm.completion("kluster/", messages=HELLO)


def test_litellms_own_messages_and_classes_pass(server: RawServer, config: KlusterConfig) -> None:
    litellm = pytest.importorskip("litellm")
    from pydantic import BaseModel

    class City(BaseModel):
        name: str

    earlier = litellm.Message(role="assistant", content="Hi")
    before = len(server.requests)
    lite(config, {"messages": [*HELLO, earlier, *HELLO], "tools": [TOOL]})
    lite(config, {"messages": [{"role": "assistant", "content": None}, *HELLO], "metadata": None})
    server.script(whole({"content": '{"name": "Oslo"}'}))
    lite(config, {"response_format": City})
    assert len(server.requests) == before + 3
