from __future__ import annotations

import asyncio
import copy
import email.utils
import importlib
import inspect
import json
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from kluster_integrations import errors
from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import KlusterError, from_body, mapped
from kluster_integrations.transport import CHAT_PATH, Transport

KEY = "kk-3f9c1b7e55aa42d0"

# openai 3.x speaks httpx2, openai 2.x httpx.
sdk_httpx: Any = importlib.import_module("httpx2" if int(openai.__version__.split(".")[0]) >= 3 else "httpx")

# The tree of the module's docstring, typed out once more.
PARENTS: dict[str, str] = {
    "AuthenticationError": "KlusterError",
    "PermissionDeniedError": "KlusterError",
    "NotFoundError": "KlusterError",
    "BadRequestError": "KlusterError",
    "UnsupportedParameterError": "BadRequestError",
    "ContextWindowExceededError": "BadRequestError",
    "RateLimitError": "KlusterError",
    "InternalServerError": "KlusterError",
    "APIConnectionError": "KlusterError",
    "APITimeoutError": "APIConnectionError",
    "TruncatedStreamError": "APIConnectionError",
    "OutputValidationError": "KlusterError",
}
CLASSES = [errors.KlusterError, *(getattr(errors, name) for name in PARENTS)]

BY_STATUS = [
    (400, errors.BadRequestError),
    (401, errors.AuthenticationError),
    (402, errors.BadRequestError),
    (403, errors.PermissionDeniedError),
    (404, errors.NotFoundError),
    (405, errors.BadRequestError),
    (408, errors.APITimeoutError),
    (409, errors.BadRequestError),
    (413, errors.BadRequestError),
    (415, errors.BadRequestError),
    (422, errors.BadRequestError),
    (429, errors.RateLimitError),
    (500, errors.InternalServerError),
    (501, errors.InternalServerError),
    (502, errors.InternalServerError),
    (503, errors.InternalServerError),
    (504, errors.InternalServerError),
    (529, errors.InternalServerError),
]


def _full(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "status_code": 429,
        "code": "4290",
        "request_id": "req-1",
        "retry_after": 1.5,
        "hint": "wait",
        "body": {"error": {"message": "slow down"}},
        "headers": {"X-Request-Id": "req-1"},
    }
    return {**values, **changes}


class TestTree:
    @pytest.mark.parametrize(("name", "parent"), PARENTS.items())
    def test_parents(self, name: str, parent: str) -> None:
        assert getattr(errors, name).__bases__ == (getattr(errors, parent),)

    def test_there_are_no_others(self) -> None:
        found = {n for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, KlusterError)}
        assert found == {"KlusterError", *PARENTS}

    def test_the_docstring_draws_it(self) -> None:
        assert [name for name in PARENTS if name not in (errors.__doc__ or "")] == []

    @pytest.mark.parametrize("cls", CLASSES)
    def test_every_class_is_public(self, cls: type[KlusterError]) -> None:
        assert cls.__name__ in errors.__all__


class TestAttributes:
    @pytest.mark.parametrize("cls", CLASSES)
    def test_all_are_there(self, cls: type[KlusterError]) -> None:
        error = cls("slow down", **_full())
        assert (error.message, error.status_code, error.code) == ("slow down", 429, "4290")
        assert (error.request_id, error.retry_after, error.hint) == ("req-1", 1.5, "wait")
        assert error.body == {"error": {"message": "slow down"}}
        assert error.headers == {"x-request-id": "req-1"}

    @pytest.mark.parametrize("cls", CLASSES)
    def test_only_the_message_is_needed(self, cls: type[KlusterError]) -> None:
        error = cls("it broke")
        assert (error.message, error.args, error.status_code, error.code) == ("it broke", ("it broke",), None, None)
        assert (error.request_id, error.retry_after, error.body, error.headers) == (None, None, None, {})

    def test_the_text_holds_message_status_and_hint(self) -> None:
        assert str(KlusterError("it broke", status_code=500, hint="try again")) == "it broke (HTTP 500) Hint: try again"

    def test_the_text_holds_no_more_than_there_is(self) -> None:
        assert str(KlusterError("it broke")) == "it broke"

    @pytest.mark.parametrize(
        "name",
        [
            *("AuthenticationError", "PermissionDeniedError", "NotFoundError", "ContextWindowExceededError"),
            *("RateLimitError", "APIConnectionError", "APITimeoutError", "TruncatedStreamError"),
        ],
    )
    def test_these_have_a_hint_of_their_own(self, name: str) -> None:
        error = getattr(errors, name)("it broke")
        assert error.hint
        assert error.hint in str(error)

    def test_cookies_are_left_out(self) -> None:
        assert KlusterError("x", headers={"Set-Cookie": "session=1", "A": "b"}).headers == {"a": "b"}

    def test_partial_and_raw_text_are_empty_by_default(self) -> None:
        assert errors.TruncatedStreamError("x").partial == ""
        assert errors.OutputValidationError("x").raw_text == ""


