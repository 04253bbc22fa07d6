"""Other programs as they come from their registries, run with what `kluster export` writes for them.

`make test-clients` installs them: npm packages and a virtual environment a program in `.clients`, LiteLLM's proxy in
`.venv-litellm`. `KLUSTER_CLIENTS` and `KLUSTER_LITELLM` name other places.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kluster_integrations import KlusterConfig
from kluster_integrations.cli import app
from kluster_integrations.emulator import Emulator
from kluster_integrations.gateway import Gateway
from tests.litellm.proxy_server import running_proxies
from tests.stated import stated

ROOT = Path(__file__).parents[2]
CLIENTS = Path(os.environ.get("KLUSTER_CLIENTS", ROOT / ".clients"))
LITELLM = Path(os.environ.get("KLUSTER_LITELLM", ROOT / ".venv-litellm" / "bin" / "python"))
KEY = "kk-secret-key-of-the-clients"
LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
SMALL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
R1 = "deepseek-ai/DeepSeek-R1-0528"
GEMMA = "google/gemma-3-27b-it"
SQUARE = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="

# None of them may find another key, or ask the network what it will not get here.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "CONTINUE_TELEMETRY_ENABLED": "0",
    "NO_COLOR": "1",
}


def need(path: Path | str) -> Path:
    """Return the path of a program; without it the test fails in CI, and is skipped elsewhere."""
    found = shutil.which(str(path))
    if found is None and not Path(path).exists():
        reason = f"{path} is not there: make test-clients"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return Path(found or path)


def run(command: list[str | Path], *, cwd: Path, env: Mapping[str, str], stdin: str = "", seconds: float = 120) -> str:
    """Return what a program prints; it must succeed. It finds no home, no key and no setting but those given."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**kept, **_OFFLINE, "HOME": str(cwd), **env},
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def export(*args: str | Path, **env: str) -> str:
    """Return what `kluster export` prints."""
    done = CliRunner().invoke(app, ["export", *map(str, args)], env={"KLUSTER_API_KEY": KEY, **env})
    assert done.exit_code == 0, done.output
    assert KEY not in done.stdout
    return done.stdout


def bodies(server: Emulator, path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    """Return the bodies that have come to a path."""
    return [request.body for request in server.requests if request.path == path and isinstance(request.body, dict)]


def rows(printed: str) -> list[dict[str, Any]]:
    """Return what a script prints: one JSON object per line."""
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


Node = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Run one of the scripts of this folder: a JSON object a line is what they print."""
    modules = need(CLIENTS / "node" / "node_modules")
    program = need("node")
    (tmp_path / "node_modules").symlink_to(modules)

    def start(script: str, *args: str, **env: str) -> list[dict[str, Any]]:
        shutil.copy(Path(__file__).with_name(script), tmp_path)
        return rows(run([program, script, *args], cwd=tmp_path, env=env))

    return start


@pytest.fixture
def lenient() -> Iterator[Emulator]:
    """An emulator that ignores what the docs do not call supported."""
    with Emulator(strict=False, engine=stated) as server:
        yield server


Serve = Callable[..., tuple[str, Emulator]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start gateways, each in front of a strict emulator whose model is a function: the address and the emulator."""
    with ExitStack() as running:

        def start(engine: Any = stated, **options: Any) -> tuple[str, Emulator]:
            server = running.enter_context(Emulator(engine=engine))
            config = KlusterConfig(api_key=KEY, base_url=server.base_url)
            return running.enter_context(Gateway(config, grace=0, **options)).base_url, server

        yield start


@pytest.fixture
def gateway(serve: Serve) -> tuple[str, Emulator]:
    """The address of a gateway, and the strict emulator behind it."""
    return serve()


@pytest.fixture(scope="session")
def _proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Emulator]]:
    python = need(LITELLM)
    folder = tmp_path_factory.mktemp("proxy")
    config = folder / "config.yaml"
    export("litellm", "--output", config)
    with Emulator(engine=stated) as server:
        # The source root goes along, for an environment that has the dependencies alone.
        environment = {
            "KLUSTER_API_KEY": KEY,
            "KLUSTER_BASE_URL": server.base_url,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "integrations"), os.environ.get("PYTHONPATH", "")]),
        }
        with running_proxies(config, environment, python=python) as [url]:
            yield url, server


@pytest.fixture
def proxy(_proxy: tuple[str, Emulator]) -> tuple[str, Emulator]:
    """The address of LiteLLM's proxy, and the strict emulator behind it."""
    _proxy[1].clear()
    return _proxy
