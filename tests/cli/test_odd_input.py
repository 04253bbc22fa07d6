"""What nobody means to do, and everybody does once: each gets an error in words, and costs neither answer nor log."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
from pathlib import Path

import pytest

from kluster_integrations.cli._images import red_disc
from kluster_integrations.emulator import Emulator

from .conftest import GEMMA, LLAMA, Run, command, environment

TOOLS = """
import sys

def leave(city: str) -> str:
    "Ends the program."
    sys.exit()

def circle(city: str) -> list:
    "Returns what JSON cannot hold."
    found = []
    found.append(found)
    return found
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


def wrong_usage(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("args", "closed", "code", "stdout"),
    [
        (["chat", LLAMA, "Hello!"], "1>&-", 0, ""),
        (["chat", LLAMA, "Hello!"], "2>&-", 0, "Echo: Hello!\n"),
        (["chat", LLAMA], "0<&-", 2, ""),
        (["embed"], "0<&-", 2, ""),
    ],
)
def test_a_closed_stream_is_as_dev_null(
    reach: dict[str, str], args: list[str], closed: str, code: int, stdout: str
) -> None:
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command(*args)]
    done = subprocess.run(shell, env=environment(**reach), capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (code, stdout), done.stderr
    assert "AttributeError" not in done.stderr


@pytest.mark.parametrize(("name", "said"), [("leave", "SystemExit"), ("circle", "Circular reference")])
def test_a_tool_that_ends_the_program_or_returns_no_json_fails_alone(
    kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "odd_tools.py").write_text(TOOLS)
    emulator.reply(tool_calls=[{"name": name, "arguments": {"city": "Lisbon"}}], times=1)
    done = kluster("chat", LLAMA, "Call it.", "--tool", f"odd_tools:{name}", env=reach)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert said in done.stdout  # the model has read it


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import sys; sys.exit()", "the import of odd_SystemExit fails with SystemExit"),
        ("def f(:", "the import of odd_SyntaxError fails with SyntaxError"),
        ("1 / 0", "the import of odd_ZeroDivisionError fails with ZeroDivisionError"),
        ("import not_there", "fails with ModuleNotFoundError: No module named 'not_there'"),
    ],
    ids=["SystemExit", "SyntaxError", "ZeroDivisionError", "ModuleNotFoundError"],
)
def test_a_module_that_cannot_be_imported(
    kluster: Run,
    reach: dict[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    source: str,
    said: str,
) -> None:
    module = f"odd_{request.node.callspec.id}"
    (tmp_path / f"{module}.py").write_text(source)
    done = kluster("chat", LLAMA, "Hello!", "--tool", f"{module}:f", env=reach)
    wrong_usage(done, f"--tool {module}:f: ", said)
    assert "must be MODULE:FUNCTION" not in done.stderr


NAMED = """
import functools

def wrapped(function):
    return lambda city: function(city)

@wrapped
def decorated(city: str) -> str:
    return city

def loud(city: str) -> str:
    print("printed")
    return city

class Cities:
    def of(self, city: str) -> str:
        return city

    @classmethod
    def named(cls, city: str) -> str:
        return city

part = functools.partial(loud, city="Lisbon")
"""


@pytest.mark.parametrize("name", ["decorated", "Cities.named"])
def test_a_tool_has_the_name_that_the_user_calls(
    kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "named_tools.py").write_text(NAMED)
    assert kluster("chat", LLAMA, "Hello!", "-T", f"named_tools:{name}", env=reach).returncode == 0
    [tool] = emulator.requests[0].body["tools"]  # type: ignore[index,call-overload]
    assert tool["function"]["name"] == name.rpartition(".")[2]


def test_what_a_tool_prints_is_not_in_the_answer(
    kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "named_tools.py").write_text(NAMED)
    emulator.reply(tool_calls=[{"name": "loud", "arguments": {"city": "Lisbon"}}], times=1)
    done = kluster("chat", LLAMA, "Hello!", "-T", "named_tools:loud", "--json", env=reach)
    assert json.loads(done.stdout)["text"].endswith(": Lisbon.")
    assert done.stderr == "printed\n"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["Cities"], "must be a function, and is a class"),
        (["part"], "must be a function, and is of type partial"),
        (["Cities.of"], "is a method of an object"),
        (["loud", "loud"], "have the same name"),
    ],
)
def test_what_cannot_be_a_tool(
    kluster: Run, reach: dict[str, str], tmp_path: Path, names: list[str], said: str
) -> None:
    (tmp_path / "named_tools.py").write_text(NAMED)
    options = [word for name in names for word in ("-T", f"named_tools:{name}")]
    wrong_usage(kluster("chat", LLAMA, "Hello!", *options, env=reach), said)


@pytest.mark.parametrize("name", ["weather", "weather:", ":f", ".weather:f"])
def test_a_tool_needs_a_module_and_a_function(kluster: Run, reach: dict[str, str], name: str) -> None:
    wrong_usage(kluster("chat", LLAMA, "Hello!", "--tool", name, env=reach), "names no function", "weather:get_weather")


