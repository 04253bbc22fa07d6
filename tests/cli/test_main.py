"""The command line as a whole: help, versions, errors, exit codes, what the bare install can do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from kluster_integrations import __version__
from kluster_integrations._extras import install_command
from kluster_integrations.cli import app
from kluster_integrations.emulator import Emulator, Fault

from .conftest import KEY, LLAMA, Run, command, environment

COMMANDS = ("demo", "chat", "embed", "models", "aliases", "logs", "keys", "emulator", "doctor", "export")
EXTRAS = ("langchain_core", "starlette", "uvicorn", "litellm", "crewai")


def test_version(kluster: Run) -> None:
    done = kluster("--version")
    assert (done.returncode, done.stdout) == (0, f"kluster-integrations {__version__}\n")


@pytest.mark.parametrize(
    ("args", "command"),
    [
        (["chat", "-m"], "kluster chat"),
        (["probe", "--no-such"], "kluster probe"),
        (["batch", "submit", "-m"], "kluster batch submit"),
        (["models", "list", "--no-such"], "kluster models list"),
    ],
)
def test_the_hint_names_the_command_of_a_wrong_option(kluster: Run, args: list[str], command: str) -> None:
    done = kluster(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[1] == f"Hint: `{command} --help` shows what is allowed."


def test_a_question_alone_is_told_the_command(kluster: Run) -> None:
    done = kluster("What is it?")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Error: 'What is it?' is not a command; a question needs one: kluster chat 'What is it?'\n"
    )


@pytest.mark.parametrize("group", ["logs", "models", "aliases"])
def test_list_may_be_written_out(kluster: Run, group: str) -> None:
    whole, alone = kluster(group, "list"), kluster(group)
    assert (whole.returncode, whole.stdout, whole.stderr) == (0, alone.stdout, alone.stderr)


def test_a_group_alone_shows_its_help(kluster: Run) -> None:
    done = kluster("batch")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == kluster("batch", "--help").stdout


@pytest.mark.parametrize("name", ["emulator", "gateway"])
def test_an_address_of_another_machine_is_not_about_ports(kluster: Run, name: str) -> None:
    done = kluster(name, "--host", "192.0.2.1")  # RFC 5737: nobody's
    assert done.returncode == 1
    assert "Hint: --host 192.0.2.1 is not an address of this machine" in done.stderr
    assert "port" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_said_in_words(unbuffered: str) -> None:
    env = environment(PYTHONUNBUFFERED=unbuffered)
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command("aliases"), stdout=full, stderr=subprocess.PIPE, env=env, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: No space left on device.\nHint: KLUSTER_DEBUG=1 shows where.\n"


@pytest.mark.parametrize("args", [["--help"], ["-h"], []])
def test_help_lists_all_commands(kluster: Run, args: list[str]) -> None:
    done = kluster(*args)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["60", "80"])
def test_help_of_each_command_fits_the_terminal(name: str, columns: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"], prog_name="kluster", terminal_width=int(columns))
    assert done.exit_code == 0
    # typer never breaks the line of a command's usage or of an option's choices
    prose = [line for line in done.stdout.splitlines() if "Usage:" not in line and "<" not in line]
    assert max(map(len, prose)) <= int(columns)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['kluster', '--help']\n"
        "from kluster_integrations.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"openai", "pydantic", "httpx", "httpx2", "prompt_toolkit", "keyring", *EXTRAS}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nope"], "No such command 'nope'"),
        (["chat"], "PROMPT is empty"),
        (["chat", "lama"], "'lama' is not a model; did you mean 'llama'?"),
        (["chat", "-m", "llama", "two", "prompts"], "one PROMPT"),
        (["chat", "hi", "--schema", "age:date"], "types are str, int, float and bool"),
        (["chat", "hi", "--schema", "nowhere.json"], "cannot be read"),
        (["chat", "hi", "--schema", "{"], "is not JSON"),
        (["chat", "hi", "--tool", "nowhere:look"], "No module named 'nowhere'"),
        (["chat", "hi", "--tool", "json:__name__"], "must be a function"),
        (["chat", "hi", "--tool", "builtins:len"], "cannot be described in JSON"),
        (["embed", "hi", "--lines"], "exclude each other"),
        (["aliases", "remove", "llama"], "came with the package"),
        (["aliases", "set", "My Own", "x/y"], "lower case"),
        (["chat", LLAMA, "hi", "--plan", "gold"], "'trial'"),
        (["chat", LLAMA, "hi", "--temperature", "3"], "--temperature"),
        (["chat", LLAMA, "hi", "--base-url", "ftp://x"], "--base-url: base_url='ftp://x' must be an address"),
        (["chat", LLAMA, "  "], "PROMPT is empty"),
        (["models", "--bogus"], "--bogus"),
        (["demo", "--live", "--local-llm"], "exclude each other"),
        (["demo", "model.gguf"], "--local-llm"),
        (["emulator", "--upstream", "nowhere"], "upstream='nowhere' is not allowed"),
        (["emulator", "--engine", "upstream"], "upstream=None"),
        (["emulator", "--shape", "tgi"], "'sglang'"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_code_2(kluster: Run, args: list[str], said: str) -> None:
    done = kluster(*args)
    error, hint = done.stderr.splitlines()
    assert done.returncode == 2
    assert error.startswith("Error: ")
    assert said in error
    assert hint.startswith("Hint: ")
    assert "--help" in hint


def test_failures_are_two_lines_and_exit_code_1(kluster: Run) -> None:
    done = kluster("chat", LLAMA, "hi")
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert error.startswith("Error: No kluster.ai API key")
    assert hint.startswith("Hint: set KLUSTER_API_KEY; to try without a key, start `kluster emulator`.")


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        (Fault("status", status=401, times=None), "KLUSTER_API_KEY"),
        (Fault("status", status=404, times=None), "KLUSTER_BASE_URL"),
        (Fault("status", status=429, times=None), "KLUSTER_MAX_RETRIES"),
        (Fault("hang", times=None), "KLUSTER_TIMEOUT"),
        (Fault("end", times=None), "ask again"),
        (Fault("status", body={"error": {"message": "maximum context length"}}, status=400), "--max-tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hints_are_for_a_shell(
    kluster: Run, emulator: Emulator, reach: dict[str, str], fault: Fault, hint: str
) -> None:
    emulator.add_fault(fault)
    done = kluster("chat", LLAMA, "hi", env={**reach, "KLUSTER_MAX_RETRIES": "0", "KLUSTER_TIMEOUT": "0.5"})
    said = done.stderr.splitlines()[-1]
    assert said.startswith("Hint: ")
    assert hint in said
    for python in ("api_key", "base_url", "max_retries", "timeout=", "messages", ".partial"):
        assert python not in said


def test_a_bad_variable_is_named(kluster: Run) -> None:
    done = kluster("chat", LLAMA, "hi", env={"KLUSTER_PLAN": "gold"})
    assert done.returncode == 1
    assert done.stderr == (
        "Error: plan='gold' must be one of trial, core, scale, enterprise.\n"
        "Hint: set KLUSTER_PLAN to an allowed value, or unset it.\n"
    )


def test_debug_shows_the_traceback() -> None:
    env = environment(KLUSTER_DEBUG="1")
    done = subprocess.run(command("chat", LLAMA, "hi"), env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "\nError: No kluster.ai API key" in done.stderr


def test_unforeseen_errors_are_one_line_and_hide_keys() -> None:
    code = (
        "import os\nfrom kluster_integrations.cli import main, models\n"
        "def fail(**_): raise RuntimeError('lost\\n' + os.environ['KLUSTER_API_KEY'])\n"
        "models.connect = fail\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + "main()", "models"],
        env=environment(KLUSTER_API_KEY=KEY),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "Error: RuntimeError: lost ***"


def test_a_closed_pipe_is_quiet() -> None:
    with subprocess.Popen(
        command("models", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before it has written anything
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_in_the_middle_of_an_answer_is_quiet(emulator: Emulator, reach: dict[str, str]) -> None:
    emulator.reply("Scripted, and long enough to be interrupted.")
    emulator.add_fault(Fault("slow", delay=0.2, times=None))
    with subprocess.Popen(
        command("chat", LLAMA, "Tell me something long."),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**reach),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(8) == "Scripted"  # it streams: the rest is not there yet
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == ""


@pytest.mark.parametrize("args", [["chat", LLAMA, "hi"], ["models"], ["doctor"]])
def test_works_on_the_bare_install(kluster: Run, reach: dict[str, str], args: list[str]) -> None:
    done = kluster(*args, env=reach, without=EXTRAS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(
    ("args", "blocked", "extras"),
    [
        (["demo"], ["langchain_core"], "langchain"),
        (["demo"], ["starlette"], "emulator"),
        (["demo"], EXTRAS, "langchain,emulator"),
        (["demo", "--live"], EXTRAS, "langchain"),
        (["emulator"], ["uvicorn"], "emulator"),
    ],
)
def test_a_missing_extra_is_one_line(kluster: Run, args: list[str], blocked: list[str], extras: str) -> None:
    done = kluster(*args, without=blocked)
    assert (done.returncode, done.stdout) == (1, "")
    wanted = f"Error: `kluster {args[0]}` needs more: {install_command(*extras.split(','))}\n"
    assert done.stderr == wanted


def test_no_color_leaves_no_escape_codes(kluster: Run) -> None:
    colored = kluster("doctor", "--offline", env={"FORCE_COLOR": "1"}).stdout
    plain = kluster("doctor", "--offline", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert "\x1b[" in colored
    assert "\x1b[" not in plain


@pytest.mark.usefixtures("own_catalog")  # each slip is warned of once a process
def test_warnings_are_one_line(kluster: Run, reach: dict[str, str]) -> None:
    done = kluster("chat", LLAMA.lower(), "hi", env=reach)
    assert done.returncode == 1
    warning, error, _ = done.stderr.splitlines()
    assert warning.startswith(f"Warning: model={LLAMA.lower()!r} is not in the catalog; did you mean {LLAMA!r}?")
    assert error.endswith("(HTTP 404)")


def test_a_warning_is_shown_once(reach: dict[str, str]) -> None:
    """In a program of its own: pytest's handlers hide the log line that Python shows where no logging is set up."""
    run = command("chat", LLAMA.lower(), "hi")
    done = subprocess.run(run, env=environment(**reach), capture_output=True, text=True, check=False)
    assert done.stderr.count("is not in the catalog") == 1
    assert f"\nHint: did you mean {LLAMA!r}?" in done.stderr


def test_json_of_an_error_is_still_on_stderr(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    emulator.add_fault(Fault("status", status=403))
    done = kluster("chat", LLAMA, "hi", "--json", env=reach)
    assert (done.returncode, done.stdout) == (1, "")
    assert "(HTTP 403)" in done.stderr
