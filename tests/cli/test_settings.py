"""What a user keeps: aliases, the default model, the log, a key in the keyring; and what `kluster chat` makes of it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import KlusterConfig, catalog
from kluster_integrations._extras import install_command
from kluster_integrations.cli._models import ALIASES
from kluster_integrations.core import user
from kluster_integrations.emulator import Emulator, Fault

from .conftest import GEMMA, KEY, LLAMA, Run

LLAMA_70B = ALIASES["llama"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user of a test keeps things; the test works in the folder above."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    user._stored_key.cache_clear()
    return tmp_path / "data" / "kluster"


def body(emulator: Emulator, number: int = -1) -> dict[str, Any]:
    found = emulator.requests[number].body
    assert isinstance(found, dict)
    return found


def test_every_alias_is_a_model_in_service() -> None:
    current = {spec.id for spec in catalog.all_models() if spec.status == "current"}
    assert set(ALIASES.values()) <= current


@pytest.mark.parametrize(
    ("args", "model"),
    [
        (["What is it?"], LLAMA_70B),
        (["gemma", "What is it?"], GEMMA),
        (["Gemma", "What is it?"], GEMMA),
        (["-m", "gemma", "What is it?"], GEMMA),
        (["What is it?", "--model", "ft:our:own"], "ft:our:own"),
    ],
)
def test_the_model_that_is_asked(
    kluster: Run, emulator: Emulator, reach: dict[str, str], args: list[str], model: str
) -> None:
    kluster("chat", *args, env=reach)
    assert (body(emulator)["model"], body(emulator)["messages"][0]["content"]) == (model, "What is it?")


def test_the_default_model_and_aliases_of_ones_own(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    assert kluster("models", "default").stdout == f"{LLAMA_70B}\n"
    assert kluster("aliases", "set", "small", LLAMA).returncode == 0
    assert kluster("models", "default", "small").stdout == f"{LLAMA}\n"
    kluster("chat", "hello there", env=reach)
    assert body(emulator)["model"] == LLAMA
    assert f"small      {LLAMA}\n" in kluster("aliases").stdout
    settings = Path(kluster("aliases", "path").stdout.strip())
    assert json.loads(settings.read_text("utf-8")) == {"aliases": {"small": LLAMA}, "default_model": "small"}
    assert kluster("aliases", "remove", "small").returncode == 0
    assert "small" not in kluster("aliases").stdout


@pytest.mark.usefixtures("own_catalog")
def test_did_you_mean(kluster: Run, reach: dict[str, str]) -> None:
    done = kluster("chat", "gema", "What?", env=reach)
    assert done.stderr.startswith("Warning: model='gema' is not known; did you mean 'gemma'?")
    assert "\nHint: did you mean 'gemma'? 'gema' was taken for the model: " in done.stderr
    assert kluster("chat", "nothing-like-it", "What?", env=reach).stderr.startswith("Error: ")


def test_settings_that_are_broken_are_named(kluster: Run, folder: Path, reach: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text("{")
    done = kluster("chat", "hello there", env=reach)
    assert done.returncode == 1
    assert f"{folder / 'settings.json'} cannot be read" in done.stderr
    assert KlusterConfig().api_key is None, "a program does not mind"


def test_a_conversation_goes_on(kluster: Run, emulator: Emulator, reach: dict[str, str], folder: Path) -> None:
    none = kluster("chat", "-c", "And?", env=reach)
    assert none.stderr.startswith("Error: There is no conversation to continue.")
    kluster("chat", "gemma", "One", "-s", "Be brief.", env=reach)
    kluster("chat", "Another", env=reach)
    kluster("chat", "-c", "More", env=reach)
    assert [m["content"] for m in body(emulator)["messages"]] == ["Another", "Echo: Another", "More"]
    kluster("chat", "--conversation", "1", "Two", env=reach)
    assert body(emulator)["model"] == GEMMA
    assert [m["role"] for m in body(emulator)["messages"]] == ["system", "user", "assistant", "user"]
    unlogged = len(kluster("logs", "--json", "-n", "0").stdout.splitlines())
    kluster("chat", "Secret", "--no-log", env=reach)
    assert len(kluster("logs", "--json", "-n", "0").stdout.splitlines()) == unlogged == 4
    assert (folder / "logs.db").stat().st_mode & 0o777 == 0o600
    assert kluster("chat", "--conversation", "99", "x y", env=reach).stderr.startswith(
        "Error: There is no conversation 99"
    )


def test_the_log_can_be_read_switched_off_and_cleared(kluster: Run, reach: dict[str, str], folder: Path) -> None:
    assert kluster("logs").stderr == "Nothing is kept.\n"
    key = "kk-another-key-which-the-answer-shows"
    kluster("chat", f"My key is {key}, keep it?", env={**reach, "KLUSTER_API_KEY": key})
    shown = kluster("logs").stdout
    assert "## Question\n\nMy key is ***, keep it?\n\n## Answer\n\nEcho: My key is ***" in shown
    assert key.encode() not in (folder / "logs.db").read_bytes()
    assert kluster("logs", "-r").stdout.startswith("Echo: My key is ***")
    assert kluster("logs", "path").stdout == f"{folder / 'logs.db'}\n"
    kluster("logs", "off")
    kluster("chat", "Not this", env=reach)
    assert "Not this" not in kluster("logs", "-n", "0").stdout
    kluster("logs", "on")
    kluster("chat", "But this", env=reach)
    assert "But this" in kluster("logs").stdout
    assert kluster("logs", "clear").stderr == "Removed: 2 turns and the history.\n"
    assert b"But this" not in (folder / "logs.db").read_bytes()


def test_the_log_can_be_searched(kluster: Run, reach: dict[str, str]) -> None:
    kluster("chat", "gemma", "What is an Äpfel?", env=reach)
    for number in range(4):
        kluster("chat", "llama", *(["-c"] if number else []), f"Question {number} on pears", env=reach)

    def questions(*args: str) -> list[str]:
        rows = map(json.loads, kluster("logs", "--json", *args).stdout.splitlines())
        return [row["messages"][0]["content"] for row in rows]

    pears = [f"Question {number} on pears" for number in range(4)]
    assert questions() == pears[1:]
    assert questions("-c") == questions("--conversation", "2") == questions("-m", "llama", "-n", "0") == pears
    assert questions("-c", "-n", "1") == pears[3:]
    assert questions("-q", "äPFEL") == questions("-m", "gemma") == ["What is an Äpfel?"]
    assert questions("-q", "pears") == pears[1:]
    assert kluster("logs", "-q", "pears", "-r").stdout == "Echo: Question 3 on pears\n"
    none = kluster("logs", "-q", "plums")
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "No turn matches.\n")


def test_a_broken_log_does_not_cost_the_answer(kluster: Run, reach: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "logs.db").write_text("not a database, and longer than its header would be" * 10)
    done = kluster("chat", "hello there", env=reach)
    assert (done.returncode, done.stdout) == (0, "Echo: hello there\n")
    assert done.stderr.startswith(f"Error: The log {folder / 'logs.db'} cannot be used: file is not a database")


def test_a_schema(kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path) -> None:
    emulator.reply(json={"name": "Ada", "age": 36, "tags": ["a"]}, times=None)
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
    (tmp_path / "person.json").write_text(json.dumps(schema))
    sent = []
    for source in ("name, age:int, tags:str[]", "person.json", json.dumps(schema), "name, age int, tags str[]"):
        done = kluster("chat", "Who is it?", "--schema", source, env=reach)
        assert json.loads(done.stdout) == {"name": "Ada", "age": 36, "tags": ["a"]}
        sent.append(body(emulator)["messages"])
    assert sent == sent[:1] * 4
    emulator.clear()
    emulator.reply('{"name": "Ada"}', times=1)
    emulator.reply(json={"name": "Ada", "age": 36, "tags": []})
    assert json.loads(kluster("chat", "Who is it?", "--schema", "person.json", env=reach).stdout)["age"] == 36
    assert len(emulator.requests) == 2, "a wrong answer is asked for again"


TOOLS = '''
def population(city: str, year: int = 2024) -> int:
    """Number of people in a city."""
    if city == "Atlantis":
        raise LookupError("no such city")
    return 545_796
'''


@pytest.mark.parametrize("model", [LLAMA, GEMMA])  # native, and prompted
def test_tools(kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path, model: str) -> None:
    (tmp_path / "cities_of_the_test.py").write_text(TOOLS)
    emulator.reply(tool_calls=[{"name": "population", "arguments": {"city": "Lisbon"}}], times=1)
    emulator.reply(tool_calls=[{"name": "population", "arguments": {"city": "Atlantis"}}], times=1)
    emulator.reply("Half a million.", times=1)
    done = kluster("chat", model, "How many?", "-T", "cities_of_the_test:population", "--usage", env=reach)
    assert done.stdout == "Half a million.\n"
    assert '-> population({"city":"Lisbon"}) returns 545796' in done.stderr.replace('": "', '":"')
    assert "returns Error: LookupError: no such city" in done.stderr
    assert " tokens, $0." in done.stderr
    assert len(emulator.requests) == 3
    if model == LLAMA:
        [described] = body(emulator)["tools"]
        assert described["function"]["description"] == "Number of people in a city."
        assert described["function"]["parameters"]["required"] == ["city"]
    kluster("chat", "-c", "Thanks!", env=reach)
    assert "545796" in str(body(emulator)["messages"]), "the log has the calls and their results"


@pytest.mark.parametrize("parameters", ["city, /", "*cities", "city, *more"])
def test_a_tool_whose_parameters_have_no_names(
    kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path, parameters: str
) -> None:
    module = f"odd_{abs(hash(parameters))}"
    (tmp_path / f"{module}.py").write_text(f"def odd({parameters}): return 1\n")
    done = kluster("chat", LLAMA, "How many?", "-T", f"{module}:odd", env=reach)
    assert done.returncode == 2
    assert f"Error: --tool {module}:odd: its parameters " in done.stderr
    assert emulator.requests == []


def test_tools_that_never_end(kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cities_of_the_test.py").write_text(TOOLS)
    emulator.reply(tool_calls=[{"name": "population", "arguments": {"city": "Lisbon"}}], times=None)
    done = kluster("chat", LLAMA, "How many?", "-T", "cities_of_the_test:population", env=reach)
    assert done.returncode == 1
    assert "Error: The model called tools 10 times and did not answer." in done.stderr


def test_embed(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    one = kluster("embed", "hello", env=reach)
    assert len(json.loads(one.stdout)) == 1024
    rows = kluster("embed", "--lines", stdin="hello\nworld\n", env=reach).stdout.splitlines()
    assert (len(rows), rows[0]) == (2, one.stdout.strip())
    whole = json.loads(kluster("embed", "--json", "-m", "bge", stdin="hello\n", env=reach).stdout)
    assert (whole["model"], len(whole["vectors"])) == ("BAAI/bge-m3", 1)


@pytest.fixture
def keyring() -> Iterator[dict[tuple[str, str], str]]:
    """A keyring backend in memory, as a platform has one."""
    library = pytest.importorskip("keyring")
    from keyring.backend import KeyringBackend

    kept: dict[tuple[str, str], str] = {}

    class Memory(KeyringBackend):
        priority = 1  # type: ignore[assignment]

        def get_password(self, service: str, username: str) -> str | None:
            return kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            kept[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            del kept[service, username]

    before = library.get_keyring()
    library.set_keyring(Memory())
    yield kept
    library.set_keyring(before)
    user._stored_key.cache_clear()


def test_a_key_in_the_keyring(kluster: Run, keyring: dict[Any, str], folder: Path) -> None:
    assert kluster("keys").stdout.startswith("There is no key")
    done = kluster("keys", "set", stdin=f"{KEY}\n")
    assert (done.returncode, list(keyring.values())) == (0, [KEY])
    assert KEY not in (folder / "settings.json").read_text("utf-8")
    assert kluster("keys").stdout == "the keyring\n"
    assert pickle.loads(pickle.dumps(KlusterConfig())).require_key() == KEY
    assert "found in the keyring" in kluster("doctor", "--offline").stdout
    variable = {"KLUSTER_API_KEY": "another-key"}
    assert kluster("keys", env=variable).stdout == "KLUSTER_API_KEY\n"
    with Emulator(api_keys=[KEY]) as server:
        env = {"KLUSTER_BASE_URL": server.base_url}
        assert kluster("chat", "hello there", env=env).stdout == "Echo: hello there\n"
        refused = kluster("chat", "hello there", env=env | variable).stderr
        assert "Hint: the key is that of KLUSTER_API_KEY; set another one there." in refused, "the variable comes first"
        server.add_fault(Fault("status", status=401))
        refused = kluster("chat", "hello there", env=env).stderr
        assert "Hint: the key is that of the keyring; `kluster keys set` replaces it." in refused
    assert kluster("keys", "remove").returncode == 0
    assert (KlusterConfig().api_key, keyring) == (None, {})


def test_without_a_keyring_it_says_so(kluster: Run) -> None:
    done = kluster("keys", "set", stdin=KEY, without=["keyring"])
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "Error: The package keyring is not installed."
    assert install_command("keyring") in done.stderr
    assert kluster("keys", "set", stdin="two words").returncode == 2
    assert kluster("keys", "set", stdin="").returncode == 2


def test_hints_of_connections(kluster: Run, reach: dict[str, str]) -> None:
    unknown = kluster("chat", "hello there", env={**reach, "KLUSTER_BASE_URL": "https://no-such-host.invalid"})
    assert "KLUSTER_BASE_URL" in unknown.stderr
    assert "Status of the service" in unknown.stderr
    refused = kluster("doctor", env={**reach, "KLUSTER_BASE_URL": "http://127.0.0.1:9"}).stdout
    assert "kluster doctor" not in refused
