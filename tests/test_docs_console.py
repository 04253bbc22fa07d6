"""Every command of the pages' console blocks runs, and a page's altered command fails.

All run for real, with pipes, files and all, against the emulator; the commands of a page share a directory and exported
variables. Blocks that say `<!-- file: NAME -->` are written there. `pip` installs nothing, `make` makes nothing:
both say what they would do. A command that cannot run says why: `<!-- no-run: it needs a deployment -->`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kluster_integrations.emulator import Emulator

from . import outputs
from .litellm.proxy_server import wait_for
from .pages import PAGES, ROOT, Block, blocks

_ANNOUNCED = "export KLUSTER_API_KEY="
CONSOLE = [page for page in PAGES if blocks(page.read_text("utf-8"), "console")]


def commands(block: Block) -> list[str]:
    """Return what a reader types; a command that ends with a backslash goes on in the next line."""
    whole = block.code.replace("\\\n", "")
    return [line[2:] for line in whole.splitlines() if line.startswith("$ ")]


def _words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def _pip(command: str) -> None:
    """Ask pip what it would install. Ours is here already, with all extras; of other packages we know the names."""
    known = "\n".join(path.read_text("utf-8") for path in (*ROOT.glob("constraints*.txt"), ROOT / "pyproject.toml"))
    known += (ROOT / "integrations" / "kluster_integrations" / "cli" / "_local_llm.py").read_text("utf-8")
    ours = []
    for word in _words(command.partition("pip install ")[2]):
        if match := re.match(r"(?:\.|dist/\S+\.whl|kluster-integrations)(\[[\w,-]+\])?$", word):
            ours.append(f"kluster-integrations{match[1] or ''}")
        elif not word.startswith("-"):
            name = re.match(r"[\w-]+", word)
            assert name, f"{command}: {word} is not a package"
            assert re.search(rf"\b{name[0]}\b", known), f"{command}: nothing here installs {word}"
    if ours and outputs.pinned():  # elsewhere not all extras are installed
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *ours], capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        assert "does not provide the extra" not in done.stderr, done.stderr


def _make(command: str) -> None:
    """Ask make what it would do."""
    subprocess.run(["make", "--dry-run", *_words(command)[1:]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


ELSEWHERE: list[tuple[str, Callable[[str], None]]] = [
    (r"pip install ", _pip),
    (r"make ", _make),
    (r"export \w+=\.\.\.$", lambda command: None),  # the key: a reader's own
    (r"python3 -m venv \.venv$|\. \.venv/bin/activate$", lambda command: None),  # tests run in it
]


def _started_proxy(command: str, env: dict[str, str], home: Path) -> subprocess.Popen[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = home / "proxy.log"
    with log.open("wb") as out:
        words = [*_words(command), "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(words, env=env, cwd=home, stdout=out, stderr=subprocess.STDOUT, encoding="utf-8")
    try:
        wait_for(port, process, log)
    except BaseException:
        process.kill()
        raise
    return process


@pytest.fixture
def shell(emulator: Emulator, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Run a command as a shell does, with these programs; servers stay in the background."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, module in {
        "kluster": "kluster_integrations.cli",
        "pytest": "pytest -p no:cacheprovider",
        "litellm": "litellm.proxy.proxy_cli",
        "python": "",
    }.items():
        shim = bin_ / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {f"-m {module}" if module else ""} "$@"\n')
        shim.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    (home / "examples").symlink_to(ROOT / "examples")
    (home / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 a photo \xff\xd9")
    env = {
        **os.environ,
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "KLUSTER_API_KEY": "docs-key",
        "KLUSTER_BASE_URL": emulator.base_url,
        "KLUSTER_BATCH_POLL": "0.01",
        "KLUSTER_BATCH_QUIET": "1",
        "PYTHONIOENCODING": "utf-8",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # LiteLLM asks the network otherwise
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
        elif command.startswith("litellm --config"):
            if importlib.util.find_spec("backoff"):  # else its proxy is not installed: `make test-litellm` runs this
                running.append(_started_proxy(command, env, home))
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


@pytest.mark.parametrize("page", CONSOLE, ids=lambda page: page.name)
def test_commands_run(page: Path, shell: Callable[[str], None], tmp_path: Path) -> None:
    for block in blocks(page.read_text("utf-8")):
        if block.file:
            (tmp_path / "home" / block.file).write_text(block.code, "utf-8")
        elif block.language == "console" and not block.reason:
            for command in commands(block):
                bare = command.partition(" #")[0].rstrip()
                check = next((check for pattern, check in ELSEWHERE if re.match(pattern, bare)), shell)
                check(command)


def test_a_command_that_fails_is_noticed(shell: Callable[[str], None]) -> None:
    with pytest.raises(AssertionError, match="--does-not-exist"):
        shell("kluster models --does-not-exist")
    with pytest.raises(subprocess.CalledProcessError):
        _make("make no-such-target")
    with pytest.raises(AssertionError, match="no-such-name"):
        _pip("pip install no-such-name")
    if outputs.pinned():
        with pytest.raises(AssertionError, match="no-such-extra"):
            _pip('pip install ".[no-such-extra]"')


def test_every_line_is_a_command_or_its_output() -> None:
    """A command without its `$ ` would not run."""
    for page in PAGES:
        for block in blocks(page.read_text("utf-8"), "console"):
            assert block.code.startswith("$ "), f"{page.name}, line {block.line}"
