"""`kluster chat` as a person has it: in a real terminal, with keys, a paste, Ctrl-C and Tab."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations.cli._images import red_disc
from kluster_integrations.emulator import Emulator, Fault

from ..pages import ROOT, blocks
from .conftest import GEMMA, KEY, LLAMA, QWEN, command, environment
from .tmux import Tmux, tmux

Start = Callable[..., Tmux]


@pytest.fixture
def start(tmp_path: Path, reach: dict[str, str]) -> Iterator[Start]:
    """Start `kluster …` in a terminal; its folder is `tmp_path`, its data are below `tmp_path/data`."""
    with ExitStack() as stack:

        def run(*args: str, program: list[str] | None = None, **env: str) -> Tmux:
            home = {"XDG_DATA_HOME": str(tmp_path / "data"), "TERM": "screen-256color", "PYTHONPATH": ""}
            folder = tmp_path if not (tmp_path / "tmux").exists() else tmp_path / f"again{len(env)}"
            folder.mkdir(exist_ok=True)
            whole = environment(**reach, **home, **env)
            wanted = {n: v for n, v in whole.items() if n in ("PATH", "HOME", "VIRTUAL_ENV", *reach, *home, *env)}
            return stack.enter_context(tmux(folder, program or command(*args), wanted))

        yield run


def asked(emulator: Emulator, number: int = -1) -> list[dict[str, Any]]:
    """Return the messages of a request."""
    body = emulator.requests[number].body
    assert isinstance(body, dict)
    return list(body["messages"])


def test_a_paste_is_one_message(emulator: Emulator, start: Start) -> None:
    emulator.reply("Hello, I am a model.", reasoning="A new face.")
    emulator.reply("You are Ada.", when=lambda request: "My name is Ada." in str(request.messages[:-1]))
    terminal = start("chat", "qwen", "-s", "Be kind.")
    terminal.until("\n>")
    terminal.paste("My name is Ada.\n\nHello!")
    terminal.until("Hello!")
    assert emulator.requests == []
    terminal.type("", "Enter")
    terminal.until("I am a model.")
    terminal.until("\n>", times=2)
    terminal.type("", "Enter")  # an empty line asks nothing
    terminal.type("What is my name?", "Enter")
    screen = terminal.until("You are Ada.")
    assert "Thoughts: A new face." in screen
    terminal.type("/exit", "Enter")
    terminal.until("[exit 0]")
    assert [message["role"] for message in asked(emulator)] == ["system", "user", "assistant", "user"]
    assert asked(emulator)[1]["content"] == "My name is Ada.\n\nHello!"
    assert emulator.requests[0].body["model"] == QWEN  # type: ignore[index]
    assert len(emulator.requests) == 2


def test_ctrl_c_ends_the_answer_and_not_the_conversation(emulator: Emulator, start: Start) -> None:
    emulator.reply("One two three four five six seven eight nine ten. " * 40, times=1)
    emulator.add_fault(Fault("slow", delay=0.1))
    terminal = start("chat", LLAMA)
    terminal.until("\n>")
    terminal.type("Count.", "Enter")
    terminal.until("One two three")
    terminal.type("", "C-c")
    terminal.until("(stopped)")
    terminal.prompted(2)
    terminal.type("half a li", "C-c")  # a line that is begun is forgotten
    terminal.until("\n>", times=2)
    terminal.type("Still there?", "Enter")
    terminal.until("Echo: Still there?")
    terminal.prompted(3)
    question, stopped, _ = asked(emulator)
    assert question["content"] == "Count."
    assert stopped["content"].startswith("One two three")
    assert stopped["role"] == "assistant"
    terminal.type("", "C-c")
    terminal.until("Ctrl-C again")
    terminal.prompted(4)
    terminal.type("", "C-c")
    terminal.until("[exit 130]")


def test_an_error_does_not_end_it(emulator: Emulator, start: Start) -> None:
    emulator.add_fault(Fault("status", status=400))
    terminal = start("chat", LLAMA)
    terminal.until("\n>")
    terminal.type("First", "Enter")
    terminal.prompted(2)
    assert "Error: " in terminal.screen
    terminal.type("Second", "Enter")
    terminal.until("Echo: Second")
    assert [message["content"] for message in asked(emulator)] == ["Second"]
    terminal.prompted(3)
    terminal.type("", "C-d")
    terminal.until("[exit 0]")


def test_a_conversation_survives_a_bad_path_and_a_refused_key(emulator: Emulator, start: Start) -> None:
    terminal = start("chat", LLAMA, "--no-log")
    terminal.until("\n>")
    terminal.type("/image ~nobody-here/a.png", "Enter")
    terminal.until("cannot read '~nobody-here/a.png'")
    terminal.type("/save ~nobody-here/a.md", "Enter")
    terminal.until("cannot be written")
    terminal.type("My name is Ada.", "Enter")
    terminal.until("Echo: My name is Ada.")
    terminal.prompted(4)
    emulator.add_fault(Fault("status", status=401))
    terminal.type("And now?", "Enter")
    terminal.until("(HTTP 401)")
    terminal.prompted(5)
    terminal.type("Still there?", "Enter")
    terminal.until("Echo: Still there?")
    assert [message["content"] for message in asked(emulator)][::2] == ["My name is Ada.", "Still there?"]


def test_the_conversation_of_the_page(emulator: Emulator, start: Start, tmp_path: Path) -> None:
    """Line by line, as docs/command-line.md shows it."""
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 a photo \xff\xd9")
    emulator.reply("A red disc on white.")
    page = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    first, *lines = next(one.code for one in blocks(page, "console") if "> /image" in one.code).splitlines()
    terminal = start(*first.removeprefix("$ kluster ").split())
    typed = 0
    for line in lines:
        if line.startswith("> "):
            typed += 1
            terminal.prompted(typed)
            terminal.type(line.removeprefix("> "), "Enter")
        else:
            terminal.until(f"\n{line}\n")
    assert typed == 3


def test_the_commands(emulator: Emulator, start: Start, tmp_path: Path) -> None:
    (tmp_path / "disc.png").write_bytes(red_disc(40))
    terminal = start("chat", "--no-log")
    terminal.until("\n>")
    terminal.type("/modle", "Enter")
    terminal.until("Error: There is no command /modle; did you mean /model?")
    terminal.type("/mo", "Tab")
    terminal.until("> /model")
    terminal.type("gem", "Tab")
    terminal.until("> /model gemma")
    terminal.type("", "Enter")
    terminal.until(f"The model is {GEMMA}.")
    terminal.type("/image nowhere.png", "Enter")
    terminal.until("cannot read 'nowhere.png'")
    terminal.type("/image disc.png", "Enter")
    terminal.until("1 image will go with the next question.")
    terminal.type("/system Be brief.", "Enter")
    terminal.until("The system prompt is 'Be brief.'")
    terminal.type("What is in it?", "Enter")
    terminal.until("[image/png]")
    assert [message["role"] for message in asked(emulator)] == ["system", "user"]
    terminal.type("/etc/hosts is a file", "Enter")  # not a command: it has a second slash
    terminal.until("Echo: /etc/hosts is a file")
    assert "data:image/png" in str(asked(emulator)[1]), "the image stays in the conversation"
    assert "data:image/png" not in str(asked(emulator)[-1])
    terminal.type("/save talk.md", "Enter")
    terminal.until("Saved in talk.md.")
    terminal.type("/save talk.md", "Enter")
    terminal.until("is there already")
    terminal.type("/clear", "Enter")
    terminal.until("A new conversation.")
    terminal.type("Afresh", "Enter")
    terminal.until("Echo: Afresh")
    assert [message["content"] for message in asked(emulator)] == ["Be brief.", "Afresh"]
    terminal.type("/help", "Enter")
    terminal.until("Alt-Enter begins a new line")
    saved = (tmp_path / "talk.md").read_text("utf-8")
    assert "(an image)\n\nWhat is in it?" in saved
    assert not (tmp_path / "data").exists(), "with --no-log nothing is kept"


def test_it_goes_on_with_the_last_one(emulator: Emulator, start: Start, tmp_path: Path) -> None:
    terminal = start("chat", "gemma", "-s", "Be brief.")
    terminal.until("\n>")
    terminal.type(f"My key is {KEY}.", "Enter")
    terminal.until("Echo: My key")
    terminal.prompted(2)
    terminal.type("", "C-d")
    terminal.until("[exit 0]")
    again = start("chat", "-c", KLUSTER_TIMEOUT="60")
    again.until(f"{GEMMA}; ")
    again.type("", "Up")
    again.until("> My key is ***.")
    again.type("", "C-c")
    again.type("And now?", "Enter")
    again.until("Echo: And now?")
    again.prompted(2)  # the turn is written by then
    roles = [message["role"] for message in asked(emulator)]
    assert roles == ["system", "user", "assistant", "user"]
    folder = tmp_path / "data" / "kluster"
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert modes == {"logs.db": 0o600, "history": 0o600}
    kept = b"".join(file.read_bytes() for file in folder.iterdir())
    assert KEY.encode() not in kept
    with sqlite3.connect(folder / "logs.db") as log:
        assert log.execute("SELECT DISTINCT conversation FROM turns").fetchall() == [(1,)]


def test_schema_and_tools(emulator: Emulator, start: Start, tmp_path: Path) -> None:
    (tmp_path / "weather.py").write_text(
        'async def get_weather(city: str) -> dict:\n    "The weather of a city."\n    return {"degrees": 18}\n'
    )
    emulator.reply(tool_calls=[{"name": "get_weather", "arguments": {"city": "Lisbon"}}], when="Lisbon", times=1)
    emulator.reply(json={"city": "Lisbon", "degrees": 18})
    terminal = start("chat", "gemma", "--tool", "weather:get_weather", "--schema", "city,degrees:int", "--usage")
    terminal.until("\n>")
    terminal.type("The weather in Lisbon?", "Enter")
    screen = terminal.until(" tokens, $")
    assert '-> get_weather({"city": "Lisbon"}) returns {"degrees": 18}' in screen
    assert '{"city":"Lisbon","degrees":18}' in screen.replace(": ", ":").replace(", ", ",")
    assert len(emulator.requests) == 2


def test_a_wait_is_counted_down(emulator: Emulator, start: Start) -> None:
    emulator.add_fault(Fault("status", status=429, retry_after=6))
    terminal = start("chat", LLAMA, "Hello")
    terminal.until("Too many requests: next try in ")
    terminal.until("Echo: Hello")
    screen = terminal.until("[exit 0]")
    assert "next try" not in screen


# As `kluster chat` does it; at the least of the plans it would take 31 questions.
OVER_THE_LIMIT = f"""
from kluster_integrations.cli._waiting import shown_waits
from kluster_integrations.core.client import Client
from kluster_integrations.limits import Limits

