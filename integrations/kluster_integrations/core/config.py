"""How to reach kluster.ai: the key, the address and the few settings of every request."""

from __future__ import annotations

import functools
import ipaddress
import math
import os
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from kluster_integrations.core.errors import AuthenticationError, BadRequestError
from kluster_integrations.core.plans import Plan, parse_plan
from kluster_integrations.core.user import stored_key

__all__ = [
    "DEFAULT_BASE_URL",
    "ENVIRONMENT",
    "KEYRING",
    "Headers",
    "KlusterConfig",
    "Unsupported",
    "env_source",
    "env_value",
    "env_values",
    "environment",
    "is_exposed",
    "key_source",
    "known_plan",
    "normalize_base_url",
    "scrubbed",
    "seconds_from",
]

DEFAULT_BASE_URL = "https://api.kluster.ai/v1"
"""Source: kluster.ai's docs, 2025-07-31."""

Unsupported = Literal["error", "drop"]

ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "api_key": ("KLUSTER_API_KEY", "KLUSTERAI_API_KEY", "KLUSTER_AI_API_KEY"),
    "base_url": ("KLUSTER_BASE_URL", "KLUSTER_AI_BASE_URL"),
    "plan": ("KLUSTER_PLAN",),
    "timeout": ("KLUSTER_TIMEOUT",),
    "total_timeout": ("KLUSTER_TOTAL_TIMEOUT",),
    "max_response_bytes": ("KLUSTER_MAX_RESPONSE_BYTES",),
    "max_retries": ("KLUSTER_MAX_RETRIES",),
    "unsupported": ("KLUSTER_UNSUPPORTED",),
    "catalog": ("KLUSTER_CATALOG",),
    "insecure_http": ("KLUSTER_INSECURE_HTTP",),
    "fallback": ("KLUSTER_FALLBACK",),
    "max_wait": ("KLUSTER_MAX_WAIT",),
    "redis_url": ("KLUSTER_REDIS_URL",),
    "batch_settle": ("KLUSTER_BATCH_SETTLE",),
    "batch_poll": ("KLUSTER_BATCH_POLL",),
    "batch_quiet": ("KLUSTER_BATCH_QUIET",),
    "batch_patience": ("KLUSTER_BATCH_PATIENCE",),
    "gateway_key": ("KLUSTER_GATEWAY_KEY",),
    "debug": ("KLUSTER_DEBUG",),
}
"""Every variable that this package reads, by the setting it sets. The first one that is set wins.

The last eight are not fields of `KlusterConfig`: `Limits.of` reads the first two of them, batch jobs the next four, the
command line the last two. The aliases are those of the vendor's own forks.
"""


def env_values(name: str) -> dict[str, str]:
    """Return the variables of `ENVIRONMENT[name]` that are set and not empty, with their values, in that order."""
    return {variable: value for variable in ENVIRONMENT.get(name, ()) if (value := os.environ.get(variable))}


def env_source(name: str) -> str | None:
    """Return the variable that `name` is read from, such as `KLUSTER_API_KEY` for `api_key`; None if none is set."""
    return next(iter(env_values(name)), None)


def env_value(name: str) -> str | None:
    """Return the value of the variable that `env_source` names; None if none is set."""
    return next(iter(env_values(name).values()), None)


def key_source() -> str | None:
    """Return the source of the key when none is passed: a variable, `the keyring` (`kluster keys set`), or None."""
    return env_source("api_key") or (KEYRING if stored_key() else None)


def environment() -> tuple[str | None, ...]:
    """Return the values of all variables now. While they do not change, `KlusterConfig()` does not change."""
    return tuple(os.environ.get(variable) for variables in ENVIRONMENT.values() for variable in variables)


def known_plan(plan: Plan | None = None) -> Plan | None:
    """Return the plan that is passed, else that of `KLUSTER_PLAN`, else None.

    Raises:
        ValueError: If no plan has that name.
    """
    name = plan or env_value("plan")
    return parse_plan(name) if name else None


def seconds_from(name: str, default: float) -> float:
    """Return the seconds that the variable of `name` holds, or the default where it is not set.

    Raises:
        ValueError: If it is not a number, 0 or more.
    """
    text = env_value(name)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{env_source(name)}={text!r} must be a number of seconds, 0 or more, such as {default:g}.")
    return seconds


