"""What nobody means to do, and everybody does once: each gets an error in words, and costs neither answer nor log."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

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
    ],
)
def test_options_that_are_wrong(kluster: Run, reach: dict[str, str], args: list[str], said: str) -> None:
    wrong_usage(kluster("chat", GEMMA, "Hello!", *args, env=reach), said)


def test_a_question_without_quotes(kluster: Run, reach: dict[str, str]) -> None:
    done = kluster("chat", "Hello", "there", env=reach)
    assert done.returncode == 1
    assert "in quotes: 'Hello' was taken for the model." in done.stderr

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


@pytest.mark.parametrize("own", ["x", ["x"], {"x": 3}])
def test_aliases_that_are_none(kluster: Run, tmp_path: Path, own: object) -> None:
    file = tmp_path / "data" / "kluster" / "settings.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"aliases": own}))
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
