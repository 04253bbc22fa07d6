"""What a cassette of the emulator may hold, to the last key: so that nothing in it can go missing unnoticed.

What an adapter passes on is compared with what it once made of it (`outcomes/`); this is for the rest, which servers
send and nobody reads: `"prompt_logprobs": null`, the phrase of a status, the empty line between two events.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["TIME", "check"]

TIME = 1_764_000_000
"""The emulator's clock stands still while it is recorded: else each recording would differ in every line."""
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
_FAILURES = {
    401: ("authentication_error", None),
    404: ("invalid_request_error", "model"),
    429: ("rate_limit_error", None),
    500: ("invalid_request_error", None),  # as the vendor has answered it
}
Reason = Literal["stop", "length", "tool_calls"]


class Exact(BaseModel):
    """All keys that are named, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Function(Exact):
    name: str = Field(min_length=1)
    arguments: str


class Call(Exact):
    id: str = Field(pattern=r"^chatcmpl-tool-[0-9a-f]{32}$")
    type: Literal["function"]
    function: Function


class Usage(Exact):
    prompt_tokens: int = Field(gt=0)
    total_tokens: int
    completion_tokens: int = Field(gt=0)

    @model_validator(mode="after")
    def _adds_up(self) -> Usage:
        assert self.total_tokens == self.prompt_tokens + self.completion_tokens
        return self


class SglangUsage(Usage):
    completion_tokens_details: None
    prompt_tokens_details: None


class VllmMessage(Exact):
    role: Literal["assistant"]
    reasoning_content: str = ""
    content: str | None
    tool_calls: list[Call]


class SglangMessage(Exact):
    role: Literal["assistant"]
    content: str
    refusal: None
    audio: None
    function_call: None
    tool_calls: None


class VllmChoice(Exact):
    index: Literal[0]
    message: VllmMessage
    logprobs: None
    finish_reason: Reason
    stop_reason: None


class SglangChoice(Exact):
    index: Literal[0]
    message: SglangMessage
    logprobs: None
    finish_reason: Reason
    matched_stop: int | None


class Answer(Exact):
    id: str
    created: Literal[1_764_000_000]
    model: str


class VllmAnswer(Answer):
    id: str = Field(pattern=r"^chatcmpl-[0-9a-f]{32}$")
    object: Literal["chat.completion"]
    choices: list[VllmChoice] = Field(min_length=1, max_length=1)
    usage: Usage
    prompt_logprobs: None


class SglangAnswer(Answer):
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    object: Literal["chat.completion"]
    choices: list[SglangChoice] = Field(min_length=1, max_length=1)
    usage: SglangUsage
    service_tier: None
    system_fingerprint: None


class CallPiece(Exact):
    index: Literal[0]
    id: str | None = Field(default=None, pattern=r"^chatcmpl-tool-[0-9a-f]{32}$")
    type: Literal["function"] | None = None
    function: dict[Literal["name", "arguments"], str]

    @model_validator(mode="after")
    def _begins_or_goes_on(self) -> CallPiece:
        begins = {self.id is not None, self.type is not None, "name" in self.function}
        assert len(begins) == 1
        assert "arguments" in self.function
        return self


class First(Exact):
    role: Literal["assistant"]
    content: Literal[""]


class Content(Exact):
    content: str


class Thought(Exact):
    reasoning_content: str = Field(min_length=1)


class Calls(Exact):
    tool_calls: list[CallPiece] = Field(min_length=1, max_length=1)


class SglangLast(Exact):
    role: None
    content: None
    tool_calls: None


class VllmPiece(Exact):
    index: Literal[0]
    delta: First | Content | Thought | Calls
    logprobs: None
    finish_reason: None


class VllmEnd(Exact):
    index: Literal[0]
    delta: Content
    logprobs: None
    finish_reason: Reason
    stop_reason: None


class SglangPiece(Exact):
    index: Literal[0]
    delta: First | Content
    logprobs: None
    finish_reason: None
    matched_stop: None


class SglangEnd(Exact):
    index: Literal[0]
    delta: SglangLast
    logprobs: None
    finish_reason: Reason
    matched_stop: int | None


class VllmChunk(Answer):
    object: Literal["chat.completion.chunk"]
    choices: list[VllmPiece | VllmEnd] = Field(min_length=1, max_length=1)


class SglangChunk(Answer):
    object: Literal["chat.completion.chunk"]
    choices: list[SglangPiece | SglangEnd] = Field(max_length=1)
    usage: SglangUsage | None


class Vector(Exact):
    object: Literal["embedding"]
    index: int
    embedding: str = Field(min_length=5_464, max_length=5_464)  # 1024 numbers of four bytes, in base64


class EmbeddingUsage(Exact):
    prompt_tokens: int = Field(gt=0)
    total_tokens: int

    @model_validator(mode="after")
    def _adds_up(self) -> EmbeddingUsage:
        assert self.total_tokens == self.prompt_tokens
        return self


class Vectors(Exact):
    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: EmbeddingUsage

    @model_validator(mode="after")
    def _in_order(self) -> Vectors:
        assert [row.index for row in self.data] == list(range(len(self.data)))
        return self


class OpenaiError(Exact):
    message: str
    type: str
    param: str | None
    code: str


class VendorError(Exact):
    message: str
    errorCode: int  # noqa: N815
    type: str


class Failure(Exact):
    error: OpenaiError | VendorError


class Status(Exact):
    code: int
    message: str

    @model_validator(mode="after")
    def _is_its_phrase(self) -> Status:
        assert self.message == HTTPStatus(self.code).phrase
        return self


class Body(Exact):
    string: str


class Response(Exact):
    status: Status
    headers: dict[str, list[str]]
    body: Body


class Request(Exact):
    method: Literal["POST"]
    uri: Literal["http://127.0.0.1/v1/chat/completions", "http://127.0.0.1/v1/embeddings"]
    body: str
    headers: dict[Literal["content-type"], list[Literal["application/json"]]] = Field(min_length=1)


class Interaction(Exact):
    request: Request
    response: Response


class Head(Exact):
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    server: Literal["http://127.0.0.1"]
    by: str = Field(pattern=r"^kluster-integrations \d+\.\d+\.\d+$")
    against: str = Field(pattern=r"^the emulator of kluster-integrations \d+\.\d+\.\d+, not the service$")
    text: str = Field(pattern=r"^(scripted|.+ by llama\.cpp \(xllamacpp .+\))$")


class File(Exact):
    recorded: Head
    version: Literal[1]
    interactions: list[Interaction] = Field(min_length=1)


def check(data: object) -> None:
    """Fail, with pydantic's or an assertion's words, where a cassette's data are not what they should be."""
    for row in File.model_validate(data).interactions:
        asked = json.loads(row.request.body)
        code, text = row.response.status.code, row.response.body.string
        headers = dict(row.response.headers)
        streamed = code == 200 and asked.get("stream", False)
        assert headers.pop("content-type") == [EVENTS if streamed else JSON]
        if code != 200:
            assert (headers.keys() == {"retry-after"}) == (code == 429)
            assert (headers.keys() == {"x-request-id"}) == (code == 500)
            failure = Failure.model_validate_json(text).error
            param = getattr(failure, "param", None)
            assert (failure.type, param) == _FAILURES[code]
        elif streamed:
            assert not headers
            _check_events(text, asked)
        else:
            assert not headers
            kinds: list[type[Any]] = [Vectors] if row.request.uri.endswith("embeddings") else [VllmAnswer, SglangAnswer]
            kind = kinds["service_tier" in json.loads(text)]
            assert kind.model_validate_json(text).model == asked["model"]
            if kind is Vectors:
                assert len(json.loads(text)["data"]) == len(asked["input"])


def _check_events(text: str, asked: dict[str, Any]) -> None:
    assert re.fullmatch(r"(?:data: \S.*\n\n)+", text)
    *events, last = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert last == "[DONE]"
    kind: type[Any] = SglangChunk if '"matched_stop"' in events[0] else VllmChunk
    chunks = [kind.model_validate_json(event) for event in events]
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
        (chunks[0].id, chunks[0].created, asked["model"])
    }
    pieces = [choice for chunk in chunks for choice in chunk.choices]
    assert isinstance(pieces[0].delta, First)
    assert [piece.finish_reason is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert not any(isinstance(piece.delta, First) for piece in pieces[1:])
