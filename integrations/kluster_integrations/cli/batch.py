"""`kluster batch`: jobs in folders, from a shell.

Exit codes beyond the usual: 3, where a part of it failed (inputs that ended as an error, or one folder of several).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kluster_integrations.catalog import Plan
from kluster_integrations.cli._errors import UsageError, connect, message_of, report, without_keys
from kluster_integrations.cli._models import complete_model, resolve
from kluster_integrations.cli._terminal import console, money
from kluster_integrations.cli._text import plain
from kluster_integrations.errors import BadRequestError, JobLockedError, KlusterError, NotFoundError

if TYPE_CHECKING:
    from rich.progress import Progress

    from kluster_integrations.batch import BatchJob, BatchResult, BatchStatus, CostEstimate, JobStatus

__all__ = ["app"]

app = typer.Typer(help="Batch jobs: answered within days, for less money. Each job is a folder.")

_PARTLY = 3

Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="The folders of the jobs.", show_default=False)]
Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder of the job; it is created if needed.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help="Where the API is.")]
Input = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Requests, one JSON per line: an object with messages, model and parameters, a list of messages, or a "
        "text; '-' is stdin. Default: the requests that the folder has.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="The model of requests that name no model.", autocompletion=complete_model),
]
Window = Annotated[
    Literal["24h", "48h", "72h", "auto"] | None,
    typer.Option(help="How long the service may take; auto is the cheapest. Default: 24h."),
]
MaxCost = Annotated[float | None, typer.Option(min=0, metavar="US$", help="Send nothing that would cost more.")]
ThePlan = Annotated[Plan | None, typer.Option(help="The account's plan; decides how many lines a job has.")]


@app.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def estimate(
    folder: Folder,
    input: Input = None,
    model: Model = None,
    as_json: AsJson = False,
    plan: ThePlan = None,
    base_url: BaseUrl = None,
) -> None:
    """Say what a job would cost in each window, and in real time. Nothing is sent."""
    with _job(folder, input, model, None, None, connect(plan=plan, base_url=base_url)) as job:
        found = job.estimate()
    if as_json:
        fields = {**dataclasses.asdict(found), "tokens": found.tokens._asdict(), "cheapest": found.cheapest}
        _print({"folder": str(folder), **fields})
    else:
        _show_estimate(found)


@app.command()
def submit(
    folder: Folder,
    input: Input = None,
    model: Model = None,
    window: Window = None,
    max_cost: MaxCost = None,
    as_json: AsJson = False,
    plan: ThePlan = None,
    base_url: BaseUrl = None,
) -> None:
    """Send a job. Run again after a stop, it sends nothing twice."""
    with _job(folder, input, model, window, max_cost, connect(plan=plan, base_url=base_url)) as job:
        job.submit()
        _show_status(folder, job.last_status(), as_json)


@app.command()
def status(folders: Folders, as_json: AsJson = False, base_url: BaseUrl = None) -> None:
    """Ask the service how the jobs are, and save the results of those that have ended."""

    def look(folder: Path) -> bool:
        with _open(folder, base_url) as job:
            return _show_status(folder, job.status(), as_json)

    _each(folders, look)


@app.command()
def watch(folders: Folders, as_json: AsJson = False, base_url: BaseUrl = None) -> None:
    """Wait until all inputs have a result; wrong answers are asked for again. Ctrl-C stops the wait, not the jobs."""
    folders = _each_once(folders)
    outcomes: dict[Path, BatchStatus | KlusterError] = {}
    with _bars() as bars:

        async def wait(folder: Path) -> None:
            try:
                with _open(folder, base_url) as job:
                    bars.start()
                    bar = bars.add_task(folder.name, total=None)
                    outcomes[folder] = await job.await_(
                        on_progress=lambda seen: bars.update(bar, total=seen.total, completed=seen.progress)
                    )
            except KlusterError as err:
                outcomes[folder] = err

        async def wait_for_all() -> None:
            await asyncio.gather(*map(wait, folders))

        asyncio.run(wait_for_all())

    def show(folder: Path) -> bool:
        outcome = outcomes[folder]
        if isinstance(outcome, KlusterError):
            raise outcome
        return _show_status(folder, outcome, as_json)

    _each(folders, show)


@app.command()
def results(folders: Folders, as_json: AsJson = False, base_url: BaseUrl = None) -> None:
    """Print the results in the order of the inputs: texts on stdout, errors on stderr; with --json all of them."""

    def show(folder: Path) -> bool:
        whole = True
        with _open(folder, base_url) as job:
            for result in job.results():
                whole = whole and result.error is None
                if as_json:
                    _print(_as_dict(result))
                elif (done := result.completion) is not None:
                    print(plain(done.text or json.dumps([dataclasses.asdict(call) for call in done.tool_calls])))
                elif result.error is not None:
                    line = f"{folder.name}[{result.index}]: {message_of(result.error)}"
                    print(plain(line, sys.stderr), file=sys.stderr)
        return whole

    _each(folders, show)


@app.command()
def cancel(folders: Folders, as_json: AsJson = False, base_url: BaseUrl = None) -> None:
    """Cancel the jobs. Answers that exist already are kept, and are charged."""

    def stop(folder: Path) -> bool:
        with _open(folder, base_url) as job:
            _show_status(folder, job.cancel(), as_json)
        return True

    _each(folders, stop)


@app.command("list")
def list_(folders: Folders, as_json: AsJson = False) -> None:
    """List the jobs in these folders and in their subfolders, as last seen. Nothing is sent."""

    def show(folder: Path) -> bool:
        try:
            with _open(folder, None) as job:
                return _show_status(folder, job.last_status(), as_json)
        except JobLockedError:
            if as_json:
                _print({"folder": str(folder), "locked": True})
            else:
                print(f"{folder}: another process works on it")
            return True

    found = [path for folder in _each_once(folders) for path in (_jobs_in(folder) or [folder])]
    _each(found, show)


def _jobs_in(folder: Path) -> list[Path]:
    """Return the folders of jobs: a folder itself, and those in it; none where it is not a folder."""
    from kluster_integrations.batch.journal import NAME

    return sorted(path.parent for name in (NAME, f"*/{NAME}") for path in folder.glob(name))


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT.py", help="The program.", show_default=False)],
    folder: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the job; it is created if needed.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS…", help="Arguments of the program; all that follow `--`.")
    ] = None,
    window: Annotated[
        Literal["24h", "48h", "72h", "auto"],
        typer.Option(help="How long the service may take for each round; auto is the cheapest."),
    ] = "72h",
    max_cost: MaxCost = None,
) -> None:
    """Run a Python program and send its chat requests as batch jobs. Run again after a stop, it sends nothing twice."""
    from kluster_integrations.batch import deferred

    if not script.is_file():
        raise NotFoundError(f"SCRIPT.py={str(script)!r} is not a file.", hint="check the path.")
    bars: list[Any] = []

    def show(seen: BatchStatus) -> None:
        rounds.start()
        for number, job in enumerate(seen.jobs):
            if number == len(bars):
                bars.append(rounds.add_task(f"round {number + 1}", total=job.lines))
            rounds.update(bars[number], description=f"round {number + 1}: {job.status}", completed=_ended(job))

    # What the program prints goes through the bar only where both are on the same terminal.
    on_terminal = sys.stdout.isatty()
    with _bars(redirect_stdout=on_terminal) as rounds:
        _run_script(script, arguments or [], lambda: deferred(folder, window, max_cost, show))


@contextmanager
def _bars(**options: Any) -> Iterator[Progress]:
    """Progress bars on stderr, to be started with the first; without one nothing is printed, not even an empty line."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, console=console(stderr=True), **options)
    try:
        yield bars
    finally:
        if bars.live.is_started:
            bars.stop()


