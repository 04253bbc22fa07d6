"""The settings of an emulator, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args
from urllib.parse import urlsplit

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec, Plan
from kluster_integrations.emulator.engine import Engine
from kluster_integrations.emulator.faults import Fault, is_seconds

__all__ = ["EngineName", "Options", "ReasoningStyle", "Settings", "ShapeName", "without_credentials"]

EngineName = Literal["scripted", "upstream"]
ShapeName = Literal["vllm", "sglang"]
ReasoningStyle = Literal["reasoning_content", "reasoning", "think", "open"]


class Options(TypedDict, total=False):
    """The settings as keyword arguments."""

    engine: EngineName | Engine
    replies: Iterable[Mapping[str, object]]
    upstream: str | None
    upstream_model: str | None
    strict: bool
    plan: Plan | None
    api_keys: Iterable[str] | None
    shape: ShapeName
    reasoning: ReasoningStyle
    usage_in_stream: bool
    delay: float
    faults: Iterable[Fault]
    models: Iterable[ModelSpec]
    hosts: Iterable[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one emulator.

    Args:
        engine: What answers requests without a stated reply. A function gets a `ChatRequest` and returns a string, a
            `Reply`, a dict of a reply's fields, an iterator of these (each string is one chunk), or None for the
            generic answer; it may be async. `upstream` is another server, `scripted` the generic engine.
        replies: Replies from the start, each a dict of arguments of `Emulator.reply`.
        upstream: The base URL of an OpenAI-compatible server, which then is the engine.
        upstream_model: The upstream's model; default: the first one that it lists.
        strict: Whether fields that the docs do not call supported get a 400. Otherwise unknown fields and message keys
            are ignored, and `max_tokens` works.
        plan: The plan whose limits and windows apply; None is no limits and the windows of Core.
        api_keys: The accepted keys; None accepts any key.
        shape: The server whose answers are imitated, `vllm` or `sglang`.
        reasoning: Where a model's reasoning goes: the field `reasoning_content`, the field `reasoning`, the text in
            `<think>` tags (`think`), or the text with only the closing tag, for models whose template has the opening
            one (`open`).
        usage_in_stream: Whether a stream ends with a chunk that has usage.
        delay: Seconds between the chunks of a stream.
        faults: Faults that are scheduled from the start.
        models: Specs of further models, or of models that replace the catalog's.
        hosts: Public DNS names by which clients reach the emulator. Others get a 403, because they may belong to a web
            page (DNS rebinding). Addresses, `localhost` and names without a dot are always accepted.

    Raises:
        ValueError: If a value is not allowed; the message names the field, the value and what is allowed.
    """

    engine: EngineName | Engine = "scripted"
    replies: Iterable[Mapping[str, object]] = ()
    upstream: str | None = None
    upstream_model: str | None = None
    strict: bool = True
    plan: Plan | None = None
    api_keys: Iterable[str] | None = None
    shape: ShapeName = "vllm"
    reasoning: ReasoningStyle = "reasoning_content"
    usage_in_stream: bool = False
    delay: float = 0.0
    faults: Iterable[Fault] = ()
    models: Iterable[ModelSpec] = ()
    hosts: Iterable[str] = ()

    def __post_init__(self) -> None:
        if self.upstream is not None and self.engine == "scripted":
            object.__setattr__(self, "engine", "upstream")
        for name, allowed, more in (
            ("engine", get_args(EngineName), ", or a function of the request"),
            ("shape", get_args(ShapeName), ""),
            ("reasoning", get_args(ReasoningStyle), ""),
            ("plan", (None, *catalog.PLANS), ""),
        ):
            value = getattr(self, name)
            if value not in allowed and not (name == "engine" and callable(value)):
                raise _bad(name, value, f"one of {', '.join(map(repr, allowed))}{more}")
        for name in ("strict", "usage_in_stream"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, getattr(self, name), "True or False")
        if not is_seconds(self.delay):
            raise _bad("delay", self.delay, "a number of seconds, 0 or more")
        self._check_upstream()
        object.__setattr__(self, "api_keys", self._keys())
        object.__setattr__(self, "hosts", tuple(str(name).lower() for name in self._all_of("hosts", str)))
        for name, kind in (("faults", Fault), ("models", ModelSpec), ("replies", Mapping)):
            object.__setattr__(self, name, self._all_of(name, kind))

    def spec(self, model: str) -> ModelSpec | None:
        """Return a model's spec under the plan, or None for an unknown id."""
        return next((spec for spec in self.specs() if spec.id == model), None)

    def specs(self) -> list[ModelSpec]:
        """Return the specs of all served models, with the windows of the plan."""
        by_id = {spec.id: spec for spec in (*catalog.all_models(), *self.models)}
        return [spec.for_plan(self.plan) for spec in by_id.values()]

    def _check_upstream(self) -> None:
        if self.upstream_model is not None and not isinstance(self.upstream_model, str):
            raise _bad("upstream_model", self.upstream_model, "a model id of the upstream server")
        if self.upstream is None and self.engine != "upstream":
            return
        if callable(self.engine):
            raise _bad("upstream", self.upstream, "left out beside an engine of your own")
        parts = urlsplit(self.upstream) if isinstance(self.upstream, str) else None
        if parts is None or parts.scheme not in {"http", "https"} or not parts.netloc:
            shown = without_credentials(self.upstream) if isinstance(self.upstream, str) else self.upstream
            raise _bad("upstream", shown, "the URL of an OpenAI-compatible server (http://host:port/v1)")

    def _keys(self) -> frozenset[str] | None:
        if self.api_keys is None:
            return None
        if isinstance(self.api_keys, str):
            raise _bad("api_keys", "a single string", "a list of keys")
        keys = frozenset(self.api_keys)
        if not all(isinstance(key, str) and key.strip() for key in keys):
            raise _bad("api_keys", "an empty key or one that is not a string", "a list of non-empty strings")
        return keys

    def _all_of(self, name: str, kind: type) -> tuple[object, ...]:
        values = getattr(self, name)
        if not isinstance(values, Iterable) or isinstance(values, str):
            raise _bad(name, values, f"a list of {kind.__name__}")
        values = tuple(values)
        if wrong := next((value for value in values if not isinstance(value, kind)), None):
            raise _bad(name, wrong, f"a list of {kind.__name__}")
        return values


def without_credentials(url: str) -> str:
    """Return a URL without user, password and query, which may contain secrets."""
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def _bad(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"Emulator: {name}={value!r} is not allowed; it must be {allowed}.")