class TestCopies:
    COPIES = (
        copy.copy,
        copy.deepcopy,
        lambda e: pickle.loads(pickle.dumps(e)),
        lambda e: pickle.loads(pickle.dumps(e, protocol=0)),
    )

    @pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle", "pickle-0"])
    @pytest.mark.parametrize("cls", CLASSES)
    def test_everything_comes_through(self, cls: type[KlusterError], copied: Callable[[Any], Any]) -> None:
        error = cls("slow down", **_full())
        again = copied(error)
        assert type(again) is cls
        assert (vars(again), again.args, str(again)) == (vars(error), error.args, str(error))

    @pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle", "pickle-0"])
    def test_partial_text_comes_through(self, copied: Callable[[Any], Any]) -> None:
        error = errors.TruncatedStreamError("cut")
        error.partial = "so far"
        error.add_note("seen in a test")
        again = copied(error)
        assert again.partial == "so far"
        assert again.__notes__ == ["seen in a test"]

    @pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle", "pickle-0"])
    def test_raw_text_comes_through(self, copied: Callable[[Any], Any]) -> None:
        error = errors.OutputValidationError("no JSON")
        error.raw_text = "Sure! Here it is"
        assert copied(error).raw_text == "Sure! Here it is"

    def test_like_takes_everything_over(self) -> None:
        class Adapted(errors.RateLimitError):
            pass

        error = errors.RateLimitError("slow down", **_full())
        adapted = Adapted.like(error)
        assert type(adapted) is Adapted
        assert (vars(adapted), adapted.args) == (vars(error), error.args)


class TestStatus:
    @pytest.mark.parametrize(("status", "cls"), BY_STATUS)
    def test_the_status_decides(self, status: int, cls: type[KlusterError]) -> None:
        error = from_body({"error": {"message": "it broke"}}, status_code=status)
        assert type(error) is cls
        assert (error.status_code, error.message) == (status, "it broke")

    @pytest.mark.parametrize(("status", "cls"), BY_STATUS)
    @pytest.mark.parametrize("kind", ["invalid_request_error", "rate_limit_error", "server_error", None, 3])
    def test_the_type_in_the_body_never_decides(self, status: int, cls: type[KlusterError], kind: object) -> None:
        assert type(from_body({"error": {"message": "it broke", "type": kind}}, status_code=status)) is cls

    def test_the_vendors_500(self) -> None:
        body = {"error": {"message": "Unexpected error occurred", "errorCode": 4000, "type": "invalid_request_error"}}
        error = from_body(body, status_code=500)
        assert type(error) is errors.InternalServerError
        assert (error.message, error.code, error.status_code) == ("Unexpected error occurred", "4000", 500)
        assert error.body == body

    @pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
    def test_words_of_a_full_window_do_not_change_other_statuses(self, status: int) -> None:
        plain = from_body({"error": {"message": "no"}}, status_code=status)
        worded = from_body({"error": {"message": "maximum context length"}}, status_code=status)
        assert type(worded) is type(plain)


