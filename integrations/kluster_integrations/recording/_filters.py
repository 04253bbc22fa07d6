"""What is recorded of a request and an answer, and when two requests are equal."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from kluster_integrations.config import env_values
from kluster_integrations.core.errors import masked, shortened
from kluster_integrations.recording._text import readable

__all__ = ["Secrets", "difference", "is_of_the_api", "named", "same", "tidy_request", "tidy_response"]

# Only these headers are kept, so an unknown header cannot leak a secret. The others differ between versions of the SDK
# (x-stainless-…, user-agent), change with each run (date), or are secret.
_REQUEST_HEADERS = ("content-type",)
_RESPONSE_HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-request-id", "x-should-retry")
_SECRET_HEADER = re.compile(r"authorization|cookie|key|secret|token|password", re.IGNORECASE)
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&]*(?:key|token|secret|signature|password)[^=&]*=)[^&]*")
_API = re.compile(r"/(?:chat/completions|embeddings|models|verify/\w+|(?:files|batches|uploads)(?:/[^?]*)?)/?$")
_BOUNDARY = re.compile(r'boundary="?([^";,\s]+)')
_BLANK_LINES = re.compile(rb"((?:\r\n|(?<!\r)\n|\r(?!\n)){2,})")  # between events
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Secrets:
    """All known keys. They are masked everywhere, also in a prompt or in a server's echo.

    Args:
        more: Texts to mask besides the keys of the environment and of the requests.
    """

    def __init__(self, more: Iterable[str]) -> None:
        self._known = {*more, *env_values("api_key").values()} - {""}

    def learn(self, headers: Mapping[str, Any]) -> None:
        """Add the keys in a request's headers."""
        for name, value in headers.items():
            if _SECRET_HEADER.search(name):
                text = value[0] if isinstance(value, list) else value
                text = text.decode("latin-1") if isinstance(text, bytes) else str(text)
                self._known |= {text, text.partition(" ")[2].strip() or text}

    def found(self, text: str) -> list[tuple[int, int]]:
        """Return where keys begin and end in a text."""
        known = [re.escape(secret) for secret in self._known if masked(secret, secret) != secret]
        return [match.span() for match in re.finditer("|".join(known), text)] if known else []

    def mask(self, value: Any) -> Any:
        """Return a value (a text, bytes, or a header's list) with masked keys."""
        for secret in sorted(self._known, key=len, reverse=True):
            value = masked(value, secret)
        return value


def is_of_the_api(request: Any) -> bool:
    """Whether a request is for an endpoint of kluster.ai's API, at any base URL."""
    return _API.search(request.path) is not None


def tidy_request(request: Any, secrets: Secrets) -> Any:
    """Return vcrpy's request as it is recorded and compared. Doing it twice changes nothing."""
    secrets.learn(request.headers)
    tidy = copy.copy(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    kind = _text(headers.get("content-type", ""))
    body = _body(request)
    if boundary := _BOUNDARY.search(kind):
        kind = kind.replace(boundary[1], "boundary")
        body = body.replace(boundary[1].encode(), b"boundary") if body else body
    headers["content-type"] = kind
    tidy.headers = {name: _text(headers[name]) for name in _REQUEST_HEADERS if headers.get(name)}
    tidy.uri = _SECRET_QUERY.sub(r"\1***", secrets.mask(_address(request.uri)))
    tidy.body = secrets.mask(readable(body)) if body else None
    return tidy


def tidy_response(response: Mapping[str, Any], secrets: Secrets) -> dict[str, Any]:
    """Return vcrpy's response as it is recorded: decompressed, readable, without keys and volatile headers."""
    headers: dict[str, list[str]] = {}
    for name, values in response["headers"].items():
        headers.setdefault(name.lower(), []).extend([values] if isinstance(values, str) else values)
    body = response["body"].get("string") or b""
    body = body.encode() if isinstance(body, str) else body
    if "content-encoding" in headers:
        encoding = {"content-encoding": ", ".join(headers["content-encoding"])}
        with suppress(httpx.DecodingError):  # from aiohttp it comes decompressed, under the same headers
            body = httpx.Response(200, headers=encoding, content=body).content
    if "json" in "".join(headers.get("content-type", [])):
        body = readable(body)
    body = secrets.mask(body)
    if "event-stream" in "".join(headers.get("content-type", [])):
        body = _masked_across_events(body, secrets)
    kept = {name: secrets.mask(headers[name]) for name in _RESPONSE_HEADERS if name in headers}
    reason = secrets.mask(response["status"].get("message") or "")
    status = {"code": response["status"]["code"], "message": reason}
    return {"status": status, "headers": kept, "body": {"string": body}}


def _masked_across_events(body: bytes, secrets: Secrets) -> bytes:
    """Mask keys that are spread over several events of a stream. Only events with a part of a key change."""
    parts = _BLANK_LINES.split(body)
    events: dict[int, Any] = {}
    texts: dict[tuple[object, ...], list[tuple[int, dict[str, Any], str]]] = {}
    for number, part in enumerate(parts):
        lines = [line[5:] for line in part.splitlines() if line.startswith(b"data:")]
        with suppress(ValueError, RecursionError):
            events[number] = json.loads(b"\n".join(lines))
            for path, holder, name in _texts(events[number], ()):
                texts.setdefault(path, []).append((number, holder, name))
    for places in texts.values():
        for start, end in secrets.found("".join(holder[name] for _, holder, name in places)):
            _cut(places, start, end)
            for number in {number for number, _, _ in places}:
                dumped = json.dumps(events[number], ensure_ascii=False, separators=(",", ":"))
                others = [n for n in parts[number].splitlines() if n and not n.startswith(b"data:")]
                data = b"data: " + dumped.encode("utf-8", "surrogatepass")
                parts[number] = secrets.mask(b"\n".join([*others, data]))
    return b"".join(parts)


def _texts(value: Any, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], dict[str, Any], str]]:
    """Yield each text of an event with its path. In the path, an item of a list has its `index`."""
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str):
                yield (*path, name), value, name
            else:
                yield from _texts(item, (*path, name))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _texts(item, (*path, item.get("index", at) if isinstance(item, dict) else at))


