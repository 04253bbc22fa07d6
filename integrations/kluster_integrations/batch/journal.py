"""The journal of a batch job: what is to be sent, what was sent, and what came back; it survives a kill at any moment.

One SQLite file per folder, synchronous=full: what is committed is on the disk. An exclusive lock keeps other processes
out for as long as it is open, and ends with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kluster_integrations.batch.lines import Line
from kluster_integrations.batch.types import ModelTokens
from kluster_integrations.core.errors import BadRequestError, JobLockedError, KlusterError
from kluster_integrations.core.forks import free_in_forks

__all__ = ["NAME", "Journal", "Part", "Row", "closed", "folder_of", "holds_journal", "open_journal"]

NAME = "job.sqlite"
_LOCK = "lock"
_CHUNK = 500  # rows in memory at a time
_SCHEMA = """
create table if not exists meta(name text primary key, value text);
create table if not exists part(
    number integer primary key, lines integer, file_id text, intent real, batch_id text,
    status text default 'waiting', seen text, is_done integer default 0);
create table if not exists row(
    number integer primary key, custom_id text unique, state text default 'new', part integer, model text, size integer,
    prompt_tokens integer, completion_tokens integer, assumed integer,
    tries integer default 0, lines integer default 0, cost real, error text);
create table if not exists input(number integer primary key, body text, extra text);
create table if not exists answer(number integer, attempt integer, body text, primary key(number, attempt));
"""
# A row is `new` (to be sent), `sent` (in a part), `answered` (what its answers come to is a result) or `failed`.
# `tries` counts the lines of its present request, `lines` all that were ever sent for it.


class Part(NamedTuple):
    """One job of the service, or one to be.

    Attributes:
        number: From 1.
        lines: How many lines it has.
        file_id: The uploaded file's id.
        intent: When this side was about to create the job, seconds since the epoch; None before that.
        batch_id: The job's id.
        status: The service's word, `waiting` before it is created.
        seen: JSON of the job as it was last seen.
        is_done: Whether its results are here.
    """

    number: int
    lines: int
    file_id: str | None
    intent: float | None
    batch_id: str | None
    status: str
    seen: str | None
    is_done: int


class Row(NamedTuple):
    """One input, and what became of it so far."""

    number: int
    state: str
    lines: int
    cost: float | None
    error: str | None
    body: str | None
    extra: str | None


def _locked(folder: Path) -> int:
    """Return the open file whose lock says that this process works on a folder; the system frees it with the process.

    SQLite's own lock is not enough. fcntl's locks belong to a process and a file, not to an open file: if anything in
    this process opens and closes the database's file, such as a copy, the lock is gone.
    """
    path = folder / _LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            os.close(file)
            if err.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise JobLockedError(f"Another process works on the job in {str(folder)!r}.") from None
            raise
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)  # another process has removed the file meanwhile, with an empty journal


def _unusable(folder: Path, why: str) -> BadRequestError:
    return BadRequestError(
        f"folder={str(folder)!r} cannot be used: {why}.",
        hint="use a folder that is writable and has free space; if its files are damaged, restore them from a backup.",
    )


def closed(folder: Path) -> BadRequestError:
    """Return the error for using a job after `close`."""
    return BadRequestError(
        f"The job in {str(folder)!r} is closed.", hint=f"open it again with BatchJob.open({str(folder)!r})."
    )


class Journal:
    """The journal of one folder.

    Raises:
        JobLockedError: If another process has it open.
        BadRequestError: If the folder cannot be made, read or written.
    """

    def __init__(self, folder: Path, key: tuple[int, str]) -> None:
        self.folder = folder.absolute()  # a program may change its directory
        self.users = 0
        self._key = key
        self._lock = threading.RLock()  # of single accesses
        self._in_use = threading.Lock()  # of whole operations
        self._db: sqlite3.Connection | None = None
        self._file: int | None = None
        self._has_made_folder = not os.path.lexists(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # it holds prompts and answers
            self._file = _locked(self.folder)
            os.close(os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(folder / NAME, isolation_level=None, check_same_thread=False, timeout=0)
            # Exclusive before WAL, so that there is no shared memory and the lock is held from the first access on.
            for statement in ("pragma locking_mode=exclusive", "pragma journal_mode=wal", "pragma synchronous=full"):
                self._write(statement)
            with self.commit():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._write(statement)
        except OSError as err:
            self._release()
            raise _unusable(folder, err.strerror or str(err)) from None
        except BaseException:
            self._release()
            raise

    @property
    def is_closed(self) -> bool:
        """True if no job of this process uses the journal."""
        return self._db is None

    def close(self, *, tidy: bool = True) -> None:
        """Close the journal when no job of this process uses it, so that other processes can open it.

        Args:
            tidy: Whether to remove an empty journal. False in a finalizer, which may run in an event loop and must not
                read.
        """
        with _opening:
            self.users -= 1
            if self.users <= 0 and self._key[0] == os.getpid():  # a forked process leaves its parent's alone
                try:
                    if tidy:
                        self._discard_if_empty()
                finally:
                    self._release()

    def _discard_if_empty(self) -> None:
        with contextlib.suppress(KlusterError, OSError):  # it is but tidied up
            if self.get("window") is None and self._db is not None:
                self._db.close()
                self._db = None
                for name in (NAME, f"{NAME}-wal", _LOCK):
                    (self.folder / name).unlink(missing_ok=True)
                if self._has_made_folder:
                    self.folder.rmdir()

    def _release(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def temporary(self) -> BinaryIO:
        """Return a temporary file in the folder, without a name; closing it removes it."""
        try:
            return tempfile.TemporaryFile(dir=self.folder)
        except OSError as err:
            raise _unusable(self.folder, err.strerror or str(err)) from None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the journal for one operation of a job.

        Raises:
            JobLockedError: If another thread or task of this process holds it.
        """
        if not self._in_use.acquire(blocking=False):
            raise JobLockedError(f"Another thread or task works on the job in {str(self.folder)!r}.")
        try:
            yield
        finally:
            self._in_use.release()

    @contextlib.contextmanager
    def commit(self) -> Iterator[None]:
        """Commit everything that is written inside, or nothing."""
        with self._lock:
            self._write("begin immediate")
            try:
                yield
                self._write("commit")
            except BaseException:
                if self._db is not None and self._db.in_transaction:  # a full disk may have ended it
                    self._write("rollback")
                raise

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            if self._db is None:
                raise closed(self.folder)
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as err:
                if "locked" in str(err):
                    raise JobLockedError(f"Another process works on the job in {str(self.folder)!r}.") from None
                raise _unusable(self.folder, f"its {NAME} cannot be read or written ({err})") from None

    _write = _all

    # -- what holds for the whole job

    def get(self, name: str) -> Any:
        """Return the value of a name, or None."""
        found = self._all("select value from meta where name=?", name)
        return json.loads(found[0][0]) if found else None

    def put(self, values: Mapping[str, Any]) -> None:
        """Keep values by name."""
        for name, value in values.items():
            self._write("insert or replace into meta values(?,?)", name, json.dumps(value))

    # -- inputs

    def add(self, number: int, line: Line) -> None:
        """Add an input."""
        self._write("insert into input values(?,?,?)", number, line.body, line.extra)
        self._write(
            "insert into row(number, custom_id, model, size, prompt_tokens, completion_tokens, assumed)"
            " values(?,?,?,?,?,?,?)",
            *(number, line.custom_id, line.model, line.size, line.prompt_tokens, line.completion_tokens, line.assumed),
        )

    def count(self) -> int:
        """Return the number of inputs."""
        return int(self._all("select count(*) from row")[0][0])

    def counts(self) -> dict[str, int]:
        """Return the number of inputs by state."""
        return dict(self._all("select state, count(*) from row group by state"))

    def has(self, number: int, line: Line) -> bool:
        """Whether the input of this number is the same."""
        return bool(self._all("select 1 from input where number=? and body=? and extra is ?", number, *line[1:3]))

    def model_tokens(self, part: int | None = None, *, new: bool = False) -> list[ModelTokens]:
        """Return the estimated tokens by model: of all inputs, of those to be sent, or of a part."""
        where, values = ("state='new'", ()) if new else ("1", ()) if part is None else ("part=?", (part,))
        columns = "model, sum(prompt_tokens), sum(completion_tokens)"
        return [ModelTokens(*m) for m in self._all(f"select {columns} from row where {where} group by model", *values)]

    def assumed(self) -> int:
        """Return how many inputs have no limit of tokens."""
        return int(self._all("select coalesce(sum(assumed), 0) from row")[0][0])

    def cost(self) -> float:
        """Return the known costs, in US$."""
        return float(self._all("select coalesce(sum(cost), 0) from row")[0][0])

    def has_unknown_cost(self) -> bool:
        """Whether an answered request has an unknown price."""
        return bool(self._all("select 1 from answer join row using(number) where cost is null limit 1"))

    def rows(self) -> Iterator[Row]:
        """Yield the inputs in order, some hundred at a time."""
        last = -1
        columns = "row.number, state, lines, cost, error, body, extra"
        while chunk := self._all(
            f"select {columns} from row left join input using(number) where row.number>? order by row.number limit ?",
            *(last, _CHUNK),
        ):
            last = chunk[-1][0]
            yield from map(Row._make, chunk)

    def find_row(self, custom_id: str) -> Row | None:
        """Return the input of an id, without its body."""
        columns = "number, state, lines, cost, error, null, null"
        found = self._all(f"select {columns} from row where custom_id=?", custom_id)
        return Row._make(found[0]) if found else None

    def next_number(self) -> int:
        """Return the number of an input to be added."""
        return int(self._all("select coalesce(max(number) + 1, 0) from row")[0][0])

    def drop(self, where: str, *values: Any) -> list[str]:
        """Remove the inputs whose rows meet a condition, and return their ids; inside a commit."""
        dropped = self._all(f"select number, custom_id from row where {where}", *values)
        for number, _ in dropped:
            for table in ("row", "input", "answer"):
                self._write(f"delete from {table} where number=?", number)
        return [custom_id for _, custom_id in dropped]

    def input(self, number: int) -> tuple[str, str | None]:
        """Return body and `extra` of an input."""
        found: tuple[str, str | None] = self._all("select body, extra from input where number=?", number)[0]
        return found

    def answers(self, number: int) -> list[str]:
        """Return the answers to an input, in their order, as JSON."""
        return [body for (body,) in self._all("select body from answer where number=? order by attempt", number)]

    def numbers(self, where: str, *values: Any) -> list[int]:
        """Return the numbers of inputs by a condition on their row."""
        return [n for (n,) in self._all(f"select number from row where {where} order by number", *values)]

    # -- parts

    def split(self, most_lines: int, most_bytes: int, *, new: bool = True) -> list[tuple[int, int, int]]:
        """Return the first input, the last and the number of lines of each file that the inputs make.

        Args:
            most_lines: Lines of a file.
            most_bytes: Bytes of a file; a line that is longer makes a file of its own.
            new: Whether to count only inputs that must be sent.
        """
        files: list[tuple[int, int, int]] = []
        first = last = lines = size = 0
        which = "where state='new'" if new else ""
        for number, more in self._all(f"select number, size from row {which} order by number"):
            if lines and (lines == most_lines or size + more > most_bytes):
                files.append((first, last, lines))
                lines = size = 0
            if not lines:
                first = number
            last, lines, size = number, lines + 1, size + more
        return [*files, (first, last, lines)] if lines else files

    def plan(self, files: Iterable[tuple[int, int, int]]) -> None:
        """Make a part of each file; inside a commit."""
        for first, last, lines in files:
            self._write("insert into part(lines) values(?)", lines)
            self._write(
                "update row set state='sent', part=last_insert_rowid(), tries=tries+1, lines=lines+1"
                " where state='new' and number between ? and ?",
                *(first, last),
            )

    def parts(self, *, unfinished: bool = False) -> list[Part]:
        """Return the parts in their order."""
        where = "where not is_done" if unfinished else ""
        columns = ", ".join(Part._fields)
        return [Part._make(p) for p in self._all(f"select {columns} from part {where} order by number")]

    def plan_adopted(self, custom_id: str, part: Part) -> None:
        """Assign an input to an existing part."""
        self._write("update row set state='sent', part=?, tries=1, lines=1 where custom_id=?", part.number, custom_id)

    def set_part(self, part: Part, **values: Any) -> Part:
        """Change a part, on the disk at once, and return it."""
        names = ", ".join(f"{name}=?" for name in values)
        self._write(f"update part set {names} where number=?", *values.values(), part.number)
        return part._replace(**values)

    def part_rows(self, part: Part) -> Iterator[tuple[int, str, str, bool]]:
        """Yield number, custom id, body and whether it has answers already, of each line of a part."""
        last = -1
        while chunk := self._all(
            "select row.number, custom_id, body, exists(select 1 from answer where answer.number=row.number)"
            " from row join input using(number) where part=? and row.number>? order by row.number limit ?",
            *(part.number, last, _CHUNK),
        ):
            last = chunk[-1][0]
            yield from chunk

    # -- answers

    def find(self, custom_id: str, part: Part) -> int | None:
        """Return the number of an input that waits for an answer in a part, or None."""
        where = "custom_id=? and part=? and state='sent'"
        found = self._all(f"select number from row where {where}", custom_id, part.number)
        return found[0][0] if found else None

    def tries(self, number: int) -> int:
        """Return how often the present request of an input was sent."""
        return int(self._all("select tries from row where number=?", number)[0][0])

    def keep_answer(self, number: int, body: str) -> None:
        """Keep a further answer to an input."""
        self._write(
            "insert into answer values(?, (select count(*) from answer where number=?), ?)", number, number, body
        )

    def end(self, number: int, state: str, cost: float | None = None, error: str | None = None) -> None:
        """End an input, as `answered` or `failed`."""
        self._write(
            "update row set state=?, cost=coalesce(?, cost), error=? where number=?", state, cost, error, number
        )

    def send_again(self, number: int) -> None:
        """Mark a line to be sent again."""
        self._write("update row set state='new', part=null where number=?", number)

    def repair(self, number: int, line: Line, cost: float | None) -> None:
        """Set the next request of an input, a repair, to be sent."""
        self._write(
            "update row set state='new', part=null, tries=0, custom_id=?, size=?, prompt_tokens=?, cost=?"
            " where number=?",
            *(line.custom_id, line.size, line.prompt_tokens, cost, number),
        )


