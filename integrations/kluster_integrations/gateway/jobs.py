"""What the files of batch jobs are expected to take, for the budget: read when they pass, else at the service."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import aclosing
from typing import IO

from kluster_integrations.batch.foreign import expected
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.types import Usage
from kluster_integrations.errors import BadRequestError, BudgetExceededError, NotFoundError, PermissionDeniedError
from kluster_integrations.files import Files

__all__ = ["MAX_FILE", "Jobs"]

MAX_FILE = 101 * 2**20  # a batch file is at most 100 MB; a form is a little more
_MOST_ROWS = 10_000  # one per file and model
_IN_MEMORY = 2**20  # bytes of a file that is read again

_Expected = Mapping[str, Usage] | BadRequestError


class Jobs:
    """Knows the newest files that have passed, until the gateway stops.

    Args:
        files: Reads those that have not.
        config: Has the catalog that models are looked up in.
    """

    def __init__(self, files: Files, config: KlusterConfig) -> None:
        self._files = files
        self._config = config
        self._known: dict[str, _Expected] = {}

    async def note(self, file_id: str, file: IO[bytes]) -> None:
        """Take note of a file that was uploaded."""
        self._known[file_id] = await asyncio.to_thread(self._read, file)
        while sum(len(one) if isinstance(one, Mapping) else 1 for one in self._known.values()) > _MOST_ROWS:
            del self._known[next(iter(self._known))]

    async def expected(self, file_id: str) -> Mapping[str, Usage]:
        """Return what the lines of a file are expected to take, by model.

        Raises:
            BadRequestError: A line is not a chat request.
            BudgetExceededError: The service does not give the file.
            KlusterError: Whatever else goes wrong.
        """
        if (found := self._known.get(file_id)) is None:
            with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
                await self._fetch(file_id, file)
                found = await asyncio.to_thread(self._read, file)
        if isinstance(found, BadRequestError):
            raise BadRequestError(found.message, hint=found.hint)  # another one: it is kept, and must keep no frames
        return found

    def _read(self, file: IO[bytes]) -> _Expected:
        file.seek(0)
        try:
            return expected(file, self._config)
        except BadRequestError as err:
            return err.with_traceback(None)

    async def _fetch(self, file_id: str, to: IO[bytes]) -> None:
        size = 0
        try:
            async with aclosing(self._files.apieces(file_id)) as pieces:
                async for piece in pieces:
                    size += len(piece)
                    if size > MAX_FILE:
                        raise BadRequestError(
                            f"The file is larger than {MAX_FILE} bytes.",
                            hint="split it into several files, and make a job of each.",
                        )
                    to.write(piece)
        except (NotFoundError, PermissionDeniedError, BadRequestError) as err:
            raise BudgetExceededError(
                f"The file {file_id[:200]!r} cannot be read, so the budget cannot limit a job of it: {err.message}",
                hint="upload the file through this gateway, and create the job before the gateway stops.",
            ) from None
