"""`KlusterRows`, a class for Ray Data's `map_batches`."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.core.types import ChatRequest, Message
from kluster_integrations.errors import (
    AuthenticationError,
    BadRequestError,
    KlusterError,
    NotFoundError,
    OutputValidationError,
)
from kluster_integrations.limits import Limits
from kluster_integrations.ray.answer_log import Answer, AnswerLog

__all__ = ["KlusterRows"]

_Todo = Generator[tuple[str, ChatRequest], None, None]


class KlusterRows:
    """Asks a model about each row of a Ray dataset: one row in, one row out, with an answer or an error.

    Give the class to `map_batches`, and its arguments as `fn_constructor_kwargs`; each actor makes one. If one row is
    wrong, the error is in its error column. If all rows would fail (wrong arguments, columns, key or model), the error
    is raised.

    Equal requests are sent once and share their answer; with `log` also those of earlier runs.

    Args:
        model: The model's id.
        prompt: The column with the text of the user's message.
        messages: In place of `prompt`: a column with OpenAI's message objects, or a function that gets a row (a dict)
            and returns them. If it raises, that is the row's error.
        output: The new column for the answer's text (JSON if `params` has a schema); None if there is an error.
        error: The new column for the error's class and message; None if there is an answer.
        params: OpenAI's parameters, such as `temperature`, `max_completion_tokens` and `response_format`; not `tools`.
        limits: The account's limits. With a `redis_url` all actors share them; without one each actor has the whole
            limit. Default: those of the plan, with `KLUSTER_REDIS_URL`.
        log: A folder, reachable for all actors, for answers and permanent errors. Errors that may pass (429, 5xx, no
            connection) are not saved, so another run asks again. None saves nothing.
        max_concurrency: Requests at the same time in each actor.
        max_repairs: How often an answer that does not follow the schema is asked for again.
        config: The connection; default: from the environment. Its key is not sent to the actors; each takes
            `KLUSTER_API_KEY` where it runs.

    Raises:
        BadRequestError: An argument is not allowed.
    """

    def __init__(
        self,
        model: str,
        *,
        prompt: str | None = None,
        messages: str | Callable[[dict[str, Any]], Sequence[Message]] | None = None,
        output: str = "answer",
        error: str = "error",
        params: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        log: str | Path | None = None,
        max_concurrency: int = 32,
        max_repairs: int = 2,
        config: KlusterConfig | None = None,
    ) -> None:
        if (prompt is None) == (messages is None):
            raise BadRequestError(
                f"prompt={prompt!r} and messages={messages!r}: exactly one of them must be set.",
                hint="name the column of the prompts, or that of the messages.",
            )
        if max_concurrency < 1:
            raise BadRequestError(f"max_concurrency={max_concurrency!r} must be 1 or more.", hint="the default is 32.")
        self._params = dict(params or {})
        if self._params.get("tools"):
            raise BadRequestError("params['tools'] is not allowed: a row gets a text.", hint="use response_format.")
        self._model, self._prompt, self._messages = model, prompt, messages
        self._output, self._error = output, error
        self._max_concurrency, self._max_repairs = max_concurrency, max_repairs
        self._client = Client(KlusterConfig.of(config), limits=limits)
        self._build([{"role": "user", "content": "Hello"}])  # parameters that are wrong are so for every row
        self._log = AnswerLog(Path(log)) if log is not None else None
        self._runner = asyncio.Runner()  # one event loop for all batches, which keeps the connections

    def __call__(self, batch: Any) -> Any:
        """Return a batch (a dict of columns, or a `pyarrow.Table`) with the two new columns.

        Raises:
            BadRequestError: The batch lacks a column, already has one of the new columns, or is of another type.
            AuthenticationError: The key is refused, or there is none.
            NotFoundError: There is no such model.
            OSError: The log cannot be written.
        """
        requests = [self._request(row) for row in self._rows(batch)]
        if self._log is not None:
            self._log.refresh()
        answers = {} if self._log is None else self._log.answers
        keys = [self._key(request) if isinstance(request, ChatRequest) else "" for request in requests]
        wanted = {k: r for k, r in zip(keys, requests, strict=True) if isinstance(r, ChatRequest) and k not in answers}
        asked = self._runner.run(self._ask_all(wanted)) if wanted else {}
        found = [
            request if isinstance(request, Answer) else asked.get(key) or answers[key]
            for key, request in zip(keys, requests, strict=True)
        ]
        columns = {self._output: [_valid(a.text) for a in found], self._error: [_valid(a.error) for a in found]}
        if isinstance(batch, Mapping):
            return {**batch, **columns}
        import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

        for name, values in columns.items():  # typed: a column without a single error is a column of texts, too
            batch = batch.append_column(name, pa.array(values, pa.string()))
        return batch

    def close(self) -> None:
        """Close the connections and the log. Only needed without Ray, whose actors end with their process."""
        self._runner.run(self._client.aclose())
        self._runner.close()
        if self._log is not None:
            self._log.close()

    def _rows(self, batch: Any) -> list[Any]:
        """Return the prompt, the messages or all columns of each row."""
        is_table = hasattr(batch, "column_names")
        if not is_table and not isinstance(batch, Mapping):
            raise BadRequestError(
                f"A batch is a {type(batch).__name__}; it must be a dict of columns or a pyarrow.Table.",
                hint='call map_batches(…, batch_format="pyarrow").',
            )
        names = list(batch.column_names if is_table else batch)
        if clash := {self._output, self._error} & {*names}:
            raise BadRequestError(
                f"The rows have a column {min(clash)!r} already.", hint="choose other names by output= and error=."
            )
        wanted = self._prompt if self._messages is None else self._messages
        if not isinstance(wanted, str):
            columns = [_plain(batch[name]) for name in names]
            return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        if wanted not in names:
            raise BadRequestError(
                f"The rows have no column {wanted!r}; they have {', '.join(map(repr, names))}.",
                hint="name one of them in prompt= or messages=.",
            )
        return list(_plain(batch[wanted]))

    def _request(self, row: Any) -> ChatRequest | Answer:
        """Return the request of a row, or its error."""
        try:
            if self._messages is None:
                if not isinstance(row, str) or not row.strip():
                    raise BadRequestError(f"{self._prompt}={row!r} must be a text that is not empty.")
                return self._build([{"role": "user", "content": row}])
            return self._build(row if isinstance(self._messages, str) else self._messages(row))
        except Exception as err:  # of the caller's function, too: a row must not end the other ten thousand
            return Answer(None, _text_of(err))

    def _build(self, messages: Sequence[Message]) -> ChatRequest:
        return self._client.build(self._model, messages, self._params, max_repairs=self._max_repairs)

    def _key(self, request: ChatRequest) -> str:
        """Return a hash of a request and its server: an emulator's answers are not the service's."""
        content = [self._client.config.base_url, request.body, request.client_stops]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    async def _ask_all(self, wanted: Mapping[str, ChatRequest]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        todo: _Todo = (item for item in wanted.items())
        workers = [self._work(todo, answers) for _ in range(min(self._max_concurrency, len(wanted)))]
        for failure in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(failure, BaseException):
                raise failure
        return answers

    async def _work(self, todo: _Todo, answers: dict[str, Answer]) -> None:
        """Send one request after the other. After an error no worker begins another; running ones are still saved."""
        try:
            for key, request in todo:
                answers[key] = await self._ask(key, request)
        except BaseException:
            todo.close()
            raise

    async def _ask(self, key: str, request: ChatRequest) -> Answer:
        try:
            answer = Answer((await self._client.acomplete(request)).text, None)
        except (AuthenticationError, NotFoundError):
            raise
        except (BadRequestError, OutputValidationError) as err:
            answer = Answer(None, _text_of(err))
        except KlusterError as err:
            return Answer(None, _text_of(err))
        if self._log is not None:
            await self._log.add(key, answer)
        return answer


def _text_of(err: Exception) -> str:
    return f"{type(err).__name__}: {err}"


def _valid(text: str | None) -> str | None:
    """Replace halves of surrogate pairs, which models write and Arrow cannot hold."""
    return text if text is None else text.encode("utf-8", "replace").decode()


def _plain(value: Any) -> Any:
    """Return Arrow's and NumPy's values as Python objects.

    Arrow gives all objects of a column the same fields and fills missing ones with None, which is removed here.
    """
    if hasattr(value, "to_pylist"):
        value = value.to_pylist()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