client = Client(None, limits=Limits(requests=1, period=6, slack=0))
for number in (1, 2):
    with shown_waits():
        request = client.build("{LLAMA}", [dict(role="user", content=f"Question {{number}}")], {{}})
        print(client.complete(request).text)
"""


def test_a_wait_for_ones_own_limit_is_counted_down(emulator: Emulator, start: Start) -> None:
    terminal = start(program=[sys.executable, "-c", OVER_THE_LIMIT])
    terminal.until("Echo: Question 1")
    terminal.until("The limit is 1 requests in 6 s: next try in ")
    terminal.until("Echo: Question 2")
    assert "next try" not in terminal.until("[exit 0]")


def test_the_shell_completes(start: Start, tmp_path: Path) -> None:
    shim = tmp_path / "kluster"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kluster_integrations.cli "$@"\n')
    shim.chmod(0o755)
    script = f'export PATH={tmp_path}:$PATH; source <(_KLUSTER_COMPLETE=source_bash kluster); PS1="% "'
    (tmp_path / "rc").write_text(script)
    with tmux(tmp_path, ["bash", "--rcfile", str(tmp_path / "rc"), "-i"], environment()) as terminal:
        terminal.until("%")
        terminal.type("kluster ali", "Tab")
        terminal.until("% kluster aliases")
        terminal.type("", "C-u")
        terminal.type("kluster chat gem", "Tab")
        terminal.until("% kluster chat gemma")
        terminal.type("", "C-u")
        terminal.type("kluster chat -m deepseek-ai/DeepSeek-R", "Tab")
        terminal.until("kluster chat -m deepseek-ai/DeepSeek-R1-0528")
