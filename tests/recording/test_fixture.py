"""A project of its own, with its own pytest: `kluster_cassette` records against an emulator, and replays without it."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kluster_integrations._extras import install_command
from kluster_integrations.emulator import Emulator

from ..features.adapters import usable

KEY = "kk-a-key-of-the-project"
OURS = "kluster_integrations.pytest_plugin"
PLUGINS = (OURS, "pytest_recording.plugin")  # by name: whatever else is installed here takes time
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"

CORE = f'''
import asyncio
import openai
import pytest
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.transport import Transport

MESSAGES = [{{"role": "user", "content": "Hello!"}}]


def post(**body):
    body = {{"model": "{NEMO}", "messages": MESSAGES, **body}}
    return Transport(KlusterConfig(max_retries=0)).post("/chat/completions", body).data


def test_whole(kluster_cassette):
    assert post()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("seed", [1, "a/b c"])
def test_many(kluster_cassette, seed):
    assert post(seed=1)["object"] == "chat.completion"


class TestIn:
    def test_class(self, kluster_cassette):
        config = KlusterConfig()
        client = openai.OpenAI(api_key=config.api_key.get_secret_value(), base_url=config.base_url)
        stream = client.chat.completions.create(model="{NEMO}", messages=MESSAGES, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_async(kluster_cassette):
    body = {{"model": "{NEMO}", "messages": MESSAGES}}
    assert asyncio.run(Transport(KlusterConfig()).apost("/chat/completions", body)).data["id"]
    assert len(kluster_cassette.requests) == 1
'''
ADAPTERS = {
    "langchain": f"""
from kluster_integrations.langchain import ChatKluster

def test_it(kluster_cassette):
    assert ChatKluster(model="{NEMO}").invoke("Hello!").text
    assert "".join(piece.text for piece in ChatKluster(model="{NEMO}").stream("Hello!"))
""",
    "litellm": f"""
import litellm
from kluster_integrations.litellm import register

def test_it(kluster_cassette):
    register()
    messages = [{{"role": "user", "content": "Hello!"}}]
    assert litellm.completion("kluster/{NEMO}", messages=messages).choices[0].message.content
    assert list(litellm.completion("kluster/{NEMO}", messages=messages, stream=True))
""",
    "crewai": f"""
from kluster_integrations.crewai import kluster_llm

def test_it(kluster_cassette):
    assert kluster_llm("{NEMO}").call("Hello!")
    assert kluster_llm("{NEMO}", stream=True).call("Hello!")
""",
}
NAMES = ["TestIn.test_class", "test_async", "test_many-1", "test_many-a-b-c", "test_whole"]


class Project:
    """A folder with tests, and pytest for it, in this process unless it is to be `alone` in one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        (folder / "pytest.ini").write_text("[pytest]\n")
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("CREWAI_STORAGE_DIR", str(folder))
        monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def write(self, code: str, name: str = "test_calls.py") -> None:
        (self.folder / name).write_text(code)

    def pytest(
        self, *options: str, server: Emulator | None = None, plugins: tuple[str, ...] = PLUGINS, alone: bool = False
    ) -> str:
        """Run pytest, and return its output; without a server there is no key, and nothing to reach."""
        if server is not None:
            self._monkeypatch.setenv("KLUSTER_API_KEY", KEY)
            self._monkeypatch.setenv("KLUSTER_BASE_URL", server.base_url)
        arguments = ["-q", "-rf", *(word for plugin in plugins for word in ("-p", plugin)), *options]
        try:
            return (_in_a_process if alone else _in_this_process)(arguments)
        finally:
            for name in ("KLUSTER_API_KEY", "KLUSTER_BASE_URL"):
                self._monkeypatch.delenv(name, raising=False)

    def cassettes(self) -> dict[str, str]:
        return {path.stem: path.read_text("utf-8") for path in sorted(self.folder.glob("cassettes/*/*.yaml"))}


def _in_a_process(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def _in_this_process(arguments: list[str]) -> str:
    """Frameworks take seconds to load: only the project's own modules are loaded anew."""
    path, output = list(sys.path), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        pytest.main(arguments)
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("test_")]:
        del sys.modules[name]
    return output.getvalue()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


def summary(output: str) -> str:
    found = re.findall(r"(\d+ (?:passed|failed|error).*) in [\d.]+s", output)
    assert found, output
    return str(found[-1])