def _ended(job: JobStatus) -> int:
    return job.lines if job.status == "completed" else job.answered + job.failed


def _run_script(script: Path, arguments: list[str], inside: Callable[[], AbstractContextManager[object]]) -> None:
    """Run a program as Python does, with its own traceback where it fails."""
    before = sys.argv, sys.path[:]
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        with inside():
            try:
                runpy.run_path(str(script), run_name="__main__")
            except Exception as err:
                # Without the frames of this command and of runpy.
                frames = err.__traceback__
                while frames is not None and frames.tb_frame.f_code.co_filename != str(script):
                    frames = frames.tb_next
                lines = traceback.format_exception(err.with_traceback(frames))
                print(without_keys("".join(lines)), end="", file=sys.stderr)
                raise typer.Exit(1) from None
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
                raise typer.Exit(end.code if isinstance(end.code, int) else int(end.code is not None)) from None
    finally:
        sys.argv, sys.path[:] = before


def _job(
    folder: Path, input: Path | None, model: str | None, window: Any, max_cost: float | None, config: Any
) -> BatchJob:
    from kluster_integrations.batch import BatchJob

    if input is None:
        if model is not None:
            raise UsageError("--model needs --input.")
        with _hints():
            return BatchJob.open(folder, config=config, window=window, max_cost=max_cost)
    given = {"model": model and resolve(model), "window": window, "max_cost": max_cost}
    options = {name: value for name, value in given.items() if value is not None}
    read = _Requests(input)
    try:
        return BatchJob.create(read, folder=folder, config=config, **options)
    except BadRequestError as err:
        if err.message.startswith("requests[") and read.line:
            err.message = f"--input={str(input)!r}, line {read.line}: {err.message}"
            if "model=None" in err.message:
                err.hint = "name the model with --model, or in the line."
        raise