def _cut(places: list[tuple[int, dict[str, Any], str]], start: int, end: int) -> None:
    """Replace a part of the joined texts by as many asterisks, so that the positions of other parts stay."""
    at = 0
    for _, holder, name in places:
        text = holder[name]
        first, last = max(start - at, 0), min(end - at, len(text))
        if first < last:
            holder[name] = text[:first] + "*" * (last - first) + text[last:]
        at += len(text)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _body(request: Any) -> bytes | None:
    """The body as bytes. aiohttp's own users may pass an object for JSON."""
    body = request.body
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, dict | list):
        return json.dumps(body).encode()
    if isinstance(body, str):
        return body.encode()
    read = getattr(body, "read", None)
    return read() if read else b"".join(piece.encode() if isinstance(piece, str) else piece for piece in body)


def _address(uri: str) -> str:
    """Return an address without credentials, and without the port of a local server, which differs in each run."""
    url = urlsplit(uri)
    host = url.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    port = f":{url.port}" if url.port and host not in _LOOPBACK else ""
    return urlunsplit((url.scheme, f"{shown}{port}", url.path, url.query, ""))


def same(one: Any, other: Any) -> bool:
    """Whether two tidy requests are equal: method, path with query, and body. The layout of JSON does not matter."""
    return _key(one) == _key(other)


def _key(request: Any) -> tuple[object, ...]:
    value = _value(request)
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True)  # as text, because Python considers 1, 1.0 and True equal
    return request.method, request.path, request.query, value


def _value(request: Any) -> Any:
    try:
        return json.loads(request.body or b"null")
    except (ValueError, RecursionError):
        return request.body


def named(request: Any) -> str:
    """Return a request's name for messages: `POST /v1/chat/completions (google/gemma-3-27b-it, 3 messages)`."""
    query = f"?{urlsplit(request.uri).query}" if request.query else ""
    value = _value(request)
    details = []
    if isinstance(value, dict):
        details = [str(value[name]) for name in ("model",) if name in value]
        if isinstance(messages := value.get("messages"), list):
            details.append(f"{len(messages)} message{'s' * (len(messages) != 1)}")
        details += ["streamed"] if value.get("stream") is True else []
    return f"{request.method} {request.path}{query}" + (f" ({', '.join(details)})" if details else "")


def difference(sent: Any, recorded: Any) -> str:
    """Return how a request differs from a recorded one: `messages[0].content is 'b', 'a' is recorded`."""
    for what, now, then in (
        ("the method", sent.method, recorded.method),
        ("the path", sent.path, recorded.path),
        ("the query", sent.query, recorded.query),
    ):
        if now != then:
            return f"{what} is {now!r}, {then!r} is recorded"
    first = next(_differences(_value(sent), _value(recorded), ""), None)
    return first or "the body is another"


_ABSENT = object()


def _differences(now: Any, then: Any, where: str) -> Iterator[str]:
    if isinstance(now, dict) and isinstance(then, dict):
        for key in [*now, *(key for key in then if key not in now)]:
            yield from _differences(now.get(key, _ABSENT), then.get(key, _ABSENT), f"{where}.{key}".lstrip("."))
    elif isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        for index, (a, b) in enumerate(zip(now, then, strict=True)):
            yield from _differences(a, b, f"{where}[{index}]")
    elif now is _ABSENT or then is _ABSENT:
        yield f"{where} is {'not sent, but' if now is _ABSENT else 'sent, but not'} recorded"
    elif json.dumps(_plain(now), sort_keys=True) != json.dumps(_plain(then), sort_keys=True):
        yield f"{where or 'the body'} is {_short(now)}, {_short(then)} is recorded"


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _short(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else shortened(_plain(value))
