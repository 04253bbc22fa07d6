"""`BatchJob`: a folder of requests that the service answers within a day or three, each exactly once."""

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
    """Requests that the service answers in batch jobs, with a folder that keeps their state.

    Made by `create`, `open` or `adopt`; a context manager, which closes the journal. Every method has an async twin:
    `acreate`, `aopen`, `aadopt`, `aestimate`, `asubmit`, `astatus`, `acancel`, `await_`, `aresults`.

    Attributes:
        folder: Where the journal is.
        settle: Seconds for which the account's list of jobs may lag; after an unclear answer it is looked at for so
            long. Default 60, or `KLUSTER_BATCH_SETTLE`.
        poll: Seconds between the first two looks at a running job, growing to five minutes. Default 5, or
            `KLUSTER_BATCH_POLL`.
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
        """Write a job into a folder; nothing is sent yet. With the same requests again it returns the same job.

        Args:
            requests: Message lists, or dicts with `messages`, `model` and parameters as in OpenAI's API
                (`response_format`, `tools`, …), `max_repairs`, `tool_calling` and `extra_body`. Read one by one.
            folder: Made if it is not there.
            window: How long the service may take; `auto` takes the cheapest when the job is submitted. May be changed
                until then. Default: that of the job that is there, else `24h`.
            config: The connection; default: from the environment.
            max_cost: US$; `CostLimitError` comes before anything is sent that would exceed it, by `estimate`. May be
                changed at any time; None is no limit. Default: that of the job that is there, else no limit.
            strict: Whether what is not answered within the window is given up; else it is sent again. Default: as the
                job that is there, else False.
            defaults: `model` and parameters of all requests, where they have none of their own.

        Raises:
            BadRequestError: A request cannot be sent as it is, or the folder holds a job of other requests.
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
        """Return the job that a folder holds.

        Args:
            folder: Where it is.
            config: The connection; default: from the environment.
            window: Another completion window, as long as nothing is submitted; None leaves it as it is.
            max_cost: Another limit, in US$; None leaves it as it is.

        Raises:
            NotFoundError: The folder holds no job.
            BadRequestError: The window is not allowed, or comes too late.
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
        """Take over a job that something else has created, into a folder of its own.

        The inputs are read back from the job's file. Where the service does not give it (no such call is documented),
        the inputs are those that have an answer, in its order, and nothing can be sent again.

        Raises:
            BadRequestError: The folder holds another job.
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
        """Close the journal, and let other processes in. The jobs of the service go on. Closing again does nothing."""
        self._is_closed = True
        if self._forgotten.detach():
            self._open_journal.close()

    @property
    def window(self) -> Any:
        """The completion window: `24h`, `48h`, `72h`, or `auto` until the job is submitted."""
        return self._journal.get("window")

    @property
    def max_cost(self) -> float | None:
        """The limit in US$, None where there is no limit."""
        limit: float | None = self._journal.get("max_cost")
        return limit

    async def aestimate(self) -> CostEstimate:
        """As `estimate`."""
        return await asyncio.to_thread(self.estimate)

    def submit(self) -> None:
        """Send what is to be sent. Again it sends nothing twice, and goes on where it was stopped.

        Raises:
            CostLimitError: It would cost more than `max_cost`.
            SubmissionUnclearError: A job may exist already, and another one might cost more than `max_cost`.
            BadRequestError: The job was cancelled, or the service refuses it.
            KlusterError: Whatever else goes wrong; the next `submit` or `wait` goes on.
        """
        self._drive(self._submitting())

    async def asubmit(self) -> None:
        """As `submit`."""
        await self._adrive(self._submitting())

    def last_status(self) -> BatchStatus:
        """Say how far all is, as it was last seen; nothing is asked."""
        return self._status()

    def status(self) -> BatchStatus:
        """Look at the service's jobs, take the results of those that have ended, and say how far all is.

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
        """Cancel what runs (the service may take ten minutes), and send nothing more; what was answered stays.

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
        """Submit, and wait until every input has a result; repairs and lost lines are sent meanwhile.

        Broken connections and errors of the server do not end it.

        Args:
            timeout: Seconds; default: as long as it takes. It ends a request that hangs, too, and the time for which a
                job is looked for after an unclear answer. With 0 nothing is asked. A server that goes on sending bytes
                is read to the end.
            on_progress: Called with each status that is new.

        Raises:
            APITimeoutError: The time is over. Nothing is lost: wait again, here or in another process.
            BatchFailedError: The service refused one of its jobs.
            BatchExpiredError: The window ended before everything was answered.
            CostLimitError: A further round would cost more than `max_cost`.
            KlusterError: Whatever else goes wrong. `results` has what was answered in each case.
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
        """Yield one result per input, in input order, out of the journal; some hundred are in memory at a time.

        An input without an answer yet has an error that says so.
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
            TimeOver: The operation's time is over. Sleeping goes on with what is left, and the next step says so.
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
        """Wait for a step until the operation's time is over; what is done in a thread is always waited for."""
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
        """Add the requests, or check that they are those that are there."""
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