def _open(folder: Path, base_url: str | None) -> BatchJob:
    from kluster_integrations.batch import BatchJob

    with _hints():
        return BatchJob.open(folder, config=connect(base_url=base_url))


@contextmanager
def _hints() -> Iterator[None]:
    """Give the error of a folder without a job a hint for a shell."""
    try:
        yield
    except NotFoundError as err:
        err.hint = "check the path; `kluster batch submit FOLDER --input FILE` begins a job."
        raise


class _Requests:
    """The requests of a file, once. Lines of a batch file, with a `body`, are read too.

    Attributes:
        line: The number of the line that was read last, from 1.
    """

    def __init__(self, path: Path) -> None:
        self.line = 0
        self._path = path

    def __iter__(self) -> Iterator[Any]:
        try:
            # Bytes, for a line that is not UTF-8 is to be named.
            file = sys.stdin.buffer if str(self._path) == "-" else self._path.open("rb")
        except OSError as err:
            what = f"--input={str(self._path)!r} cannot be read: {err.strerror}."
            raise NotFoundError(what, hint="check the path.") from None
        with file if file is not sys.stdin.buffer else nullcontext(file):
            for self.line, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                read = self._read(raw)
                if isinstance(read, str):
                    yield [{"role": "user", "content": read}]
                else:
                    yield read["body"] if isinstance(read, dict) and isinstance(read.get("body"), dict) else read

    def _read(self, raw: bytes) -> Any:
        try:
            return json.loads(raw.decode("utf-8-sig"))
        except UnicodeDecodeError as err:
            why, hint = f"is not UTF-8 ({err.reason} at byte {err.start})", "save the file as UTF-8."
        except RecursionError:
            why, hint = "is nested too deeply", "write a request with fewer levels."
        except ValueError as err:
            why, hint = f"is not JSON: {err}", "write one JSON per line."
        raise BadRequestError(f"--input={str(self._path)!r}, line {self.line} {why}.", hint=hint)


def _each_once(folders: Sequence[Path]) -> list[Path]:
    """Return folders, without those that are the same as one before."""
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def _each(folders: Sequence[Path], do: Callable[[Path], bool]) -> None:
    """Do something with each folder; an error of one does not stop the others.

    Args:
        folders: The folders.
        do: Returns whether all is well.

    Raises:
        typer.Exit: With 1 if every folder had an error, 3 if a part failed.
    """
    codes = []
    for folder in folders:
        try:
            codes.append(0 if do(folder) else _PARTLY)
        except KlusterError as err:
            if str(folder) not in err.message:
                err.message = f"{folder}: {err.message}"
            codes.append(report(err))
    if any(codes):
        raise typer.Exit(1 if set(codes) == {1} else _PARTLY)


def _show_status(folder: Path, status: BatchStatus, as_json: bool) -> bool:
    """Print a status, and return whether nothing has failed."""
    if as_json:
        _print({"folder": str(folder), **dataclasses.asdict(status), "is_done": status.is_done})
    else:
        failed = f", {status.failed} failed" if status.failed else ""
        print(f"{folder}: {status.answered} of {status.total} answered{failed}; {status.window}, {money(status.cost)}")
        for job in status.jobs:
            print(plain(f"  {job.id or '-'}  {job.status}  {job.answered + job.failed}/{job.lines}"))
    return not status.failed


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _show_estimate(found: CostEstimate) -> None:
    print(f"{_counted(found.lines, 'request')} in {_counted(found.files, 'file')}")
    print(f"about {found.tokens.prompt_tokens:,} tokens of prompts, {found.tokens.completion_tokens:,} of answers")
    if found.assumed:
        print(f"(without max_completion_tokens: {_counted(found.assumed, 'request')}; 500 tokens each are assumed)")
    for name, cost in (("real_time", found.real_time), *found.by_window.items()):
        mark = "  cheapest" if name == found.cheapest else ""
        print(f"  {name.replace('_', ' '):<9}  {money(cost)}{mark}")
    if found.unknown:
        print(f"Prices are not known of all: {', '.join(found.unknown)}", file=sys.stderr)


def _as_dict(result: BatchResult) -> dict[str, Any]:
    done, error = result.completion, result.error
    return {
        "index": result.index,
        "text": done.text if done else None,
        "reasoning": done.reasoning if done else None,
        "tool_calls": [dataclasses.asdict(call) for call in done.tool_calls] if done else None,
        "finish_reason": done.finish_reason if done else None,
        "model": done.model if done else None,
        "usage": done.usage._asdict() if done else None,
        "error": {"type": type(error).__name__, "message": error.message, "status_code": error.status_code}
        if error
        else None,
        "cost": result.cost,
        "tries": result.tries,
    }


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))
