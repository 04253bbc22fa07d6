"""The steps of a batch job: what is sent, which answers are read, and what is done with them. Without I/O.

The uploaded file's id is the idempotency key. The journal records each action before it happens. After a crash or an
unclear answer, the account's list of jobs tells whether it did happen:

1. Upload a file; keep its id. A crash before that leaves an orphan file: nothing runs, nothing is paid.
2. Record the intent to create a job from it.
3. `POST /batches`, without retries: openai's SDK retried after a 500 that came too late, and made two jobs.
4. If the answer is missing or unclear, look for a job of that file, for as long as the list may lag.
"""

from __future__ import annotations

import io
import json
import logging
import math
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kluster_integrations.batch.journal import Journal, Part, closed
from kluster_integrations.batch.lines import (
    BATCH_PATH,
    as_bytes,
    dump,
    not_a_line,
    pack,
    read_foreign,
    repack,
    replay,
    unpack,
)
from kluster_integrations.batch.types import (
    ENDED,
    BatchStatus,
    CostEstimate,
    JobStatus,
    ModelTokens,
    Window,
    check_callable,
    check_seconds,
    dollars,
    price,
)
from kluster_integrations.core import own_models
from kluster_integrations.core.config import KlusterConfig, seconds_from
from kluster_integrations.core.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    BatchExpiredError,
    BatchFailedError,
    CostLimitError,
    InternalServerError,
    KlusterError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SubmissionUnclearError,
    is_refusal,
    shortened,
)
from kluster_integrations.core.plans import PLANS
from kluster_integrations.core.sse import loads
from kluster_integrations.core.transport import path_of
from kluster_integrations.core.types import ChatRequest

__all__ = ["FILE_BYTES", "TRANSIENT", "Do", "JobSteps", "Steps", "TimeOver"]

_logger = logging.getLogger(__name__)

FILE_BYTES = 100_000_000  # docs: 100 MB; the smaller of its two meanings
PART_BYTES = 32_000_000  # of an upload in parts; docs: at most 64 MB. In memory, one at a time
_TRIES = 3  # lines of one request that the service fails or loses
_CREATE_TRIES = 5
_CREATE_SECONDS = 60.0  # a job is created within milliseconds; KlusterConfig's ten minutes are for long answers
_DAY = 86_400
_AGAIN = (408, 409, 429)  # and 5xx: statuses of lines that are sent again
TRANSIENT = (APIConnectionError, InternalServerError, RateLimitError)


class TimeOver(Exception):  # noqa: N818
    """The time of an operation is over. It is raised at a wait, so that everything that was done is recorded."""


class Do(NamedTuple):
    """What a step asks the driver to do: a method of the transport, `sleep`, or `work` (a slow function)."""

    name: str
    args: tuple[Any, ...]
    options: Mapping[str, Any] = {}


Steps = Generator[Do, Any, Any]