def test_record_and_replay(project: Project) -> None:
    project.write(CORE)
    with Emulator(api_keys=[KEY]) as server:
        assert summary(project.pytest("--record-mode=once", server=server)) == "5 passed"
        assert len(server.requests) == 5

    assert list(project.cassettes()) == NAMES
    assert not [name for name, text in project.cassettes().items() if KEY in text or "authorization" in text.lower()]
    assert summary(project.pytest(plugins=(OURS,))) == "5 passed"  # without pytest-recording and its options
    assert summary(project.pytest("--record-mode=none", "--block-network")) == "5 passed"
    with Emulator() as server:
        assert summary(project.pytest("--disable-recording", "-k", "whole", server=server)).startswith("1 passed")
        assert len(server.requests) == 1


def test_each_adapter(project: Project) -> None:
    here = [adapter for adapter in ADAPTERS if usable(adapter)]
    for adapter in here:
        project.write(ADAPTERS[adapter], f"test_{adapter}.py")
    with Emulator(api_keys=[KEY]) as server:
        assert summary(project.pytest("--record-mode=rewrite", server=server)).startswith(f"{len(here)} passed")
    assert KEY not in str(project.cassettes())
    assert summary(project.pytest("--block-network")).startswith(f"{len(here)} passed")


def test_nothing_recorded(project: Project) -> None:
    project.write(CORE)
    output = project.pytest("-k", "whole")

    assert summary(output).startswith("1 failed")
    assert f"There is no cassette {Path('cassettes', 'test_calls', 'test_whole.yaml')}" in output
    assert f"POST /v1/chat/completions ({NEMO}, 1 message)" in output
    assert (
        'Hint: record this test alone, with a key: pytest --record-mode=rewrite "test_calls.py::test_whole"' in output
    )
    assert project.cassettes() == {}


LOST = f"""
import asyncio
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.transport import Transport

BODY = {{"model": "{NEMO}", "messages": [{{"role": "user", "content": "Hello!"}}]}}


async def ask():
    sent = Transport(KlusterConfig(api_key="any")).apost("/chat/completions", BODY)
    return (await asyncio.gather(sent, return_exceptions=True))[0]


def test_gathered(kluster_cassette):
    asyncio.run(ask())


def test_stumbles(kluster_cassette):
    asyncio.run(ask()).data


async def stumble():
    with cassette("none.yaml", "none"):
        (await ask()).data


def test_without_the_fixture():
    with pytest.raises(CassetteError, match="There is no cassette none.yaml"):
        asyncio.run(stumble())
"""


def test_what_is_missing_is_said_though_it_got_lost(project: Project) -> None:
    project.write("import pytest\nfrom kluster_integrations.recording import CassetteError, cassette\n" + LOST)

    output = project.pytest()

    assert summary(output) == "2 failed, 1 passed"
    assert output.count("There is no cassette") == 4  # each of the two, and in the summary
    assert "AttributeError" not in output


def test_another_request_or_one_too_few(project: Project) -> None:
    project.write(CORE)
    with Emulator() as server:
        project.pytest("--record-mode=once", "-k", "whole or async", server=server)

    project.write(CORE.replace("Hello!", "Good-bye!"))
    output = project.pytest("-k", "whole")
    assert summary(output).startswith("1 failed")
    assert "messages[0].content is 'Good-bye!', 'Hello!' is recorded" in output

    project.write(CORE.replace('    assert post()["choices"]', '    assert [{"message": {"content": 1}}]'))
    output = project.pytest("-k", "whole")
    assert "1 of 1 requests that were not sent: POST /v1/chat/completions" in output


def test_a_test_that_fails_keeps_its_cassette(project: Project) -> None:
    project.write(CORE)
    with Emulator() as server:
        project.pytest("--record-mode=once", "-k", "whole", server=server)
        before = project.cassettes()
        project.write(CORE.replace('assert post()["choices"][0]["message"]["content"]', "post(); assert not 'so'"))
        output = project.pytest("--record-mode=rewrite", "-k", "whole", server=server)
    assert summary(output).startswith("1 failed")
    assert "not sent" not in output
    assert project.cassettes() == before


def test_without_vcrpy_it_says_what_to_install(project: Project) -> None:
    project.write(CORE)
    (project.folder / "vcr.py").write_text("raise ModuleNotFoundError('No module named vcr', name='vcr')")
    output = project.pytest("-k", "whole", plugins=(OURS,), alone=True)

    assert f"vcr is not installed: {install_command('recording')}" in output
