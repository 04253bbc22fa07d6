"""Files, uploads and batch jobs of one emulator, and how a test can change what happens to them."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from kluster_integrations.catalog import PlanLimits
from kluster_integrations.emulator.errors import ApiError, error_body

__all__ = ["ENDPOINT", "FILE_BYTES", "BatchBehavior", "Batches", "Job", "StoredFile", "Upload", "new_id"]

ENDPOINT = "/v1/chat/completions"
FILE_BYTES = 100_000_000
"""The docs' 100 MB, read as the smaller of its two meanings."""
WINDOWS = {"24h": 24, "48h": 48, "72h": 72}
_DAY = 86_400
_QUEUED = "Your request has been queued for adaptive inference. "

Fields = dict[str, Any]
Answer = Callable[[Fields], Awaitable[Fields]]


def new_id() -> str:
    """Return an id as the live service makes them: 24 hex digits."""
    return secrets.token_hex(12)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBehavior:
    """What happens to batch jobs and their files.

    Args:
        line_time: Seconds per line.
        pre_schedule: Seconds in the status `pre_schedule`, which was seen live but is not documented.
        list_lag: Seconds until a new job appears in the list.
        file_lag: Seconds after an upload during which `GET /v1/files/{id}` answers 404, as seen live.
        largest_post: The most bytes of a file that `POST /v1/files` accepts; larger ones get 413 and need
            `/v1/uploads`.
        text_timestamps: Whether `*_at` are text with a decimal number, as seen live, and not numbers.
        errors: The form of `errors`: `null`, `list`, or `object` (OpenAI's); `auto` is null unless the job fails.
        missing: Numbers of lines, from 0, that are in neither the output file nor the error file.
        texts: Texts by number of the line, which replace the engine's answers.
        failing: HTTP statuses by number of the line, with which these lines end in the error file.
        expires_after: How many lines are answered before the job expires; None never expires.
        fails: The reason why the service refuses the whole job; None if it does not.
        create: `ok`, or how `POST /v1/batches` fails: with a `500`, or by a `hang` (no answer), `before` or `after` the
            job is created.
    """

    line_time: float = 0.0
    pre_schedule: float = 0.0
    list_lag: float = 0.0
    file_lag: float = 0.0
    largest_post: int = FILE_BYTES
    text_timestamps: bool = False
    errors: Literal["auto", "null", "list", "object"] = "auto"
    missing: Collection[int] = ()
    texts: Mapping[int, str] = field(default_factory=dict)
    failing: Mapping[int, int] = field(default_factory=dict)
    expires_after: int | None = None
    fails: str | None = None
    create: Literal["ok", "500 before", "500 after", "hang before", "hang after"] = "ok"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A complete file."""

    name: str
    purpose: str
    data: bytes
    id: str = field(default_factory=new_id)
    created: float = field(default_factory=time.time)

    def fields(self) -> Fields:
        """Return the file object of the API."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": int(self.created),
            "filename": self.name,
            "purpose": self.purpose,
        }


@dataclass(slots=True, eq=False)
class Upload:
    """A file that is uploaded in parts."""

    name: str
    purpose: str
    size: int
    id: str = field(default_factory=new_id)
    created: float = field(default_factory=time.time)
    status: Literal["pending", "completed", "cancelled"] = "pending"
    parts: dict[str, bytes] = field(default_factory=dict)
    file: StoredFile | None = None

    def fields(self) -> Fields:
        """Return the upload object of the API. An upload expires after an hour."""
        return {
            "id": self.id,
            "object": "upload",
            "bytes": self.size,
            "created_at": int(self.created),
            "expires_at": int(self.created) + 3_600,
            "filename": self.name,
            "purpose": self.purpose,
            "status": self.status,
            "file": self.file.fields() if self.file else None,
        }


