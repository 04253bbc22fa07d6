"""The page at `/`, which shows the requests as they come, and its data: `/log` and `/log/NUMBER`.

It shows no key: no headers, and no body that contains the client's key.
"""

from __future__ import annotations

import json
import re
from importlib import resources

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.records import RecordedRequest
from kluster_integrations.emulator.service import Json, service_of

__all__ = ["ROUTES", "is_page"]

_PATHS = re.compile(r"/|/log|/log/\d{1,9}")
_MOST_ROWS = 500
_HEADERS = {
    "cache-control": "no-store",
    # The page loads nothing from elsewhere, and sends requests to this server only.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
}


def is_page(method: str, path: str) -> bool:
    """Return whether a request is for the page. Such requests need no key and are not recorded."""
    return method == "GET" and _PATHS.fullmatch(path) is not None


async def _page(_: Request) -> Response:
    html = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    return HTMLResponse(html, headers=_HEADERS)


async def _log(request: Request) -> Response:
    """Answer with the rows that have changed since the version that the page knows."""
    records = service_of(request).records
    after = request.query_params.get("after", "0")
    rows = list(records)[-_MOST_ROWS:]
    changed = [record for record in rows if record.version > (int(after) if after.isdecimal() else 0)]
    version = max((record.version for record in rows), default=0)
    oldest = rows[0].number if rows else None
    answer = {"server": id(records), "version": version, "oldest": oldest, "rows": [one.row() for one in changed]}
    return Json(answer, headers=_HEADERS)


async def _one(request: Request) -> Response:
    number = request.path_params["number"]
    record = next((record for record in service_of(request).records if record.number == number), None)
    if record is None:
        raise ApiError(404, f"Request {number} is not kept any more.")
    return Json({"number": number, **_texts(record)}, headers=_HEADERS)


def _texts(record: RecordedRequest) -> dict[str, str]:
    if record.holds_key:
        return {"body": "(The body holds the client's key, so it is not shown.)", "answer": "(Not shown either.)"}
    body = record.body
    text = (
        body.decode("utf-8", "replace") if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False, indent=2)
    )
    return {"body": "" if body is None else text, "answer": record.answer.decode("utf-8", "replace")}


ROUTES = [Route("/", _page), Route("/log", _log), Route("/log/{number:int}", _one)]
