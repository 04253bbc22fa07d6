from __future__ import annotations

import base64
import json
import os
import pty
import select
import socket
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from kluster_integrations import catalog
from kluster_integrations.cli._images import red_disc
from kluster_integrations.emulator import Emulator, Fault

from ..raw_server import RawServer, Reply, sse
from .conftest import GEMMA, KEY, LLAMA, QWEN, Run, command, environment


def test_the_answer_is_stdout(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    emulator.reply("Two slices of bread, and what is between.")
    done = kluster("chat", LLAMA, "What is a sandwich?", env=reach)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Two slices of bread, and what is between.\n"
    [request] = emulator.requests
    assert request.body == {
        "model": LLAMA,
        "messages": [{"role": "user", "content": "What is a sandwich?"}],
        "stream": True,
    }


def test_options_reach_the_server(kluster: Run, emulator: Emulator) -> None:
    emulator.reply("An answer of more than five tokens.")
    args = ("--system", "Be brief.", "--max-tokens", "5", "--temperature", "0.5", "--base-url", emulator.base_url)
    done = kluster("chat", LLAMA, "Hello", *args, env={"KLUSTER_API_KEY": KEY})
    assert done.returncode == 0
    assert done.stderr.startswith("Note: the answer was cut")
    body = emulator.requests[0].body
    assert isinstance(body, dict)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["max_completion_tokens"], body["temperature"]) == (5, 0.5)


def test_another_parameter(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    options = ["-o", "top_p=0.9", "-o", 'stop=["END"]', "--option", "seed=7"]
    assert kluster("chat", LLAMA, "Hello", *options, env=reach).returncode == 0
    body = emulator.requests[0].body
    assert isinstance(body, dict)
    assert (body["top_p"], body["stop"], body["seed"]) == (0.9, ["END"], 7)


def test_a_parameter_of_a_deployment(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    kluster("chat", LLAMA, "Hello", "-o", 'extra_body={"top_k": 5}', env=reach)  # the strict emulator refuses it
    body = emulator.requests[0].body
    assert isinstance(body, dict)
    assert body["top_k"] == 5


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        ("top_p", 2, "--option 'top_p' must be NAME=VALUE, such as top_p=0.9."),
        ("model=gemma", 2, "--option model cannot be set: use --model."),
        ("top_p=high", 1, "top_p='high' must be a number from 0 to 1"),
        ("top_q=1", 1, "kluster.ai does not take top_q=1"),
    ],
)
def test_a_parameter_that_cannot_be(
    kluster: Run, emulator: Emulator, reach: dict[str, str], option: str, code: int, said: str
) -> None:
    done = kluster("chat", LLAMA, "Hello", "-o", option, env=reach)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert emulator.requests == []


@pytest.mark.parametrize("args", [[], ["-"]])
def test_the_prompt_from_a_pipe(kluster: Run, emulator: Emulator, reach: dict[str, str], args: list[str]) -> None:
    done = kluster("chat", LLAMA, *args, stdin="Zwei Zeilen:\nGrüße\n", env=reach)
    assert done.returncode == 0
    body = emulator.requests[0].body
    assert isinstance(body, dict)
    assert body["messages"] == [{"role": "user", "content": "Zwei Zeilen:\nGrüße"}]


@pytest.mark.parametrize(("piped", "asked"), [("Zwei\nZeilen\n", "Zwei\nZeilen\n\nWas?"), ("\n", "Was?"), ("", "Was?")])
def test_a_pipe_goes_before_the_prompt(
    kluster: Run, emulator: Emulator, reach: dict[str, str], piped: str, asked: str
) -> None:
    done = kluster("chat", LLAMA, "Was?", stdin=piped, env=reach, alone=True)
    assert done.returncode == 0
    body = emulator.requests[0].body
    assert isinstance(body, dict)
    assert body["messages"] == [{"role": "user", "content": asked}]


