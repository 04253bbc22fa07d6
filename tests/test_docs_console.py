"""Every command of the pages' console blocks runs, or is one that other tests run.

`kluster …` runs for real, with pipes, files and all, against the emulator; the commands of a page share a directory and
exported variables. Other programs are in `ELSEWHERE`, with what is checked here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kluster_integrations.emulator import Emulator

from .pages import PAGES, ROOT, blocks

_ANNOUNCED = "export KLUSTER_API_KEY="
COMMANDS = {
    page: found
    for page in PAGES
    if (
        found := [
            line[2:]
            for block in blocks(page.read_text("utf-8"), "console")
            if not block.reason
            for line in block.code.splitlines()
            if line.startswith("$ ")
        ]
    )
}


def _words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def _check_pip(command: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"(?:kluster-integrations|\.)\[([\w,-]+)\]", command)
    unknown = {extra for group in named for extra in group.split(",")} - set(extras)
    assert not unknown, command  # `make release-check` installs the others


def _check_make(command: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(_words(command)[1:]) <= set(targets)


def _check_example(command: str) -> None:
    """An example is tested where examples are; here: that it is there."""
    module = _words(command)[2]
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def _check_script(command: str) -> None:
    """A script is tested in test_curl.py; here: that it is there."""
    assert os.access(ROOT / _words(command)[0], os.X_OK)


ELSEWHERE: list[tuple[str, Callable[[str], None]]] = [
    (r"pip install ", _check_pip),
    (r"make ", _check_make),
    (r"python -m (examples|benchmarks)\b", _check_example),
    (r"examples/curl/\w+\.sh ", _check_script),
    (r"litellm --config ", lambda command: None),  # tests/litellm/test_proxy.py
    (r"(\S+=\S+ )*pytest\b", lambda command: None),
    (r"export \w+=\.\.\.$", lambda command: None),  # the key: a reader's own
    (r"redis-server\b", lambda command: None),  # tests/redis_server.py
    (r"git clone |cd ", lambda command: None),
]


@pytest.fixture
def shell(emulator: Emulator, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Run a command as a shell does, with this `kluster`; `kluster emulator` and `gateway` stay in the background."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    shim = bin_ / "kluster"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kluster_integrations.cli "$@"\n')
    shim.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    env = {
        **os.environ,
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "KLUSTER_API_KEY": "docs-key",
        "KLUSTER_BASE_URL": emulator.base_url,
        "KLUSTER_BATCH_POLL": "0.01",
        "KLUSTER_BATCH_QUIET": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    running: list[subprocess.Popen[str]] = []

    def run(command: str) -> None:
        if command.startswith("export "):
            name = command.removeprefix("export ").split("=", 1)[0]
            script = f'{command}\nprintf %s "${name}"'
            env[name] = subprocess.check_output(["bash", "-c", script], env=env, encoding="utf-8")
        elif command.startswith("kluster emulator") and "--help" not in command:
            words = [word for word in _words(command) if not word.isdigit() and word != "--port"]
            server = subprocess.Popen(
                [*words, "--port", "0"], env=env, cwd=home, stdout=subprocess.PIPE, encoding="utf-8"
            )
            running.append(server)
            assert server.stdout
            lines = [server.stdout.readline() for _ in range(3)]
            assert lines[-1].startswith(_ANNOUNCED), f"{command}: {lines}"
        elif command.startswith("kluster gateway"):
            server = subprocess.Popen(
                [*_words(command), "--port", "0"], env=env, cwd=home, stderr=subprocess.PIPE, encoding="utf-8"
            )
            running.append(server)
            assert server.stderr
            assert server.stderr.readline().startswith("The gateway to ")
        else:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                env=env,
                cwd=home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    yield run
    for server in running:
        server.terminate()
        server.communicate()


@pytest.mark.parametrize("page", COMMANDS, ids=lambda page: page.name)
def test_commands_run(page: Path, shell: Callable[[str], None]) -> None:
    for command in COMMANDS[page]:
        check = next((check for pattern, check in ELSEWHERE if re.match(pattern, command.partition(" #")[0])), None)
        if check:
            check(command)
        else:
            assert re.search(r"\bkluster \w|^export |^curl |^echo ", command), f"{command!r} is neither run nor known"
            shell(command)


def test_a_command_that_fails_is_noticed(shell: Callable[[str], None]) -> None:
    with pytest.raises(AssertionError, match="--does-not-exist"):
        shell("kluster models --does-not-exist")
    with pytest.raises(AssertionError, match="no-such-extra"):
        _check_pip('pip install "kluster-integrations[no-such-extra]"')


def test_every_line_is_a_command_or_its_output() -> None:
    """A command without its `$ ` would not run."""
    for page in PAGES:
        for block in blocks(page.read_text("utf-8"), "console"):
            assert block.code.startswith("$ "), f"{page.name}, line {block.line}"
