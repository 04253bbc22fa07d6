"""`kluster probe`: what is found of a strict and of a lenient server, and an adapter that goes by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.emulator import Emulator

from ..answers import LLAMA, R1
from ..raw_server import RawRequest, RawServer, Reply, sse, whole
from .conftest import KEY, Run

GEMMA = "google/gemma-3-27b-it"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}}}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_API_KEY", KEY)


def probe(kluster: Run, base_url: str, model: str, path: Path, *more: str) -> dict[str, Any]:
    done = kluster("probe", model, "--base-url", base_url, "--output", str(path), "--yes", "--json", *more)
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def sends_schema(base_url: str, path: Path, model: str) -> bool:
    """Whether an adapter on a probed file sends `response_format`."""
    config = KlusterConfig(base_url=base_url, api_key="any", catalog=path)
    body = Client(config).build(model, [{"role": "user", "content": "hi"}], {"response_format": SCHEMA}).body
    return "response_format" in body


@pytest.mark.parametrize("strict", [True, False])
def test_it_writes_what_is_true_of_the_server(kluster: Run, tmp_path: Path, own_catalog: None, strict: bool) -> None:
    path = tmp_path / "models.toml"
    with Emulator(strict=strict) as server:
        summary = probe(kluster, server.base_url, LLAMA, path)
        assert summary["requests"] == 13
        assert len(server.requests) == 14  # and the list of models
        found = {name: finding["found"] for name, finding in summary["findings"].items()}
        assert found["max_completion_tokens"] == found["tools"] == found["logprobs"] == "yes"
        assert found["images"] == "refused"
        assert found["n"] == ("refused" if strict else "ignored")
        assert found["json_schema"] == ("refused" if strict else "yes")
        [spec] = catalog.read(path)
        assert spec.native == {"logprobs", "tools"} | (set() if strict else {"response_format"})
        assert (spec.supports_tools, spec.supports_vision, spec.context_window) == (True, False, 131_072)
        assert sends_schema(server.base_url, path, LLAMA) is not strict


def test_of_several_models_each_has_its_row_and_a_newer_one_replaces_it(
    kluster: Run, tmp_path: Path, own_catalog: None
) -> None:
    path = tmp_path / "models.toml"
    path.write_text('# mine\n[[models]]\nid = "other" # stays\nnative = ["user"]\n', "utf-8")
    with Emulator() as server:
        for model in (R1, GEMMA, R1):
            probe(kluster, server.base_url, model, path)
    specs = {spec.id: spec for spec in catalog.read(path)}
    assert list(specs) == ["other", R1, GEMMA]
    assert "# mine" in path.read_text("utf-8")
    assert "# stays" in path.read_text("utf-8")
    assert specs[R1].reasoning
    assert specs[GEMMA].supports_vision
    assert not specs[GEMMA].supports_tools


@pytest.mark.parametrize(("style", "found"), [("reasoning", "reasoning"), ("think", "<think>"), ("open", "</think>")])
def test_where_thoughts_come(kluster: Run, tmp_path: Path, own_catalog: None, style: Any, found: str) -> None:
    with Emulator(reasoning=style, usage_in_stream=True) as server:
        summary = probe(kluster, server.base_url, R1, tmp_path / "m.toml")
    assert summary["findings"]["thoughts"]["found"] == found
    assert summary["findings"]["usage in a stream"]["found"] == "yes"


def test_embeddings(kluster: Run, tmp_path: Path, own_catalog: None) -> None:
    with Emulator() as server:
        summary = probe(kluster, server.base_url, "BAAI/bge-m3", tmp_path / "m.toml")
    assert summary["findings"]["vectors"]["found"] == "1024"
    assert summary["findings"]["dimensions"]["found"] == "refused"
    [spec] = catalog.read(tmp_path / "m.toml")
    assert (spec.purpose, spec.embedding_dimensions) == ("embeddings", 1024)


def test_a_server_that_knows_max_tokens_alone(kluster: Run, tmp_path: Path, own_catalog: None) -> None:
    def answer(request: RawRequest) -> Reply:
        body = request.json if request.body else {}
        tokens = min(body.get("max_tokens") or 100, 100)
        choice = {"message": {"content": "hi"}, "finish_reason": "length" if tokens < 100 else "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
        made = json.dumps({"choices": [choice] * body.get("n", 1), "usage": usage}).encode()
        return Reply([made], content_type="application/json", framing="length")

    with RawServer() as server:
        server.answer = answer
        summary = probe(kluster, server.base_url, "mine", tmp_path / "m.toml")
    found = {name: finding["found"] for name, finding in summary["findings"].items()}
    assert (found["max_completion_tokens"], found["max_tokens"], found["n"]) == ("ignored", "yes", "yes")
    assert (found["json_schema"], found["tools"], found["images"]) == ("ignored", "ignored", "accepted")
    [spec] = catalog.read(tmp_path / "m.toml")
    assert spec.native == {"max_tokens", "n"}
    config = KlusterConfig(base_url="http://127.0.0.1:9", api_key="any", catalog=tmp_path / "m.toml")
    assert Client(config).build("mine", [{"role": "user", "content": "hi"}], {"n": 2}, several=True).body["n"] == 2


def test_it_asks_before_it_spends(kluster: Run, tmp_path: Path, own_catalog: None) -> None:
    with Emulator() as server:
        done = kluster("probe", LLAMA, "--base-url", server.base_url, "--output", str(tmp_path / "m.toml"))
        assert done.returncode == 2
        assert "13 requests" in done.stderr
        assert "$0.0" in done.stderr
        assert "--yes" in done.stderr
        assert not server.requests
    assert not (tmp_path / "m.toml").exists()


def test_a_file_that_is_no_catalog_is_refused_before_it_spends(kluster: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("[tool]\n", "utf-8")
    with Emulator() as server:
        done = kluster("probe", LLAMA, "--base-url", server.base_url, "--output", str(path), "--yes")
        assert not server.requests
    assert done.returncode == 1
    assert "[[models]]" in done.stderr
    assert path.read_text("utf-8") == "[tool]\n"


def test_a_key_that_is_refused_is_said(kluster: Run, tmp_path: Path, own_catalog: None) -> None:
    with Emulator(api_keys=["right"]) as server:
        done = kluster("probe", LLAMA, "--base-url", server.base_url, "--output", str(tmp_path / "m.toml"), "--yes")
    assert done.returncode == 1
    assert "401" in done.stderr
    assert not (tmp_path / "m.toml").exists()


def test_a_server_that_hangs_up_after_a_stream(kluster: Run, tmp_path: Path, own_catalog: None) -> None:
    """As llama.cpp does, without saying so: the next request on such a connection is not refused."""
    streamed: set[int] = set()

    def answer(request: RawRequest) -> Reply:
        if request.connection in streamed:
            return Reply(silent=True, end="cut")
        body = request.json if request.body else {}
        if not body.get("stream"):
            return whole({"content": "hi"})
        streamed.add(request.connection)
        counts = {"usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}}
        return Reply(sse({"content": "hi"}, **(counts if body.get("stream_options") else {})))

    with RawServer() as server:
        server.answer = answer
        summary = probe(kluster, server.base_url, "mine", tmp_path / "m.toml")
    assert summary["findings"]["stream_options"]["found"] == "yes"
    assert summary["findings"]["json_schema"]["found"] == "ignored"
    assert "stream_usage" in summary["row"]["native"]


def answering(later: Reply, *, after: int = 1) -> RawServer:
    """Return a server that lists no windows, answers that many plain requests, and all others with `later`."""
    server = RawServer()

    def answer(request: RawRequest) -> Reply:
        if not request.body:
            return Reply([b'{"data": [{"id": "mine"}]}'], content_type="application/json", framing="length")
        return whole({"content": "hi"}) if sum(bool(r.body) for r in server.requests) <= after else later

    server.answer = answer
    return server


PAGE = Reply([b"<html>Bad gateway</html>"], 502, content_type="text/html", framing="length")
BUSY = Reply(
    [b'{"error": "busy"}'], 429, content_type="application/json", framing="length", headers={"Retry-After": "0"}
)
WELCOME = Reply([b"<html>Welcome</html>"], content_type="text/html", framing="length")


@pytest.mark.parametrize("later", [PAGE, BUSY, WELCOME, Reply(silent=True, end="cut")])
def test_a_server_that_fails_is_no_server_that_refuses(
    kluster: Run, tmp_path: Path, own_catalog: None, later: Reply
) -> None:
    path = tmp_path / "m.toml"
    with answering(later, after=11) as server:  # the last two questions are of images and of roles
        summary = probe(kluster, server.base_url, "mine", path)
    assert {summary["findings"][name]["found"] for name in ("images", "free roles")} == {"unknown"}
    assert not {"supports_vision", "strict_roles"} & summary["row"].keys()
    with answering(later) as server:
        done = kluster("probe", "mine", "--base-url", server.base_url, "--output", str(tmp_path / "n.toml"), "--yes")
    assert (done.returncode, (tmp_path / "n.toml").exists()) == (1, False)
    assert "none of the questions" in done.stderr


@pytest.mark.parametrize(
    "choices",
    [["x"], {"a": 1}, [{"message": "hi", "logprobs": "x"}], [{"message": {"tool_calls": "ab"}, "logprobs": [5]}]],
)
def test_a_server_that_lies_about_its_form(kluster: Run, tmp_path: Path, own_catalog: None, choices: object) -> None:
    body = json.dumps({"choices": choices, "usage": "none"}).encode()
    with answering(Reply([body], content_type="application/json", framing="length"), after=3) as server:
        summary = probe(kluster, server.base_url, "mine", tmp_path / "m.toml")
    assert summary["findings"]["tools"]["found"] in ("unknown", "ignored")
    assert "supports_tools" not in summary["row"] or not summary["row"]["supports_tools"]


def test_a_row_is_exchanged_in_its_place(kluster: Run, tmp_path: Path, own_catalog: None) -> None:
    path = tmp_path / "m.toml"
    path.write_text(
        '# mine\n\n# old\n [[ models ]]\nid = "mine"\ncontext_window = 9\n\n'
        '# a twin\n[[models]]\nid = "twin"\nbase = "mine"\n[models.prices]\ninput = 1\noutput = 2\n', "utf-8-sig"
    )  # fmt: skip
    with answering(whole({"content": "hi"})) as server:
        probe(kluster, server.base_url, "mine", path)
    assert [spec.id for spec in catalog.read(path)] == ["mine", "twin"]
    text = path.read_text("utf-8")
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# mine", "# old", "# a twin"]
    assert "context_window = 9" not in text


@pytest.mark.parametrize("where", ["none/m.toml", "inline.toml"])
def test_a_file_that_cannot_be_written_is_said_before_it_spends(kluster: Run, tmp_path: Path, where: str) -> None:
    (tmp_path / "inline.toml").write_text('models = [{ id = "other" }]\n', "utf-8")
    with answering(whole({"content": "hi"})) as server:
        done = kluster("probe", "mine", "--base-url", server.base_url, "--output", str(tmp_path / where), "--yes")
        assert not server.requests
    assert done.returncode in (1, 2)
    assert "--output" in done.stderr
    assert (tmp_path / "inline.toml").read_text("utf-8") == 'models = [{ id = "other" }]\n'


def test_a_server_without_models_is_asked_nothing(kluster: Run, tmp_path: Path) -> None:
    with RawServer() as server:
        server.answer = lambda _: Reply([b'{"data": []}'], content_type="application/json", framing="length")
        done = kluster("probe", "--base-url", server.base_url, "--output", str(tmp_path / "m.toml"), "--yes")
        assert [request.body for request in server.requests] == [b""]
    assert done.returncode == 2
    assert "kluster probe MODEL" in done.stderr