class TestInsideA200:
    @pytest.mark.parametrize(
        ("code", "cls"),
        [(400, errors.BadRequestError), (429, errors.RateLimitError), (503, errors.InternalServerError)],
    )
    @pytest.mark.parametrize("as_text", [False, True])
    def test_a_numeric_code_stands_for_the_status(self, code: int, cls: type[KlusterError], as_text: bool) -> None:
        error = from_body({"error": {"message": "no", "code": str(code) if as_text else code}})
        assert type(error) is cls
        assert error.status_code == code

    @pytest.mark.parametrize("code", [None, "server_error", 4000, 0, -1, 200, 399, 600, "", True, [], {}, 10**30])
    def test_without_one_it_is_the_servers_failure(self, code: object) -> None:
        error = from_body({"error": {"message": "no", "code": code}})
        assert type(error) is errors.InternalServerError
        assert error.status_code is None

    def test_vllms_flat_error(self) -> None:
        error = from_body({"object": "error", "message": "bad", "type": "BadRequestError", "param": None, "code": 400})
        assert type(error) is errors.BadRequestError
        assert (error.message, error.code, error.status_code) == ("bad", "400", 400)

    def test_a_full_window(self) -> None:
        error = from_body({"error": {"message": "This model's maximum context length is 10 tokens."}})
        assert type(error) is errors.ContextWindowExceededError


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "message", "code"),
        [
            ({"error": {"message": "no", "code": "c"}}, "no", "c"),
            ({"error": {"message": "no", "errorCode": 4000}}, "no", "4000"),
            ({"error": {"message": "no", "code": None, "errorCode": 0}}, "no", "0"),
            ({"error": {"message": "no", "code": "c", "errorCode": 4000}}, "no", "c"),
            ({"message": "no", "code": 7}, "no", "7"),
            ({"error": "no"}, "no", None),
            ({"detail": "no"}, "no", None),
            ({"error": None, "message": "no"}, "no", None),
            ({"error": "", "message": "no"}, "no", None),
            ("no", "no", None),
            ("  no\n\n  really ", "no really", None),
        ],
    )
    def test_message_and_code(self, body: object, message: str, code: str | None) -> None:
        error = from_body(body, status_code=400)
        assert (error.message, error.code) == (message, code)

    @pytest.mark.parametrize(
        "body",
        [
            *(None, "", "   ", "\n", {}, {"error": None}, {"error": {}}, {"error": ""}, {"error": {"message": None}}),
            *({"error": {"message": ""}}, {"error": []}, {"message": "  "}),
        ],
    )
    def test_without_a_message_the_status_is_said(self, body: object) -> None:
        error = from_body(body, status_code=503)
        assert type(error) is errors.InternalServerError
        assert "503" in error.message

    def test_without_message_and_status(self) -> None:
        assert from_body({"error": {}}).message

    @pytest.mark.parametrize(
        "body",
        [
            *([], [1, 2], ["no"], [{"error": {"message": "no"}}], 0, 3, 3.5, True, False, float("nan")),
            *({"error": [1]}, {"error": 5}, {"error": {"message": [1, {"a": "b"}]}}, {"error": {"message": {"a": 1}}}),
            *({"error": {"error": {"message": "no"}}}, {"detail": [{"loc": ["body"], "msg": "field required"}]}),
            *({"error": {"message": 5, "code": [1]}}, {1: 2}, b"no", b"\xff\xfe", bytearray(b"no"), object()),
            *("[" * 100, '{"error": {"message": "no"}}', "\x00\x01", "\ud800", "<", "<<<", "</title>", "<title>"),
        ],
        ids=lambda body: repr(body)[:40],
    )
    @pytest.mark.parametrize("status", [400, 500, None])
    def test_odd_bodies_still_make_an_error_of_the_right_kind(self, body: object, status: int | None) -> None:
        error = from_body(body, status_code=status, secret=KEY)
        assert type(error) is (errors.BadRequestError if status == 400 else errors.InternalServerError)
        assert error.message.strip()
        assert isinstance(str(error), str)

    def test_fields_of_a_validation_error_are_kept(self) -> None:
        body = {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}
        assert "field required" in from_body(body, status_code=422).message

    @pytest.mark.parametrize(
        ("page", "message"),
        [
            ("<html><head><title>502 Bad Gateway</title></head><body>x</body></html>", "502 Bad Gateway"),
            ("<!DOCTYPE html>\n<HTML><TITLE lang=en>\n Just a\n moment </TITLE></HTML>", "Just a moment"),
            ("  <h1>Service</h1><p>unavailable</p>", "Service unavailable"),
        ],
    )
    def test_of_a_page_the_title_or_the_text(self, page: str, message: str) -> None:
        error = from_body(page, status_code=502)
        assert type(error) is errors.InternalServerError
        assert error.message == message

    def test_a_page_without_text(self) -> None:
        assert "502" in from_body("<html><body></body></html>", status_code=502).message

    def test_a_huge_message_is_cut(self) -> None:
        error = from_body("x" * 1_000_000, status_code=500)
        assert len(str(error)) < 3_000


