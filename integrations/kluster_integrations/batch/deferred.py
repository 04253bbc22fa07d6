"""Unchanged programs as batch jobs: `async with deferred(folder):`, and `with deferred(folder):` for threads.

Chat requests of any adapter become lines of a batch job. When no new request has come for a while, the waiting ones are
sent as a job. Its answers wake their callers, and the next requests are the next round. One thread does all this, for
sync and async callers.

The key of a line is the request's content and how often it was asked. So a program that is killed and started again
finds its answers in the journal, waits for lines that are already sent, and sends only new ones.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

from kluster_integrations.batch.job import BatchJob, check_cost, check_window
from kluster_integrations.batch.journal import Row, folder_of
from kluster_integrations.batch.lines import dump
from kluster_integrations.batch.steps import FILE_BYTES, TRANSIENT, Do, Steps, TimeOver
from kluster_integrations.batch.types import BatchStatus, Window, check_callable, check_seconds, priced
from kluster_integrations.core import deferral
from kluster_integrations.core.config import KlusterConfig, seconds_from
from kluster_integrations.core.errors import BadRequestError, CostLimitError, JobLockedError, KlusterError
from kluster_integrations.core.specs import ModelSpec
from kluster_integrations.core.sse import loads
from kluster_integrations.core.transport import Answer, Transport

__all__ = ["Deferred", "deferred"]

_logger = logging.getLogger(__name__)

_THREADS = 1_000  # of executors that are made inside: each caller that waits holds one
# Failed for reasons that may pass: asked again, they are sent again. Other errors are answers, too.
_PASSING = (
    "state='failed' and (json_extract(error, '$.what') is not null"
    " or coalesce(json_extract(error, '$.status'), 500) in (408, 409, 429)"
    " or coalesce(json_extract(error, '$.status'), 500) >= 500)"
)


class Deferred:
    """Sends the chat requests inside as batch jobs: `async with deferred(folder):`, or `with` for threads.

    It applies to every adapter, and to tasks and threads that begin inside. An executor that is created inside without
    a number of workers gets 1,000, so that 1,000 requests can wait together. Streams get their answer in one piece.
    Timeouts and headers of single requests and the account's rate limits do not apply. Embeddings are sent at once. A
    budget counts the batch price.

    If every request to the service fails for 10 minutes (`KLUSTER_BATCH_PATIENCE`, in seconds), the requests inside get
    the error; the next run continues. Leaving the block interrupts the request to the service that is under way.

    Args:
        folder: The folder of the journal, for one process at a time; it is made if necessary.
        window: How long the service may take for each round: `24h`, `48h`, `72h`, or `auto`, the cheapest one.
        max_cost: The limit in US$ for all rounds together. A round that would exceed it is not sent, and its callers
            get `CostLimitError`. None is no limit.
        on_progress: A function that is called with each new status, from another thread. Each of its `jobs` is a round,
            or a part of one that is larger than a file may be.
        quiet: Seconds without a new request after which the waiting ones are sent. Default: `KLUSTER_BATCH_QUIET`, else
            2.
        config: The connection; default: that of the first request. Requests with another key or address are refused.

    Raises:
        BadRequestError: The window is not allowed or differs from the last run's, or the folder has a `BatchJob`.
        JobLockedError: The folder is in use.
    """

    def __init__(
        self,
        folder: str | Path,
        window: Window | Literal["auto"] = "72h",
        max_cost: float | None = None,
        on_progress: Callable[[BatchStatus], object] | None = None,
        *,
        quiet: float | None = None,
        config: KlusterConfig | None = None,
    ) -> None:
        check_window(window)
        check_cost(max_cost)
        if quiet is not None:
            check_seconds("quiet", quiet)
        check_callable("on_progress", on_progress)
        self.folder = folder_of(folder)
        self._settings = {"window": window, "max_cost": max_cost}
        self._on_progress = on_progress
        self._quiet = seconds_from("batch_quiet", 2.0) if quiet is None else quiet
        self._config = None if config is None else KlusterConfig.of(config)
        self._job: _Rounds | None = None

    def __enter__(self) -> Self:
        if self._job is not None:
            raise JobLockedError(
                f"deferred({str(self.folder)!r}) is entered already.", hint="make another one, with its own folder."
            )
        self._job = _Rounds(self.folder, self._config, self._quiet, self._on_progress)
        try:
            self._job.begin(self._settings)
        except BaseException:
            self._job.close()
            self._job = None
            raise
        deferral.deferrals.enter(self._job)
        _executors.change(1)
        return self

    def __exit__(self, *_: object) -> None:
        if (job := self._leave()) is not None:
            job.join()

    async def __aenter__(self) -> Self:
        self.__enter__()
        _executors.enter(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        if (job := self._leave()) is not None:
            try:
                await asyncio.to_thread(job.join)
            finally:
                _executors.leave(asyncio.get_running_loop())

    def _leave(self) -> _Rounds | None:
        job, self._job = self._job, None
        if job is not None:
            _executors.change(-1)
            deferral.deferrals.leave(job)
            job.end(
                KlusterError(
                    "The `deferred` block was left before this answer came.",
                    hint="run the program again with the same folder: finished answers are read from it.",
                )
            )
        return job

    def status(self) -> BatchStatus:
        """Return the progress as last seen, without a request."""
        if self._job is None:
            raise BadRequestError(
                "deferred is not entered.",
                hint="call status() inside the block, or use BatchJob.open(folder).status().",
            )
        return self._job.last_status()


deferred = Deferred
"""The name to use in a `with` statement."""


class _Rounds(BatchJob):
    """The job behind one `with` statement. A `deferral.Deferral`: `ask` is called from any thread."""

    def __init__(
        self,
        folder: Path,
        config: KlusterConfig | None,
        quiet: float,
        on_progress: Callable[[BatchStatus], object] | None,
    ) -> None:
        super().__init__(folder, config)
        self._account = None if config is None else _account(config)
        self._quiet = quiet
        self._on_progress = on_progress
        self._changed = threading.Condition()  # guards what follows
        self._asked: Counter[str] = Counter()
        self._fresh: dict[str, tuple[dict[str, Any], Future[Answer]]] = {}  # not in the journal yet
        self._callers: dict[str, Future[Answer]] = {}  # in the journal
        self._last_asked = 0.0
        self._failure: BaseException | None = None
        self._patience = seconds_from("batch_patience", 600.0)
        self._loop: asyncio.AbstractEventLoop | None = None  # the thread's
        self._thread = threading.Thread(target=self._work, name="kluster-deferred", daemon=True)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Open the folder's journal and start the thread."""
        journal = self._journal
        if journal.users > 1:
            raise JobLockedError(f"{str(self.folder)!r} is open in this process already.", hint="close that job first.")
        if journal.get("window") is not None and not journal.get("is_deferred"):
            raise self._other_job("they were given to a BatchJob")
        if journal.get("is_cancelled"):
            raise BadRequestError(f"The job in {str(self.folder)!r} was cancelled.", hint="use another folder.")
        with self._transport.errors, journal.commit():
            self._set(**settings, strict=False, is_deferred=True)
            journal.drop("state='new'")  # a process was killed before it sent them; the program asks for them again
            journal.drop(_PASSING)

    def end(self, error: BaseException) -> None:
        """Send nothing more, and raise an error in the waiting callers."""
        with self._changed:
            self._failure = self._failure or error
            waiting = [*self._callers.values(), *(future for _, future in self._fresh.values())]
            self._callers, self._fresh = {}, {}
            self._changed.notify_all()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._interrupt)
        for future in waiting:
            _fail(future, error)

    def _interrupt(self) -> None:
        """Interrupt the thread's request or sleep. The journal knows what it was about to do."""
        self._deadline = -math.inf
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())

    def join(self) -> None:
        """Wait until the thread has ended, and close the journal."""
        if self._thread.ident is not None:
            self._thread.join()
        self.close()

    # -- callers' side

    def priced(self, spec: ModelSpec) -> ModelSpec:
        """Return a model's spec with the price of the window; while `auto` is not decided, with the cheapest."""
        prices = spec.batch_prices
        return priced(spec, prices.get(self._journal.get("window"), min(prices.values(), default=None)))

    def ask(self, body: Mapping[str, Any], config: KlusterConfig) -> Future[Answer]:
        """Take a request. If the journal has its answer, the future is already done."""
        body, future = dict(body), Future[Answer]()
        digest = _digest(body)
        if (size := len(dump(body).encode()) + 200) > FILE_BYTES:
            raise BadRequestError(
                f"The request has {size} bytes; a batch file of kluster.ai has at most {FILE_BYTES}.",
                hint="shorten it; for an image, send its address (https://…) and not its data.",
            )
        with self._changed:
            if self._failure is not None:
                _fail(future, self._failure)
                return future
            self._connect(config)
            self._asked[digest] += 1
            key = f"{digest}-{self._asked[digest]}"
            row = self._journal.find_row(key)
            if row is not None and row.state in ("answered", "failed"):
                self._settle(future, row)
                return future
            if row is None:
                self._last_asked = time.monotonic()
                self._fresh[key] = body, future
                if len(self._fresh) == 1:
                    self._changed.notify_all()
            else:
                self._callers[key] = future
            if self._thread.ident is None:
                self._thread.start()
        return future

    def _connect(self, config: KlusterConfig) -> None:
        account = _account(config)
        if self._account is None:
            self._account, self._config, self._transport = account, config, Transport(config)
        elif account != self._account:
            raise BadRequestError(
                f"A request to {config.base_url} has another key or address than those before it, which go to "
                f"{self._config.base_url}: a batch job has one account.",
                hint="use one deferred(folder) block per key and address.",
            )

    def _settle(self, future: Future[Answer], row: Row) -> None:
        """Give a caller the answer or the error in the journal."""
        if not future.set_running_or_notify_cancel():
            return
        if row.state == "failed":
            future.set_exception(self._error_of(row))
        else:
            future.set_result(Answer(loads(self._journal.answers(row.number)[-1].encode()), {}))

    # -- the thread

    def _work(self) -> None:
        """Run the rounds in an event loop, where a request that hangs can be cancelled when the block is left."""
        try:
            asyncio.run(self._run())
        except TimeOver:
            pass
        except BaseException as err:
            self.end(err)

    async def _run(self) -> None:
        with self._changed:
            self._loop = asyncio.get_running_loop()
            if self._failure is not None:
                return
        try:
            await self._adrive(self._rounds())
        finally:
            with self._changed:
                self._loop = None
            await self._transport.aclose()

    def _rounds(self) -> Steps:
        journal = self._journal
        before, delay, reached = self._status(), self.poll, time.monotonic()
        while self._failure is None:
            try:
                yield from self._sending()
                yield from self._looking()
                reached = time.monotonic()
            except TRANSIENT as err:
                if time.monotonic() - reached >= self._patience:
                    err.message = f"For {self._patience:g} s the service could not be used. {err.message}"
                    err.hint = "nothing is lost: start again with the same folder when it can be reached."
                    raise
                _logger.warning("The rounds in %r go on after an error: %s", str(self.folder), err)
            if (status := self._status()) != before:
                before, delay = status, self.poll
                if self._on_progress is not None:
                    self._on_progress(status)
                self._wake()
            wait = math.inf
            if journal.counts().get("new"):  # to be sent again
                wait = 0.0
            elif journal.parts(unfinished=True):
                wait = delay * random.uniform(0.8, 1.2)
                delay = min(delay * 1.5, max(300.0, self.poll))
            idle_since = time.monotonic()
            yield Do("work", (lambda wait=wait: self._idle(wait),))
            if wait == math.inf:
                reached += time.monotonic() - idle_since  # nothing was asked of the service

    def _sending(self) -> Steps:
        """Plan a job of the new requests and create the planned jobs, also while other jobs run."""
        journal = self._journal
        if fresh := self._take_quiet():
            yield Do("work", (lambda: self._add(fresh),))
        if journal.counts().get("new"):
            try:
                yield Do("work", (self._plan,))
            except CostLimitError as err:
                with journal.commit():
                    refused = journal.drop("state='new'")
                with self._changed:
                    futures = [self._callers.pop(key, None) for key in refused]
                for future in filter(None, futures):
                    _fail(future, err)
        yield from self._creating_planned()

    def _take_quiet(self) -> dict[str, dict[str, Any]]:
        """Return the waiting requests by key if it is time to send them; the journal has them from now on."""
        with self._changed:
            if not self._fresh or self._until_quiet() > 0:
                return {}
            asked = {key: given for key, given in self._fresh.items() if not given[1].cancelled()}
            self._callers |= {key: future for key, (_, future) in asked.items()}
            self._fresh = {}
        return {key: body for key, (body, _) in asked.items()}

    def _until_quiet(self) -> float:
        if len(self._fresh) >= self._most_lines:
            return 0.0
        return self._last_asked + self._quiet - time.monotonic() if self._fresh else math.inf

    def _add(self, fresh: Mapping[str, dict[str, Any]]) -> None:
        journal = self._journal
        with journal.commit():
            for number, (key, body) in enumerate(fresh.items(), journal.next_number()):
                self._add_foreign(number, key, body)

    def _wake(self) -> None:
        """Give the callers the answers that have come."""
        with self._changed:
            for key in list(self._callers):
                row = self._journal.find_row(key)
                if row is not None and row.state in ("answered", "failed"):
                    self._settle(self._callers.pop(key), row)

    def _idle(self, seconds: float) -> None:
        """Wait for some seconds, or until requests must be sent."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._failure is None and (left := min(end - time.monotonic(), self._until_quiet())) > 0:
                self._changed.wait(None if left == math.inf else left)


def _fail(future: Future[Answer], error: BaseException) -> None:
    """Give each caller its own copy of the error, because a traceback and an adapter's class are added to it."""
    if future.set_running_or_notify_cancel():
        future.set_exception(type(error).like(error) if isinstance(error, KlusterError) else error)


