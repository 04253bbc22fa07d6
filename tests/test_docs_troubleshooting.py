"""Each heading of docs/troubleshooting.md is a message that is really raised; here each of them is."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import own_models, request, specs
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.core.types import collect
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.limits import Limits, admitted, shared, wait_for_rate_limit
from kluster_integrations.litellm import _versions

from .pages import ROOT
from .raw_server import RawServer, Reply

PAGE = ROOT / "docs" / "troubleshooting.md"
LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"
HELLO = [{"role": "user", "content": "Hello!"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}]}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


def ask(server: Any, model: str = LLAMA, messages: Any = HELLO, **options: Any) -> None:
    """Ask once. `stream` and `how` are the builder's, what is a field of the configuration goes there."""
    stream, how = options.pop("stream", False), options.pop("how", "auto")
    params = {name: options.pop(name) for name in list(options) if name not in KlusterConfig.model_fields}
    config = KlusterConfig(**{"api_key": "some-key", "max_retries": 0, "base_url": server.base_url, **options})
    built = request.build(model, messages, params, config=config, stream=stream, tool_calling=how)
    transport = Transport(config)
    if stream:
        collect(transport.stream(built.body, ChatStream(built)))
    else:
        transport.post(CHAT_PATH, built.body)


def asked(*args: Any, **options: Any) -> Callable[[Emulator], None]:
    return lambda server: ask(server, *args, **options)


def faulty(fault: Fault, **options: Any) -> Callable[[Emulator], None]:
    def run(server: Emulator) -> None:
        server.add_fault(fault)
        ask(server, **options)

    return run


def too_long_there(server: Emulator) -> None:
    with Emulator(models=[ModelSpec(id="acme/deployed", context_window=100)]) as deployment:
        ask(deployment, "acme/deployed", [{"role": "user", "content": "word " * 200}])


def no_key(server: Emulator) -> None:
    Transport(KlusterConfig()).post(CHAT_PATH, {})  # refused before anything is sent


def wrong_key(server: Emulator) -> None:
    with Emulator(api_keys=["another-key"]) as strict:
        ask(strict)


def nobody_listens(server: Emulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ask(server, base_url=f"http://127.0.0.1:{port}/v1")


def redirected(server: Emulator) -> None:
    with RawServer() as other:
        other.script(Reply(b"", status=308, headers={"location": "https://example.com/v2"}))
        ask(other)


def over_the_plan(server: Emulator) -> None:
    with Emulator(plan="trial") as limited:
        for _ in range((catalog.PLANS["trial"].requests_per_minute or 0) + 1):
            ask(limited)


def over_the_limit(server: Emulator) -> None:
    config = KlusterConfig(api_key="a-key-of-this-test", base_url=server.base_url)
    limiter = shared(Limits(requests=1, max_wait=0.0), config)
    for _ in range(2):
        with admitted(limiter):
            wait_for_rate_limit()


def hopeless(server: Emulator) -> None:
    from kluster_integrations.langchain import ChatKluster

    schema = {"title": "t", "type": "object", "properties": {"a": {"type": "string", "pattern": "b$c"}}}
    model = ChatKluster(model=NEMO, api_key="some-key", base_url=server.base_url)
    model.with_structured_output({**schema, "required": ["a"]}).invoke("a: x")


def looks_around(server: Emulator) -> None:
    pattern = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=b)c"}}}
    ask(server, response_format={"type": "json_schema", "json_schema": {"name": "t", "schema": pattern}})


def did_you_mean(server: Emulator) -> None:
    catalog.get("google/gemma-3-27b")


def dropped(server: Emulator) -> None:
    ask(server, service_tier="flex", unsupported="drop")


def bad_catalog(server: Emulator) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "models.toml")
        path.write_text('[[models]]\nid = "mine"\ncontext_window = "8k"\n', "utf-8")
        catalog.read(path)


def ended(server: Emulator) -> None:
    own_models._warn_of_end.cache_clear()
    request.build("deepseek-ai/DeepSeek-R1", HELLO, {}, config=KlusterConfig())


def port_taken(server: Emulator) -> None:
    with Emulator(port=server.port):
        pass


def alone(code: str, blocked: str = "") -> Callable[[Emulator], None]:
    """Run code in a process of its own, where `blocked` is not installed, and raise what it raises."""

    def run(server: Emulator) -> None:
        block = f"sys.modules[{blocked!r}] = None" if blocked else "pass"
        program = f"import sys\n{block}\ntry:\n  {code}\nexcept Exception as e:\n  sys.exit('says: ' + str(e))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.rpartition("says: ")[2])

    return run


