"""What an emulator can be told, and what of it is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec, Plan
from kluster_integrations.emulator.faults import Fault

__all__ = ["EngineName", "ReasoningStyle", "Settings", "ShapeName"]

EngineName = Literal["scripted", "upstream"]
ShapeName = Literal["vllm", "sglang"]
ReasoningStyle = Literal["reasoning_content", "reasoning", "think", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one emulator; `Emulator` documents each of them.

    Raises:
        ValueError: If a value is not allowed; the message names the field, the value and what is allowed.
    """

    engine: EngineName = "scripted"
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

    def __post_init__(self) -> None:
        if self.upstream is not None and self.engine == "scripted":
            object.__setattr__(self, "engine", "upstream")
        for name, allowed in (
            ("engine", get_args(EngineName)),
            ("shape", get_args(ShapeName)),
            ("reasoning", get_args(ReasoningStyle)),
            ("plan", (None, *catalog.PLANS)),
        ):
            if getattr(self, name) not in allowed:
                raise _bad(name, getattr(self, name), f"one of {', '.join(map(repr, allowed))}")
        self._check_upstream()
        self._check_delay()
        self._check_flags()
        object.__setattr__(self, "api_keys", self._keys())
        object.__setattr__(self, "faults", self._all_of("faults", Fault))
        object.__setattr__(self, "models", self._all_of("models", ModelSpec))

    def spec(self, model: str) -> ModelSpec | None:
        """Return what is known of a model under the plan, or None for an id that nobody has named."""
        own = {spec.id: spec for spec in self.models}.get(model)
        if own is None:
            own = next((spec for spec in catalog.all_models() if spec.id == model), None)
        return own.for_plan(self.plan) if own else None

    def specs(self) -> list[ModelSpec]:
        """Return every model that is served, with the windows of the plan."""
        by_id = {spec.id: spec for spec in (*catalog.all_models(), *self.models)}
        return [spec.for_plan(self.plan) for spec in by_id.values()]

    def _check_upstream(self) -> None:
        if self.upstream is None:
            if self.engine == "upstream":
                raise _bad("upstream", None, "the URL of an OpenAI-compatible server (http://host:port/v1)")
            return
        parts = urlsplit(self.upstream) if isinstance(self.upstream, str) else None
        if parts is None or parts.scheme not in {"http", "https"} or not parts.netloc:
            raise _bad("upstream", self.upstream, "an http or https URL (http://host:port/v1)")

    def _check_delay(self) -> None:
        number = isinstance(self.delay, int | float) and not isinstance(self.delay, bool)
        if not number or not math.isfinite(self.delay) or self.delay < 0:
            raise _bad("delay", self.delay, "a number of seconds, 0 or more")

    def _check_flags(self) -> None:
        for name in ("strict", "usage_in_stream"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, getattr(self, name), "True or False")
        if self.upstream_model is not None and not isinstance(self.upstream_model, str):
            raise _bad("upstream_model", self.upstream_model, "a model id of the upstream server")

    def _keys(self) -> frozenset[str] | None:
        if self.api_keys is None:
            return None
        if isinstance(self.api_keys, str):
            raise _bad("api_keys", "a single string", "a list of keys")
        keys = frozenset(self.api_keys)
        if not all(isinstance(key, str) and key.strip() for key in keys):
            raise _bad("api_keys", "an empty key or one that is no string", "a list of non-empty strings")
        return keys

    def _all_of(self, name: str, kind: type) -> tuple[object, ...]:
        values = getattr(self, name)
        if not isinstance(values, Iterable) or isinstance(values, str):
            raise _bad(name, values, f"a list of {kind.__name__}")
        values = tuple(values)
        if wrong := next((value for value in values if not isinstance(value, kind)), None):
            raise _bad(name, wrong, f"a list of {kind.__name__}")
        return values


def _bad(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"Emulator: {name}={value!r} is not allowed; it must be {allowed}.")
