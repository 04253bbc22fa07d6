"""`POST /v1/verify/reliability`: is an answer supported by its context, or else by general knowledge?

Fields and answer follow the docs' guide "Reliability via the Verify API" (2025-07-31). It does not mention errors,
empty texts and unknown fields; they are refused, as elsewhere. A test states the verdict. Without one, every answer is
reliable.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.emulator import rules, tokens
from kluster_integrations.emulator.engine import ChatRequest, Message
from kluster_integrations.emulator.generic import VERDICT
from kluster_integrations.emulator.replies import Reply
from kluster_integrations.emulator.rules import bad_request
from kluster_integrations.emulator.service import Json, Service, record_of, service_of
from kluster_integrations.emulator.writing import stated

__all__ = ["ROUTES"]

_MODEL = "klusterai/verify-reliability"
_SUPPORTED = frozenset({"prompt", "output", "context", "return_search_results"})
#: The guide calls the field a boolean; the docs' own workflows for Dify and n8n send it as text.
_FLAGS: dict[object, bool] = {None: False, "true": True, "false": False}


async def _verify(request: Request) -> Response:
    service = service_of(request)
    body = rules.parse_json(await request.body())
    if service.settings.strict:
        rules.reject_unknown(body, _SUPPORTED)
    prompt, output = _required(body, "prompt"), _required(body, "output")
    context = body.get("context")
    if context is not None and not isinstance(context, str):
        raise bad_request("'context' must be a string or null", "context")
    searched = _searched(body)
    used = sum(map(tokens.count, (prompt, output, context or "")))
    spec = rules.find_spec(_MODEL, service.settings)
    if used > spec.context_window:
        message = f"The request has {used} tokens, which is more than the context length of {spec.context_window}"
        raise bad_request(message, None, "context_length_exceeded")
    asked: Message = {"role": "user", "content": "\n\n".join(filter(None, (context, prompt)))}
    messages: list[Message] = [asked, {"role": "assistant", "content": output}]
    verdict = await _verdict(
        service,
        ChatRequest(spec=spec, messages=messages, body=body, max_tokens=spec.context_window, prompt_tokens=used),
    )
    written = tokens.count(str(verdict["explanation"]))
    record_of(request.scope).count(spec, used, written)
    answer: rules.Body = {
        "is_hallucination": verdict["is_hallucination"],
        "usage": {"completion_tokens": written, "prompt_tokens": used, "total_tokens": used + written},
        "explanation": verdict["explanation"],
    }
    # "Only included if return_search_results is true"; with a context nothing is searched.
    found = [] if context else verdict.get("search_results", [])
    return Json({**answer, "search_results": found} if searched else answer)


async def _verdict(service: Service, request: ChatRequest) -> rules.Body:
    """Return the stated verdict: as JSON, or as the text that the model answers on chat completions."""
    said = await stated(service.replies, service.engine, request)
    if isinstance(said, Reply) and isinstance(said.json, dict):
        return {"is_hallucination": False, "explanation": "", **said.json}
    text = said.text or "" if isinstance(said, Reply) else VERDICT
    judged, _, explanation = text.partition("\n\nExplanation: ")
    return {"is_hallucination": judged == "Hallucination: Yes", "explanation": explanation or text}


def _required(body: rules.Body, name: str) -> str:
    if name not in body:
        raise bad_request(f"Missing required parameter: '{name}'", name, "missing_required_parameter")
    if not isinstance(value := body[name], str) or not value.strip():
        raise bad_request(f"'{name}' must be a non-empty string", name)
    return value


def _searched(body: rules.Body) -> bool:
    value = body.get("return_search_results")
    if isinstance(value, bool):
        return value
    if not isinstance(value, str | None) or value not in _FLAGS:
        raise bad_request("'return_search_results' must be true or false", "return_search_results")
    return _FLAGS[value]


ROUTES = [Route("/verify/reliability", _verify, methods=["POST"])]
