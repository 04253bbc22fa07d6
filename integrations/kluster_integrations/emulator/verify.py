"""`POST /v1/verify/reliability`: is an answer supported by its context, or else by general knowledge?

Fields and answer are those of the docs' guide "Reliability via the Verify API" (2025-07-31). It says nothing of errors,
of empty texts and of unknown fields: they are refused here as everywhere.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.emulator import rules, tokens
from kluster_integrations.emulator.judge import Verdict, judge
from kluster_integrations.emulator.rules import bad_request
from kluster_integrations.emulator.service import service_of
from kluster_integrations.emulator.wire import Json

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
    window = rules.find_spec(_MODEL, service.settings).context_window
    if used > window:
        message = f"The request has {used} tokens, which is more than the context length of {window}"
        raise bad_request(message, None, "context_length_exceeded")
    verdict = judge(prompt, output, context or "")
    written = tokens.count(verdict.explanation)
    answer: rules.Body = {
        "is_hallucination": verdict.is_hallucination,
        "usage": {"completion_tokens": written, "prompt_tokens": used, "total_tokens": used + written},
        "explanation": verdict.explanation,
    }
    # "Only included if return_search_results is true"; with a context nothing is searched.
    return Json({**answer, "search_results": _results(verdict)} if searched else answer)


def _required(body: rules.Body, name: str) -> str:
    if name not in body:
        raise bad_request(f"Missing required parameter: '{name}'", name, "missing_required_parameter")
    value = body[name]
    if not isinstance(value, str) or not value.strip():
        raise bad_request(f"'{name}' must be a non-empty string", name)
    return value


def _searched(body: rules.Body) -> bool:
    value = body.get("return_search_results")
    if isinstance(value, bool):
        return value
    if not isinstance(value, str | None) or value not in _FLAGS:
        raise bad_request("'return_search_results' must be true or false", "return_search_results")
    return _FLAGS[value]


def _results(verdict: Verdict) -> list[dict[str, str]]:
    """Return what was found, with the keys that the docs' tutorial reads; the address is one reserved for examples."""
    if not verdict.found:
        return []
    return [{"title": "Scripted search result", "snippet": verdict.found, "link": "https://example.com/"}]


ROUTES = [Route("/verify/reliability", _verify, methods=["POST"])]