KEYRING = "the keyring"
"""What `key_source` calls it."""
_NOT_SHOWN = "(not shown)"


class _Headers(Mapping[str, str]):
    """Headers by name. Their values may be credentials, so no repr shows them."""

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = dict(given)

    def __getitem__(self, name: str) -> str:
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self._given, "**********"))  # as many as SecretStr has


Headers = Annotated[Mapping[str, str], AfterValidator(_Headers)]


def scrubbed(err: ValidationError, secret: Container[object] | None = None) -> ValidationError:
    """Return the same error without any input that may contain a key.

    Args:
        err: The error.
        secret: The fields whose input is not shown; None means all. For other fields only plain values are shown,
            because an object may contain a key.
    """

    def shown(line: ErrorDetails) -> object:
        harmless = secret is not None and line["loc"] and line["loc"][0] not in secret
        return line["input"] if harmless and isinstance(line["input"], (str, int, float)) else _NOT_SHOWN

    lines = [
        InitErrorDetails(
            type=PydanticCustomError("config", "{reason}", {"reason": line["msg"].removeprefix("Value error, ")}),
            loc=line["loc"],
            input=shown(line),
        )
        for line in err.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(err.title, lines, hide_input=secret is None)


class KlusterConfig(BaseModel):
    """The connection to kluster.ai, or to any server with the same API.

    Each field is taken from the argument, else from the first of its environment variables below, else from the
    default. The key is also taken from the platform's keyring, if `kluster keys set` has stored one there.
    Variables of other companies (`OPENAI_…`) are never read: their keys must not reach this host.

    Args:
        api_key: Sent as bearer token. `KLUSTER_API_KEY`, `KLUSTERAI_API_KEY`, `KLUSTER_AI_API_KEY`.
        base_url: The address of the API. `http://…` is accepted on a loopback address or without a key, because a key
            never travels unencrypted. Trailing slashes are cut, and an address without a path gets `/v1`.
            `KLUSTER_BASE_URL`, `KLUSTER_AI_BASE_URL`; default `https://api.kluster.ai/v1`.
        plan: `trial`, `core`, `scale` or `enterprise`: sets context windows and rate limits. Default None: unknown, no
            rate limits. `KLUSTER_PLAN`.
        timeout: Seconds to wait for the server between bytes; default 600, as in the openai SDK. `KLUSTER_TIMEOUT`.
        total_timeout: Seconds from the first try until the answer is complete, including retries and the waits between
            them. Default None: no limit for streams and files; one try of any other request may take twice `timeout`.
            `KLUSTER_TOTAL_TIMEOUT`.
        max_response_bytes: The most bytes of an answer, decompressed. Downloaded files have no limit. Default
            268,435,456 (256 MiB). `KLUSTER_MAX_RESPONSE_BYTES`.
        max_retries: Further tries after status 408, 409, 429, 5xx and broken connections. The waits grow, with jitter;
            `Retry-After` wins. Default 2. `KLUSTER_MAX_RETRIES`.
        default_headers: Sent with every request. They may hold credentials, so they are never shown.
        unsupported: What to do with a parameter that neither kluster.ai nor this package supports: `error` (default)
            raises before the request, `drop` leaves it out with one warning. `KLUSTER_UNSUPPORTED`.
        catalog: A file of your own models; see `catalog.read`. `KLUSTER_CATALOG`.
        insecure_http: Whether the key may travel over plain http to another machine, where others can read it on the
            way. Default False. `KLUSTER_INSECURE_HTTP`.
        fallback: Whether a retired model is replaced by its successor. Default False: a request for it gets a warning.
            `KLUSTER_FALLBACK`.

    Raises:
        pydantic.ValidationError: If a value is not acceptable (it is a `ValueError`). It never shows the key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    api_key: SecretStr | None = None
    insecure_http: bool = False  # before base_url, whose check reads both
    base_url: str = DEFAULT_BASE_URL
    plan: Plan | None = None
    timeout: float = 600.0
    total_timeout: float | None = None
    max_response_bytes: int = 2**28
    max_retries: int = 2
    default_headers: Headers = Field(default_factory=lambda: _Headers({}), repr=False, exclude=True)
    unsupported: Unsupported = "error"
    catalog: str | None = None
    fallback: bool = False

    def __init__(self, **values: Any) -> None:
        refusal = None
        values = {name: value for name in type(self).model_fields if (value := env_value(name))} | values
        if "api_key" not in values and stored_key():
            values["api_key"] = stored_key()  # no name of its own: a traceback would show it
        try:
            super().__init__(**values)
        except ValidationError as err:
            refusal = scrubbed(err)
        if refusal is not None:  # outside of `except`, and with nothing in the frame, so that no traceback has the key
            values.clear()
            raise refusal

    def __setattr__(self, name: str, value: Any) -> None:
        refusal = None
        try:
            super().__setattr__(name, value)
        except ValidationError as err:
            refusal = scrubbed(err)
        if refusal is not None:
            del value
            raise refusal

    @classmethod
    def of(cls, config: KlusterConfig | None) -> KlusterConfig:
        """Return the configuration that is passed; for None, one from the environment.

        Raises:
            BadRequestError: If it is anything else.
        """
        if config is None:
            return cls()
        if not isinstance(config, KlusterConfig):  # its value is not shown: a mapping would hold the key
            raise BadRequestError(
                f"config is of type {type(config).__name__}; it must be a KlusterConfig.",
                hint="write config=KlusterConfig(api_key=…, base_url=…), or leave it out.",
            )
        return config

    @classmethod
    def merged(cls, base: KlusterConfig | None = None, **arguments: Any) -> Self:
        """Return `base` with some fields replaced.

        Args:
            base: The configuration to start from. None: the environment and the defaults.
            arguments: Fields of `KlusterConfig` to replace; None means "not passed".

        Raises:
            pydantic.ValidationError: As `KlusterConfig`.
            BadRequestError: If `base` is not a configuration.
        """
        values = {name: getattr(cls.of(base), name) for name in cls.model_fields} if base is not None else {}
        values |= {name: value for name, value in arguments.items() if value is not None}
        try:
            return cls(**values)
        finally:  # no traceback of a refusal has the key
            values.clear()
            arguments.clear()

    @field_validator("api_key", mode="before")
    @classmethod
    def _check_key_type(cls, value: object) -> object:
        if not isinstance(value, str | bytes | SecretStr | None):
            raise ValueError(
                f"api_key must be a text, not a {type(value).__name__}. Of a function pass what it returns; "
                "LangChain's ChatKluster and KlusterEmbeddings take the function itself."
            )
        return value

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value().strip()  # a file or a shell adds line ends
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                "api_key (not shown) holds white space or characters that no header can carry; copy it again."
            )
        if key and not key.strip("."):  # pages have `export KLUSTER_API_KEY=...`
            raise ValueError("api_key='...' stands for a key in the documentation; put your own in its place.")
        return SecretStr(key) if key else None

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str, info: ValidationInfo) -> str:
        address = normalize_base_url(value)
        if info.data.get("api_key") is not None and not info.data.get("insecure_http") and is_exposed(address):
            source = env_source("api_key") or "api_key"
            raise ValueError(
                f"base_url={address!r} would send the key unencrypted to another machine; use https://. "
                f'A server that needs no key: api_key="", or unset {source}. A network that you trust: '
                "insecure_http=True, or KLUSTER_INSECURE_HTTP=1."
            )
        return address

    @field_validator("catalog", mode="before")
    @classmethod
    def _check_catalog(cls, value: object) -> str | None:
        if value is None or value == "":
            return None
        if not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"catalog={value!r} must be the path of a file, such as 'models.toml'.")
        return str(Path(value).expanduser().absolute())

    @field_validator("insecure_http", "fallback", mode="before")
    @classmethod
    def _check_flag(cls, value: object, info: ValidationInfo) -> bool:
        word = value.strip().lower() if isinstance(value, str) else value
        if word in ("1", "true", "yes", "on", True):
            return True
        if word in ("0", "false", "no", "off", False):
            return False
        raise ValueError(f"{info.field_name}={value!r} must be 1 or 0, true or false.")

    @property
    def needs_key(self) -> bool:
        """Whether requests need a key: over https to another machine."""
        return self.base_url.startswith("https:") and not _is_loopback(urlsplit(self.base_url).hostname or "")

    @field_validator("plan", mode="before")
    @classmethod
    def _check_plan(cls, value: object) -> Plan | None:
        return None if value is None else parse_plan(value)

    @field_validator("unsupported", mode="before")
    @classmethod
    def _check_unsupported(cls, value: object) -> object:
        choice = value.strip().lower() if isinstance(value, str) else value
        if choice not in get_args(Unsupported):
            raise ValueError(f"unsupported={value!r} must be one of {', '.join(get_args(Unsupported))}.")
        return choice

    @field_validator("timeout", mode="before")
    @classmethod
    def _check_timeout(cls, value: object) -> float:
        number = _number(value)
        if number is None or not 0 < number < float("inf"):
            raise ValueError(f"timeout={value!r} must be a number of seconds above 0, such as 60.")
        return number

    @field_validator("total_timeout", mode="before")
    @classmethod
    def _check_total(cls, value: object) -> float | None:
        number = None if value is None else _number(value)
        if value is not None and (number is None or not 0 < number < float("inf")):
            raise ValueError(f"total_timeout={value!r} must be a number of seconds above 0, such as 300, or None.")
        return number

    @field_validator("max_response_bytes", mode="before")
    @classmethod
    def _check_bytes(cls, value: object) -> int:
        number = _number(value)
        if number is None or not math.isfinite(number) or number < 1 or number != int(number):
            raise ValueError(
                f"max_response_bytes={value!r} must be a whole number of bytes, 1 or more, such as {2**28}."
            )
        return int(number)

    @field_validator("max_retries", mode="before")
    @classmethod
    def _check_retries(cls, value: object) -> int:
        number = _number(value)
        if number is None or not math.isfinite(number) or number < 0 or number != int(number):
            raise ValueError(f"max_retries={value!r} must be a whole number, 0 or more, such as 2.")
        return int(number)

    def __getstate__(self) -> dict[Any, Any]:
        """Leave out secrets. A restored config takes its key from the environment or the keyring."""
        state = super().__getstate__()
        state["__dict__"] = {**state["__dict__"], "api_key": None, "default_headers": {}}
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        if key := env_value("api_key") or stored_key():
            state["__dict__"]["api_key"] = self._check_key(SecretStr(key))
        super().__setstate__(state)

    def require_key(self) -> str:
        """Return the API key as text.

        Raises:
            AuthenticationError: If there is no key.
        """
        if self.api_key is None:
            raise AuthenticationError(
                "No kluster.ai API key: neither api_key nor " + ", ".join(ENVIRONMENT["api_key"]) + " is set.",
                hint="set KLUSTER_API_KEY, or pass api_key=…; to try without a key, start `kluster emulator`.",
            )
        return self.api_key.get_secret_value()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


# urlsplit takes the host of `http://[::1]example.com` for the loopback address.
_NETLOC = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:@]+)(:\d+)?")


def normalize_base_url(value: str) -> str:
    """Return an address without trailing slashes, and with `/v1` if it has no path.

    Raises:
        ValueError: If it is not an http(s) URL, or holds credentials, a query or an endpoint's path.
    """
    text = value.strip()
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:  # a port or a bracket out of place
        url, host = urlsplit(""), None
    if not _NETLOC.fullmatch(url.netloc.rpartition("@")[2]):
        host = None
    if url.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
        shown = text if "@" not in text else "(with credentials)"
        raise ValueError(f"base_url={shown!r} must be an address such as {DEFAULT_BASE_URL!r}.")
    if url.username is not None or url.password is not None:
        raise ValueError("base_url (not shown) holds credentials; pass api_key or default_headers instead.")
    if url.query or url.fragment:
        shown = text.split("?")[0].split("#")[0]
        raise ValueError(f"base_url={shown!r} must not have a query or fragment: remove the part from ? or # on.")
    path = url.path.rstrip("/")
    for endpoint in ("/chat/completions", "/embeddings", "/models", "/completions"):
        if path.endswith(endpoint):
            raise ValueError(
                f"base_url={text!r} names an endpoint; leave {endpoint!r} off, as in {DEFAULT_BASE_URL!r}."
            )
    return f"{url.scheme}://{url.netloc}{path or '/v1'}"


@functools.lru_cache(1_000)
def is_exposed(base_url: str) -> bool:
    """Whether others can read what is sent to an address: plain http to another machine.

    A private network counts, too: others in it can read the traffic.
    """
    url = urlsplit(base_url)
    return url.scheme == "http" and not _is_loopback(url.hostname or "")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
