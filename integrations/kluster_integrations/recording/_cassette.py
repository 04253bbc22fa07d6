"""`cassette`: vcrpy with rules for kluster.ai: what is recorded, which requests match, and clear errors."""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from vcr.cassette import Cassette  # type: ignore[import-untyped]
from vcr.record_mode import RecordMode  # type: ignore[import-untyped]
from vcr.request import Request  # type: ignore[import-untyped]

from kluster_integrations._version import __version__
from kluster_integrations.emulator import THREAD
from kluster_integrations.recording import _filters, _text

__all__ = ["CassetteError", "Mode", "cassette"]

Mode = Literal["once", "none", "new_episodes", "all", "rewrite"]


class CassetteError(BaseException):
    """A request is not in the cassette, a recorded one was never sent, or the file cannot be read.

    It is a `BaseException`, like pytest's own failures, and not an `Exception`: otherwise the SDK would retry and
    report a connection error, and a framework's fallback would hide it.
    """


Failure = Callable[[str], BaseException]


@contextmanager
def cassette(
    path: str | os.PathLike[str],
    mode: Mode = "once",
    *,
    secrets: Iterable[str] = (),
    about: Mapping[str, str] | None = None,
) -> Iterator[Any]:
    """Record the calls of kluster.ai's API inside the block into a file, or replay them from it.

    Requests match by method, path (with query) and body. Each recording is played once, equal ones in their order.
    Requests to other addresses are neither recorded nor changed. While recording, your code gets an answer when it is
    complete; an incomplete answer is not recorded. Requests of other threads are recorded, too, so use one cassette at
    a time in a process.

    Args:
        path: A YAML file; missing folders are made.
        mode: One of vcrpy's record modes. `once`: record if there is no file, else replay. `none`: replay, and never
            send anything. `new_episodes`: replay existing recordings, and record other requests. `all`: send
            everything, and replace the recordings. `rewrite`: as `all`, and remove recordings that are not sent again.
        secrets: Further texts to mask as `***`. Keys in the environment and in the requests' headers are always masked,
            if they have 8 characters or more.
        about: Further lines for the head of the file.

    Yields:
        vcrpy's cassette: `requests`, `responses`, `play_count`.

    Raises:
        CassetteError: While replaying, a request has no recording, or a recording is not used.
        ValueError: If the mode is not one of these.
    """
    with playing(path, mode, secrets=secrets, about=about) as player:
        yield player


@contextmanager
def playing(
    path: str | os.PathLike[str],
    mode: Mode,
    *,
    secrets: Iterable[str] = (),
    about: Mapping[str, str] | None = None,
    failure: Failure = CassetteError,
    hint: str = 'Hint: record this file anew, with a key: cassette(…, mode="rewrite").',
) -> Iterator[_Cassette]:
    """As `cassette`; `failure` makes the exception from a message that ends with `hint`."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode={mode!r} is not allowed; it must be one of {', '.join(get_args(Mode))}.")
    known = _filters.Secrets(secrets)
    tape = _Cassette.use(
        path=os.fspath(path),
        persister=_Keeper(about or {}, failure, hint),
        failure=failure,
        hint=hint,
        match_on=(_filters.same,),
        record_mode=RecordMode.ALL if mode == "rewrite" else RecordMode(mode),
        drop_unused_requests=mode == "rewrite",
        before_record_request=lambda request: _filters.tidy_request(request, known) if _counts(request) else None,
        before_record_response=lambda response: _filters.tidy_response(response, known),
        record_on_exception=False,
    )
    with tape as player:
        try:
            yield player
        except Exception:
            player.check_nothing_missed()
            raise
        player.check_nothing_missed()
        player.check_all_played()


def _counts(request: Any) -> bool:
    """Return whether a request is the caller's, and not one of an emulator in this process to its upstream."""
    return threading.current_thread().name != THREAD and _filters.is_of_the_api(request)


