"""What all tests share: an environment without keys and proxies, an emulator, a server that gives one fixed answer."""

from __future__ import annotations

import copy
import gc
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from kluster_integrations.core import specs
from kluster_integrations.emulator import Emulator
from kluster_integrations.emulator.engine import text_of
from kluster_integrations.emulator.replies import load

from .raw_server import RawServer
from .stated import stated
from .tree import ROOT
from .ways import Way

# CrewAI keeps databases and settings below the home folder: not below the developer's.
_HOME = tempfile.TemporaryDirectory(prefix="kluster-tests-", ignore_cleanup_errors=True)
os.environ.update(HOME=_HOME.name, USERPROFILE=_HOME.name)
for _name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "CREWAI_STORAGE_DIR"):
    os.environ.pop(_name, None)
os.environ |= {  # read when the frameworks are imported
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
    # Else LiteLLM asks the network for its prices, and without one fails now and then: a thread of its own logs while
    # the import runs.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two workers more than there are cores: much of the time tests wait for servers, processes and clocks."""
    return (os.cpu_count() or 1) + 2


# They start programs. A file runs on one core, so the others would wait for one that begins late.
_LONGEST = ("test_docs_console.py", "test_docs.py", "test_fixture.py", "test_deferred_programs.py", "test_soak.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is loaded now: three frameworks take it a fifth of a second."""
    gc.collect()
    gc.freeze()


_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the developer's own shell would bring into a test."""
    for name in list(os.environ):
        # Of a terminal's size pytest-xdist brings its own.
        if name.upper().startswith(("KLUSTER", "OPENAI_")) or name.upper() in {*_PROXIES, "COLUMNS", "LINES"}:
            monkeypatch.delenv(name)


_LITELLM = {
    "custom_provider_map": [],
    "drop_params": False,
    "callbacks": [],
    **{f"{of}{name}_callback": [] for of in ("", "_async_") for name in ("success", "failure", "input")},
}


@pytest.fixture(autouse=True)
def litellm_as_it_was() -> Iterator[None]:
    """LiteLLM keeps what it is told in its module: take it back where a test has imported it."""
    before = sys.modules.get("litellm")
    values = {name: copy.copy(getattr(before, name, default)) for name, default in _LITELLM.items()}
    prices = dict(before.model_cost) if before else None
    yield
    if litellm := sys.modules.get("litellm"):
        for name, value in values.items():
            setattr(litellm, name, value)
        for known in (litellm.provider_list, litellm._custom_providers):
            known[:] = [provider for provider in known if provider != "kluster"]
        if prices is not None:
            litellm.model_cost.clear()
            litellm.model_cost.update(prices)


@pytest.fixture(scope="session")
def _shared_emulator() -> Iterator[Emulator]:
    with Emulator(engine=stated) as server:
        yield server


@pytest.fixture
def emulator(_shared_emulator: Emulator) -> Iterator[Emulator]:
    """A strict emulator that answers as `stated` says, without requests, faults and replies of earlier tests."""
    _shared_emulator.clear()
    yield _shared_emulator
    _shared_emulator.clear()


@pytest.fixture
def replying_emulator() -> Iterator[Emulator]:
    """An emulator that answers as a reader's does: `kluster emulator --replies examples/replies.yaml`."""
    rows = load(str(ROOT / "examples" / "replies.yaml"))
    with Emulator() as running:
        for reply in rows:
            running.reply(**reply)
        yield running
        asked = [(request.model, _last_text(request.body)) for request in running.requests]
    fitting = [[row for row in rows if row["when"] == model or str(row["when"]) in text] for model, text in asked]
    once = {str(fits[0]["when"]) for fits in fitting if len(fits) > 1 and fits[0].get("times", ...) is not None}
    assert not once, f"examples/replies.yaml: a second run gets other answers; add times: null to {once}"


def _last_text(body: object) -> str:
    """Return the text of the last message of a chat request, "" of another request."""
    messages = body.get("messages") if isinstance(body, dict) else None
    return text_of(messages[-1]) if messages else ""


@pytest.fixture
def server() -> Iterator[RawServer]:
    """A server that sends what the test says, byte by byte."""
    with RawServer() as running:
        yield running


@pytest.fixture(params=["sync", "aiohttp", "async-httpx"])
def way(request: pytest.FixtureRequest) -> Way:
    """Each of the ways to send a request."""
    return Way(request.param)


@pytest.fixture
def own_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the catalog that the test may change."""
    monkeypatch.setattr(specs, "_models", dict(specs._models))
    specs._unknown.cache_clear()
    yield
    specs._unknown.cache_clear()


class FixedAnswer:
    """A local server that gives the same answer to every request, and notes what it was asked.

    Attributes:
        base_url: For clients.
        requests: Method and path (with query), and the headers, of each request.
    """

    def __init__(self, body: bytes, *, status: int, headers: Mapping[str, str]) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(body, status, headers))
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self, body: bytes, status: int, headers: Mapping[str, str]) -> type[BaseHTTPRequestHandler]:
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                requests.append((f"{self.command} {self.path}", {k.lower(): v for k, v in self.headers.items()}))
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _answer  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


@pytest.fixture
def answering() -> Iterator[Callable[..., FixedAnswer]]:
    """Start servers that give one fixed answer: `answering(b"{}", status=500, headers={})`."""
    running: list[FixedAnswer] = []

    def start(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> FixedAnswer:
        running.append(FixedAnswer(body, status=status, headers=headers or {}))
        return running[-1]

    yield start
    for server in running:
        server.stop()
