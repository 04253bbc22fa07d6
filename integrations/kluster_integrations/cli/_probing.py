"""Finding out, with few and small requests, what a server does with what kluster.ai does not document."""

from __future__ import annotations

import base64
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.errors import InternalServerError, KlusterError
from kluster_integrations.limits import Limits

__all__ = ["Finding", "Probe", "questions"]

_LIMIT = 5
_THOUGHT = 150
_RETRIES = 3  # of a 429
_PRECISE = {"temperature": 0}


def _picture() -> str:
    """Return a red square as a data URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = 32
    rows = (b"\x00" + b"\xff\x00\x00" * size) * size
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
# The prompt does not speak of JSON: what comes as JSON is the server's doing.
_SCHEMA = {"type": "object", "properties": {"k7": {"type": "integer"}}, "required": ["k7"]}
_HELLO, _COUNT, _SUM = _user("Say hello in one word."), _user("Count from 1 to 40."), _user("What is 17 plus 25?")
_CITIES = _user("What is the weather in Oslo, and what is it in Rome? Look both up, at once.")
_COLOR = [
    {"type": "text", "text": "Which color is this picture? One word."},
    {"type": "image_url", "image_url": {"url": _picture()}},
]


def questions(*, thinks: bool) -> dict[str, dict[str, Any]]:
    """Return the bodies of the chat requests, without the model, by what they find out.

    Args:
        thinks: Whether the model thinks before it answers, for which there must be room.
    """
    short: dict[str, Any] = {"max_completion_tokens": 600 if thinks else 40, **_PRECISE}
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}
    return {
        "max_completion_tokens": {"messages": _COUNT, "max_completion_tokens": _LIMIT},
        "max_tokens": {"messages": _COUNT, "max_tokens": _LIMIT},
        "stream": {"messages": _SUM, "stream": True, "max_completion_tokens": _THOUGHT},
        "stream_options": {
            "messages": _HELLO,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_completion_tokens": _LIMIT,
        },
        "json_schema": {"messages": _HELLO, "response_format": schema, **short},
        "json_object": {"messages": _HELLO, "response_format": {"type": "json_object"}, **short},
        "tools": {"messages": _CITIES, "tools": [_WEATHER], **short, "max_completion_tokens": 600 if thinks else 100},
        "required": {"messages": _HELLO, "tools": [_WEATHER], "tool_choice": "required", **short},
        "n": {"messages": _HELLO, "n": 2, "max_completion_tokens": _LIMIT},
        "logprobs": {"messages": _HELLO, "logprobs": True, "top_logprobs": 1, **short},
        "images": {"messages": _user(_COLOR), **short},
        "roles": {"messages": [*_HELLO, *_HELLO], "max_completion_tokens": _LIMIT},
    }


@dataclass(frozen=True)
class Finding:
    """What one look has found: a word or two, and how that shows."""

    name: str
    found: str
    detail: str = ""


@dataclass
class _Seen:
    """What came back for one request."""

    status: int
    error: str = ""
    events: list[Mapping[str, Any]] = field(default_factory=list)
    """The answer, or the events of a stream."""

    @property
    def is_refused(self) -> bool:
        """Whether the server will not do it; llama.cpp says so with 500 and 501, of roles that do not alternate too."""
        says_why = any(event.get("error") for event in self.events)
        return self.status in (400, 403, 404, 405, 413, 415, 422, 501) or (self.status == 500 and says_why)

    @property
    def is_answer(self) -> bool:
        """Whether it says anything about the server: a timeout, a busy server or a page of HTML does not."""
        return self.is_refused or (self.status < 400 and bool(self.choices or self.vectors))

    @property
    def choices(self) -> list[Mapping[str, Any]]:
        return [choice for event in self.events for choice in _objects(event.get("choices"))]

    @property
    def vectors(self) -> list[Any]:
        return [row.get("embedding") for event in self.events for row in _objects(event.get("data"))]

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        return [m for choice in self.choices for m in _objects([choice.get("message") or choice.get("delta")])]

    @property
    def text(self) -> str:
        return "".join(str(message.get("content") or "") for message in self.messages)

    @property
    def calls(self) -> list[Any]:
        return [call for message in self.messages for call in _objects(message.get("tool_calls"))]

    @property
    def usage(self) -> Mapping[str, Any] | None:
        return next((usage for event in self.events if isinstance(usage := event.get("usage"), Mapping)), None)

    def unknown(self, name: str) -> Finding:
        return Finding(name, "unknown", f"HTTP {self.status}: {self.error}" if self.error else "no answer came")

    def refused(self) -> tuple[str, str]:
        return "refused", f"HTTP {self.status}: {self.error}"


def _objects(value: object) -> list[Mapping[str, Any]]:
    """Return the objects in a list; what is not one is not read."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