class TestHeaders:
    @pytest.mark.parametrize("name", ["x-request-id", "X-Request-Id", "X-REQUEST-ID"])
    def test_request_id(self, name: str) -> None:
        assert from_body("no", status_code=500, headers={name: "req-7"}).request_id == "req-7"

    def test_headers_of_the_http_library(self) -> None:
        headers = sdk_httpx.Headers({"X-Request-Id": "req-7", "Retry-After": "2", "Set-Cookie": "a=b"})
        error = from_body("no", status_code=429, headers=headers)
        assert (error.request_id, error.retry_after) == ("req-7", 2.0)
        assert error.headers == {"x-request-id": "req-7", "retry-after": "2"}

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry-after": "0"}, 0.0),
            ({"retry-after": "1"}, 1.0),
            ({"retry-after": " 30 "}, 30.0),
            ({"retry-after": "1.5"}, 1.5),
            ({"Retry-After": "3"}, 3.0),
            ({"retry-after-ms": "1500"}, 1.5),
            ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
            ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
            ({"retry-after": "-5"}, 0.0),
            ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ],
    )
    def test_retry_after(self, headers: dict[str, str], seconds: float | None) -> None:
        assert from_body("no", status_code=429, headers=headers).retry_after == seconds

    def test_retry_after_as_a_date(self) -> None:
        headers = {"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)}
        found = from_body("no", status_code=429, headers=headers).retry_after
        assert found is not None
        assert 0 < found <= 61

    @pytest.mark.parametrize(
        "value",
        [
            *("", "soon", "1s", "1;2", "tomorrow", "inf", "-inf", "nan", "1e999", "Infinity", "0x10", "--"),
            *("Wed, 21 Oct 99999999999999 07:28:00 GMT", "Wed, 99 Foo 2026 99:99:99 GMT", "\x00", "Wed, , , GMT"),
            "Fri, 32 Feb 2026 07:28:00 GMT",
        ],
    )
    @pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
    def test_garbage_is_no_time_to_wait(self, name: str, value: str) -> None:
        error = from_body("no", status_code=429, headers={name: value})
        assert type(error) is errors.RateLimitError
        assert error.retry_after is None or 0 <= error.retry_after < 1e9  # a sloppy date is fine, for ever is not


class TestContextWindow:
    TEXTS = (
        # vLLM until 0.8
        (
            "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens (139000 in "
            "the messages, 1000 in the completion). Please reduce the length of the messages or completion."
        ),
        # vLLM 0.9 and 0.10
        (
            "This model's maximum context length is 40960 tokens. However, your request has 50000 input tokens. "
            "Please reduce the length of the input messages."
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 40000. This model's maximum context length is "
            "40960 tokens and your request has 1200 input tokens (40000 > 40960 - 1200)."
        ),
        (
            "The decoder prompt (length 50000) is longer than the maximum model length of 40960. Make sure that "
            "`max_model_len` is no smaller than the number of text tokens."
        ),
        # vLLM's multimodal models (vllm-project/vllm#12165)
        (
            "The prompt (total length 25938) is too long to fit into the model (context length 4096). Make sure that "
            "`max_model_len` is no smaller than the number of text tokens plus multimodal tokens."
        ),
        # vLLM since 0.11
        (
            "You passed 67073 input tokens and requested 64000 output tokens. However, the model's context length is "
            "only 131072 tokens, resulting in a maximum input length of 67072 tokens. Please reduce the length of "
            "the input prompt. (parameter=input_tokens, value=67073)"
        ),
        # SGLang
        "The input (50000 tokens) is longer than the model's context length (40960 tokens).",
        (
            "Requested token count exceeds the model's maximum context length of 40960 tokens. You requested a total "
            "of 50000 tokens: 49000 tokens from the input messages and 1000 tokens for the completion."
        ),
        (
            "Input length (50000 tokens) exceeds the maximum allowed length (40954 tokens). Use a shorter input or "
            "enable --allow-auto-truncate."
        ),
        # llama.cpp
        "the request exceeds the available context size, try increasing it",
    )

    @pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:30])
    @pytest.mark.parametrize("status", [400, 413, 422, None])
    def test_the_servers_words(self, text: str, status: int | None) -> None:
        error = from_body({"error": {"message": text, "code": None}}, status_code=status)
        assert type(error) is errors.ContextWindowExceededError
        assert error.message == text
        assert error.hint

    def test_openais_code(self) -> None:
        error = from_body({"error": {"message": "Too long.", "code": "context_length_exceeded"}}, status_code=400)
        assert type(error) is errors.ContextWindowExceededError

    @pytest.mark.parametrize(
        "text",
        [
            "temperature must be between 0 and 2",
            "Unsupported parameter: 'n'",
            "max_completion_tokens must be at least 1",
            "messages[0].content must be a string or an array of parts",
            "The context is missing",
            "The length of stop exceeds the maximum of 4",
        ],
    )
    def test_other_bad_requests_are_not_taken_for_it(self, text: str) -> None:
        assert type(from_body({"error": {"message": text}}, status_code=400)) is errors.BadRequestError

    @pytest.mark.parametrize("shape", ["vllm", "sglang"])
    def test_the_emulators_words(self, shape: Any) -> None:
        message = {"role": "user", "content": "ab " * 50_000}
        body = {"model": "Qwen/Qwen3-235B-A22B-FP8", "messages": [message]}
        with Emulator(shape=shape) as server, pytest.raises(errors.ContextWindowExceededError) as caught:
            Transport(KlusterConfig(api_key=KEY, base_url=server.base_url)).post(CHAT_PATH, body)
        assert caught.value.status_code == 400