class _Cassette(Cassette):  # type: ignore[misc]
    """A cassette that raises an error at once for a request that it lacks, and names it."""

    def __init__(self, *, failure: Failure, hint: str, **options: Any) -> None:
        super().__init__(**options)
        self._failure = failure
        self._hint = hint
        self._turn = threading.RLock()
        self._given_up = False
        self._missed: BaseException | None = None

    def can_play_response_for(self, request: Any) -> bool:
        """Whether there is a recording left.

        Raises:
            CassetteError: If there is no recording left, and the mode does not record.
        """
        if super().can_play_response_for(request):
            return True
        if self.write_protected and self.filter_request(request):
            raise self._miss(request)
        return False

    def play_response(self, request: Any) -> Any:
        """Return the recording. Two threads with equal requests get one each."""
        with self._turn:
            if not self.can_play_response_for(request):
                raise self._miss(request)
            return super().play_response(request)

    def give_up(self) -> None:
        """Do not save, and do not report unused recordings."""
        self.dirty = False
        self._given_up = True

    def check_nothing_missed(self) -> None:
        """Raise the error of a request without a recording again, in case the caller has lost it.

        `asyncio.gather(…, return_exceptions=True)` turns the error into a result, and LangChain's `ainvoke` then fails
        with another one.
        """
        if self._missed is not None and not self._given_up:
            raise self._missed from None

    def check_all_played(self) -> None:
        """Raise an error for unused recordings, if the mode only replays."""
        if self._given_up:
            return
        left = [request for index, request in enumerate(self.requests) if not self.play_counts[index]]
        if self.write_protected and left:
            names = "; ".join(_filters.named(request) for request in left)
            raise self._failure(
                f"{self._path} holds {len(left)} of {len(self)} requests that were not sent: {names}. {self._hint}"
            )

    def _miss(self, request: Any) -> BaseException:
        self._missed = self._failure(self._lack(self.filter_request(request)))
        return self._missed

    def _lack(self, request: Any) -> str:
        name = _filters.named(request)
        if not self.rewound:
            return f"There is no cassette {self._path}, so this cannot be replayed: {name}. {self._hint}"
        if any(_filters.same(request, recorded) for recorded in self.requests):
            return f"{self._path} holds {name}, but not as often as it is sent. {self._hint}"
        left = [recorded for index, recorded in enumerate(self.requests) if not self.play_counts[index]]
        if not left:
            return f"{self._path} does not hold {name}; all that it holds has been replayed. {self._hint}"
        return f"{self._path} does not hold {name}: {_filters.difference(request, left[0])}. {self._hint}"


class _Keeper:
    """Reads and writes the file; what vcrpy calls a persister."""

    def __init__(self, about: Mapping[str, str], failure: Failure, hint: str) -> None:
        self._about = about
        self._failure = failure
        self._hint = hint

    def load_cassette(self, path: str, serializer: object) -> tuple[list[Any], list[Any]]:
        """Return requests and responses. vcrpy's own FileNotFoundError means "nothing yet"."""
        from vcr.persisters.filesystem import CassetteNotFoundError  # type: ignore[import-untyped]

        file = Path(path)
        if not file.is_file():
            raise CassetteNotFoundError
        try:
            rows = _text.load(file.read_text("utf-8"))["interactions"]
        except ValueError as exc:
            raise self._failure(f"{path} is not a cassette: {exc}. {self._hint}") from None
        requests = [Request(**row["request"]) for row in rows]
        for row in rows:
            body = row["response"]["body"]
            body["string"] = body["string"].encode() if isinstance(body["string"], str) else body["string"] or b""
        return requests, [row["response"] for row in rows]

    def save_cassette(self, path: str, cassette_dict: Mapping[str, Any], serializer: object) -> None:
        """Write the file in one step. If two runs write at once, the file of one of them remains complete."""
        requests, responses = cassette_dict["requests"], cassette_dict["responses"]
        rows = [
            {"request": _as_row(request), "response": response}
            for request, response in zip(requests, responses, strict=True)
        ]
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = _text.dump({**_head(requests), **self._about}, rows)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            partial.write_text(text, "utf-8", newline="\n")
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


def _as_row(request: Any) -> dict[str, Any]:
    headers = {name: [value] for name, value in request.headers.items()}
    return {"method": request.method, "uri": request.uri, "body": request.body, "headers": headers}


def _head(requests: list[Any]) -> dict[str, str]:
    hosts = sorted({"{0.scheme}://{0.netloc}".format(urlsplit(request.uri)) for request in requests})
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "server": ", ".join(hosts), "by": f"kluster-integrations {__version__}"}