def test_a_stdin_that_is_no_pipe_is_not_waited_for(emulator: Emulator, reach: dict[str, str]) -> None:
    ours, theirs = socket.socketpair()  # as a service manager gives it: open, and silent
    with ours, theirs:
        done = subprocess.run(
            command("chat", LLAMA, "Was?"), stdin=theirs, env=environment(**reach), capture_output=True, check=False
        )
    assert done.returncode == 0
    assert len(emulator.requests) == 1


def test_an_empty_pipe_is_wrong_usage(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    done = kluster("chat", LLAMA, stdin="\n", env=reach)
    assert done.returncode == 2
    assert "PROMPT is empty" in done.stderr
    assert emulator.requests == []


def test_thoughts_never_mix_with_the_text(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    emulator.reply("Three.", reasoning="I count them.")
    done = kluster("chat", QWEN, "How many apples?", env=reach)
    assert done.stdout == "Three.\n"
    assert done.stderr == "Thoughts: I count them.\n"


def test_the_reasoning_can_be_hidden(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    emulator.reply("Three.", reasoning="I count them.")
    done = kluster("chat", QWEN, "How many apples?", "-R", env=reach)
    assert (done.stdout, done.stderr) == ("Three.\n", "")


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("Here:\n\n```python\nprint(1)\n\nprint(2)\n```\nand\n```\nmore\n```\n", "print(1)\n\nprint(2)\n"),
        ("````md\n```\ninner\n```\n````", "```\ninner\n```\n"),
        ("1. First:\n   ```py\n   if x:\n       y()\n   ```\n2. Then", "if x:\n    y()\n"),
        ("~~~\nprint(1)\n~~~", "print(1)\n"),
        ("```md\n```py\n```\n", "```py\n"),
        ("No code.", "No code.\n"),
    ],
)
def test_the_code_of_an_answer_alone(
    kluster: Run, emulator: Emulator, reach: dict[str, str], answer: str, shown: str
) -> None:
    emulator.reply(answer)
    assert kluster("chat", LLAMA, "A program?", "-x", env=reach).stdout == shown
    assert kluster("logs", "-x", env=reach).stdout == shown


def test_an_answer_that_was_cut_inside_the_thoughts_is_noted_once(
    kluster: Run, emulator: Emulator, reach: dict[str, str]
) -> None:
    emulator.reply("Three.", reasoning="The user counts apples, and so do I.")
    done = kluster("chat", QWEN, "How many apples?", "--max-tokens", "3", env=reach, alone=True)
    assert (done.returncode, done.stdout) == (0, "")
    thoughts, note, *rest = done.stderr.splitlines()
    assert thoughts.startswith("Thoughts: The user")
    assert note.startswith("Note: the answer was cut at its limit of tokens; --max-tokens")
    assert rest == []


def test_json_has_all_of_the_answer(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    emulator.reply("Drei Äpfel.", reasoning="I count them.")
    done = kluster("chat", QWEN, "How many äpples?", "--json", env=reach)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    keys = {"text", "reasoning", "tool_calls", "usage", "finish_reason", "model", "id", "cost"}
    assert set(answer) == keys
    assert answer["text"] == "Drei Äpfel."
    assert answer["reasoning"] == "I count them."
    assert (answer["finish_reason"], answer["model"], answer["tool_calls"]) == ("stop", QWEN, [])
    usage = answer["usage"]
    assert usage["estimated"] is True
    cost = catalog.get(QWEN).cost(usage["prompt_tokens"], usage["completion_tokens"])
    assert answer["cost"] == pytest.approx(cost, rel=1e-11)
    assert len(str(answer["cost"])) < 16, "without the noise of floats"


def test_an_unknown_price_is_null(kluster: Run) -> None:
    with RawServer() as server:
        server.script(Reply(sse({"content": "Hi"})))
        done = kluster(
            "chat", "my-own", "Hi", "--json", env={"KLUSTER_BASE_URL": server.base_url, "KLUSTER_API_KEY": KEY}
        )
    assert json.loads(done.stdout)["cost"] is None


def test_a_call_where_no_tool_was_offered_is_asked_for_again(kluster: Run) -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"at": 1}'}}
    with RawServer() as server:
        server.script(Reply(sse({"tool_calls": [call]}, finish="tool_calls")))
        done = kluster("chat", LLAMA, "Hi", "--json", env={"KLUSTER_BASE_URL": server.base_url, "KLUSTER_API_KEY": KEY})
        assert len(server.requests) == 2
    said = json.loads(done.stdout)
    assert (said["text"], said["tool_calls"]) == ("Hello", [])


def test_a_cut_answer_is_an_error_on_a_line_of_its_own(kluster: Run, emulator: Emulator, reach: dict[str, str]) -> None:
    emulator.reply("One two three four.")
    emulator.add_fault(Fault("cut", chunks=3))
    done = kluster("chat", LLAMA, "Hello", env=reach)
    assert done.returncode == 1
    assert done.stdout == "One two\n"
    assert done.stderr.startswith("Error: ")


def _tiny_webp() -> bytes:
    return b"RIFF\x1a\x00\x00\x00WEBPVP8L" + bytes(16)


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (red_disc(8), "image/png"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "image/jpeg"),
        (b"GIF89a" + bytes(20), "image/gif"),
        (_tiny_webp(), "image/webp"),
    ],
)
def test_the_type_of_an_image_is_told_by_its_content(
    kluster: Run, tmp_path: Path, content: bytes, media_type: str
) -> None:
    file = tmp_path / "picture.txt"
    file.write_bytes(content)
    with RawServer() as server:
        server.script(Reply(sse({"content": "A picture"})))
        env = {"KLUSTER_BASE_URL": server.base_url, "KLUSTER_API_KEY": KEY}
        done = kluster("chat", GEMMA, "What?", "--image", str(file), "--image", "https://host/x.png", env=env)
        [request] = server.requests
    assert (done.returncode, done.stdout) == (0, "A picture\n")
    url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    assert request.json["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": {"url": "https://host/x.png"}},
        {"type": "text", "text": "What?"},
    ]


