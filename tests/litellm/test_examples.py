"""Every example runs on its own against the emulator, and says what it is there to say."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version

import pytest

from kluster_integrations.litellm import _versions
from tests.programs import ROOT, run_example
from tests.redis_server import running_redis

# Patterns that must be in the output, in this order.
SAYS = {
    "hello": [r"Answer: \S.*breakfast sandwich", r"Tokens: [1-9]\d*"],
    "streaming": [r"Answer: +\S.*breakfast sandwich", r"Thoughts: \S.*breakfast sandwich", r"Answer: +\S"],
    "conversation": [
        r"You: .*San Francisco",
        r"Guide: .*Bridge",
        r"You: .*Which city",
        r"Guide: .*San Francisco in June",
    ],
    "routing": [
        r"cheap: +\S",
        r"tools: +\S",
        r"reasoning: +\S",
        r"vision: +\S",
        r"too long: +(Qwen/Qwen3-235B-A22B-FP8|mistralai/Magistral-Small-2506)",
        r"fallback: +klusterai/Meta-Llama-3\.3-70B-Instruct-Turbo",
    ],
    "costs": [r"US\$ 0\.0000\d*[1-9]\d* ", r"US\$ 0\.000\d+  6 calls, streams included"],
    "team": [
        r"key-of-ada: \S",
        r"key-of-bob: \S",
        r"key-of-bob: HTTP 402: .*budget of 0\.00001 US\$ is spent",
        r"key-of-eve: HTTP 401",
        r"key-of-ada has spent US\$ 0\.0000[1-9]",
    ],
    "fleet": [r"Proxies:  http", r"0 s    ######## 8", r"Answered: 8 of 8", r"Limit:    8 in a minute", r"Stopped:"],
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in (ROOT / "examples" / "litellm").glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", [name for name in SAYS if name != "fleet"])
def test_example(name: str) -> None:
    out = run_example(f"litellm.{name}", timeout=180)
    assert re.search(".*".join(SAYS[name]), out, re.DOTALL), out
    if name == "team" and f"litellm=={version('litellm')}\n" in (ROOT / "constraints.txt").read_text("utf-8"):
        # Elsewhere errors have more in them: LiteLLM 1.90 adds the router's fallbacks.
        assert out in (ROOT / "docs" / "litellm.md").read_text("utf-8"), "the page shows what it prints"


def test_fleet() -> None:
    if importlib.util.find_spec("fastapi") is None:
        reason = 'LiteLLM\'s proxy is not installed: pip install "litellm[proxy]"'
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    if _versions.numbers(str(_versions.installed())) < (1, 94):
        pytest.skip("the proxy of this version takes handlers from files only")
    with running_redis():  # or skipped: the example starts its own
        out = run_example("litellm.fleet", "--requests", "8", timeout=180)
    assert re.search(".*".join(SAYS["fleet"]), out, re.DOTALL), out


def test_fleet_without_its_proxy_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`litellm` is a command of the bare package, too: then it ends, and nothing ever listens."""
    monkeypatch.syspath_prepend(str(ROOT))
    fleet = importlib.import_module("examples.litellm.fleet")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with socket.socket() as reserved:  # bound and not listening: a connection is refused
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(SystemExit, match=re.escape('pip install ".[litellm,redis]" "litellm[proxy]"')):
            fleet.wait_for(f"http://127.0.0.1:{reserved.getsockname()[1]}/", ended)
