from __future__ import annotations

import copy
import email.utils
import inspect
import pickle
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from kluster_integrations import errors
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import KlusterError, from_body

from .raised import BY_STATUS, CLASSES, KEY, PARENTS, _full


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
            "BudgetExceededError",
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
            *({"error": {"message": 5, "code": [1]}}, {1: 2}, b"no", b"\xff\xfe", bytearray(b"no"), object),
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
        headers = httpx.Headers({"X-Request-Id": "req-7", "Retry-After": "2", "Set-Cookie": "a=b"})
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