def test_many_fields_are_not_the_name_of_a_file(kluster: Run, reach: dict[str, str]) -> None:
    names = [f"a_field_with_a_long_name_{n}" for n in range(20)]
    done = kluster("chat", LLAMA, "Hello!", "--schema", ",".join(names), env=reach)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == names


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--schema", "name,name:int"], "the field 'name' twice"),
        (
            ["--schema", "~nobody-here/a.json"],
            "--schema ~nobody-here/a.json cannot be read: No such file or directory.",
        ),
        (["--image", "~nobody-here/a.png"], "cannot read '~nobody-here/a.png'"),
        (["--image", "ftp://host/a.png"], "'ftp://host/a.png' must be a file, or an http(s) address"),
        (["--image", ""], "'' must be a file"),
        (["--image", "/dev/zero"], "'/dev/zero' is not a PNG"),
        (["--json", "--extract"], "--extract and --json exclude each other"),
        (["three", "words"], "needs quotes"),
        (["bad \udcff byte"], "PROMPT is not UTF-8 text"),
    ],
)
def test_options_that_are_wrong(kluster: Run, reach: dict[str, str], args: list[str], said: str) -> None:
    prompt = ["-m", GEMMA] if said.startswith("PROMPT") else [GEMMA, "Hello!"]
    wrong_usage(kluster("chat", *prompt, *args, env=reach), said)


def test_a_question_without_quotes(kluster: Run, reach: dict[str, str]) -> None:
    done = kluster("chat", "Hello", "there", env=reach)
    assert done.returncode == 1
    assert "'Hello' was taken for the model: a question of several words needs quotes." in done.stderr

    done = kluster("chat", "no-such/model", "there", env=reach)
    assert done.returncode == 1
    assert "quotes" not in done.stderr


@pytest.mark.parametrize("model", ["", "two words"])
def test_settings_take_no_model_that_cannot_be(kluster: Run, model: str) -> None:
    wrong_usage(kluster("aliases", "set", "mine", model), f"MODEL {model!r} must be an id or an alias")
    wrong_usage(kluster("models", "default", model), f"MODEL {model!r} must be an id or an alias")
    assert "mine" not in kluster("aliases").stdout


@pytest.mark.parametrize("args", [[], ["--lines"]])
def test_nothing_to_embed(kluster: Run, emulator: Emulator, reach: dict[str, str], args: list[str]) -> None:
    wrong_usage(kluster("embed", *args, stdin="\n", env=reach), "stdin is empty")
    assert emulator.requests == []