RAISES: dict[str, Callable[[Emulator], Any]] = {
    "no key": no_key,
    "placeholder": lambda server: KlusterConfig(api_key="..."),
    "wrong key": wrong_key,
    "unknown model": asked("acme/no-such-model"),
    "near miss": did_you_mean,
    "unsupported": asked(n=2),
    "dropped": dropped,
    "image": asked(messages=IMAGE),
    "native tools": asked(NEMO, tools=[TOOL], how="native"),
    "embedding model": asked("BAAI/bge-m3"),
    "too long here": asked(messages=[{"role": "user", "content": "word " * 140_000}]),
    "too long there": too_long_there,
    "plan's limit": over_the_plan,
    "limit here": over_the_limit,
    "500": faulty(Fault("status", status=500, body="vendor")),
    "502": faulty(Fault("status", status=502, body="html")),
    "no connection": nobody_listens,
    "cut": faulty(Fault("cut"), stream=True),
    "timeout": faulty(Fault("hang"), timeout=0.1),
    "no finish reason": faulty(Fault("end"), stream=True),
    "redirect": redirected,
    "not what was asked for": hopeless,
    "the schema": looks_around,
    "plain http": lambda server: KlusterConfig(base_url="http://example.com/v1", api_key="some-key"),
    "bad catalog": bad_catalog,
    "ended": ended,
    "endpoint": lambda server: KlusterConfig(base_url="https://api.kluster.ai/v1/chat/completions"),
    "bad plan": lambda server: KlusterConfig(plan="gold"),  # type: ignore[arg-type]
    "port": port_taken,
    "no emulator": alone("from kluster_integrations.emulator import Emulator", "starlette"),
    "no litellm": alone("from kluster_integrations.litellm import register; register()", "litellm"),
    "no redis": alone(
        "from kluster_integrations.limits import Limits; "
        "from kluster_integrations.core.limits.redis import RedisLimiter; "
        "RedisLimiter(Limits(requests=1, redis_url='redis://127.0.0.1:6379/0'), 'name')",
        "redis",
    ),
    "litellm: no provider": alone(f"import litellm; litellm.completion('kluster/{LLAMA}', messages={HELLO})"),
    "crewai: no provider": alone(f"from crewai import LLM; LLM(model='kluster/{LLAMA}')", "litellm"),
}
NEEDS = {"litellm: no provider": "litellm", "crewai: no provider": "crewai", "no litellm": "litellm"}


def headings() -> list[str]:
    return re.findall(r"^#{2,3} `(.+)`$", PAGE.read_text("utf-8"), re.MULTILINE)


def fits(heading: str, message: str) -> bool:
    """Whether a message begins as a heading says; `…` stands for anything."""
    pattern = ".*?".join(map(re.escape, heading.removesuffix("…").split("…")))
    return re.match(pattern, " ".join(message.split()), re.DOTALL) is not None


def raised(name: str, server: Emulator) -> str:
    """Return what is said, as an error or a warning."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            RAISES[name](server)
    except Exception as err:
        text = re.sub(r"^1 validation error for \w+\s+\w+\s+", "", str(err))
        return text.replace("Value error, ", "")
    raise AssertionError(f"{name}: nothing was raised")


def _runs(name: str) -> bool:
    framework = NEEDS.get(name)
    if framework is None or importlib.util.find_spec(framework) is None:
        return framework is None
    return framework != "litellm" or not _versions.problem(_versions.installed() or "")


@pytest.fixture(scope="module")
def said() -> Iterator[dict[str, str]]:
    """What each of them says, those left out whose framework is not here."""
    with pytest.MonkeyPatch.context() as patch, Emulator() as server:
        for variable in list(os.environ):
            if variable.startswith(("KLUSTER", "OPENAI_")):
                patch.delenv(variable)
        specs._unknown.cache_clear()  # a warning comes once
        yield {name: raised(name, server) for name in RAISES if _runs(name)}


@pytest.mark.parametrize("name", RAISES)
def test_each_message_has_a_heading(name: str, said: dict[str, str]) -> None:
    if name not in said:
        pytest.skip(f"{NEEDS[name]} is not installed, or not in a version that works")
    assert len([heading for heading in headings() if fits(heading, said[name])]) == 1, said[name]


@pytest.mark.parametrize("heading", headings())
def test_each_heading_is_a_message(heading: str, said: dict[str, str]) -> None:
    if not any(fits(heading, message) for message in said.values()):
        assert len(said) < len(RAISES), "no message begins like this"
        pytest.skip("its framework is not installed")


def test_every_other_heading_is_a_group_of_messages() -> None:
    """A message that is not in code would not be compared."""
    others = re.findall(r"^#+ ([^`\n]+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert all(re.fullmatch(r"[A-Z][a-z ]+", heading) for heading in others)