class JobSteps:
    """A journal, and the steps that are taken with it."""

    def __init__(self, folder: Path, config: KlusterConfig) -> None:
        self.folder = folder
        self.settle = seconds_from("batch_settle", 60.0)
        self.poll = seconds_from("batch_poll", 5.0)
        self._config = config
        self._open_journal: Journal
        self._is_closed = False
        self._deadline = math.inf  # of `time.monotonic()`: when the present operation ends
        self._looked_since: dict[tuple[int, float | None], float] = {}

    @property
    def _journal(self) -> Journal:
        if self._is_closed:
            raise closed(self.folder)
        return self._open_journal

    @property
    def _most_lines(self) -> int:
        """The most lines of a file. Without a plan those of Core: Trial's limit would turn one job into a hundred."""
        limits = PLANS[self._config.plan or "core"]
        return limits.max_batch_requests or 10**9

    def estimate(self) -> CostEstimate:
        """Return the estimated cost of the whole job, without repairs."""
        journal = self._journal
        files = len(journal.split(self._most_lines, FILE_BYTES, new=False))
        models, assumed = journal.model_tokens(), journal.assumed()
        return CostEstimate.of(models, lines=journal.count(), files=files, assumed=assumed, config=self._config)

    def _other_job(self, why: str) -> BadRequestError:
        return BadRequestError(
            f"folder={str(self.folder)!r} holds a job of other requests: {why}.",
            hint="use another folder, or read this job with BatchJob.open().",
        )

    def _adopting(self, batch_id: str) -> Steps:
        journal = self._journal
        if journal.get("window") is not None:
            if [part.batch_id for part in journal.parts()][:1] != [batch_id]:
                raise self._other_job(f"it is not {batch_id}")
            return
        batch = _checked((yield Do("get", (path_of("batches", batch_id),))).data)
        file_id, window = batch.get("input_file_id"), batch.get("completion_window")
        if not file_id or not window:
            raise InternalServerError(f"The answer has no input_file_id or no completion_window: {shortened(batch)}")
        with journal.temporary() as file:
            try:
                yield Do("download", (path_of("files", str(file_id), "content"), file))
                is_blind = False
            except (NotFoundError, PermissionDeniedError, BadRequestError) as err:
                _logger.warning("The inputs of %s cannot be read (%s): nothing can be sent again.", batch_id, err)
                is_blind = True
            file.seek(0)
            with journal.commit():
                journal.put({"window": str(window), "is_blind": is_blind, "strict": False})
                count = 0 if is_blind else self._add_lines(str(file_id), file)
                journal.plan([(0, count, count)])
                [part] = journal.parts()
                journal.set_part(part, file_id=str(file_id), batch_id=batch["id"], status=str(batch.get("status")))

    def _add_lines(self, file_id: str, file: BinaryIO) -> int:
        """Add the lines of another program's file, and return their number."""
        count = 0
        for number, raw in enumerate(file, 1):
            if raw.strip():
                where = f"Line {number} of {file_id}, the inputs of the job,"
                custom_id, body = read_foreign(raw, where)
                if self._journal.find_row(custom_id) is not None:
                    raise not_a_line(where, f"has the custom_id of a line before it: {custom_id!r}")
                self._add_foreign(count, custom_id, body)
                count += 1
        return count

    def _add_foreign(self, number: int, custom_id: str, body: Mapping[str, Any]) -> None:
        """Add a line with its own id. Its answer is not checked."""
        spec = own_models.get(str(body.get("model")), config=self._config)
        request = ChatRequest(dict(body), spec, max_repairs=-1)
        line = pack(number, request)
        size = line.size + len(custom_id) - len(line.custom_id)
        self._journal.add(number, line._replace(custom_id=custom_id, size=size))

    # -- sending

    def _submitting(self, *, quietly: bool = False) -> Steps:
        journal = self._journal
        if journal.get("is_cancelled"):
            if quietly:
                return
            raise BadRequestError(
                "The job was cancelled: nothing more is sent.", hint="create a job in another folder."
            )
        if not journal.parts(unfinished=True):
            yield Do("work", (self._plan,))
        yield from self._creating_planned()

    def _creating_planned(self) -> Steps:
        for part in self._journal.parts(unfinished=True):
            if part.batch_id is None:
                yield from self._creating(part)

    def _plan(self) -> None:
        """Plan files for what must be sent: first all inputs, later repairs and failed or lost lines."""
        journal = self._journal
        files = journal.split(self._most_lines, FILE_BYTES)
        if not files:
            return
        estimate = self.estimate()
        window = journal.get("window")
        if window == "auto":
            window = estimate.cheapest_window
        if estimate.cheapest == "real_time" and (cost := estimate.by_window[window]) is not None:
            _logger.warning(
                "In real time the job would cost about %s, in %s %s.",
                *(dollars(estimate.real_time or 0.0), window, dollars(cost)),
            )
        most = journal.get("max_cost")
        if most is not None:
            running = [journal.model_tokens(part.number) for part in journal.parts(unfinished=True)]
            before = journal.cost() + sum(self._known_cost(models, window) for models in running)
            total = before + self._known_cost(journal.model_tokens(new=True), window)
            if total > most:
                left = journal.counts()["new"]
                raise CostLimitError(
                    f"The job would cost about {dollars(total)}, of which {dollars(before)} is for lines already sent; "
                    f"max_cost={dollars(most)}. "
                    f"{journal.count() - left} of {journal.count()} inputs have ended, {left} are not sent."
                )
        with journal.commit():
            journal.put({"window": window})
            journal.plan(files)

    def _known_cost(self, models: Sequence[ModelTokens], window: Window) -> float:
        costs = {m.model: m.cost(window, self._config) for m in models}
        if unknown := [model for model, cost in costs.items() if cost is None]:
            raise CostLimitError(
                f"max_cost={dollars(self._journal.get('max_cost'))}: no batch price is known for {', '.join(unknown)}.",
                hint="leave max_cost out, or add the price: catalog.add(ModelSpec(…, batch_prices={…})).",
            )
        return sum(cost for cost in costs.values() if cost is not None)

    def _creating(self, part: Part) -> Steps:
        """Create the service's job of a part, exactly once."""
        journal = self._journal
        if part.file_id is None:
            part = journal.set_part(part, file_id=(yield from self._uploading(part)))
        batch: dict[str, Any] | None = None
        if part.intent is not None:  # somebody was about to create it, and was stopped
            batch = yield from self._finding(part)
            self._check_second(part, batch)
        body = {
            "input_file_id": part.file_id,
            "endpoint": BATCH_PATH,
            "completion_window": journal.get("window"),
            "metadata": {"job": self.folder.resolve().name, "part": str(part.number)},
        }
        options = {
            "max_retries": 0,
            "timeout": min(self._config.timeout, _CREATE_SECONDS),
            "headers": {"Idempotency-Key": part.file_id},  # not documented; where a server knows it, so much the better
        }
        tries = 0
        while batch is None:
            tries += 1
            part = journal.set_part(part, intent=time.time())
            try:
                batch = _checked((yield Do("post", ("/batches", body), options)).data)
            except (RateLimitError, NotFoundError) as err:  # nothing was made; the file may not be seen everywhere yet
                part = journal.set_part(part, intent=None)
                if tries == _CREATE_TRIES:
                    raise
                yield Do("sleep", (err.retry_after or self.poll,))
            except KlusterError as err:
                if is_refusal(err):
                    journal.set_part(part, intent=None)  # refused: nothing was made
                    raise
                batch = yield from self._finding(part)
                self._check_second(part, batch)
                if batch is None and tries == _CREATE_TRIES:
                    raise
        journal.set_part(part, batch_id=batch["id"], status=str(batch.get("status")))

    def _finding(self, part: Part) -> Steps:
        """Return the job that was created from a part's file; None if there is none after the settle time.

        The settle time continues from one `wait(timeout=…)` to the next; with short ones it would never end.
        """
        end = self._looked_since.setdefault((part.number, part.intent), time.monotonic()) + self.settle
        while (batch := (yield from self._listed(part))) is None and (left := end - time.monotonic()) > 0:
            yield Do("sleep", (min(left, 5.0, self.settle / 5),))
        return batch

    def _listed(self, part: Part) -> Steps:
        query: dict[str, object] = {"limit": 100}
        while True:
            page = (yield Do("get", ("/batches",), {"query": query})).data
            batches = page.get("data") if isinstance(page, dict) else None
            if not isinstance(batches, list):  # an error inside a 200 is not an empty list: a second job would follow
                raise InternalServerError(f"The answer is not a list of batch jobs: {shortened(page)}")
            for batch in batches:
                if batch.get("input_file_id") == part.file_id:
                    return _checked(batch)
            # Newest first; a day is more than any clock is wrong.
            has_more = batches and page.get("has_more", len(batches) == query["limit"])
            if not has_more or _created(batches[-1]) < (part.intent or 0) - _DAY:
                return None
            query["after"] = page.get("last_id") or batches[-1]["id"]

    def _check_second(self, part: Part, found: object) -> None:
        """Refuse to create a part's job again if it may exist and both together could exceed `max_cost`."""
        most = self._journal.get("max_cost")
        if found is not None or most is None:
            return
        window = self._journal.get("window")
        once = self._known_cost(self._journal.model_tokens(part.number), window)
        unfinished = [self._journal.model_tokens(p.number) for p in self._journal.parts(unfinished=True)]
        total = self._journal.cost() + sum(self._known_cost(models, window) for models in unfinished) + once
        if total > most:
            raise SubmissionUnclearError(
                f"Part {part.number} may have been submitted (file {part.file_id}), and the account's list of jobs has "
                f"not shown it for {self.settle:g} s. If it ran twice, the job would cost about {dollars(total)}; "
                f"max_cost={dollars(most)}."
            )

    def _uploading(self, part: Part) -> Steps:
        """Upload the file of a part, and return its id."""
        name = f"part-{part.number:05d}.jsonl"
        with self._journal.temporary() as file:
            yield Do("work", (lambda: self._write_lines(part, file),))
            try:
                answer = yield Do("upload", ("/files", {"purpose": "batch"}, "file", name, file))
            except BadRequestError as err:
                if err.status_code != 413:
                    raise
                return (yield from self._uploading_parts(name, file))  # something in between takes less at once
        return _id_of(answer.data)

    def _uploading_parts(self, name: str, file: BinaryIO) -> Steps:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        body = {"filename": name, "purpose": "batch", "bytes": size, "mime_type": "application/jsonl"}
        path = path_of("uploads", _id_of((yield Do("post", ("/uploads", body))).data))
        ids = []
        while piece := file.read(PART_BYTES):
            answer = yield Do("upload", (f"{path}/parts", {}, "data", name, io.BytesIO(piece)))
            ids.append(_id_of(answer.data))
        answer = yield Do("post", (f"{path}/complete", {"part_ids": ids}))
        return _id_of(answer.data.get("file") if isinstance(answer.data, dict) else None)

    def _write_lines(self, part: Part, file: BinaryIO) -> None:
        for number, custom_id, body, is_repair in self._journal.part_rows(part):
            if is_repair:
                request = replay(
                    unpack(*self._journal.input(number), self._config), map(loads, self._journal.answers(number))
                ).request
                assert request is not None
                body = dump(request.body)
            file.write(as_bytes(custom_id, body))
        file.seek(0)

    # -- looking

    def _waiting(self, timeout: float | None, on_progress: Callable[[BatchStatus], object] | None) -> Steps:
        if timeout is not None:
            check_seconds("timeout", timeout)
        check_callable("on_progress", on_progress)
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout
        delay, before = self.poll, None
        try:
            while True:
                is_running, is_over = True, False
                try:
                    yield from self._cancelling() if self._has_to_cancel() else self._submitting(quietly=True)
                    yield from self._looking()
                    is_running = bool(self._journal.parts(unfinished=True))
                except TRANSIENT as err:
                    _logger.warning("The job in %r goes on after an error: %s", str(self.folder), err)
                except TimeOver:
                    is_running, is_over = bool(self._journal.parts(unfinished=True)), True
                status = self._status()
                if status != before:
                    delay, before = self.poll, status
                    if on_progress is not None:
                        on_progress(status)
                if status.is_done and not is_running:
                    self._check_whole()
                    return status
                if is_over or time.monotonic() >= self._deadline:
                    raise APITimeoutError(
                        f"The job is not done after {timeout:g} s: {status.answered} of {status.total} inputs have an "
                        "answer.",
                        hint="nothing is lost: wait() again, also in another process.",
                    )
                if is_running:
                    yield Do("sleep", (delay * random.uniform(0.8, 1.2),))
                    delay = min(delay * 1.5, max(300.0, self.poll))
        finally:
            self._deadline = math.inf

    def _looking(self) -> Steps:
        for part in self._journal.parts(unfinished=True):
            if part.batch_id is None:
                continue
            batch = _checked((yield Do("get", (path_of("batches", str(part.batch_id)),))).data)
            seen = json.dumps(batch)
            if seen != part.seen:
                part = self._journal.set_part(part, status=str(batch.get("status")), seen=seen)
            if part.status in ENDED:
                with self._journal.temporary() as file:
                    for name in ("output_file_id", "error_file_id"):
                        if batch.get(name):
                            yield from self._downloading(path_of("files", str(batch[name]), "content"), file)
                            file.write(b"\n")
                    file.seek(0)
                    yield Do("work", (lambda part=part, batch=batch, file=file: self._take(part, batch, file),))

    def _downloading(self, path: str, file: BinaryIO) -> Steps:
        for last in (False, False, True):
            try:
                return (yield Do("download", (path, file)))
            except NotFoundError:  # a file has been seen to come later than its id
                if last:
                    raise
                yield Do("sleep", (self.poll,))

    def _take(self, part: Part, batch: Mapping[str, Any], file: BinaryIO) -> None:
        """Record the results of a job that has ended, all of them or none."""
        journal = self._journal
        with journal.commit():
            for raw in filter(bytes.strip, file):
                try:
                    result = loads(raw)
                except ValueError:
                    result = None
                if isinstance(result, dict):
                    self._take_line(part, result)
                else:
                    _logger.warning("A line of %s's results is not a JSON object: it counts as missing.", part.batch_id)
            what, is_sent_again = {
                "completed": ("missing", True),
                "expired": ("expired", not journal.get("strict")),
                "cancelled": ("cancelled", False),
                "failed": ("refused", False),
            }[part.status]
            for number in journal.numbers("part=? and state='sent'", part.number):
                message = _problem_text(batch) if what == "refused" else None
                self._fail(number, {"what": what, "message": message}, again=is_sent_again)
            journal.set_part(part, is_done=1)
            if journal.get("is_cancelled"):
                self._end_unsent()

    def _take_line(self, part: Part, result: Mapping[str, Any]) -> None:
        journal = self._journal
        custom_id, response, error = str(result.get("custom_id")), result.get("response"), result.get("error")
        response = response if isinstance(response, Mapping) else {}
        body, status = response.get("body"), response.get("status_code")
        status = int(str(status)) if str(status).isdecimal() else None  # numbers have been seen as text
        if journal.get("is_blind") and not journal.numbers("custom_id=?", custom_id):
            model = body.get("model") if isinstance(body, Mapping) else None
            self._add_foreign(journal.count(), custom_id, {"model": model or "unknown", "messages": []})
            journal.plan_adopted(custom_id, part)
        number = journal.find(custom_id, part)
        code = error.get("code") if isinstance(error, Mapping) else None
        if number is None or code in ("batch_expired", "batch_cancelled"):  # OpenAI's words for lines that did not run
            return
        if status != 200:
            again = status is None or status in _AGAIN or status >= 500
            self._fail(number, {"status": status, "body": body or error}, again=again)
            return
        request = unpack(*journal.input(number), self._config)
        try:
            done = replay(request, [*map(loads, journal.answers(number)), body or {}])
        except KlusterError as err:  # an error inside a 200
            status = err.status_code or 500
            self._fail(number, {"status": status, "body": body}, again=status in _AGAIN or status >= 500)
            return
        journal.keep_answer(number, json.dumps(body))
        cost = price(request.spec.id, done.tokens, journal.get("window"), self._config)
        if done.request is None:
            journal.end(number, "answered", cost)
        else:
            journal.repair(number, repack(number, done.request), cost)

    def _fail(self, number: int, error: Mapping[str, Any], *, again: bool) -> None:
        if again and self._journal.tries(number) < _TRIES and not self._journal.get("is_blind"):
            self._journal.send_again(number)
        else:
            self._journal.end(number, "failed", error=json.dumps(error))

    def _end_unsent(self) -> None:
        for number in self._journal.numbers("state='new'"):
            self._fail(number, {"what": "cancelled", "message": None}, again=False)

    def _has_to_cancel(self) -> bool:
        """Whether a cancel was interrupted, by an error or by the end of its process."""
        if not self._journal.get("is_cancelled"):
            return False
        unfinished = self._journal.parts(unfinished=True)
        return any(part.status != "cancelling" for part in unfinished) or bool(self._journal.numbers("state='new'"))

    def _cancelling(self) -> Steps:
        journal = self._journal
        journal.put({"is_cancelled": True})
        for part in journal.parts(unfinished=True):
            if part.batch_id is None and part.intent is not None and (batch := (yield from self._finding(part))):
                part = journal.set_part(part, batch_id=batch["id"], status=str(batch.get("status")))
            if part.batch_id is None:
                with journal.commit():
                    for number in journal.numbers("part=?", part.number):
                        self._fail(number, {"what": "cancelled", "message": None}, again=False)
                    journal.set_part(part, status="cancelled", is_done=1)
            elif part.status != "cancelling":
                try:
                    yield Do("post", (path_of("batches", part.batch_id, "cancel"), {}))
                except BadRequestError as err:  # it has ended meanwhile
                    _logger.info("%s is not cancelled: %s", part.batch_id, err)
        with journal.commit():
            self._end_unsent()
        yield from self._looking()

    # -- results

    def _status(self) -> BatchStatus:
        journal = self._journal
        counts = journal.counts()
        jobs = []
        for part in journal.parts():
            seen = json.loads(part.seen or "{}").get("request_counts") or {}
            numbers = (int(seen.get(name) or 0) for name in ("completed", "failed"))
            jobs.append(JobStatus(part.batch_id, part.status, part.lines, *numbers))
        cost = None if journal.has_unknown_cost() else journal.cost()
        answered, failed = counts.get("answered", 0), counts.get("failed", 0)
        return BatchStatus(sum(counts.values()), answered, failed, tuple(jobs), cost, str(journal.get("window")))

    def _check_whole(self) -> None:
        """Raise an error if the service refused a job, or its window was too short."""
        journal = self._journal
        done = journal.numbers("state='answered'")
        for part in journal.parts():
            if part.status == "failed":
                why = _problem_text(json.loads(part.seen or "{}"))
                error = BatchFailedError(
                    f"The service refused {part.batch_id}, of {part.lines} lines: {why} {len(done)} of "
                    f"{journal.count()} inputs are answered."
                )
                error.lines = self._problems(part)
                raise error
        if missing := journal.numbers("state='failed' and json_extract(error, '$.what')='expired'"):
            expired = BatchExpiredError(
                f"The window of {journal.get('window')} ended before {len(missing)} of {journal.count()} inputs were "
                f"answered; {len(done)} are."
            )
            expired.done, expired.missing = done, missing
            raise expired

    def _problems(self, part: Part) -> list[dict[str, Any]]:
        numbers = self._journal.numbers("part=?", part.number)
        found = []
        for problem in _errors_of(json.loads(part.seen or "{}")):
            line = problem.get("line")
            index = numbers[line - 1] if isinstance(line, int) and 0 < line <= len(numbers) else None
            found.append({"code": problem.get("code"), "message": problem.get("message"), "line": line, "index": index})
        return found