def test_the_emulator_sees_an_image_file(
    kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "disc.png"
    file.write_bytes(red_disc(40))
    assert "[image/png]" in kluster("chat", GEMMA, "What?", "--image", str(file), env=reach).stdout
    assert base64.b64encode(red_disc(40)).decode() in str(emulator.requests[0].body)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"", "is empty"), (b"%PDF-1.7", "is not a PNG, JPEG, GIF or WebP image")],
)
def test_what_is_no_image_is_refused(
    kluster: Run, emulator: Emulator, reach: dict[str, str], tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "picture.png"
    if content is not None:
        file.write_bytes(content)
    done = kluster("chat", GEMMA, "What?", "--image", str(file), env=reach)
    assert done.returncode == 2
    assert said in done.stderr
    assert "picture.png" in done.stderr
    assert emulator.requests == []


def test_a_text_model_takes_no_image(kluster: Run, reach: dict[str, str]) -> None:
    done = kluster("chat", LLAMA, "What?", "--image", "https://host/x.png", env=reach)
    assert done.returncode == 1
    assert "takes no images" in done.stderr
    assert GEMMA in done.stderr


def test_red_disc_is_a_png_that_decodes() -> None:
    png, size = red_disc(16), 16
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(body)
        chunks[body[:4]] = body[4:]
        at += 12 + length
    rows = zlib.decompress(chunks[b"IDAT"])
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (size, size)
    assert len(rows) == size * (1 + 3 * size)
    middle = rows[8 * (1 + 3 * size) + 1 + 3 * 8 :][:3]
    assert (middle, rows[1:4]) == (b"\xd4\x1f\x1f", b"\xff\xff\xff")


class Terminal:
    """`kluster` on a terminal of its own."""

    def __init__(self, *args: str, env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            command(*args),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**{"TERM": "xterm", "COLUMNS": "80"} | env),
            start_new_session=True,
        )
        os.close(slave)
        self._read = ""

    def until(self, text: str) -> str:
        """Read up to a text, and return what came since the last one."""
        while text not in self._read:
            poll = select.poll()  # select() takes no descriptor above 1,023
            poll.register(self._master, select.POLLIN)
            assert poll.poll(60_000), f"no {text!r} in {self._read!r}"
            try:
                self._read += os.read(self._master, 4096).decode()
            except OSError:  # the terminal's other end is closed
                raise AssertionError(f"no {text!r} in {self._read!r}") from None
        at = self._read.index(text) + len(text)
        seen, self._read = self._read[:at], self._read[at:]
        return seen

    def wait(self) -> int:
        code = self._process.wait(60)
        os.close(self._master)
        return code