def _account(config: KlusterConfig) -> tuple[str, str | None]:
    return config.base_url, config.api_key.get_secret_value() if config.api_key else None


def _digest(body: Mapping[str, Any]) -> str:
    """Return a hash of the content, without the ids of tool calls, which are random if the server gives none."""
    ids: dict[str, str] = {}
    messages = []
    for message in body["messages"]:
        if calls := message.get("tool_calls"):
            calls = [{**call, "id": ids.setdefault(str(call.get("id")), str(len(ids)))} for call in calls]
            message = {**message, "tool_calls": calls}
        if (id_ := message.get("tool_call_id")) is not None:
            message = {**message, "tool_call_id": ids.setdefault(str(id_), str(len(ids)))}
        messages.append(message)
    text = json.dumps({**body, "messages": messages}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class _Executors:
    """While something is deferred, executors that are made without a number of workers get many.

    Python's default is 6 workers on two cores and never more than 32. Each waiting caller holds one, so LangChain's
    `chain.batch` of 300 inputs would take 50 rounds. Threads start only when they are needed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._original = ThreadPoolExecutor.__init__
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, Any]] = WeakKeyDictionary()

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give a loop an executor with many threads; its own has few, and each CrewAI crew holds one."""
        with self._lock:
            users, before = self._loops.get(loop, (0, getattr(loop, "_default_executor", None)))  # there is no getter
            self._loops[loop] = users + 1, before
        if not users:
            loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncio"))

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the loop its own executor back. The threads end when nobody uses them."""
        with self._lock:
            users, before = self._loops.pop(loop)
            if users > 1:
                self._loops[loop] = users - 1, before
        if users == 1:
            loop.set_default_executor(before or ThreadPoolExecutor(thread_name_prefix="asyncio"))

    def change(self, users: int) -> None:
        with self._lock:
            self._users += users
            if self._users == users == 1:
                self._original = original = ThreadPoolExecutor.__init__

                @functools.wraps(original)
                def init(self: ThreadPoolExecutor, max_workers: int | None = None, *args: Any, **options: Any) -> None:
                    if max_workers is None and deferral.current() is not None:
                        max_workers = _THREADS
                    original(self, max_workers, *args, **options)

                ThreadPoolExecutor.__init__ = init  # type: ignore[method-assign]
            elif not self._users:
                ThreadPoolExecutor.__init__ = self._original  # type: ignore[method-assign]


_executors = _Executors()
