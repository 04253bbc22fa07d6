from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

import kluster_integrations
from kluster_integrations._extras import install_command
from kluster_integrations.emulator import Emulator, Fault, create_app

from .conftest import Api


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("engine", "gpt", "'scripted', 'upstream'"),
        ("engine", "upstream", "OpenAI-compatible"),
        ("shape", "tgi", "'vllm', 'sglang'"),
        ("reasoning", "loud", "'reasoning_content'"),
        ("plan", "gold", "'trial'"),
        ("port", -1, "0 to 65535"),
        ("port", True, "0 to 65535"),
        ("host", "", "host name"),
        ("delay", -0.1, "0 or more"),
        ("delay", float("nan"), "0 or more"),
        ("upstream", "localhost:1", "http"),
        ("api_keys", "sk-1", "list of keys"),
        ("api_keys", [""], "non-empty"),
        ("faults", [1], "Fault"),
        ("models", ["x"], "ModelSpec"),
        ("strict", "yes", "True or False"),
    ],
)
def test_bad_argument_names_field_and_choices(field: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match="upstream" if value == "upstream" else field) as caught:
        Emulator(**{field: value})
    assert allowed in str(caught.value)


def test_errors_do_not_show_the_keys() -> None:
    with pytest.raises(ValueError, match="api_keys") as caught:
        Emulator(api_keys="sk-very-secret")
    assert "sk-very-secret" not in str(caught.value)


def test_not_running_says_so() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        _ = Emulator().base_url


def test_taken_port_fails_clearly() -> None:
    with Emulator() as server, pytest.raises(OSError, match=f"127.0.0.1:{server.port}"):
        Emulator(port=server.port).start()


def test_port_taken_by_somebody_else() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="cannot listen"):
            Emulator(port=other.getsockname()[1]).start()


def test_starts_again_and_double_start_fails() -> None:
    server = Emulator()
    for _ in range(2):
        with server:
            api = Api(server.base_url)
            assert api.chat().status_code == 200
            with pytest.raises(RuntimeError, match="running already"):
                server.start()
    server.stop()
    assert len(server.requests) == 2


def test_many_at_once_are_separate() -> None:
    servers = [Emulator().start() for _ in range(5)]
    try:
        Api(servers[3].base_url).chat()
        assert [len(server.requests) for server in servers] == [0, 0, 0, 1, 0]
        assert len({server.port for server in servers}) == 5
    finally:
        for server in servers:
            server.stop()


def test_stop_is_quick_with_open_stream_and_hanging_request() -> None:
    server = Emulator(delay=3600, faults=[Fault("hang", times=1, after=1)]).start()
    ended: list[str] = []

    def read() -> None:
        try:
            Api(server.base_url).chat(stream=True)
        except httpx.HTTPError as exc:
            ended.append(type(exc).__name__)

    def hang() -> None:
        try:
            ended.append(str(Api(server.base_url).chat().status_code))
        except httpx.HTTPError as exc:
            ended.append(type(exc).__name__)

    threads = [threading.Thread(target=target) for target in (read, hang)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        while len(server.requests) < number:
            time.sleep(0.005)
    server.stop()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert ended[0] == "RemoteProtocolError" or ended[1] == "RemoteProtocolError"


def test_requests_are_recorded_without_the_key(serve) -> None:
    server, api = serve()
    api.http.get("/models?extended=true&x=1")
    api.chat(temperature=0.5)
    listed, chat = server.requests
    assert (listed.method, listed.path, listed.query, listed.body) == (
        "GET",
        "/v1/models",
        {"extended": "true", "x": "1"},
        None,
    )
    assert chat.path == "/v1/chat/completions"
    assert chat.body["temperature"] == 0.5
    assert chat.headers["authorization"] == "Bearer ***"
    assert "test-key" not in repr(server.requests)
    server.clear()
    assert server.requests == []


async def test_create_app_serves_in_process() -> None:
    transport = httpx.ASGITransport(app=create_app(shape="sglang"))
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator/v1") as client:
        answer = await client.get("/models", headers={"authorization": "Bearer k"})
    assert answer.status_code == 200


def test_importing_is_cheap() -> None:
    code = (
        "import sys, kluster_integrations.pytest_plugin, kluster_integrations.emulator\n"
        "print([m for m in ('starlette', 'uvicorn', 'openai', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fixture_sets_and_restores_the_environment(tmp_path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os, httpx\n"
        "def test_in(kluster_emulator):\n"
        "    assert os.environ['KLUSTER_BASE_URL'] == kluster_emulator.base_url\n"
        "    key = os.environ['KLUSTER_API_KEY']\n"
        "    got = httpx.get(kluster_emulator.base_url + '/models', headers={'authorization': f'Bearer {key}'})\n"
        "    assert got.status_code == 200\n"
        "def test_out():\n"
        "    assert 'KLUSTER_BASE_URL' not in os.environ\n"
        "def test_missing(monkeypatch, request):\n"
        "    import sys, kluster_integrations.emulator as e\n"
        "    monkeypatch.setitem(sys.modules, 'starlette', None)\n"
        "    for name in [n for n in sys.modules if n.startswith((e.__name__ + '.', 'starlette.'))]:\n"
        "        monkeypatch.delitem(sys.modules, name)\n"
        "    request.getfixturevalue('kluster_emulator')\n"
    )
    plugin = "kluster_integrations.pytest_plugin"
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin, "-p", "no:cacheprovider", str(tmp_path)]
    root = str(Path(kluster_integrations.__path__[0]).parent)
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": root}
    env.pop("KLUSTER_BASE_URL", None)
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert install_command("emulator") in done.stdout


def test_a_server_that_runs_for_days_keeps_the_newest_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kluster_integrations.emulator.records.MAX_RECORDED", 2)
    with Emulator() as server:
        for model in ("a", "b", "c"):
            httpx.get(f"{server.base_url}/models", params={"extended": "true", "model": model})
        assert [request.query["model"] for request in server.requests] == ["b", "c"]