def _shown(err: BaseException) -> str:
    """Return all that a logger, a crash reporter or a debugger shows of an error, its locals and its chain."""
    parts = [str(err), repr(err), repr(vars(err)), pickle.dumps(err).decode("latin-1")]
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [err]
    while queue:
        link = queue.pop()
        if link is None or link in seen:
            continue
        seen.append(link)
        tb = link.__traceback__
        if link is err and tb is not None:
            tb = tb.tb_next  # the first frame is the test's own, which knows the key
        exception = traceback.TracebackException(type(link), link, tb, capture_locals=True)
        parts += [*exception.format(), repr(getattr(link, "__notes__", ""))]
        for name in ("request", "response", "body"):
            part = getattr(link, name, None)
            headers = getattr(part, "headers", None)
            parts.append(str(dict(headers)) if headers is not None else repr(part))
        queue += [link.__cause__, link.__context__]  # also what `from None` only hides
    return "".join(parts)


class TestKeyStaysSecret:
    @pytest.mark.parametrize(
        "body",
        [
            {"error": {"message": f"Incorrect API key provided: {KEY}."}},
            {"error": {"message": {"key": KEY}}},
            {"error": {"message": "no", "param": [KEY, {"a": KEY}]}},
            {"error": {"message": "no", "code": f"bad:{KEY}"}},
            {"error": {"message": "no", KEY: 1}},
            {"error": f"no {KEY}"},
            {"detail": [{"input": KEY, "msg": f"no {KEY}"}]},
            {"error": {"message": "no", "pair": (KEY, 1)}},
            [KEY],
            f"Bearer {KEY} is not valid",
            f"<html><title>{KEY}</title></html>",
            f"Bearer {KEY}".encode(),
            {"error": {"message": f"no {KEY}".encode()}},
        ],
        ids=lambda body: repr(body)[:50],
    )
    def test_a_key_that_the_server_echoes_is_masked(self, body: object) -> None:
        assert KEY not in _shown(from_body(body, status_code=401, secret=KEY))

    @pytest.mark.parametrize("name", ["x-request-id", "x-echo", "www-authenticate"])
    def test_a_key_in_a_header_is_masked(self, name: str) -> None:
        error = from_body("no", status_code=401, headers={name: f"Bearer {KEY}"}, secret=KEY)
        assert KEY not in _shown(error)

    @pytest.mark.parametrize("at", range(1_980, 2_001))
    def test_a_key_at_the_cut_of_a_long_message_is_masked(self, at: int) -> None:
        error = from_body("x" * at + KEY + "y" * 100, status_code=401, secret=KEY)
        assert KEY[:6] not in str(error)

    def test_what_was_around_the_key_stays(self) -> None:
        error = from_body({"error": {"message": f"Key {KEY} expired"}}, status_code=401, secret=KEY)
        assert error.message == "Key *** expired"
        assert error.body == {"error": {"message": "Key *** expired"}}

    def test_the_callers_body_is_not_changed(self) -> None:
        body = {"error": {"message": f"Key {KEY} expired"}}
        from_body(body, status_code=401, secret=KEY)
        assert body == {"error": {"message": f"Key {KEY} expired"}}

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
    def test_from_a_server(self, answering: Callable[..., Any], status: int) -> None:
        server = answering(
            json.dumps({"error": {"message": f"no: {KEY}", "code": KEY, "param": KEY}}).encode(),
            status=status,
            headers={"x-echo": f"Bearer {KEY}", "x-request-id": f"req-{KEY}"},
        )
        assert KEY not in _post_and_show(server.base_url)
        assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"  # it has been sent

    @pytest.mark.parametrize("body", [b"", b"not json KEY", b"<html>KEY</html>", b"\xff\xfe"])
    @pytest.mark.parametrize("status", [200, 401, 500])
    def test_from_a_server_that_sends_no_json(self, answering: Callable[..., Any], status: int, body: bytes) -> None:
        server = answering(body.replace(b"KEY", KEY.encode()), status=status)
        assert KEY not in _post_and_show(server.base_url)

    def test_from_a_redirect(self, answering: Callable[..., Any]) -> None:
        server = answering(b"", status=307, headers={"location": f"https://elsewhere.example/?key={KEY}"})
        shown = _post_and_show(server.base_url)
        assert KEY not in shown
        assert "elsewhere.example" in shown

    def test_from_a_refused_connection(self) -> None:
        assert KEY not in _post_and_show(f"http://127.0.0.1:{_closed_port()}/v1")

    @pytest.mark.parametrize("kind", ["cut", "hang"])
    def test_from_a_broken_connection(self, emulator: Emulator, kind: Any) -> None:
        emulator.add_fault(Fault(kind, times=None))
        assert KEY not in _post_and_show(emulator.base_url, timeout=0.2)

    def test_from_an_async_client(self, answering: Callable[..., Any]) -> None:
        server = answering(b'{"error": {"message": "no"}}', status=401)

        async def post() -> str:
            transport = Transport(KlusterConfig(api_key=KEY, base_url=server.base_url, max_retries=0))
            try:
                with pytest.raises(KlusterError) as caught:
                    await transport.apost(CHAT_PATH, {"model": "m"})
            finally:
                await transport.aclose()
            return _shown(caught.value)

        assert KEY not in asyncio.run(post())