@dataclass(slots=True, eq=False)
class Job:
    """One batch job.

    Attributes:
        custom_ids: The lines' ids, in order.
    """

    file_id: str
    window: str
    metadata: Fields | None
    behavior: BatchBehavior
    lines: list[Fields]
    problems: list[Fields]
    id: str = field(default_factory=new_id)
    status: str = "validating"
    created: float = field(default_factory=time.time)
    times: dict[str, int] = field(default_factory=dict)
    answered: list[Fields] = field(default_factory=list)
    failed: list[Fields] = field(default_factory=list)
    output_file_id: str | None = None
    error_file_id: str | None = None
    _cancelling: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def custom_ids(self) -> list[str]:
        """The lines' ids, in order."""
        return [line["custom_id"] for line in self.lines]

    def turn(self, status: str) -> None:
        """Set the next status and its time."""
        self.status = status
        self.times[f"{status}_at"] = int(time.time())
        if status == "cancelling":
            self._cancelling.set()

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until the job is cancelled."""
        if seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._cancelling.wait(), seconds)
        else:
            await asyncio.sleep(0)

    def fields(self) -> Fields:
        """Return the batch object of the API."""
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        times: dict[str, int | None] = {
            "created_at": int(self.created),
            "expires_at": int(self.created) + WINDOWS[self.window] // 24 * _DAY,
            **{f"{name}_at": self.times.get(f"{name}_at") for name in names},
        }
        as_text = self.behavior.text_timestamps
        form = self.behavior.errors
        if form == "auto":
            form = "object" if self.problems else "null"
        errors = {"null": None, "list": self.problems, "object": {"object": "list", "data": self.problems}}[form]
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": errors,
            "input_file_id": self.file_id,
            "completion_window": self.window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            **{k: str(v) if as_text and v is not None else v for k, v in times.items()},
            "request_counts": {
                "total": len(self.lines),
                "completed": len(self.answered),
                "failed": len(self.failed),
            },
            "metadata": self.metadata,
        }


class Batches:
    """The files, uploads and jobs of one emulator. Lives in one event loop; a test reads it from its own thread.

    Args:
        limits: The plan's limits.

    Attributes:
        behavior: What happens to jobs and files that `script` does not mention.
        jobs: The jobs by id, in the order of their creation.
        files: The files by id, including results.
        uploads: The uploads in parts, by id.
    """

    def __init__(self, limits: PlanLimits) -> None:
        self._limits = limits
        self._scripted: deque[BatchBehavior] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.clear()

    def clear(self) -> None:
        """Remove all jobs and files, and use the default behavior again."""
        self.behavior = BatchBehavior()
        self._scripted.clear()
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, StoredFile] = {}
        self.uploads: dict[str, Upload] = {}

    def script(self, *behaviors: BatchBehavior) -> None:
        """Set what happens to the next jobs, one behavior per job. After those, `behavior` holds again."""
        self._scripted.extend(behaviors)

    def next_behavior(self) -> BatchBehavior:
        """Return what happens to the job that is being created."""
        return self._scripted.popleft() if self._scripted else self.behavior

    def keep(self, file: StoredFile) -> StoredFile:
        """Keep a file."""
        self.files[file.id] = file
        return file

    def create(
        self, file: StoredFile, window: str, metadata: Fields | None, behavior: BatchBehavior, answer: Answer
    ) -> Job:
        """Make a job of a file, and start it."""
        lines, problems = _read_lines(file.data)
        most = self._limits.max_batch_requests
        if most is not None and len(lines) > most:
            problems = [_problem("too_many_requests", f"The file has {len(lines)} requests; allowed are {most}.", None)]
        if behavior.fails:
            problems = [_problem("invalid_request", behavior.fails, None)]
        return self._start(Job(file.id, window, metadata, behavior, lines, problems), answer)

    def queue(self, body: Fields, options: Mapping[str, Any], answer: Answer) -> Fields:
        """Make a job of one asynchronous chat request, and return the notice that it is queued.

        The notice's text and the form of its id come from the docs. The docs also say that the id begins with a job's
        id, but that was never seen live.
        """
        window = options.get("completion_window", "24h")
        if window not in WINDOWS:
            raise ApiError(400, f"'completion_window' must be one of {', '.join(WINDOWS)}.", param="metadata")
        line = {"custom_id": "async", "body": {k: v for k, v in body.items() if k != "metadata"}}
        metadata = {"callback_url": options["callback_url"]} if options.get("callback_url") else None
        job = self._start(Job(new_id(), window, metadata, self.next_behavior(), [line], []), answer)
        message = {"role": "assistant", "content": f"{_QUEUED}ID: {job.id}"}
        return {
            "id": f"{job.id}_{int(job.created * 1000)}",
            "object": "chat.completion",
            "created": int(job.created),
            "model": body.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }

    def _start(self, job: Job, answer: Answer) -> Job:
        self.jobs[job.id] = job
        if job.behavior.pre_schedule:
            job.status = "pre_schedule"
        task = asyncio.create_task(self._run(job, answer))
        self._tasks.add(task)  # the loop keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return job

    async def _run(self, job: Job, answer: Answer) -> None:
        behavior = job.behavior
        await job.pause(behavior.pre_schedule)
        if job.problems:
            job.turn("failed")
            return
        if job.status != "cancelling":
            job.turn("in_progress")
        end = "completed"
        for number, line in enumerate(job.lines):
            await job.pause(behavior.line_time)
            if job.status == "cancelling":
                break
            if behavior.expires_after is not None and number >= behavior.expires_after:
                end = "expired"
                break
            if number not in behavior.missing:
                await self._answer(job, number, line, answer)
        if job.status == "cancelling":
            end = "cancelled"
        else:
            job.turn("finalizing")
        if job.answered:
            job.output_file_id = self._keep_results(f"{job.id}_output.jsonl", job.answered)
        if job.failed:
            job.error_file_id = self._keep_results(f"{job.id}_error.jsonl", job.failed)
        job.turn(end)

    async def _answer(self, job: Job, number: int, line: Fields, answer: Answer) -> None:
        status = job.behavior.failing.get(number)
        if status is None:
            try:
                body: Any = await answer(line["body"])
                status = 200
                if (text := job.behavior.texts.get(number)) is not None:
                    message = {"role": "assistant", "content": text}
                    body["choices"][0].update(message=message, finish_reason="stop")
            except ApiError as exc:
                body, status = exc.body, exc.status
        else:
            body = error_body(status, "The server had an error while processing the line")
        response = {"status_code": status, "request_id": new_id(), "body": body}
        result = {"id": new_id(), "custom_id": line["custom_id"], "response": response, "error": None}
        (job.answered if status == 200 else job.failed).append(result)

    def _keep_results(self, name: str, lines: list[Fields]) -> str:
        text = "".join(json.dumps(line) + "\n" for line in lines)  # ASCII: a text may hold half a surrogate pair
        return self.keep(StoredFile(name, "batch_output", text.encode())).id


def _read_lines(data: bytes) -> tuple[list[Fields], list[Fields]]:
    """Return the requests of a file, and what is wrong with it."""
    lines: list[Fields] = []
    seen: set[str] = set()
    problems: list[Fields] = []
    for number, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            line = json.loads(raw)
        except ValueError:
            problems.append(_problem("invalid_json_line", "The line is not JSON.", number))
            continue
        wrong = _wrong_with(line, seen)
        if wrong is None:
            seen.add(line["custom_id"])
            lines.append(line)
        else:
            problems.append(_problem("invalid_request", wrong, number))
    if not lines and not problems:
        problems.append(_problem("empty_file", "The file has no requests.", None))
    return lines, problems


def _wrong_with(line: object, seen: set[str]) -> str | None:
    if not isinstance(line, dict):
        return "The line is not a JSON object."
    custom_id = line.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return "'custom_id' must be a non-empty string."
    if custom_id in seen:
        return f"'custom_id' {custom_id!r} is used twice."
    if line.get("method") != "POST" or line.get("url") != ENDPOINT:
        return f"'method' must be 'POST' and 'url' must be '{ENDPOINT}'."
    return None if isinstance(line.get("body"), dict) else "'body' must be an object."


def _problem(code: str, message: str, line: int | None) -> Fields:
    return {"code": code, "message": message, "param": None, "line": line}
