"""`/v1/responses`: OpenAI's responses, by way of a chat. What is stored is this process's memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.core.types import spread
from kluster_integrations.errors import BadRequestError, UnsupportedParameterError
from kluster_integrations.gateway.answers import completed, streamed
from kluster_integrations.gateway.errors import refusal
from kluster_integrations.gateway.memory import Remembered
from kluster_integrations.gateway.response_events import ResponseWriter
from kluster_integrations.gateway.response_items import (
    Tool,
    messages_of,
    offered,
    text_format,
    tool_choice_of,
    tools_of,
)
from kluster_integrations.gateway.service import Json, Service, body_of, one_answer, service_of

__all__ = ["ROUTES"]

# What only says how to answer; of `include` and `reasoning` one part each is read. `store` means the gateway's memory.
_HINTS = frozenset(
    {
        *("reasoning", "include", "truncation", "max_tool_calls", "stream_options", "client_metadata", "store"),
        "context_management",
    }
)
_OWN = frozenset(
    {
        *("model", "input", "instructions", "stream", "tools", "tool_choice", "text", "max_output_tokens"),
        *("previous_response_id", "top_logprobs", "background", "conversation", "prompt"),
    }
)
_LOGPROBS = "message.output_text.logprobs"


async def _create(request: Request) -> Response:
    body = await body_of(request)
    service = service_of(request)
    _refuse(body)
    earlier = _earlier(service, body.get("previous_response_id"))
    given = body.get("input")
    new: Any = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(new, list) or not (new or earlier):
        raise BadRequestError(
            "input must be a text or a list of input items.", hint='write "input": "…" with the user\'s text.'
        )
    items = [*earlier, *new]
    stream = body.get("stream") is True
    tools = offered(body.get("tools"), items, len(earlier))
    chat = service.build(
        service.model(body.get("model")),
        messages_of(items, body.get("instructions"), service.memory, len(earlier)),
        _params(body, tools.values()),
        stream=stream,
    )
    keep = None if body.get("store") is False else (service, items, len(await request.body()) + _size(earlier))
    writer = _Remembering(body, tools, keep)
    if stream:
        return await streamed(request, chat, writer)
    writer.begin()
    for delta in spread(await completed(request, chat)):
        writer.take(delta)
    writer.end()
    return Json(writer.response)


def _refuse(body: Mapping[str, Any]) -> None:
    for name, instead in (
        ("background", "leave it out, and wait for the answer"),
        ("conversation", "send the items, or previous_response_id"),
        ("prompt", "send the prompt's text as instructions"),
    ):
        if body.get(name):
            raise UnsupportedParameterError(f"{name} is not supported by the gateway.", hint=f"{instead}.")
    one_answer(body)


def _earlier(service: Service, response_id: object) -> Sequence[Mapping[str, Any]]:
    """Return the conversation up to an earlier response."""
    if response_id is None:
        return ()
    if (found := service.memory.get(str(response_id))) is None:
        raise refusal(
            400,
            f"previous_response_id={response_id!r} is not remembered: the gateway keeps answers in memory, the newest "
            "64 MB of them, until it stops. Send the whole conversation.",
            "previous_response_not_found",
        )
    return found.items


def _size(items: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(repr(item)) for item in items)


def _params(body: Mapping[str, Any], given: Collection[Tool]) -> dict[str, Any]:
    """Return the parameters of the chat; `given` are the tools."""
    choice, tools = tool_choice_of(body.get("tool_choice"), tools_of(given))
    params = {name: value for name, value in body.items() if name not in _OWN and name not in _HINTS}
    if not tools:
        params.pop("parallel_tool_calls", None)
    logprobs = body.get("top_logprobs") or (True if _LOGPROBS in _list(body, "include") else None)
    return {
        **params,
        "reasoning_effort": _object(body, "reasoning").get("effort"),
        "verbosity": _object(body, "text").get("verbosity"),
        "max_completion_tokens": body.get("max_output_tokens"),
        "response_format": text_format(body.get("text")),
        "tools": tools or None,
        "tool_choice": choice,
        "logprobs": True if logprobs else None,
        "top_logprobs": body.get("top_logprobs") or None,
    }


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = {} if body.get(name) is None else body[name]
    if not isinstance(value, Mapping):
        raise BadRequestError(
            f"{name} must be an object, not a {type(value).__name__}.", hint="write {…}, or leave it out."
        )
    return value


def _list(body: Mapping[str, Any], name: str) -> list[Any]:
    value = [] if body.get(name) is None else body[name]
    if not isinstance(value, list):
        raise BadRequestError(
            f"{name} must be a list, not a {type(value).__name__}.", hint="write […], or leave it out."
        )
    return value


class _Remembering(ResponseWriter):
    """Makes the events, and remembers the response once it is complete."""

    def __init__(
        self,
        body: Mapping[str, Any],
        tools: Mapping[str, Tool],
        keep: tuple[Service, Sequence[Mapping[str, Any]], int] | None,
    ) -> None:
        super().__init__(_echoed(body), tools)
        self._keep = keep

    def end(self) -> bytes:
        events = super().end()
        if self._keep is not None:
            service, items, size = self._keep
            output = self.response["output"]
            service.memory.add(Remembered(self.response, [*items, *output], size + _size(output)))
        return events


_DEFAULTS: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


def _echoed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a response object says of its request."""
    given = {name: default if body.get(name) is None else body[name] for name, default in _DEFAULTS.items()}
    if "format" not in given["text"]:
        given["text"] = {**given["text"], "format": {"type": "text"}}
    return {"model": body["model"], "background": False, **given, "service_tier": "default"}


async def _get(request: Request) -> Response:
    if (found := service_of(request).memory.get(request.path_params["id"])) is None:
        raise _unknown(request)
    return Json(found.response)


async def _delete(request: Request) -> Response:
    if not service_of(request).memory.remove(request.path_params["id"]):
        raise _unknown(request)
    return Json({"id": request.path_params["id"], "object": "response", "deleted": True})


def _unknown(request: Request) -> Exception:
    return refusal(404, f"The response {request.path_params['id']!r} is not remembered.")


ROUTES = [
    Route("/responses", _create, methods=["POST"]),
    Route("/responses/{id}", _get),
    Route("/responses/{id}", _delete, methods=["DELETE"]),
]
