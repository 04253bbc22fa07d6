"""`kluster batch` and `kluster verify`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kluster_integrations.batch import BatchJob
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import BatchBehavior, Emulator, Fault

from .conftest import LLAMA, Run


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": "Question 0"}]},
        [{"role": "user", "content": "Question 1"}],
        "Question 2",
        {
            "custom_id": "x",
            "method": "POST",
            "body": {"model": LLAMA, "messages": [{"role": "user", "content": "Question 3"}]},
        },
    ]
    path = tmp_path / "inputs.jsonl"
    path.write_text("\n\n".join(map(json.dumps, lines)), "utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "jobs" / "reviews")


@pytest.fixture
def env(reach: dict[str, str]) -> dict[str, str]:
    return {**reach, "KLUSTER_BATCH_POLL": "0.01", "KLUSTER_BATCH_SETTLE": "0.05", "KLUSTER_BATCH_QUIET": "0.5"}


@pytest.fixture
def submitted(kluster: Run, env: dict[str, str], inputs: Path, folder: str) -> Iterator[str]:
    done = kluster("batch", "submit", folder, "--input", str(inputs), "--model", LLAMA, env=env)
    assert done.returncode == 0, done.stderr
    return folder


def test_from_the_estimate_to_the_results(
    kluster: Run, env: dict[str, str], inputs: Path, folder: str, emulator: Emulator
) -> None:
    done = kluster("batch", "estimate", folder, "--input", str(inputs), "--model", LLAMA, env=env)
    assert done.returncode == 0, done.stderr
    assert "4 requests in 1 file\n" in done.stdout
    assert "72h        $0.000061  cheapest" in done.stdout
    assert emulator.requests == []
    done = kluster("batch", "submit", folder, "--window", "auto", "--max-cost", "0.01", env=env)
    assert "0 of 4 answered; 72h, $0.000000" in done.stdout
    done = kluster("batch", "watch", folder, env=env)
    assert (done.returncode, "4 of 4 answered" in done.stdout) == (0, True)
    assert "reviews" in done.stderr  # the bar
    done = kluster("batch", "results", folder, env=env)
    assert [f"Echo: Question {n}" == line for n, line in enumerate(done.stdout.splitlines())] == [True] * 4
    assert len(emulator.batches.jobs) == 1


def test_an_estimate_leaves_the_limit_and_the_window_as_they_are(
    kluster: Run, env: dict[str, str], inputs: Path, folder: str, emulator: Emulator
) -> None:
    asked = (folder, "--input", str(inputs), "--model", LLAMA)
    done = kluster("batch", "submit", *asked, "--window", "72h", "--max-cost", "0.0000001", env=env)
    assert (done.returncode, "max_cost=$0.0000001." in done.stderr) == (1, True)
    assert kluster("batch", "estimate", *asked, env=env).returncode == 0
    with BatchJob.open(folder, config=KlusterConfig(api_key="any-key", base_url=emulator.base_url)) as job:
        assert (job.window, job.max_cost) == ("72h", 1e-07)
    assert kluster("batch", "submit", *asked, env=env).returncode == 1
    assert len(emulator.batches.jobs) == 0


def test_estimate_as_json(kluster: Run, env: dict[str, str], inputs: Path, folder: str) -> None:
    done = kluster("batch", "estimate", folder, "--input", str(inputs), "--model", LLAMA, "--json", env=env)
    found = json.loads(done.stdout)
    assert (found["lines"], found["cheapest"], found["unknown"]) == (4, "72h", [])
    assert set(found["by_window"]) == {"24h", "48h", "72h"}
    assert found["tokens"]["total_tokens"] == found["tokens"]["prompt_tokens"] + found["tokens"]["completion_tokens"]


def test_too_expensive(kluster: Run, env: dict[str, str], inputs: Path, folder: str, emulator: Emulator) -> None:
    given = ("--input", str(inputs), "--model", LLAMA, "--max-cost", "0.00001")
    done = kluster("batch", "submit", folder, *given, env=env)
    assert (done.returncode, emulator.requests) == (1, [])
    assert "max_cost=$0.00001." in done.stderr


class TestFailures:
    @pytest.fixture(autouse=True)
    def _failing(self, emulator: Emulator) -> None:
        emulator.batches.behavior = BatchBehavior(failing={1: 400})

    def test_exit_code_3(self, kluster: Run, env: dict[str, str], submitted: str) -> None:
        done = kluster("batch", "watch", submitted, "--json", env=env)
        assert done.returncode == 3
        assert {k: json.loads(done.stdout)[k] for k in ("answered", "failed", "is_done")} == {
            "answered": 3,
            "failed": 1,
            "is_done": True,
        }
        assert kluster("batch", "status", submitted, env=env).returncode == 3

    def test_results(self, kluster: Run, env: dict[str, str], submitted: str) -> None:
        kluster("batch", "watch", submitted, env=env)
        done = kluster("batch", "results", submitted, env=env)
        assert (done.returncode, len(done.stdout.splitlines())) == (3, 3)
        assert done.stderr.startswith("reviews[1]: ")
        done = kluster("batch", "results", submitted, "--json", env=env)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert [r["index"] for r in results] == [0, 1, 2, 3]
        assert [r["error"]["type"] for r in results if r["error"]] == ["BadRequestError"]
        assert (results[0]["tries"], results[0]["model"]) == (1, LLAMA)

    def test_one_folder_of_two(self, kluster: Run, env: dict[str, str], submitted: str, tmp_path: Path) -> None:
        done = kluster("batch", "status", submitted, str(tmp_path / "none"), env=env)
        assert done.returncode == 3
        assert "holds no job" in done.stderr
        assert kluster("batch", "status", str(tmp_path / "none"), env=env).returncode == 1


def test_cancel(kluster: Run, env: dict[str, str], inputs: Path, folder: str, emulator: Emulator) -> None:
    emulator.batches.behavior = BatchBehavior(pre_schedule=3600)
    kluster("batch", "submit", folder, "--input", str(inputs), "--model", LLAMA, env=env)
    assert kluster("batch", "cancel", folder, env=env).returncode == 0
    done = kluster("batch", "watch", folder, env=env)
    assert (done.returncode, "0 of 4 answered, 4 failed" in done.stdout) == (3, True)
    assert [job.status for job in emulator.batches.jobs.values()] == ["cancelled"]


def test_list(kluster: Run, env: dict[str, str], submitted: str, emulator: Emulator) -> None:
    before = len(emulator.requests)
    done = kluster("batch", "list", str(Path(submitted).parent), env=env)
    assert done.stdout.startswith(f"{submitted}: 0 of 4 answered; 24h")
    done = kluster("batch", "list", submitted, "--json", env=env)
    assert json.loads(done.stdout)["total"] == 4
    assert len(emulator.requests) == before


def test_list_while_another_process_works_on_it(kluster: Run, env: dict[str, str], submitted: str) -> None:
    with BatchJob.open(submitted):
        done = kluster("batch", "list", submitted, env=env, alone=True)
    assert done.stdout == f"{submitted}: another process works on it\n"


class TestBadFolders:
    @pytest.fixture
    def broken(self, submitted: str) -> str:
        """A folder beside the job, whose journal cannot be read."""
        path = Path(submitted).parent / "broken"
        path.mkdir()
        (path / "job.sqlite").write_bytes(b"garbage" * 400)
        return str(path)

    @pytest.mark.parametrize("command", ["list", "status", "results", "watch"])
    def test_the_others_go_on(
        self, kluster: Run, env: dict[str, str], submitted: str, broken: str, tmp_path: Path, command: str
    ) -> None:
        (tmp_path / "file").write_text("x")
        bad = [broken, str(tmp_path / "none"), str(tmp_path / "file")]
        done = kluster("batch", command, *bad, submitted, "--json", env=env)
        assert (done.returncode, done.stdout.count("\n")) == (3, 4 if command == "results" else 1), done.stderr
        assert [folder in done.stderr for folder in bad] == [True] * 3

    def test_in_the_folder_that_is_listed(self, kluster: Run, env: dict[str, str], submitted: str, broken: str) -> None:
        done = kluster("batch", "list", str(Path(broken).parent), env=env)
        assert (done.returncode, submitted in done.stdout, broken in done.stderr) == (3, True, True)

    def test_a_list_of_nothing(self, kluster: Run, env: dict[str, str], tmp_path: Path) -> None:
        done = kluster("batch", "list", str(tmp_path / "none"), env=env)
        assert (done.returncode, f"folder='{tmp_path / 'none'}' holds no job" in done.stderr) == (1, True)

    def test_which_of_them_could_not_be_reached(
        self, kluster: Run, env: dict[str, str], submitted: str, emulator: Emulator
    ) -> None:
        emulator.add_fault(Fault("status", status=403, path=None))
        done = kluster("batch", "status", submitted, env=env)
        assert (done.returncode, f"Error: {submitted}: " in done.stderr) == (1, True)


def test_watching_a_folder_twice(kluster: Run, env: dict[str, str], submitted: str) -> None:
    done = kluster("batch", "watch", submitted, f"{submitted}/../reviews", "--json", env=env)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "line 3 is not JSON"),
        (b'{"prompt": "x"}', "line 3: requests[1]: model=None"),
        (b"3", "line 3: requests[1]"),
        (b'"caf\xe9"', "line 3 is not UTF-8 (invalid continuation byte at byte 4)"),
        (b"[" * 100_000, "line 3 is nested too deeply"),
    ],
)
def test_wrong_input(kluster: Run, env: dict[str, str], tmp_path: Path, folder: str, line: bytes, why: str) -> None:
    good = json.dumps({"model": LLAMA, "messages": [{"role": "user", "content": "x"}]}).encode()
    (tmp_path / "wrong.jsonl").write_bytes(good + b"\n\n" + line + b"\n")
    done = kluster("batch", "submit", folder, "--input", str(tmp_path / "wrong.jsonl"), env=env)
    assert (done.returncode, why in done.stderr) == (1, True), done.stderr
    assert ("--model" in done.stderr) == ("model=None" in done.stderr)
    assert not Path(folder).exists()


def test_input_from_a_pipe(kluster: Run, env: dict[str, str], folder: str, emulator: Emulator) -> None:
    done = kluster("batch", "submit", folder, "--input", "-", "--model", "llama-8b", stdin='"Question 0"\n', env=env)
    assert (done.returncode, len(emulator.batches.jobs)) == (0, 1), done.stderr
    watched = kluster("batch", "watch", folder, env=env)
    assert (watched.returncode, "1 of 1 answered" in watched.stdout) == (0, True), "the alias is a model"


def test_the_error_of_a_result_is_one_line(kluster: Run, env: dict[str, str], folder: str) -> None:
    kluster("batch", "submit", folder, "--input", "-", "--model", "no/such", stdin='"Question 0"\n', env=env)
    kluster("batch", "watch", folder, env=env)
    done = kluster("batch", "results", folder, env=env)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "reviews[0]: The model 'no/such' does not exist (HTTP 404)\n"


def test_no_input_and_no_job(kluster: Run, env: dict[str, str], folder: str) -> None:
    error, hint = kluster("batch", "submit", folder, env=env).stderr.splitlines()
    assert "holds no job" in error
    assert hint == "Hint: check the path; `kluster batch submit FOLDER --input FILE` begins a job."
    assert kluster("batch", "submit", folder, "--model", LLAMA, env=env).returncode == 2


class TestRun:
    PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from kluster_integrations.langchain import ChatKluster
from names import NAMES

chat = ChatKluster(model=sys.argv[1])
with ThreadPoolExecutor() as pool:
    for answer in pool.map(chat.invoke, NAMES):
        print(answer.text)
"""

    @pytest.fixture
    def script(self, tmp_path: Path) -> str:
        pytest.importorskip("langchain_core")
        (tmp_path / "names.py").write_text("NAMES = [f'Name {n}' for n in range(20)]", "utf-8")
        (tmp_path / "program.py").write_text(self.PROGRAM, "utf-8")
        return str(tmp_path / "program.py")

    def test_a_program(self, kluster: Run, env: dict[str, str], folder: str, script: str, emulator: Emulator) -> None:
        given = ("--folder", folder, "--window", "auto")
        seen = []
        for args in ([LLAMA, *given], [*given, "--", LLAMA]):  # the second time nothing is sent
            done = kluster("batch", "run", script, *args, env=env)
            assert done.returncode == 0, done.stderr
            answers = done.stdout.splitlines()
            assert [f"Echo: Name {n}" == line for n, line in enumerate(answers)] == [True] * 20
            seen.append(done.stderr)
        assert "round 1: completed" in seen[0]
        assert "20/20" in seen[0]
        assert seen[1] == ""
        assert [len(job.lines) for job in emulator.batches.jobs.values()] == [20]
        assert [job.window for job in emulator.batches.jobs.values()] == ["72h"]

    def test_too_expensive(
        self, kluster: Run, env: dict[str, str], folder: str, script: str, emulator: Emulator
    ) -> None:
        given = ("--folder", folder, "--max-cost", "0.000001")
        done = kluster("batch", "run", script, LLAMA, *given, env=env, traceback=True)
        assert (done.returncode, emulator.requests) == (1, [])
        assert "CostLimitError" in done.stderr
        assert "program.py" in done.stderr
        assert "runpy" not in done.stderr

    @pytest.mark.parametrize(
        ("code", "status", "said"), [("raise SystemExit(7)", 7, ""), ("raise SystemExit('no')", 1, "no\n"), ("", 0, "")]
    )
    def test_its_exit_code(
        self, kluster: Run, env: dict[str, str], folder: str, tmp_path: Path, code: str, status: int, said: str
    ) -> None:
        (tmp_path / "program.py").write_text(code, "utf-8")
        done = kluster("batch", "run", str(tmp_path / "program.py"), "--folder", folder, env=env)
        assert (done.returncode, said in done.stderr) == (status, True)

    def test_no_such_file(self, kluster: Run, env: dict[str, str], folder: str) -> None:
        done = kluster("batch", "run", "none.py", "--folder", folder, env=env)
        assert (done.returncode, "'none.py' is not a file" in done.stderr) == (1, True)


