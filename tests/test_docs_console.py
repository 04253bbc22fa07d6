"""Every command of the pages' console blocks runs and prints what is written down, and a page's altered command fails.

All run for real, with pipes, files and all, against the emulator; the commands of a page share a directory and exported
variables. Blocks that say `<!-- file: NAME -->` are written there. `pip` installs nothing, `make` makes nothing:
both say what they would do. A command that cannot run says why: `<!-- no-run: it needs a deployment -->`, and so does a
block whose output is not shown: `<!-- no-output: it names this machine -->`. `make outputs` writes the outputs down.
"""

from __future__ import annotations

import functools
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
_KEY_NAMED = ("Any key will do.", "The key is ", "Its key, ")
Shell = Callable[[str], str]
CONSOLE = [page for page in PAGES if blocks(page.read_text("utf-8"), "console")]


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
        _dry_run(*ours)


@functools.cache  # many pages install the same
def _dry_run(*ours: str) -> None:
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
def shell(replying_emulator: Emulator, tmp_path: Path) -> Iterator[Shell]:
    """Run a command as a shell does, with these programs, and return what it prints; servers stay in the background."""
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
    project = tmp_path / "project"
    project.mkdir()
    (project / "examples").symlink_to(ROOT / "examples")
    (project / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 a photo \xff\xd9")
    env = {
        **os.environ,
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),  # where `kluster chat` keeps its conversations
        "COLUMNS": "120",  # as wide as the site shows
        "KLUSTER_API_KEY": "docs-key",
        "KLUSTER_BASE_URL": replying_emulator.base_url,
        "KLUSTER_BATCH_POLL": "0.01",
        "KLUSTER_BATCH_QUIET": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",  # in the order of a terminal, where a pipe would have stdout last
    }
    running: list[subprocess.Popen[str]] = []

    def start(words: list[str], announced: str | tuple[str, ...]) -> str:
        """Start a server on a free port; return what it prints up to a line that begins so."""
        server = subprocess.Popen(
            [*words, "--port", "0"],
            env=env,
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        running.append(server)
        assert server.stdout
        lines = [server.stdout.readline()]
        while lines[-1] and not lines[-1].startswith(announced):
            lines.append(server.stdout.readline())
        assert lines[-1], f"{words}: {lines}"
        return "".join(lines)

    def run(command: str) -> str:
        if command.startswith("export "):
            name = command.removeprefix("export ").split("=", 1)[0]
            script = f'{command}\nprintf %s "${name}"'
            env[name] = subprocess.check_output(["bash", "-c", script], env=env, encoding="utf-8")
        elif command.startswith("kluster emulator") and "--help" not in command:
            return start([word for word in _words(command) if not word.isdigit() and word != "--port"], _ANNOUNCED)
        elif command.startswith("kluster gateway"):
            return start(_words(command), _KEY_NAMED)
        elif command.startswith("litellm --config"):
            if importlib.util.find_spec("backoff"):  # else its proxy is not installed: `make test-litellm` runs this
                running.append(_started_proxy(command, env, project))
        else:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                env=env,
                cwd=project,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}"
            return done.stdout
        return ""

    yield run
    for server in running:
        server.terminate()
        server.communicate()


@pytest.mark.parametrize("page", CONSOLE, ids=lambda page: page.name)
def test_commands_run(page: Path, shell: Shell, tmp_path: Path) -> None:
    printed: dict[str, str] = {}
    for block in blocks(page.read_text("utf-8")):
        if block.file:
            (tmp_path / "project" / block.file).write_text(block.code, "utf-8")
        elif block.language == "console" and not block.reason:
            for code, text in _run(block, shell).items():
                output = outputs.stable(text, tmp_path / "project").replace(str(tmp_path), "~")
                if not block.silent:
                    assert printed.setdefault(code, output) == output, f"twice on the page, with two outputs:\n{code}"
    outputs.check(page, "console", printed)


def _run(block: Block, shell: Shell) -> dict[str, str]:
    """Run the commands of a block; return what each of them prints, by the code up to its end."""
    printed, before = {}, 0
    for code in outputs.prefixes("console", block.code):
        # A command that ends with a backslash goes on in the next line.
        command = code[before:].removeprefix("$ ").replace("\\\n", "").rstrip("\n")
        before = len(code)
        bare = command.partition(" #")[0].rstrip()
        elsewhere = next((check for pattern, check in ELSEWHERE if re.match(pattern, bare)), None)
        if elsewhere:
            elsewhere(command)
        else:
            printed[code] = shell(command)
    return printed


def test_a_command_that_fails_is_noticed(shell: Shell) -> None:
    with pytest.raises(AssertionError, match="--does-not-exist"):
        shell("kluster models --does-not-exist")
    with pytest.raises(subprocess.CalledProcessError):
        _make("make no-such-target")
    with pytest.raises(AssertionError, match="no-such-name"):
        _pip("pip install no-such-name")
    if outputs.pinned():
        with pytest.raises(AssertionError, match="no-such-extra"):
            _pip('pip install ".[no-such-extra]"')


def test_a_block_of_commands_has_an_output_behind_each() -> None:
    code = "$ echo a \\\n    b\n$ echo '$ c'\n"

    assert outputs.prefixes("console", code) == [code[:17], code]
    assert outputs.prefixes("python", code) == [code]


@pytest.mark.skipif(
    outputs.WRITE or not outputs.pinned(), reason="outputs are compared with the pinned frameworks only"
)
def test_another_output_is_noticed() -> None:
    page = ROOT / "docs" / "batch.md"
    code = next(block.code for block in blocks(page.read_text("utf-8"), "console") if "kluster verify" in block.code)

    with pytest.raises(AssertionError, match="make outputs"):
        outputs.check(page, "console", {code: "not reliable\n"})


def test_every_line_is_a_command_or_its_output() -> None:
    """A command without its `$ ` would not run."""
    for page in PAGES:
        for block in blocks(page.read_text("utf-8"), "console"):
            assert block.code.startswith("$ "), f"{page.name}, line {block.line}"
