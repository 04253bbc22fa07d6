"""Each extra alone, from the wheel, in an environment of its own: it installs, and does what it is there for."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.pages import ROOT, blocks

from release.contents import metadata

__all__ = ["Bench", "Failed", "names"]

BARE, ALL = "bare", "all"
FRAMEWORKS = {"langchain": "langchain_core", "litellm": "litellm", "crewai": "crewai"}
_MODEL = "google/gemma-3-27b-it"
# What stands in where the README has no snippet for an extra.
_INSTEAD = {
    "gateway": """
from kluster_integrations.gateway import Gateway
import httpx

chat = {"model": "google/gemma-3-27b-it", "messages": [{"role": "user", "content": "Hello!"}]}
with Gateway() as server:
    answer = httpx.post(f"{server.base_url}/chat/completions", json=chat, trust_env=False).json()
assert answer["choices"][0]["message"]["content"], answer
""",
    "keyring": """
import os
from kluster_integrations import KlusterConfig
from kluster_integrations.config import store_key
import keyring, keyring.backend

class Kept(keyring.backend.KeyringBackend):  # no platform's keyring can be taken for granted
    priority, keys = 1, {}

    def get_password(self, service, name):
        return self.keys.get((service, name))

    def set_password(self, service, name, key):
        self.keys[service, name] = key

keyring.set_keyring(Kept())
del os.environ["KLUSTER_API_KEY"]
store_key("kk-of-the-keyring")
assert KlusterConfig().require_key() == "kk-of-the-keyring"
""",
    "redis": "import kluster_integrations.core.limits.redis, redis",
    "ray": """
from kluster_integrations.ray import KlusterRows
import pyarrow, ray.data

rows = KlusterRows("google/gemma-3-27b-it", prompt="text")
(answer,) = rows(pyarrow.table({"text": ["Hello!"]}))["answer"].to_pylist()
assert answer
""",
    "recording": """
from kluster_integrations import KlusterConfig
from kluster_integrations.recording import cassette
from openai import OpenAI

config = KlusterConfig()
client = OpenAI(base_url=config.base_url, api_key=config.require_key())
hello = [{"role": "user", "content": "Hello!"}]
answers = []
for _ in range(2):  # recorded, then replayed
    with cassette("hello.yaml"):
        answers.append(client.chat.completions.create(model="google/gemma-3-27b-it", messages=hello).id)