def _checked(batch: Any) -> dict[str, Any]:
    """Return the service's description of a job; raise an error if it is anything else."""
    if not isinstance(batch, dict) or not isinstance(batch.get("id"), str):
        raise InternalServerError(f"The answer is not a batch job: {shortened(batch)}")
    return batch


def _id_of(data: Any) -> str:
    """Return the id of a new file or upload."""
    if not isinstance(data, dict) or data.get("id") in (None, ""):
        raise InternalServerError(f"The answer has no id: {shortened(data)}")
    return str(data["id"])


def _created(batch: Mapping[str, Any]) -> float:
    """Return when a job was created: a number or, as seen live, its decimal text; else the present time."""
    try:
        return float(batch["created_at"])
    except (KeyError, TypeError, ValueError):
        return time.time()


def _errors_of(batch: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the errors of a job: `errors` is null, a list, or OpenAI's object with a list in `data`."""
    errors = batch.get("errors")
    listed = errors.get("data") if isinstance(errors, Mapping) else errors
    return [e for e in listed if isinstance(e, Mapping)] if isinstance(listed, list) else []


def _problem_text(batch: Mapping[str, Any]) -> str:
    texts = [str(e.get("message") or e.get("code")) for e in _errors_of(batch)]
    more = f" (and {len(texts) - 3} more)" if len(texts) > 3 else ""
    return " ".join(texts[:3]) + more if texts else "it does not say why."