def _closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _post_and_show(base_url: str, timeout: float = 5) -> str:
    config = KlusterConfig(api_key=KEY, base_url=base_url, max_retries=0, timeout=timeout)
    transport = Transport(config)
    body = {"model": "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo", "messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(KlusterError) as caught:
        transport.post(CHAT_PATH, body)
    err = caught.value
    tb = err.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    return _shown(err.with_traceback(tb))


def _request() -> Any:
    return sdk_httpx.Request("POST", "http://127.0.0.1/v1/x", headers={"Authorization": f"Bearer {KEY}"})


def _status_error(status: int, content: bytes, **headers: str) -> openai.APIStatusError:
    response = sdk_httpx.Response(status, content=content, headers=headers, request=_request())
    client = openai.OpenAI(api_key="unused", base_url="http://127.0.0.1/v1")
    return client._make_status_error_from_response(response)


class TestMapped:
    @pytest.mark.parametrize(("status", "cls"), BY_STATUS)
    def test_the_sdks_status_errors(self, status: int, cls: type[KlusterError]) -> None:
        content = b'{"error": {"message": "it broke", "code": "c", "type": "t", "param": null}}'
        err = _status_error(status, content, **{"x-request-id": "req-1", "retry-after": "2"})
        with pytest.raises(KlusterError) as caught, mapped():
            raise err
        assert type(caught.value) is cls
        assert (caught.value.message, caught.value.code, caught.value.status_code) == ("it broke", "c", status)
        assert (caught.value.request_id, caught.value.retry_after) == ("req-1", 2.0)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "502"),
            (b"plain text", "plain text"),
            (b"<html><title>Bad Gateway</title></html>", "Bad Gateway"),
            (b"[1, 2]", "[1, 2]"),
            (b"null", "502"),
            (b'{"error": "a text"}', "a text"),
            (b'{"error": {"message": "Unexpected error occurred", "errorCode": 4000}}', "Unexpected error occurred"),
            (b'{"object": "error", "message": "flat", "code": 400}', "flat"),
            (b"\xff\xfe\xfd", ""),
        ],
    )
    def test_the_sdks_status_errors_with_odd_bodies(self, content: bytes, message: str) -> None:
        with pytest.raises(errors.InternalServerError) as caught, mapped():
            raise _status_error(502, content)
        assert message in caught.value.message
        assert caught.value.message

    def test_the_vendors_500_through_the_sdk(self) -> None:
        content = b'{"error": {"message": "Unexpected error occurred", "errorCode": 4000, "type": "x"}}'
        with pytest.raises(errors.InternalServerError) as caught, mapped():
            raise _status_error(500, content)
        assert caught.value.code == "4000"

    @pytest.mark.parametrize(
        ("make", "cls"),
        [
            (lambda: openai.APITimeoutError(request=_request()), errors.APITimeoutError),
            (lambda: openai.APIConnectionError(request=_request()), errors.APIConnectionError),
            (lambda: sdk_httpx.ConnectError("refused"), errors.APIConnectionError),
            (lambda: sdk_httpx.ReadError("reset"), errors.APIConnectionError),
            (lambda: sdk_httpx.RemoteProtocolError("hung up"), errors.APIConnectionError),
            (lambda: sdk_httpx.ProxyError("no"), errors.APIConnectionError),
            (lambda: sdk_httpx.ConnectTimeout("slow"), errors.APITimeoutError),
            (lambda: sdk_httpx.ReadTimeout("slow"), errors.APITimeoutError),
            (lambda: sdk_httpx.WriteTimeout("slow"), errors.APITimeoutError),
            (lambda: sdk_httpx.PoolTimeout("slow"), errors.APITimeoutError),
            (lambda: httpx.ReadError("reset"), errors.APIConnectionError),
            (lambda: httpx.ReadTimeout("slow"), errors.APITimeoutError),
            (lambda: ConnectionRefusedError(111, "refused"), errors.APIConnectionError),
            (lambda: ConnectionResetError(104, "reset"), errors.APIConnectionError),
            (lambda: BrokenPipeError(32, "broken"), errors.APIConnectionError),
            (lambda: socket.gaierror(-2, "Name or service not known"), errors.APIConnectionError),
            (TimeoutError, errors.APITimeoutError),
            (asyncio.TimeoutError, errors.APITimeoutError),
            (lambda: json.JSONDecodeError("Expecting value", "x", 0), errors.InternalServerError),
            (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), errors.InternalServerError),
            (lambda: UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), errors.BadRequestError),
        ],
    )
    def test_what_breaks_on_the_way(self, make: Callable[[], Exception], cls: type[KlusterError]) -> None:
        with pytest.raises(KlusterError) as caught, mapped():
            raise make()
        assert type(caught.value) is cls

    def test_the_cause_is_said(self) -> None:
        err = openai.APIConnectionError(request=_request())
        err.__cause__ = socket.gaierror(-2, "Name or service not known")
        with pytest.raises(errors.APIConnectionError, match="Name or service not known"), mapped():
            raise err

    def test_a_timeout_below_is_a_timeout(self) -> None:
        err = openai.APIConnectionError(request=_request())
        err.__cause__ = TimeoutError()
        with pytest.raises(errors.APITimeoutError), mapped():
            raise err

    @pytest.mark.parametrize("outer", [TimeoutError("the caller's"), ValueError(f"the caller's {KEY}")])
    def test_what_the_caller_is_handling_is_not_the_cause(self, outer: Exception) -> None:
        # Python chains the caller's exception below ours when a call is made in an `except` block.
        config = KlusterConfig(api_key=KEY, base_url=f"http://127.0.0.1:{_closed_port()}/v1", max_retries=0)
        try:
            raise outer
        except Exception:
            with pytest.raises(KlusterError) as caught:
                Transport(config).post(CHAT_PATH, {"model": "m"})
        assert type(caught.value) is errors.APIConnectionError
        assert "the caller's" not in str(caught.value)

    @pytest.mark.parametrize("err", [ValueError("mine"), KeyError("mine"), ZeroDivisionError(), RuntimeError("mine")])
    def test_other_exceptions_pass_as_they_are(self, err: Exception) -> None:
        with pytest.raises(type(err)) as caught, mapped():
            raise err
        assert caught.value is err

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
    def test_what_ends_the_work_passes(self, kind: type[BaseException]) -> None:
        err = kind()
        with pytest.raises(kind) as caught, mapped():
            raise err
        assert caught.value is err

    def test_this_packages_errors_pass_as_they_are(self) -> None:
        err = errors.RateLimitError("slow down")
        with pytest.raises(errors.RateLimitError) as caught, mapped():
            raise err
        assert caught.value is err

    def test_nothing_wrong_is_nothing_raised(self) -> None:
        with mapped():
            value = 1
        assert value == 1

    def test_may_be_used_again_and_nested(self) -> None:
        guard = mapped()
        for _ in range(2):
            with pytest.raises(errors.APITimeoutError), guard, guard:
                raise TimeoutError

    def test_masks_the_key(self) -> None:
        with pytest.raises(errors.AuthenticationError) as caught, mapped(secret=KEY):
            raise _status_error(401, json.dumps({"error": {"message": f"no {KEY}", "param": KEY}}).encode())
        assert KEY not in f"{caught.value}{caught.value.body}"

    @pytest.mark.parametrize(
        "make",
        [
            lambda: _status_error(401, b"{}"),
            lambda: openai.APIConnectionError(request=_request()),
            lambda: openai.APITimeoutError(request=_request()),
        ],
    )
    def test_the_sdks_exception_which_holds_the_key_is_let_go(self, make: Callable[[], Exception]) -> None:
        with pytest.raises(KlusterError) as caught, mapped(secret=KEY):
            raise make()
        assert caught.value.__cause__ is None
        # `from None` only hides it: crash reporters and debuggers walk `__context__` nonetheless.
        assert caught.value.__context__ is None

    def test_the_traceback_leads_to_the_caller(self) -> None:
        def call() -> None:
            with mapped():
                raise TimeoutError

        with pytest.raises(errors.APITimeoutError) as caught:
            call()
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert "call" in names

    async def test_around_async_code(self) -> None:
        with pytest.raises(errors.APITimeoutError), mapped():
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)

    async def test_cancellation_passes_through_async_code(self) -> None:
        async def work() -> None:
            with mapped():
                await asyncio.sleep(5)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class _AdaptedTimeoutError(errors.APITimeoutError, TimeoutError):
    pass


