"""What `ChatKluster` and `KlusterEmbeddings` have in common: the connection."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import httpx
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from kluster_integrations.catalog import Plan
from kluster_integrations.config import Headers, KlusterConfig, Unsupported, scrubbed
from kluster_integrations.core.client import Client
from kluster_integrations.errors import BadRequestError
from kluster_integrations.langchain._errors import LANGCHAIN_ERRORS
from kluster_integrations.limits import Limits

__all__ = ["Connected", "timeouts_of"]

_SECRET = frozenset({"api_key", "base_url", "default_headers"})
_TIMEOUTS = ("connect", "read", "write", "pool")
_NOT_PICKLED: Mapping[str, None] = dict.fromkeys(
    ("api_key", "default_headers", "limits", "http_client", "http_async_client")  # Redis' address may hold a password
)


class Connected(BaseModel):
    """The connection's settings as fields, and the client made from them.

    A pickle contains no key and no other secret. A restored object takes them from the environment.
    """

    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True, protected_namespaces=())

    api_key: SecretStr | Callable[[], str | Awaitable[str]] | None = Field(default=None, repr=False)
    """A key, or a function that returns one and is called before each request; if it is async, only async calls work.
    Default: `KLUSTER_API_KEY` or its aliases; see `KlusterConfig`."""

    base_url: str | None = None
    """Default: `KLUSTER_BASE_URL`, else `https://api.kluster.ai/v1`."""

    plan: Plan | None = None
    """The account's plan, which decides windows and limits. Default: `KLUSTER_PLAN`, else unknown."""

    limits: Limits | None = Field(default=None, repr=False, exclude=True)
    """The account's limits; requests wait until they may be sent. Default: those of the plan."""

    timeout: float | tuple[float | None, ...] | None = Field(default=None, alias="request_timeout")
    """Seconds to wait between bytes. As in the openai SDK also an `httpx.Timeout`, or a tuple: the seconds to connect,
    between bytes read, between bytes written, and for a place in a pool. Default: `KLUSTER_TIMEOUT`, else 600."""

    total_timeout: float | None = None
    """Seconds for a whole request, retries included. Default: `KLUSTER_TOTAL_TIMEOUT`; see `KlusterConfig`."""

    max_response_bytes: int | None = None
    """The most bytes of an answer. Default: `KLUSTER_MAX_RESPONSE_BYTES`, else 268,435,456 (256 MiB)."""

    max_retries: int | None = None
    """Further tries after status 408, 409, 429, 5xx and broken connections. Default: `KLUSTER_MAX_RETRIES`, else 2."""

    default_headers: Headers | None = Field(default=None, repr=False, exclude=True)
    """Sent with every request."""

    unsupported: Unsupported | None = None
    """`error` or `drop` for parameters that kluster.ai does not take. Default: `KLUSTER_UNSUPPORTED`, else `error`."""

    catalog: str | None = None
    """A file of your own models; see `catalog.read`. Default: `KLUSTER_CATALOG`."""

    insecure_http: bool | None = None
    """Whether the key may be sent over plain http to another machine. Default: `KLUSTER_INSECURE_HTTP`, else False."""

    fallback: bool | None = None
    """Whether a retired model is replaced by its successor. Default: `KLUSTER_FALLBACK`, else False."""

    config: KlusterConfig | None = Field(default=None, repr=False, exclude=True)
    """All settings of the connection together; single arguments win over it."""

    http_client: Any = Field(default=None, repr=False, exclude=True)
    """An `httpx.Client` or `httpx2.Client` to use in place of the shared connections."""

    http_async_client: Any = Field(default=None, repr=False, exclude=True)
    """The same for async calls."""

    _made: Client | None = PrivateAttr(default=None)

    def __init__(self, *args: Any, **values: Any) -> None:
        refusal = None
        try:
            super().__init__(*args, **values)
        except ValidationError as err:
            refusal = scrubbed(err, _SECRET)
        if refusal is not None:  # outside of `except`, and with nothing in the frame, so that no traceback has the key
            values.clear()
            del self
            raise refusal

    @field_validator("api_key", mode="before")
    @classmethod
    def _check_key(cls, value: Any) -> Any:
        if not isinstance(value, str | bytes | SecretStr | None) and not callable(value):
            raise ValueError(
                f"api_key must be a text, or a function that returns one, not of type {type(value).__name__}."
            )
        return value

    @field_validator("timeout", mode="before")
    @classmethod
    def _check_timeout(cls, value: Any) -> Any:
        try:
            made = timeouts_of(value)
        except BadRequestError as err:
            raise ValueError(err.message) from None
        return tuple(getattr(made, kind) for kind in _TIMEOUTS) if isinstance(made, httpx.Timeout) else value

    @model_validator(mode="after")
    def _check_connection(self) -> Self:
        _ = self._client
        return self

    @property
    def _client(self) -> Client:
        # Made at first use: langchain-core's own validators may run before those of this class.
        return self._made or self._make_client(None if callable(self.api_key) else self.api_key)

    def _fresh_client(self) -> Client:
        """Return the client for a request: where `api_key` is a function, with the key that it returns now."""
        if not callable(self.api_key):
            return self._client
        key = self.api_key()
        if not inspect.isawaitable(key):
            return self._client_with(key)
        if inspect.iscoroutine(key):
            key.close()  # else Python warns that nobody has waited for it
        with self._client.errors:
            raise BadRequestError(
                "api_key is an async function, which a sync call cannot wait for.",
                hint="use the async calls (ainvoke, astream, aembed_query, …), or pass a function that is not async.",
            )

    async def _afresh_client(self) -> Client:
        """As `_fresh_client`, for async calls."""
        if not callable(self.api_key):
            return self._client
        key = self.api_key()
        return self._client_with(await key if inspect.isawaitable(key) else key)

    def _client_with(self, key: object) -> Client:
        secret = SecretStr(key) if isinstance(key, str) else key
        if not isinstance(secret, SecretStr):
            with self._client.errors:
                raise BadRequestError(
                    f"The function api_key returned a {type(key).__name__}; it must return a text.",
                    hint="let it return the key.",
                )
        if self._made is None or self._made.config.api_key != secret:
            return self._make_client(secret)
        return self._made

    def _make_client(self, key: SecretStr | None) -> Client:
        fields = {name: getattr(self, name) for name in KlusterConfig.model_fields} | {"api_key": key}
        if isinstance(self.timeout, tuple):
            fields["timeout"] = self.timeout[1]  # its other parts are an option of each request
        self._made = made = Client(
            KlusterConfig.merged(self.config, **fields),
            limits=self.limits,
            http_client=self.http_client,
            http_async_client=self.http_async_client,
            adapt=LANGCHAIN_ERRORS,
        )
        return made

    @property
    def _timeouts(self) -> Any:
        """The `timeout` if it is more than one number; else None, because the configuration has it."""
        return timeouts_of(self.timeout) if isinstance(self.timeout, tuple) else None

    def __copy__(self) -> Self:
        copy = super().__copy__()
        copy._made = None  # `model_copy(update=…)` may send it elsewhere
        return copy

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        made, self._made = self._made, None  # clients cannot be copied, and need not
        try:
            return super().__deepcopy__(memo)
        finally:
            self._made = made

    def __getstate__(self) -> dict[Any, Any]:
        """Return the state for a pickle."""
        state = super().__getstate__()
        private = state["__pydantic_private__"] or {}
        return {
            **state,
            "__dict__": {**state["__dict__"], **{k: v for k, v in _NOT_PICKLED.items() if k in state["__dict__"]}},
            "__pydantic_private__": {**private, "_made": None},
        }

    def close(self) -> None:
        """Close the connections to this base URL; a later call opens new ones."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the async connections to this base URL in this event loop."""
        await self._client.aclose()


def timeouts_of(value: Any) -> Any:
    """Return a timeout as requests take it: a tuple becomes an `httpx.Timeout`, other values stay as they are.

    Raises:
        BadRequestError: If a tuple does not hold one to four numbers above 0, or None for no limit.
    """
    if all(hasattr(value, kind) for kind in _TIMEOUTS):  # httpx's or httpx2's
        value = [getattr(value, kind) for kind in _TIMEOUTS]
    if not isinstance(value, (tuple, list)):
        return value
    if not 1 <= len(value) <= 4 or not all(s is None or (_is_number(s) and s > 0) for s in value):
        raise BadRequestError(
            f"timeout={value!r} must be numbers of seconds above 0.",
            hint="such as (3, 30): to connect, and between bytes.",
        )
    return httpx.Timeout(None, **dict(zip(_TIMEOUTS, value, strict=False)))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
