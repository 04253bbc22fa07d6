from __future__ import annotations

import asyncio
import json
import socket
import traceback
from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest

from kluster_integrations import errors
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import KlusterError, from_body, mapped

from .raised import (
    BY_STATUS,
    KEY,
    _AdaptedTimeoutError,
    _closed_port,
    _post_and_show,
    _refusal,
    _request,
    _shown,
)


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


class TestStatus:
    @pytest.mark.parametrize(("status", "cls"), BY_STATUS)
    def test_the_class_is_that_of_the_status(
        self, answering: Callable[..., Any], status: int, cls: type[KlusterError]
    ) -> None:
        content = b'{"error": {"message": "it broke", "code": "c", "type": "t", "param": null}}'
        server = answering(content, status=status, headers={"x-request-id": "req-1", "retry-after": "2"})
        err = _refusal(server.base_url)
        assert type(err) is cls
        assert (err.message, err.code, err.status_code) == ("it broke", "c", status)
        assert (err.request_id, err.retry_after) == ("req-1", 2.0)
        assert err.body == {"message": "it broke", "code": "c", "type": "t", "param": None}

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
    def test_odd_bodies(self, answering: Callable[..., Any], content: bytes, message: str) -> None:
        err = _refusal(answering(content, status=502).base_url)
        assert type(err) is errors.InternalServerError
        assert message in err.message
        assert err.message

    def test_the_vendors_500(self, answering: Callable[..., Any]) -> None:
        content = b'{"error": {"message": "Unexpected error occurred", "errorCode": 4000, "type": "x"}}'
        err = _refusal(answering(content, status=500).base_url)
        assert type(err) is errors.InternalServerError
        assert err.code == "4000"

    def test_masks_the_key(self, answering: Callable[..., Any]) -> None:
        content = json.dumps({"error": {"message": f"no {KEY}", "param": KEY}}).encode()
        err = _refusal(answering(content, status=401).base_url)
        assert type(err) is errors.AuthenticationError
        assert KEY not in f"{err}{err.body}"


class TestMapped:
    @pytest.mark.parametrize(
        ("make", "cls"),
        [
            (lambda: httpx.ConnectError("refused"), errors.APIConnectionError),
            (lambda: httpx.ReadError("reset"), errors.APIConnectionError),
            (lambda: httpx.RemoteProtocolError("hung up"), errors.APIConnectionError),
            (lambda: httpx.ProxyError("no"), errors.APIConnectionError),
            (lambda: httpx.ConnectTimeout("slow"), errors.APITimeoutError),
            (lambda: httpx.ReadTimeout("slow"), errors.APITimeoutError),
            (lambda: httpx.WriteTimeout("slow"), errors.APITimeoutError),
            (lambda: httpx.PoolTimeout("slow"), errors.APITimeoutError),
            (lambda: httpx2.ReadError("reset"), errors.APIConnectionError),
            (lambda: httpx2.ReadTimeout("slow"), errors.APITimeoutError),
            (lambda: httpx.InvalidURL("no"), errors.APIConnectionError),
            (lambda: httpx.DecodingError("bad gzip"), errors.InternalServerError),
            (lambda: aiohttp.ServerDisconnectedError(), errors.APIConnectionError),
            (lambda: aiohttp.ClientPayloadError("cut"), errors.APIConnectionError),
            (lambda: aiohttp.ServerTimeoutError("slow"), errors.APITimeoutError),
            (lambda: aiohttp.SocketTimeoutError("slow"), errors.APITimeoutError),
            (lambda: aiohttp.InvalidURL("no"), errors.APIConnectionError),
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
        err = httpx.ConnectError("failed")
        err.__cause__ = socket.gaierror(-2, "Name or service not known")
        with pytest.raises(errors.APIConnectionError, match="Name or service not known"), mapped():
            raise err

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    @pytest.mark.parametrize("is_async", [False, True])
    def test_a_server_that_does_not_run_is_to_be_started(self, host: str, is_async: bool) -> None:
        transport = Transport(KlusterConfig(base_url=f"http://{host}:{_closed_port()}/v1", max_retries=0))
        with pytest.raises(errors.APIConnectionError) as caught:
            asyncio.run(transport.apost(CHAT_PATH, {})) if is_async else transport.post(CHAT_PATH, {})
        assert (caught.value.hint or "").startswith("nothing listens at that address: check the base URL")

    def test_a_timeout_below_is_a_timeout(self) -> None:
        err = httpx.ConnectError("failed")
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

    @pytest.mark.parametrize("err", [ValueError("odd"), RuntimeError("odd"), ImportError("odd")])
    def test_whatever_io_raises_is_a_failed_connection(self, err: Exception) -> None:
        with pytest.raises(errors.APIConnectionError, match="odd"), mapped(io=True):
            raise err

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

    @pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ReadTimeout])
    def test_the_librarys_exception_which_holds_the_key_is_let_go(self, kind: type[httpx.RequestError]) -> None:
        with pytest.raises(KlusterError) as caught, mapped(secret=KEY):
            raise kind("no", request=_request())
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


class TestAdapt:
    @pytest.fixture
    def guard(self) -> mapped:
        return mapped(adapt={errors.APITimeoutError: _AdaptedTimeoutError})

    def test_an_adapters_class_takes_the_place(self, guard: mapped) -> None:
        with pytest.raises(_AdaptedTimeoutError) as caught, guard:
            raise httpx.ReadTimeout("slow")
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