assert answers[0] == answers[1], answers
""",
}
# The client that those snippets are for is the user's own.
_CLIENT = {"emulator": "openai", "recording": "openai"}
# Tests that the sdist brings, run on the installed wheel.
_TESTS = (
    "test_import.py",
    "test_catalog.py",
    "test_refresh.py",
    "test_config.py",
    "test_config_base_url.py",
    "test_config_key.py",
    "features",
    "cli/test_main.py",
    "emulator/test_chat.py",
)
_ALONE = "import importlib.util as u, sys; sys.exit(' '.join(m for m in sys.argv[1:] if u.find_spec(m)) or 0)"


class Failed(Exception):  # noqa: N818
    """A check that did not hold; what was said comes along."""


def names(wheel: Path) -> list[str]:
    """Return the extras of a wheel; the slow ones first, and last the bare package."""
    extras = metadata(wheel).get_all("Provides-Extra") or []
    return [*sorted(extras, key=lambda extra: (extra != ALL, extra not in FRAMEWORKS)), BARE]


class Bench:
    """Where environments are made.

    Args:
        folder: An empty folder for them.
        wheel: The wheel to install.
        sdist: The sdist, whose tests run on it.
        constraint: Pins for pip; None takes what is newest, as a newcomer does.
    """

    def __init__(self, folder: Path, wheel: Path, sdist: Path, constraint: Path | None) -> None:
        self._folder = folder
        self._home = folder / "home"  # where commands run: no checkout, and no folder with the name of a package
        self._home.mkdir()
        self._wheel = wheel.resolve()
        self._sdist = sdist.resolve()
        self._constraint = constraint.resolve() if constraint else None

    @contextlib.contextmanager
    def emulator(self) -> Iterator[str]:
        """Run the emulator from an environment of its own, so that what is checked needs no more than its extra."""
        python = self._install("server", "emulator")
        command = [str(python.parent / "kluster"), "emulator", "--port", "0"]
        server = subprocess.Popen(command, cwd=self._home, stdout=subprocess.PIPE, encoding="utf-8")
        try:
            assert server.stdout
            found = next((m for line in server.stdout if (m := re.match(r"export KLUSTER_BASE_URL=(\S+)", line))), None)
            if found is None:
                raise SystemExit("Error: the emulator did not start.")
            yield found.group(1)
        finally:
            server.terminate()
            server.communicate()

    def check(self, extra: str, base_url: str) -> None:
        """Install one extra and use it.

        Raises:
            Failed: What did not work.
        """
        python = self._install(extra, "" if extra == BARE else extra)
        env = _environment(base_url, self._home)
        kluster = str(python.parent / "kluster")
        self._run([sys.executable, "-m", "pip", "--python", str(python), "check"], env)
        if extra != ALL:
            others = [module for name, module in FRAMEWORKS.items() if name != extra]
            self._run([str(python), "-c", _ALONE, *others], env)
        self._run([kluster, "doctor"], env)
        self._run([kluster, "chat", _MODEL, "Hello!"], env)
        if extra in _CLIENT:
            self._pip(python, _CLIENT[extra])
        for code in snippets(extra):
            self._run([str(python), "-c", code], env)
        if extra == ALL:
            self._run_tests(python, env)

    def _install(self, name: str, extra: str) -> Path:
        venv.create(self._folder / name, with_pip=False, symlinks=True)
        python = self._folder / name / "bin" / "python"
        wanted = f"{self._wheel}[{extra}]" if extra else str(self._wheel)
        self._pip(python, wanted)
        return python

    def _pip(self, python: Path, *what: str) -> None:
        pins = ["--constraint", str(self._constraint)] if self._constraint else []
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *pins, *what]
        self._run(pip, dict(os.environ))

    def _run_tests(self, python: Path, env: dict[str, str]) -> None:
        """Run some of the sdist's tests on the wheel."""
        with tarfile.open(self._sdist) as archive:
            archive.extractall(self._folder, filter="data")
        source = self._folder / self._sdist.name.removesuffix(".tar.gz")
        self._pip(python, "--group", f"{source / 'pyproject.toml'}:test")
        tests = [str(source / "tests" / name) for name in _TESTS]
        self._run([str(python), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], env, source)

    def _run(self, command: Sequence[str], env: dict[str, str], where: Path | None = None) -> None:
        done = subprocess.run(
            command,
            cwd=where or self._home,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise Failed(f"failed: {' '.join(command)[:300]}\n{said}")


def snippets(extra: str) -> list[str]:
    """Return the README's snippets that are for an extra.

    Raises:
        Failed: If there is none, and nothing stands in for it.
    """
    if extra == BARE:
        return []
    if extra in _INSTEAD:
        return [_INSTEAD[extra]]
    codes = [block.code for block in blocks((ROOT / "README.md").read_text("utf-8"), "python")]
    found = [code for code in codes if extra == ALL or re.search(rf"^from kluster_integrations\.{extra}\b", code, re.M)]
    if not found:
        raise Failed(f"the README has no snippet for the extra {extra}")
    return found


def _environment(base_url: str, home: Path) -> dict[str, str]:
    """Return what a newcomer's shell has: no trace of this checkout, no other keys."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "KLUSTER_API_KEY": "release-check",
        "KLUSTER_BASE_URL": base_url,
        "CREWAI_DISABLE_TELEMETRY": "true",
        "OTEL_SDK_DISABLED": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONIOENCODING": "utf-8",
    }
