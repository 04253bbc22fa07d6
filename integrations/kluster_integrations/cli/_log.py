"""The log of conversations: one SQLite file of the user's own, for `kluster chat -c` and `kluster logs`."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kluster_integrations.cli._errors import without_keys
from kluster_integrations.errors import KlusterError

__all__ = [
    "Turn",
    "add_turn",
    "clear",
    "is_on",
    "is_there",
    "last_conversation",
    "log_file",
    "private_file",
    "read_turns",
]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS turns(
    id INTEGER PRIMARY KEY, conversation INTEGER, at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    model TEXT NOT NULL, messages TEXT NOT NULL, answer TEXT NOT NULL, reasoning TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, estimated INTEGER NOT NULL, cost REAL,
    seconds REAL NOT NULL)
"""


class Turn(NamedTuple):
    """A question and its answer.

    Attributes:
        model: The id of the model.
        messages: What the turn adds to the conversation, in OpenAI's shape: a new system prompt, the question, tool
            calls and their results, the answer.
        answer: The answer's text.
        reasoning: The model's reasoning.
        prompt_tokens: Of all requests of the turn, as are the following.
        completion_tokens: Tokens of the answers.
        estimated: Whether the server did not count them.
        cost: US$, None where the price is unknown.
        seconds: How long the turn took.
        id: The turn's number; None before it is kept.
        conversation: The number of the conversation's first turn; None begins one.
        at: When it was kept: UTC, ISO 8601.
    """

    model: str
    messages: Sequence[dict[str, Any]]
    answer: str
    reasoning: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    cost: float | None
    seconds: float
    id: int | None = None
    conversation: int | None = None
    at: str | None = None


def log_file() -> Path:
    """Return where the log is; the file may not exist yet."""
    from kluster_integrations.config import user_folder

    return user_folder() / "logs.db"


def is_on() -> bool:
    """Whether conversations are kept.

    Raises:
        KlusterError: If the settings cannot be read, or do not say it clearly: nobody's words are kept by mistake.
    """
    from kluster_integrations.config import read_settings, settings_file

    setting = read_settings().get("log", True)
    if not isinstance(setting, bool):
        problem = f"{settings_file()}: log={setting!r} must be true or false."
        raise KlusterError(problem, hint="`kluster logs off` or `kluster logs on` sets it.")
    return setting


def private_file(file: Path) -> None:
    """Make a file that nobody else can read, if it is not there yet."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


@contextmanager
def _open() -> Iterator[sqlite3.Connection]:
    file = log_file()
    try:
        private_file(file)
        connection = sqlite3.connect(file)
        try:
            with connection:
                connection.execute(_SCHEMA)
                yield connection
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as err:
        raise _unusable(err) from None


def _unusable(why: object) -> KlusterError:
    hint = "--no-log and `kluster logs off` keep no log; check the folder's rights, or move the file away."
    return KlusterError(f"The log {log_file()} cannot be used: {why}", hint=hint)


def is_there() -> bool:
    """Whether there is a log.

    Raises:
        KlusterError: If its folder cannot be read.
    """
    try:
        log_file().stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as err:  # Path.exists raises a PermissionError, too
        raise _unusable(err) from None
    return True


def add_turn(turn: Turn) -> int:
    """Keep a turn, without any key, and return the number of its conversation.

    Raises:
        KlusterError: If the log cannot be written.
    """
    row = turn._asdict()
    row |= {"messages": without_keys(json.dumps(turn.messages, ensure_ascii=False))}
    row |= {name: without_keys(row[name]) for name in ("answer", "reasoning")}
    names = [name for name in row if name not in ("id", "at")]
    with _open() as log:
        places = ", ".join(f":{name}" for name in names)
        id_ = log.execute(f"INSERT INTO turns({', '.join(names)}) VALUES ({places})", row).lastrowid
        assert id_ is not None
        if turn.conversation is None:
            log.execute("UPDATE turns SET conversation = id WHERE id = ?", (id_,))
        return turn.conversation or id_


def read_turns(*, last: int | None = None, conversation: int | None = None) -> list[Turn]:
    """Return turns, the oldest first.

    Args:
        last: How many at most; None is all.
        conversation: The number of a conversation; None is all.

    Raises:
        KlusterError: If the log cannot be read.
    """
    if not is_there():
        return []
    names = ", ".join(Turn._fields)
    where = "" if conversation is None else "WHERE conversation = :conversation"
    query = f"SELECT {names} FROM turns {where} ORDER BY id DESC LIMIT :last"
    with _open() as log:
        rows = log.execute(query, {"conversation": conversation, "last": -1 if last is None else last}).fetchall()
    return [_read(Turn(*row)) for row in reversed(rows)]


def _read(turn: Turn) -> Turn:
    """Return a turn of the log with its messages as lists and dicts.

    Raises:
        KlusterError: If they are not what this package writes.
    """
    try:
        messages = json.loads(str(turn.messages))
        for message in messages:
            if not isinstance(message["role"], str) or not isinstance(message["content"], str | list):
                raise TypeError
    except (KeyError, TypeError, ValueError):
        raise _unusable(f"turn {turn.id} is damaged.") from None
    return turn._replace(messages=messages, estimated=bool(turn.estimated))


def last_conversation() -> int | None:
    """Return the number of the conversation that was last added to, None where there is none."""
    turns = read_turns(last=1)
    return turns[0].conversation if turns else None


def clear() -> int:
    """Remove all turns, and return how many there were."""
    if not is_there():
        return 0
    with _open() as log:
        count = log.execute("DELETE FROM turns").rowcount
        log.commit()
        log.execute("VACUUM")  # what is deleted stays in the file's free pages until then
    return count