class TestAdapt:
    @pytest.fixture
    def guard(self) -> mapped:
        return mapped(adapt={errors.APITimeoutError: _AdaptedTimeoutError})

    def test_an_adapters_class_takes_the_place(self, guard: mapped) -> None:
        with pytest.raises(_AdaptedTimeoutError) as caught, guard:
            raise sdk_httpx.ReadTimeout("slow")
        assert caught.value.hint == errors.APITimeoutError.default_hint

    def test_this_packages_own_errors_are_adapted_too(self, guard: mapped) -> None:
        err = errors.APITimeoutError("slow", request_id="req-1")
        err.add_note("a note")
        with pytest.raises(_AdaptedTimeoutError) as caught, guard:
            raise err
        assert (caught.value.request_id, caught.value.__notes__) == ("req-1", ["a note"])

    def test_other_classes_stay(self, guard: mapped) -> None:
        with pytest.raises(errors.RateLimitError) as caught, guard:
            raise errors.RateLimitError("slow down")
        assert type(caught.value) is errors.RateLimitError

    def test_an_adapted_error_is_not_adapted_again(self, guard: mapped) -> None:
        with pytest.raises(_AdaptedTimeoutError) as caught, guard, guard:
            raise TimeoutError
        assert type(caught.value) is _AdaptedTimeoutError
