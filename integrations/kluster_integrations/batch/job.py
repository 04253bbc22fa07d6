"""`BatchJob`: a folder of requests that the service answers within one to three days, each exactly once."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from kluster_integrations.batch.journal import Row, folder_of, holds_journal, open_journal
from kluster_integrations.batch.lines import pack, replay, unpack
from kluster_integrations.batch.steps import FILE_BYTES, Do, JobSteps, Steps, TimeOver
from kluster_integrations.batch.types import (
    UNSET,
    WINDOWS,
    BatchResult,
    BatchStatus,
    CostEstimate,
    Unset,
    Window,
)
from kluster_integrations.core import request as requests_
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import (
    BadRequestError,
    BatchExpiredError,
    BatchFailedError,
    InternalServerError,
    KlusterError,
    NotFoundError,
    from_body,
)
from kluster_integrations.core.sse import loads
from kluster_integrations.core.transport import Transport
from kluster_integrations.core.types import ChatRequest

__all__ = ["BatchJob", "check_window"]


class BatchJob(JobSteps):
    """Requests that the service answers in batch jobs. A journal in a folder keeps their state.

    Make one with `create`, `open` or `adopt`. As a context manager it closes the journal. Methods have async twins:
    `acreate`, `aopen`, `aadopt`, `aestimate`, `asubmit`, `astatus`, `acancel`, `await_`, `aresults`.

    Attributes:
        folder: The folder of the journal.
        settle: Seconds until a new job surely appears in the account's list of jobs. If it is unclear whether a job was
            created, the list is searched for this long. Default: `KLUSTER_BATCH_SETTLE`, else 60.
        poll: Seconds between the first two requests for a job's status; the pauses grow to five minutes. Default:
            `KLUSTER_BATCH_POLL`, else 5.
    """

    def __init__(self, folder: str | Path, config: KlusterConfig | None = None) -> None:
        config, path = KlusterConfig.of(config), folder_of(folder)
        super().__init__(path, config)
        self._transport = Transport(config)
        self._limit: asyncio.Timeout | None = None  # of the request that an async operation waits for
        self._open_journal = open_journal(path)
        # Also of a job that is forgotten and never closed, so that the folder does not stay locked.
        self._forgotten = weakref.finalize(self, self._open_journal.close, tidy=False)
        self._forgotten.atexit = False  # the lock ends with the process

    @classmethod
    def create(
        cls,
        requests: Iterable[Any],
        *,
        folder: str | Path,
        window: Window | Literal["auto"] | None = None,
        config: KlusterConfig | None = None,
        max_cost: float | Unset | None = UNSET,
        strict: bool | None = None,
        **defaults: Any,
    ) -> BatchJob:
        """Write a job into a folder. Nothing is sent yet. The same requests again return the same job.

        Args:
            requests: Lists of messages, or dicts with `messages`, `model` and parameters as in OpenAI's API
                (`response_format`, `tools`, …), `max_repairs`, `tool_calling` and `extra_body`. Read one by one.
            folder: The folder of the job; it is made if necessary.
            window: How long the service may take: `24h`, `48h`, `72h`, or `auto`, the cheapest one. May be changed
                until the job is submitted. Default: the window of the job in the folder, else `24h`.
            config: The connection; default: from the environment.
            max_cost: The limit in US$, by `estimate`; None is no limit. If a job would cost more, `CostLimitError` is
                raised before it is sent. May be changed at any time. Default: the limit of the job in the folder, else
                None.
            strict: Whether requests without an answer at the end of the window are given up. Otherwise they are sent
                again. Default: as the job in the folder, else False.
            defaults: `model` and parameters for requests that do not set them.

        Raises:
            BadRequestError: A request cannot be sent as it is, or the folder has a job with other requests.
            JobLockedError: Another process works on this job.
        """
        if window is not None:
            check_window(window)
        if isinstance(requests, str | bytes | Mapping) or not isinstance(requests, Iterable):
            raise BadRequestError(
                f"requests={str(requests)[:100]!r} must be a list or a generator of message lists or of dicts.",
                hint='such as [[{"role": "user", "content": "Hello!"}]].',
            )
        if strict is not None and not isinstance(strict, bool):
            raise BadRequestError(f"strict={strict!r} must be True or False.", hint="such as strict=True.")
        job = cls(folder, config)
        try:
            with job._transport.errors, job._journal.in_use(), job._journal.commit():
                is_new = job._journal.get("window") is None
                job._fill(requests, defaults, is_new=is_new)
                values: dict[str, Any] = {"window": window, "strict": strict}
                given = {name: value for name, value in values.items() if value is not None}
                if max_cost is not UNSET:
                    given["max_cost"] = max_cost
                job._set(**({"window": "24h", "strict": False} if is_new else {}) | given)
        except BaseException:
            job.close()
            raise
        return job

    @classmethod
    async def acreate(cls, requests: Iterable[Any], *, folder: str | Path, **options: Any) -> BatchJob:
        """As `create`."""
        return await asyncio.to_thread(cls.create, requests, folder=folder, **options)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        config: KlusterConfig | None = None,
        window: Window | Literal["auto"] | None = None,
        max_cost: float | None = None,
    ) -> BatchJob:
        """Return the job in a folder.

        Args:
            folder: The folder of the job.
            config: The connection; default: from the environment.
            window: Another completion window, before the job is submitted; None keeps the present one.
            max_cost: Another limit, in US$; None keeps the present one.

        Raises:
            NotFoundError: The folder has no job.
            BadRequestError: The window is not allowed, or the job is already submitted.
            JobLockedError: Another process works on this job.
        """
        if window is not None:
            check_window(window)
        if not holds_journal(folder_of(folder)):
            raise _no_job(folder)
        job = cls(folder, config)
        try:
            if job._journal.get("window") is None:
                raise _no_job(folder)
            given = {"window": window, "max_cost": max_cost}
            with job._journal.commit():
                job._set(**{name: value for name, value in given.items() if value is not None})
        except BaseException:
            job.close()
            raise
        return job

    @classmethod
    async def aopen(cls, folder: str | Path, **options: Any) -> BatchJob:
        """As `open`."""
        return cls.open(folder, **options)

    @classmethod
    def adopt(cls, batch_id: str, *, folder: str | Path, config: KlusterConfig | None = None) -> BatchJob:
        """Continue a job that another program has created, in a folder of its own.

        The inputs are read from the job's file. If the service does not return that file (no such call is documented),
        only the inputs with an answer are known, in the order of the answers, and nothing can be sent again.

        Args:
            batch_id: The service's id of the job.
            folder: The folder for the journal; it is made if necessary.
            config: The connection; default: from the environment.

        Raises:
            BadRequestError: The folder has another job.
            KlusterError: Whatever else goes wrong.
        """
        job = cls(folder, config)
        try:
            job._drive(job._adopting(batch_id))
        except BaseException:
            job.close()
            raise
        return job

    @classmethod
    async def aadopt(cls, batch_id: str, *, folder: str | Path, config: KlusterConfig | None = None) -> BatchJob:
        """As `adopt`."""
        job = cls(folder, config)
        try:
            await job._adrive(job._adopting(batch_id))
        except BaseException:
            job.close()
            raise
        return job

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal, so that other processes can open it. The service's jobs go on."""
        self._is_closed = True
        if self._forgotten.detach():
            self._open_journal.close()

    @property
    def window(self) -> Any:
        """The completion window: `24h`, `48h`, `72h`, or `auto` until the job is submitted."""
        return self._journal.get("window")

    @property
    def max_cost(self) -> float | None:
        """The limit in US$; None if there is no limit."""
        limit: float | None = self._journal.get("max_cost")
        return limit

    async def aestimate(self) -> CostEstimate:
        """As `estimate`."""
        return await asyncio.to_thread(self.estimate)

    def submit(self) -> None:
        """Send everything that is not sent yet. Nothing is ever sent twice.

        Raises:
            CostLimitError: The job would cost more than `max_cost`.
            SubmissionUnclearError: A job may already exist, and a second one could cost more than `max_cost`.
            BadRequestError: The job was cancelled, or the service refuses it.
            KlusterError: Whatever else goes wrong. The next `submit` or `wait` continues.
        """
        self._drive(self._submitting())

    async def asubmit(self) -> None:
        """As `submit`."""
        await self._adrive(self._submitting())

    def last_status(self) -> BatchStatus:
        """Return the progress as last seen, without a request."""
        return self._status()

    def status(self) -> BatchStatus:
        """Ask the service for its jobs, fetch the results of those that have ended, and return the progress.

        Raises:
            KlusterError: Whatever goes wrong.
        """
        self._drive(self._looking())
        return self._status()

    async def astatus(self) -> BatchStatus:
        """As `status`."""
        await self._adrive(self._looking())
        return self._status()

    def cancel(self) -> BatchStatus:
        """Cancel the running jobs (the service may take ten minutes) and send nothing more. Answers are kept.

        Raises:
            KlusterError: Whatever goes wrong.
        """
        self._drive(self._cancelling())
        return self._status()

    async def acancel(self) -> BatchStatus:
        """As `cancel`."""
        await self._adrive(self._cancelling())
        return self._status()

    def wait(
        self, timeout: float | None = None, on_progress: Callable[[BatchStatus], object] | None = None
    ) -> BatchStatus:
        """Submit, and wait until every input has a result. Repairs and lost lines are sent in further jobs.

        Broken connections and server errors do not end the wait.

        Args:
            timeout: Seconds; default: as long as it takes; 0 sends no request. It also ends a request that hangs and
                the search for a job, but not an answer that keeps coming.
            on_progress: A function that is called with each new status.

        Raises:
            APITimeoutError: The time is over. Nothing is lost: wait again, here or in another process.
            BatchFailedError: The service refused a job.
            BatchExpiredError: The window ended before everything was answered.
            CostLimitError: A further job would cost more than `max_cost`.
            KlusterError: Whatever else goes wrong. After any of these errors `results` still has the answers so far.
        """
        status: BatchStatus = self._drive(self._waiting(timeout, on_progress))
        return status

    async def await_(
        self, timeout: float | None = None, on_progress: Callable[[BatchStatus], object] | None = None
    ) -> BatchStatus:
        """As `wait`."""
        status: BatchStatus = await self._adrive(self._waiting(timeout, on_progress))
        return status

    def results(self) -> Iterator[BatchResult]:
        """Yield one result per input, in input order, from the journal. Only some hundred are in memory at a time.

        The result of an input without an answer has an `error` that says so.
        """
        for row in self._journal.rows():
            if row.state == "answered":
                answers = map(loads, self._journal.answers(row.number))
                done = replay(unpack(str(row.body), row.extra, self._config), answers)
                yield BatchResult(row.number, done.completion, done.error, row.cost, row.lines)
            else:
                yield BatchResult(row.number, None, self._error_of(row), row.cost, row.lines)

    async def aresults(self) -> AsyncIterator[BatchResult]:
        """As `results`."""
        results = self.results()
        while chunk := await asyncio.to_thread(lambda: list(itertools.islice(results, 100))):
            for result in chunk:
                yield result

    # -- how the steps are driven

    def _drive(self, steps: Steps) -> Any:
        doing: Mapping[str, Callable[..., Any]] = {
            "get": self._transport.get,
            "post": self._transport.post,
            "upload": self._transport.upload,
            "download": self._transport.download,
            "sleep": time.sleep,
            "work": lambda function: function(),
        }
        with self._transport.errors, self._journal.in_use(), closing(steps):
            answer: Any = None
            failure: Exception | None = None
            while True:
                try:
                    do = steps.throw(failure) if failure else steps.send(answer)
                except StopIteration as done:
                    return done.value
                answer = failure = None
                try:
                    answer = doing[do.name](*self._in_time(do), **self._options(do))
                except (KlusterError, TimeOver) as err:
                    failure = err

    async def _adrive(self, steps: Steps) -> Any:
        doing: Mapping[str, Callable[..., Any]] = {
            "get": self._transport.aget,
            "post": self._transport.apost,
            "upload": self._transport.aupload,
            "download": self._transport.adownload,
            "sleep": asyncio.sleep,
            "work": asyncio.to_thread,
        }
        with self._transport.errors, self._journal.in_use(), closing(steps):
            answer: Any = None
            failure: Exception | None = None
            while True:
                try:
                    do = steps.throw(failure) if failure else steps.send(answer)
                except StopIteration as done:
                    return done.value
                answer = failure = None
                try:
                    answer = await self._await(do.name, doing[do.name](*self._in_time(do), **self._options(do)))
                except (KlusterError, TimeOver) as err:
                    failure = err

    def _in_time(self, do: Do) -> tuple[Any, ...]:
        """Return the arguments of a step that begins now.

        Raises:
            TimeOver: The operation's time is over. A sleep uses up the rest of the time, and the next step raises this.
        """
        left = max(0.0, self._deadline - time.monotonic())
        if do.name == "sleep":
            return (min(do.args[0], left),)
        if not left:
            raise TimeOver
        return do.args

    def _options(self, do: Do) -> Mapping[str, Any]:
        is_io = do.name not in ("sleep", "work")
        return {**do.options, "deadline": self._deadline} if is_io and self._deadline < math.inf else do.options

    async def _await(self, name: str, doing: Awaitable[Any]) -> Any:
        """Wait for a step until the operation's time is over. Work in a thread is always finished."""
        if name in ("sleep", "work"):
            return await doing
        loop = asyncio.get_running_loop()
        left = self._deadline - time.monotonic()
        try:
            async with asyncio.timeout_at(None if left == math.inf else loop.time() + left) as self._limit:
                return await doing
        except TimeoutError:  # the transport's own are KlusterErrors
            raise TimeOver from None
        finally:
            self._limit = None

    # -- inputs

    def _fill(self, requests: Iterable[Any], defaults: Mapping[str, Any], *, is_new: bool) -> None:
        """Add the requests, or check that they are those of the journal."""
        journal, count = self._journal, 0
        for index, given in enumerate(requests):
            count += 1
            line = pack(index, self._build(index, given, defaults))
            if line.size > FILE_BYTES:
                raise BadRequestError(
                    f"requests[{index}] has {line.size} bytes; a batch file of kluster.ai has at most {FILE_BYTES}.",
                    hint="shorten it; for an image, send its address (https://…) and not its data.",
                )
            if is_new:
                journal.add(index, line)
            elif not journal.has(index, line):
                raise self._other_job(f"requests[{index}] is not what it was")
        if not count:
            raise BadRequestError(
                "requests is empty; it must hold at least one request.", hint="pass a list of requests."
            )
        if count != journal.count():
            raise self._other_job(f"it has {journal.count()} requests, not {count}")

    def _build(self, index: int, given: Any, defaults: Mapping[str, Any]) -> ChatRequest:
        if isinstance(given, ChatRequest):
            return given
        values: dict[str, Any] = {**defaults, **(given if isinstance(given, Mapping) else {"messages": given})}
        repairs = values.pop("max_repairs", 2)
        options = {name: values.pop(name) for name in ("tool_calling", "extra_body") if name in values}
        model, messages = values.pop("model", None), values.pop("messages", None)
        if not isinstance(repairs, int) or isinstance(repairs, bool):
            raise BadRequestError(
                f"requests[{index}]: max_repairs={repairs!r} must be an integer.",
                hint="use 1 to ask again once, 0 to ask only once, -1 to check nothing.",
            )
        try:
            built = requests_.build(model, messages, values, config=self._config, **options)
        except KlusterError as err:
            err.message = f"requests[{index}]: {err.message}"
            raise
        built.max_repairs = repairs
        return built

    def _set(self, **values: Any) -> None:
        check_cost(values.get("max_cost"))
        window, before = values.get("window"), self._journal.get("window")
        if window is not None and self._journal.parts():
            if window not in (before, "auto"):
                raise BadRequestError(
                    f"window={window!r} comes too late: the job was submitted with {before!r}.",
                    hint=f"leave window out, or pass {before!r}; for another window create a job in another folder.",
                )
            del values["window"]
        self._journal.put(values)

    def _error_of(self, row: Row) -> KlusterError:
        if row.error is None:
            return KlusterError(f"Input {row.number} has no answer yet.", hint="call wait() first.")
        kept = json.loads(row.error)
        match kept.get("what"):
            case None:
                return from_body(kept["body"], status_code=kept["status"], secret=self._transport.secrets)
            case "refused":
                return BatchFailedError(f"Input {row.number} did not run: {kept['message']}")
            case "expired":
                return BatchExpiredError(f"Input {row.number} was not answered within the window.")
            case "cancelled":
                return KlusterError(f"Input {row.number} was not answered: the job was cancelled.", code="cancelled")
            case _:
                return InternalServerError(f"Input {row.number} has no line in the results, in {row.lines} jobs.")


def check_cost(max_cost: object) -> None:
    """Raise an error if `max_cost` is not a limit in US$."""
    if max_cost is not None and (
        isinstance(max_cost, bool) or not isinstance(max_cost, int | float) or not 0 <= max_cost < math.inf
    ):
        raise BadRequestError(
            f"max_cost={max_cost!r} must be a number of US$, 0 or more, or None for no limit.",
            hint="such as max_cost=5.00.",
        )


def check_window(window: object) -> None:
    """Raise an error if `window` is not a completion window."""
    allowed = (*WINDOWS, "auto")
    if window not in allowed:
        raise BadRequestError(
            f"window={window!r} must be one of {', '.join(allowed)}.",
            hint='"72h" is the cheapest; "auto" chooses by price.',
        )


def _no_job(folder: str | Path) -> NotFoundError:
    return NotFoundError(
        f"folder={str(folder)!r} holds no job.", hint="check the path, or make a job with BatchJob.create()."
    )