class TestVerify:
    ASK = ("verify", "What is the capital of France?")
    CONTEXT = ("--context", "The capital of France is Paris.")

    @pytest.fixture(autouse=True)
    def _objecting(self, emulator: Emulator) -> None:
        emulator.reply(json={"is_hallucination": True, "explanation": "Lyon is not in it."}, when="It is Lyon.")

    def test_reliable(self, kluster: Run, env: dict[str, str]) -> None:
        done = kluster(*self.ASK, "The capital of France is Paris.", *self.CONTEXT, env=env)
        assert (done.returncode, done.stdout.splitlines()[0]) == (0, "reliable")

    def test_made_up(self, kluster: Run, env: dict[str, str], tmp_path: Path, emulator: Emulator) -> None:
        context = tmp_path / "context.txt"
        context.write_text(self.CONTEXT[1])
        done = kluster(*self.ASK, "-", "--context-file", str(context), "--json", stdin="It is Lyon.", env=env)
        assert (done.returncode, json.loads(done.stdout)["reliable"]) == (3, False)
        assert json.loads(done.stdout)["explanation"] == "Lyon is not in it."
        assert emulator.requests[0].body["context"] == self.CONTEXT[1]

    def test_both_contexts(self, kluster: Run, env: dict[str, str]) -> None:
        assert kluster(*self.ASK, "x", *self.CONTEXT, "--context-file", "y", env=env).returncode == 2