_opened: weakref.WeakValueDictionary[tuple[int, str], Journal] = weakref.WeakValueDictionary()
# A job may be collected, and so closed, while this thread opens another.
_opening = free_in_forks(threading.RLock())


def open_journal(folder: Path) -> Journal:
    """Return the journal of a folder: the open one of this process (a notebook runs a cell again), or a new one."""
    key = os.getpid(), os.path.realpath(folder)
    with _opening:
        journal = _opened.get(key)
        if journal is not None:
            journal.users += 1
            if not journal.is_closed:
                return journal
        journal = _opened[key] = Journal(folder, key)
        journal.users = 1
        return journal


def folder_of(folder: object) -> Path:
    """Return the folder of a job.

    Raises:
        BadRequestError: It is not a path.
    """
    if isinstance(folder, str | os.PathLike):
        path = os.fspath(folder)
        if isinstance(path, str) and path.strip() and "\0" not in path:
            return Path(path)
    raise BadRequestError(f"folder={folder!r} must be the path of the job's folder.", hint='such as folder="reviews".')


def holds_journal(folder: Path) -> bool:
    """Whether there is a journal in a folder.

    Raises:
        BadRequestError: The folder cannot be read.
    """
    try:
        return (folder / NAME).exists()
    except OSError as err:
        raise _unusable(folder, err.strerror or str(err)) from None