class Probe:
    """Asks one server about one model.

    Args:
        config: Where to ask, and with which key.
        model: The model's id.

    Attributes:
        row: What has been found so far, as a row of `models.toml`.
        requests: How many requests were sent.
    """

    def __init__(self, config: KlusterConfig, model: str) -> None:
        self._config, self._model = config, model
        self._client = Client(config.model_copy(update={"max_retries": _RETRIES}), limits=Limits())
        self.spec: ModelSpec = catalog.get(model, config=config)
        self._questions = questions(thinks=self.spec.reasoning)
        self.row: dict[str, Any] = {"id": model}
        self._native: list[str] = []
        self.requests = 0

    def estimate(self) -> tuple[int, int, int, float | None]:
        """Return how many requests there are, their tokens of prompts and of answers at most, and the cost in US$."""
        if self.spec.purpose == "embeddings":
            return 2, 4, 0, self.spec.cost(4, 0)
        bodies = self._questions.values()
        prompt = sum(self._client.estimate_prompt(body["messages"], body.get("tools", ())) for body in bodies)
        # `n` asks for two answers; a server that does not know a limit's name writes what it likes.
        most = sum(body.get("max_completion_tokens", _LIMIT) * body.get("n", 1) for body in bodies) + _THOUGHT
        return len(bodies) + 1, prompt + 10, most, self.spec.cost(prompt + 10, most)

    def run(self) -> Iterator[Finding]:
        """Yield what is found, one by one.

        Raises:
            KlusterError: If the server does not answer a plain request.
        """
        yield self._window()
        headers = {"Authorization": f"Bearer {self._config.require_key()}"} if self._config.api_key else {}
        headers |= self._config.default_headers
        uses_environment = self._config.base_url.startswith("https:")  # as the package itself: no proxy over plain http
        # A connection each: llama.cpp (2026-10) hangs up after a stream without saying so, which is not a refusal.
        limits = httpx.Limits(max_keepalive_connections=0)
        timeout = self._config.timeout
        with httpx.Client(headers=headers, timeout=timeout, trust_env=uses_environment, limits=limits) as http:
            self.requests += 1
            if self.spec.purpose == "embeddings":
                length = len(self._client.embed(self._model, ["Hello"]).rows[0])
                yield from self._vectors(length, self._ask(http, "/embeddings", input="Hello", dimensions=length // 2))
            else:
                self._client.complete(self._client.build(self._model, _HELLO, {"max_completion_tokens": 1}))
                answered = False
                for name, body in self._questions.items():
                    seen = self._ask(http, "/chat/completions", **body)
                    answered = answered or seen.is_answer
                    yield from _READERS[name](self, seen) if seen.is_answer else [seen.unknown(_TITLES.get(name, name))]
                if not answered:
                    raise InternalServerError("The server answered a plain request, and none of the questions.",
                        hint="try again later; a file of this would say nothing true.")  # fmt: skip
        self.row["native"] = sorted(self._native)

    def _window(self) -> Finding:
        try:
            listed = {spec.id: spec for spec in catalog.refresh(self._config)}
        except KlusterError as err:
            return Finding("window", "unknown", err.message)
        spec = listed.get(self._model)
        if spec is None or not (spec.known or spec.context_window != ModelSpec(id=self._model).context_window):
            return Finding("window", "unknown", "the list of models does not say it")
        self.row |= {"context_window": spec.context_window, "max_output_tokens": spec.max_output_tokens}
        if spec.purpose != "chat":
            self.row["purpose"] = spec.purpose
        return Finding("window", f"{spec.context_window:,}", f"an answer has {spec.max_output_tokens:,} at most")

    def _vectors(self, length: int, seen: _Seen) -> Iterator[Finding]:
        self.row |= {"purpose": "embeddings", "embedding_dimensions": length}
        yield Finding("vectors", str(length))
        if not seen.is_answer or seen.is_refused:
            yield Finding("dimensions", *seen.refused()) if seen.is_refused else seen.unknown("dimensions")
            return
        is_short = [len(vector) for vector in seen.vectors if isinstance(vector, list)] == [length // 2]
        if is_short:
            self._native.append("dimensions")
        yield Finding("dimensions", "yes" if is_short else "ignored", f"asked for {length // 2}")

    def _ask(self, http: httpx.Client, path: str, **body: Any) -> _Seen:
        """Send a body as it is: what would be refused, or done on this side, is what is to be found out."""
        for _ in range(_RETRIES):
            self.requests += 1
            try:
                response = http.post(f"{self._config.base_url}{path}", json={"model": self._model, **body})
            except httpx.HTTPError as err:
                return _Seen(599, f"{type(err).__name__}: {err}")
            if response.status_code != 429:
                break
            wait = response.headers.get("retry-after", "2")
            time.sleep(min(float(wait) if wait.replace(".", "", 1).isdecimal() else 2.0, 60.0))
        return _read(response)

    def _limit(self, name: str, seen: _Seen) -> Iterator[Finding]:
        if seen.is_refused:
            yield Finding(name, *seen.refused())
            return
        tokens = (seen.usage or {}).get("completion_tokens")
        is_cut = any(choice.get("finish_reason") == "length" for choice in seen.choices)
        holds = is_cut or (isinstance(tokens, int) and tokens <= _LIMIT)
        if name == "max_completion_tokens":
            self._limit_holds = holds
        elif holds and not self._limit_holds:
            self._native.append("max_tokens")
        yield Finding(name, "yes" if holds else "ignored", f"{tokens} tokens at a limit of {_LIMIT}")

    _limit_holds = False
    _usage_comes = False

    def _stream(self, seen: _Seen) -> Iterator[Finding]:
        if seen.is_refused:
            yield Finding("stream", *seen.refused())
            return
        self._usage_comes = seen.usage is not None
        yield Finding("usage in a stream", "yes" if self._usage_comes else "no", "without being asked")
        fields = {key for message in seen.messages for key in ("reasoning_content", "reasoning") if message.get(key)}
        text = seen.text
        if fields:
            where, how = sorted(fields)[0], "a field of its own"
        elif text.lstrip().startswith("<think>"):
            where, how = "<think>", "in the text"
        elif "</think>" in text:
            where, how = "</think>", "in the text, which begins inside the thought"
            self.row["opens_in_thought"] = True
        else:
            where, how = "none", f"in {_THOUGHT} tokens"
        if where != "none":
            self.row["reasoning"] = True
        yield Finding("thoughts", where, how)

    def _stream_options(self, seen: _Seen) -> Iterator[Finding]:
        if seen.is_refused:
            yield Finding("stream_options", *seen.refused())
            return
        if seen.usage is not None and not self._usage_comes:
            self._native.append("stream_usage")
        yield Finding("stream_options", "yes" if seen.usage is not None else "ignored", "usage in a stream")

    def _json(self, name: str, seen: _Seen) -> Iterator[Finding]:
        if seen.is_refused:
            yield Finding(name, *seen.refused())
            return
        try:
            value = json.loads(seen.text)
        except ValueError:
            value = None
        keeps = isinstance(value, dict) and (name == "json_object" or isinstance(value.get("k7"), int))
        if keeps and name == "json_schema":
            self._native.append("response_format")
        found = "yes" if keeps else "ignored" if seen.text else "unknown"
        yield Finding(name, found, f"answered {_short(seen.text)}")

    def _tools(self, seen: _Seen) -> Iterator[Finding]:
        self.row["supports_tools"] = False
        if seen.is_refused:
            yield Finding("tools", *seen.refused())
            return
        self.row["supports_tools"] = called = bool(seen.calls)
        found = "yes" if called else "as text" if "get_weather" in seen.text else "ignored"
        yield Finding("tools", found, "" if called else f"answered {_short(seen.text)}")
        yield Finding("parallel tool calls", "yes" if len(seen.calls) > 1 else "no", f"{len(seen.calls)} of 2")

    def _required(self, seen: _Seen) -> Iterator[Finding]:
        if seen.is_refused:
            yield Finding("tool_choice required", *seen.refused())
        else:
            yield Finding("tool_choice required", "yes" if seen.calls else "ignored")
        if seen.calls:
            self.row["supports_tools"] = True

    def _n(self, seen: _Seen) -> Iterator[Finding]:
        count = len(seen.choices)
        if count == 2 and not seen.is_refused:
            self._native.append("n")
        yield Finding(
            "n", *(seen.refused() if seen.is_refused else ("yes" if count == 2 else "ignored", f"{count} of 2"))
        )

    def _logprobs(self, seen: _Seen) -> Iterator[Finding]:
        given = any(logprobs.get("content") for c in seen.choices for logprobs in _objects([c.get("logprobs")]))
        if given or not (seen.is_refused or seen.text):
            self._native.append("logprobs")  # documented: without an answer nothing speaks against it
        yield Finding(
            "logprobs",
            *(seen.refused() if seen.is_refused else ("yes" if given else "ignored" if seen.text else "unknown",)),
        )

    def _images(self, seen: _Seen) -> Iterator[Finding]:
        self.row["supports_vision"] = not seen.is_refused
        if seen.is_refused:
            yield Finding("images", *seen.refused())
        else:
            detail = f"of a red picture it says {_short(seen.text)}"
            yield Finding("images", "seen" if "red" in seen.text.lower() else "accepted", detail)

    def _roles(self, seen: _Seen) -> Iterator[Finding]:
        self.row["strict_roles"] = seen.is_refused
        found = seen.refused() if seen.is_refused else ("accepted", "two messages of one role in a row")
        yield Finding("free roles", *found)


_READERS: Mapping[str, Callable[[Probe, _Seen], Iterator[Finding]]] = {
    "max_completion_tokens": lambda probe, seen: probe._limit("max_completion_tokens", seen),
    "max_tokens": lambda probe, seen: probe._limit("max_tokens", seen),
    "stream": Probe._stream,
    "stream_options": Probe._stream_options,
    "json_schema": lambda probe, seen: probe._json("json_schema", seen),
    "json_object": lambda probe, seen: probe._json("json_object", seen),
    "tools": Probe._tools,
    "required": Probe._required,
    "n": Probe._n,
    "logprobs": Probe._logprobs,
    "images": Probe._images,
    "roles": Probe._roles,
}


_TITLES = {"required": "tool_choice required", "roles": "free roles"}


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _read(response: httpx.Response) -> _Seen:
    """Return what a response says, whatever its form."""
    events: list[Mapping[str, Any]] = []
    lines = response.text.splitlines()
    payloads = [line[5:].strip() for line in lines if line.startswith("data:")] or [response.text]
    for payload in payloads:
        try:
            value = json.loads(payload)
        except ValueError:
            continue
        if isinstance(value, Mapping):
            events.append(value)
    error = next((event["error"] for event in events if event.get("error")), None)
    status = response.status_code if response.status_code >= 400 or error is None else 500
    if isinstance(error, Mapping):
        error = error.get("message")
    message = " ".join(str(error or response.text).split())
    return _Seen(status, message[:120] if status >= 400 else "", events)
