"""The upstream engine: a real OpenAI-compatible server writes the text, with kluster.ai's rules and answer shapes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

import httpx

from kluster_integrations.emulator import tokens
from kluster_integrations.emulator.engine import CallDelta, ChatRequest, Delta, Finish, Stream
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.settings import without_credentials
from kluster_integrations.emulator.shapes import new_call_id
from kluster_integrations.errors import masked

__all__ = ["UpstreamEngine"]

_PASSED = ("temperature", "top_p", "seed", "tools", "tool_choice", "parallel_tool_calls")
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)


class UpstreamEngine:
    """Forwards messages to another server and streams its text through.

    Args:
        url: The server's base URL (`http://host:port/v1`).
        model: The server's model; None is the first one that it lists.
    """

    def __init__(self, url: str, model: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._shown = without_credentials(self._url)
        user, _, password = urlsplit(url).netloc.rpartition("@")[0].partition(":")
        pair = f"{unquote(user)}:{unquote(password)}"
        self._secrets = {
            user,
            password,
            unquote(user),
            unquote(password),
            pair,
            base64.b64encode(pair.encode()).decode(),
        }
        self._model = model
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def run(self, request: ChatRequest) -> Stream:
        """Yield what the upstream writes.

        Raises:
            ApiError: 502, if it cannot be reached, or answers an error or no stream of chunks.
        """
        if self._client is None:
            # The client's key never goes to another host; some servers want any key. The environment's proxies are
            # not for a server that is most often on loopback.
            headers = {"authorization": "Bearer none"}
            self._client = httpx.AsyncClient(timeout=_TIMEOUT, headers=headers, trust_env=False)
        try:
            body = _body(request, self._model or await self._first_model())
            stream = _Stream(request, self._failed)
            url = f"{self._url}/chat/completions"
            async with self._client.stream("POST", url, json=body) as answer:
                if answer.status_code != 200:
                    detail = (await answer.aread()).decode("utf-8", "replace")[:500]
                    raise self._failed(f"answered HTTP {answer.status_code}: {detail}")
                async for line in answer.aiter_lines():
                    for delta in stream.read(line):
                        yield delta
            yield stream.finish()
        except httpx.HTTPError as exc:
            raise self._failed(f"failed: {type(exc).__name__} {exc}".rstrip()) from exc
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
            raise self._failed(f"answered with something else than chunks ({exc!r})") from exc

    async def _first_model(self) -> str:
        assert self._client is not None
        answer = await self._client.get(f"{self._url}/models")
        if answer.status_code != 200:
            raise self._failed(f"answered HTTP {answer.status_code} to GET /models")
        self._model = str(answer.json()["data"][0]["id"])
        return self._model

    def _failed(self, what: str) -> ApiError:
        what = what.replace(self._url, self._shown)  # whatever is in it, also if it is short
        return ApiError(502, f"The upstream server {self._shown} {masked(what, self._secrets)}", code="upstream_error")


def _body(request: ChatRequest, model: str) -> dict[str, object]:
    body: dict[str, object] = {
        "model": model,
        "messages": request.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        # The name that every such server knows; `max_completion_tokens` is not everywhere yet.
        "max_tokens": request.max_tokens,
        **{name: request.body[name] for name in _PASSED if name in request.body},
    }
    if request.stop:
        body["stop"] = list(request.stop)
    return body


class _Stream:
    """Reads the upstream's chunks. If it sends no usage, the emulator counts."""

    def __init__(self, request: ChatRequest, failed: Callable[[str], ApiError]) -> None:
        self._request = request
        self._failed = failed
        self._calls: set[int] = set()
        self._reason: str | None = None
        self._in_thought = False
        self._stop: str | None = None
        self._counted = 0
        self._usage: Mapping[str, int] = {}

    def read(self, line: str) -> list[Delta]:
        """Return the deltas of one line of the event stream."""
        if not line.startswith("data:") or line[5:].strip() == "[DONE]":
            return []
        chunk = json.loads(line[5:])
        if "error" in chunk:
            raise self._failed(f"failed: {chunk['error']}")
        self._usage = chunk.get("usage") or self._usage
        if not chunk.get("choices"):
            return []
        choice = chunk["choices"][0]
        if reason := choice.get("finish_reason"):
            self._reason = reason if reason in {"length", "tool_calls"} else "stop"
            stop = choice.get("stop_reason") or choice.get("matched_stop")
            self._stop = stop if isinstance(stop, str) else None
        return self._deltas(choice.get("delta") or {})

    def _deltas(self, delta: Mapping[str, object]) -> list[Delta]:
        deltas: list[Delta] = []
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thought, str) and self._request.spec.reasoning:
            deltas.append(Delta(reasoning=thought))
        if isinstance(content := delta.get("content"), str) and content:
            deltas.append(Delta(content=content))
        calls = delta.get("tool_calls") or []
        assert isinstance(calls, list)
        deltas += [Delta(call=self._call(call)) for call in calls]
        for item in deltas:
            self._in_thought = bool(item.reasoning)
            text = item.reasoning or item.content or (item.call.arguments if item.call else "")
            self._counted += tokens.count(text)
        return deltas

    def _call(self, call: Mapping[str, object]) -> CallDelta:
        index = call.get("index", len(self._calls))
        function = call.get("function") or {}
        assert isinstance(index, int)
        assert isinstance(function, dict)
        arguments = function.get("arguments") or ""
        if index in self._calls:
            return CallDelta(index, arguments=arguments)
        self._calls.add(index)
        return CallDelta(index, new_call_id(), function["name"], arguments)

    def finish(self) -> Delta:
        """Return the finish.

        Raises:
            ValueError: If the stream has ended without a finish reason.
        """
        if self._reason is None:
            raise ValueError("the stream ended without a finish reason")
        prompt = self._usage.get("prompt_tokens", self._request.prompt_tokens)
        completion = self._usage.get("completion_tokens", self._counted)
        reason = "tool_calls" if self._calls and self._reason == "stop" else self._reason
        cut = self._in_thought and (reason == "length" or self._stop is not None)
        return Delta(finish=Finish(reason, self._stop, prompt, completion, cut))