@pytest.mark.parametrize("args", [["chat", LLAMA], ["embed"], ["verify", "What is it?", "-"]])
def test_bytes_are_not_text_in_any_locale(emulator: Emulator, reach: dict[str, str], args: list[str]) -> None:
    env = {**environment(**reach), "LC_ALL": "C"}  # there Python reads bytes as surrogates
    del env["PYTHONIOENCODING"]
    done = subprocess.run(command(*args), input=b"\xff\xd8\xff", env=env, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"stdin is not text" in done.stderr
    assert emulator.requests == []


def test_a_conversation_that_is_not_there(kluster: Run) -> None:
    for args in ([], ["--response"], ["--json"]):
        done = kluster("logs", "--conversation", "99", *args)
        assert (done.returncode, done.stdout) == (1, "")
        assert "There is no conversation 99." in done.stderr


def test_a_terminal_without_a_width(kluster: Run) -> None:
    assert kluster("models", env={"COLUMNS": "0"}).stdout == kluster("models", env={"COLUMNS": ""}).stdout != ""


def test_a_home_that_is_no_folder(kluster: Run, reach: dict[str, str]) -> None:
    env = {**reach, "XDG_DATA_HOME": "/dev/null"}
    done = kluster("chat", "gemma", "Hello!", env=env)
    assert (done.returncode, done.stdout) == (0, "Echo: Hello!\n")
    assert "The log /dev/null/" in done.stderr
    assert kluster("logs", env=env).stderr == "Nothing is kept.\n"


def test_a_home_that_cannot_be_read(kluster: Run, tmp_path: Path) -> None:
    done = kluster("logs", env={"XDG_DATA_HOME": str(tmp_path / ("x" * 300))})
    assert done.returncode == 1
    assert "The log " in done.stderr

    (tmp_path / "data" / "kluster" / "settings.json").mkdir(parents=True)
    done = kluster("aliases")
    assert done.returncode == 1
    assert "make the file readable" in done.stderr


def settings(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "data" / "kluster" / "settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("field", "hint", "repair"),
    [
        ({"default_model": 7}, "`kluster models default MODEL` sets it.", ["models", "default", "gemma"]),
        ({"log": "no"}, "`kluster logs off` or `kluster logs on` sets it.", ["logs", "off"]),
    ],
)
def test_a_setting_of_a_wrong_type(
    kluster: Run,
    emulator: Emulator,
    reach: dict[str, str],
    tmp_path: Path,
    field: dict[str, object],
    hint: str,
    repair: list[str],
) -> None:
    file = settings(tmp_path, json.dumps(field))
    done = kluster("chat", "Hello there!", env=reach)
    [(name, value)] = field.items()
    assert done.returncode == 1
    assert f"Error: {file}: {name}={value!r} must be" in done.stderr
    assert f"Hint: {hint}" in done.stderr
    assert emulator.requests == []
    assert kluster(*repair).returncode == 0
    assert kluster("chat", "Hello there!", env=reach).returncode == 0


def test_settings_that_cannot_be_written_leave_nothing_behind(kluster: Run, tmp_path: Path) -> None:
    file = settings(tmp_path, "{}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # as good as a full disk
    try:
        done = kluster("models", "default", "gemma")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{file} cannot be written" in done.stderr
    assert [found.name for found in file.parent.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("broken", ["settings", "catalog"])
def test_completion_writes_nothing_into_the_line(kluster: Run, tmp_path: Path, broken: str) -> None:
    env = {"_KLUSTER_COMPLETE": "complete_bash", "COMP_WORDS": "kluster chat ge", "COMP_CWORD": "2"}
    if broken == "settings":
        settings(tmp_path, "{")
    else:
        env["KLUSTER_CATALOG"] = str(tmp_path / "no.toml")
    done = kluster(env=env)
    assert done.stderr == ""
    assert done.stdout.split() == (["gemma"] if broken == "settings" else [])


def test_targets_and_models_are_completed(kluster: Run) -> None:
    env = {"_KLUSTER_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    assert kluster(env={**env, "COMP_WORDS": "kluster export sil"}).stdout == "sillytavern\n"
    assert kluster(env={**env, "COMP_WORDS": "kluster probe mag"}).stdout == "magistral\n"


def test_a_keyring_that_fails_is_reported_once(reach: dict[str, str], tmp_path: Path) -> None:
    settings(tmp_path, '{"keyring": true}')
    pytest.importorskip("keyring")
    env = environment(**reach, PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring", PYTHONWARNINGS="always")
    talk = command("chat", "Hello there!")
    done = subprocess.run(talk, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Echo: Hello there!\n", ""), "the variable comes first"
    del env["KLUSTER_API_KEY"]
    done = subprocess.run(talk, env=env, capture_output=True, text=True, check=False)
    assert done.stderr.count("The key that `kluster keys set` has stored cannot be read") == 1


def test_a_damaged_turn_of_the_log_is_named(kluster: Run, reach: dict[str, str]) -> None:
    kluster("chat", "Hello there!", env=reach)
    file = kluster("logs", "path").stdout.strip()
    for messages in ("[broken", "5", '[{"role": "user"}]'):
        with sqlite3.connect(file) as log:
            log.execute("UPDATE turns SET messages = ?", (messages,))
        log.close()
        for args in (["logs"], ["chat", "-c", "And?"]):
            done = kluster(*args, env=reach)
            assert done.returncode == 1
            assert f"Error: The log {file} cannot be used: turn 1 is damaged." in done.stderr


def test_an_image_from_a_pipe(kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "disc.png").write_bytes(red_disc(8))
    with (tmp_path / "disc.png").open("rb") as image:
        talk = command("chat", GEMMA, "What is it?", "-i", "-")
        done = subprocess.run(talk, stdin=image, env=environment(**reach), capture_output=True, check=True)
    assert b"[image/png]" in done.stdout
    assert emulator.requests[0].body["messages"][0]["content"][1]["text"] == "What is it?"  # type: ignore[index,call-overload]


@pytest.mark.parametrize("own", ["x", ["x"], {"x": 3}, {"x": ""}])
def test_aliases_that_are_none(kluster: Run, tmp_path: Path, own: object) -> None:
    file = settings(tmp_path, json.dumps({"aliases": own}))
    assert kluster("aliases").stdout.startswith("llama ")
    assert "\nx " not in kluster("aliases").stdout
    assert kluster("aliases", "set", "mine", "gemma").returncode == 0
    assert json.loads(file.read_text())["aliases"] == {"mine": GEMMA}


def test_a_probe_asks_nothing_if_its_file_cannot_be_written(
    kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path
) -> None:
    done = kluster("probe", LLAMA, "--yes", "--output", str(tmp_path / "no" / "models.toml"), env=reach)
    wrong_usage(done, "cannot be written")
    assert emulator.requests == []


def test_a_context_that_is_not_there(kluster: Run, reach: dict[str, str]) -> None:
    done = kluster("verify", "What?", "That.", "--context-file", "no.txt", env=reach)
    wrong_usage(done, "--context-file no.txt cannot be read")


def test_the_traceback_of_an_error_in_the_log(kluster: Run, reach: dict[str, str]) -> None:
    env = {**reach, "XDG_DATA_HOME": "/dev/null", "KLUSTER_DEBUG": "1"}
    assert kluster("chat", "gemma", "Hello!", env=env, traceback=True).returncode == 0