def test_a_model_cannot_steer_the_terminal() -> None:
    with RawServer() as server:
        server.script(Reply(sse({"content": "a\x1b]0;owned\x07b\n\tc"})), Reply(sse({"content": "a\x1b]0;owned\x07b"})))
        env = {"KLUSTER_BASE_URL": server.base_url, "KLUSTER_API_KEY": KEY}
        terminal = Terminal("chat", "my-own", "Hi", env=env)
        assert terminal.until("c\r\n") == "a]0;ownedb\r\n\tc\r\n"
        assert terminal.wait() == 0
        piped = subprocess.run(command("chat", "my-own", "Hi"), env=environment(**env), capture_output=True, check=True)
    assert piped.stdout == b"a\x1b]0;owned\x07b\n"


STEER = "\x1b]0;owned\x07\x9b31m"


def test_neither_can_a_server_or_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steering.py").write_text(f"def look(at: str) -> str:\n    return {STEER!r}\n")
    monkeypatch.chdir(tmp_path)
    arguments = json.dumps({"at": STEER}, ensure_ascii=False)
    call = {"index": 0, "id": "c1", "function": {"name": "look", "arguments": arguments}}
    refusal = json.dumps({"error": {"message": f"Not {STEER} so."}}).encode()
    with RawServer() as server:
        server.script(
            Reply(sse({"tool_calls": [call]}, finish="tool_calls")),
            Reply([refusal], status=400, content_type="application/json", framing="length"),
        )
        env = {"KLUSTER_BASE_URL": server.base_url, "KLUSTER_API_KEY": KEY, "NO_COLOR": "1"}
        terminal = Terminal("chat", LLAMA, "Hi", "-T", "steering:look", "--no-log", env=env)
        shown = terminal.until("so. (HTTP 400)")
        assert terminal.wait() == 1
    assert "returns ]0;owned" in shown
    assert "Error: Not ]0;owned31m so." in shown
    assert not set("\x1b\x07\x9b") & set(shown)


def test_a_dumb_terminal_gets_no_escape_codes() -> None:
    with RawServer() as server:
        again = Reply(
            [b"{}"], status=429, content_type="application/json", headers={"Retry-After": "1"}, framing="length"
        )
        server.script(again, Reply(sse({"reasoning_content": "Hm.", "content": "Hello"})))
        env = {"KLUSTER_BASE_URL": server.base_url, "KLUSTER_API_KEY": KEY, "TERM": "dumb"}
        terminal = Terminal("chat", QWEN, "Hi", "--no-log", env=env)
        shown = terminal.until("Hello")
        assert terminal.wait() == 0
    assert "next try in 1 s" in shown
    assert "Thoughts: Hm." in shown
    assert "\x1b" not in shown


def test_what_a_conversation_cannot_be(reach: dict[str, str]) -> None:
    terminal = Terminal("chat", LLAMA, "-o", "top_p=7", env=reach)
    terminal.until("top_p=7 must be a number")  # before the first question
    assert terminal.wait() == 1
    terminal = Terminal("chat", LLAMA, "--json", env=reach)
    assert "--json needs a PROMPT" in terminal.until("Hint: ")
    assert terminal.wait() == 2
