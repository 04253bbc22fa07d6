"""What each kluster.ai model can do, how much it takes and what it costs.

The data is in `catalog.toml`, each figure with its source and date. Ids that are not in it work, too (a fine-tuned
model, a dedicated deployment), with the conservative defaults of `ModelSpec`. `add`, `refresh` and the user's own file
(`own_models`) tell more about them.
"""

from __future__ import annotations

import datetime
import difflib
import re
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from kluster_integrations.core.forks import free_in_forks
from kluster_integrations.core.notices import warn
from kluster_integrations.core.plans import PLANS, Plan, parse_plan

__all__ = [
    "NATIVE",
    "WINDOWS",
    "ModelSpec",
    "Prices",
    "Window",
    "add",
    "all_models",
    "get",
    "is_date",
    "known_spec",
    "spec_from",
    "suggest",
    "take",
]

Purpose = Literal["chat", "embeddings", "verification"]
Status = Literal["current", "retired", "unknown"]
Window = Literal["24h", "48h", "72h"]
"""The time that the service may take for a batch job. A longer window is cheaper."""

WINDOWS: tuple[Window, ...] = ("24h", "48h", "72h")

_MILLION = 1_000_000
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")

NATIVE: Mapping[str, str] = {
    "response_format": "keeps to a JSON schema by its own grammar: the field is sent, not described in the prompt",
    "stream_usage": "counts the tokens of a stream: stream_options is sent",
    "tools": "takes tools and tool_choice; the same as supports_tools",
    "logprobs": "gives logprobs; on by default, as kluster.ai documents them",
    "n": "gives several answers to one request: n is sent, where the caller can take them",
    "max_tokens": "reads the limit of an answer as max_tokens, and not as max_completion_tokens",
    "dimensions": "shortens embeddings: dimensions is sent",
    **dict.fromkeys(
        ("prompt_cache_key", "reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity"),
        "takes OpenAI's field of this name: it is sent",
    ),
}
"""The names that `ModelSpec.native` may hold, and what a server with each of them does."""


@dataclass(frozen=True, slots=True)
class Prices:
    """US$ per million tokens of a real-time request."""

    input: float
    output: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost in US$ of one request with these numbers of tokens."""
        # In this order, which is LiteLLM's: so both say the same, to the last digit.
        return prompt_tokens * (self.input / _MILLION) + completion_tokens * (self.output / _MILLION)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model's limits, capabilities and prices.

    The defaults are those of an unknown id: the smallest documented windows (those of the plan Trial), prompted tools
    and no price. Images are sent to an unknown model, since only the server knows whether it takes them.

    Args:
        id: The id as it is sent; `klusterai/` is part of some ids.
        purpose: `chat`, `embeddings` or `verification`.
        context_window: Tokens of prompt and answer together.
        max_output_tokens: Tokens of the answer.
        supports_tools: Whether `tools` and `tool_choice` may be sent.
        supports_vision: Whether `image_url` parts may be sent.
        reasoning: Whether the model thinks before it answers.
        opens_in_thought: Whether the model's chat template already contains the opening `<think>`, so that an answer
            without the tag begins inside the reasoning (the R1 family).
        strict_roles: Whether the model's chat template accepts only one system message, at the beginning, followed by
            alternating user and assistant messages (Gemma, the Mistrals).
        fine_tunable: Whether the service can fine-tune it.
        embedding_dimensions: Length of a vector, for `purpose="embeddings"`.
        prices: Real-time prices, None if unknown.
        batch_prices: US$ per million tokens (input and output alike) by completion window (`24h`, `48h`, `72h`).
        status: `current`, `retired` (the docs give an end date), or `unknown` (not in the catalog).
        native: What the server does itself, by the names of `NATIVE`. Such a field is sent; others are imitated or
            refused.
        since: When it appeared in the docs (`YYYY`, `YYYY-MM` or `YYYY-MM-DD`).
        until: When it left, or will leave, the service, in the same form. Later requests for it get a warning.
        successor: The id of the model that replaces it, for `KlusterConfig(fallback=True)`.
        note: A remark, such as where sources disagree.
        concurrent_requests: The server's own limit for this model, known after `refresh`.
        sources: Where the figures come from, by group.

    Raises:
        ValueError: If `id` is empty, a window is negative, `native` has a name that is not in `NATIVE`, or `until`
            is not a date.
    """

    id: str
    purpose: Purpose = "chat"
    context_window: int = 32_768
    max_output_tokens: int = 4_096
    supports_tools: bool = False
    supports_vision: bool = False
    reasoning: bool = False
    opens_in_thought: bool = False
    strict_roles: bool = False
    native: frozenset[str] = frozenset({"logprobs"})
    fine_tunable: bool = False
    embedding_dimensions: int | None = None
    prices: Prices | None = None
    batch_prices: Mapping[str, float] = field(default_factory=dict, hash=False)
    status: Status = "current"
    since: str | None = None
    until: str | None = None
    successor: str | None = None
    note: str | None = None
    concurrent_requests: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip():
            raise ValueError(f"ModelSpec: id={self.id!r} must be a model id; see `kluster models`.")
        for name in ("context_window", "max_output_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"ModelSpec: {name}={value!r} must be a number of tokens, 0 or more.")
        if isinstance(self.native, str) or not NATIVE.keys() >= set(self.native):
            raise ValueError(f"ModelSpec: native={self.native!r} must be a set of {', '.join(NATIVE)}.")
        if unknown := self.batch_prices.keys() - set(WINDOWS):
            raise ValueError(f"ModelSpec: batch_prices has {sorted(unknown)}; allowed are {', '.join(WINDOWS)}.")
        if self.until is not None and not is_date(self.until):
            raise ValueError(f"ModelSpec: until={self.until!r} must be a date: YYYY, YYYY-MM or YYYY-MM-DD.")
        native = frozenset(self.native) - {"tools"}
        takes_tools = self.supports_tools or "tools" in self.native
        object.__setattr__(self, "supports_tools", takes_tools)
        object.__setattr__(self, "native", native | {"tools"} if takes_tools else native)

    @property
    def known(self) -> bool:
        """True if the limits come from the docs, the server or the user, not from the defaults for unknown ids."""
        return self.status != "unknown"

    @property
    def has_ended(self) -> bool:
        """Whether `until` has passed; a month or a year ends with its last day."""
        return self.until is not None and datetime.date.today().isoformat()[: len(self.until)] > self.until

    def for_plan(self, plan: Plan | None) -> ModelSpec:
        """Return this spec with the plan's windows (Trial: 32k of context, 4k of output); None changes nothing."""
        if plan is None:
            return self
        limits = PLANS[parse_plan(plan)]
        if limits.context_window is None or limits.max_output_tokens is None:
            return self
        return replace(
            self,
            context_window=min(self.context_window, limits.context_window),
            max_output_tokens=min(self.max_output_tokens, limits.max_output_tokens),
        )

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the real-time cost in US$ of one request; None if the price is unknown."""
        return self.prices.cost(prompt_tokens, completion_tokens) if self.prices else None

    def cost_to_show(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """As `cost`, rounded to 12 decimals, which removes what floats add (0.00024500000000000005).

        No price per million has more than 6 decimals, so no cost needs more than 12.
        """
        cost = self.cost(prompt_tokens, completion_tokens)
        return None if cost is None else round(cost, 12)


def is_date(text: str) -> bool:
    """Whether a text is `YYYY`, `YYYY-MM` or `YYYY-MM-DD`."""
    return _DATE.fullmatch(text) is not None


def _read_data() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("catalog.toml").read_text("utf-8")
    return tomllib.loads(text)


def spec_from(row: Mapping[str, Any], base: ModelSpec | None = None) -> ModelSpec:
    """Return the spec of a row of a catalog file, which has the fields of `ModelSpec`.

    Args:
        row: The row, with the right types.
        base: Supplies the fields that the row lacks; default: the defaults of `ModelSpec`.
    """
    values = dict(row)
    if prices := values.get("prices"):
        values["prices"] = Prices(**prices)
    return ModelSpec(**values) if base is None else replace(base, **values)


_DATA = _read_data()
_lock = free_in_forks(threading.Lock())
_models: dict[str, ModelSpec] = {row["id"]: spec_from(row) for row in _DATA["models"]}
del _DATA


def all_models() -> list[ModelSpec]:
    """Return every spec of the catalog, in the catalog's order; added and refreshed ones come last."""
    return list(_models.values())


def get(model: str, *, plan: Plan | None = None) -> ModelSpec:
    """Return the catalog's spec of a model id, under a plan; see `own_models.get`."""
    if not isinstance(model, str):
        raise ValueError(f"id={model!r} must be a model id, as text; see `kluster models`.")
    spec = known_spec(model) or _unknown(model)
    return spec if plan is None else spec.for_plan(plan)


def known_spec(model: str) -> ModelSpec | None:
    """Return the catalog's spec of an id, for a fine-tuned model that of its base model; None if there is none."""
    return _models.get(model) or (_fine_tuned(model) if model.startswith("ft:") else None)


@lru_cache(maxsize=1_000)
def _fine_tuned(model: str) -> ModelSpec | None:
    """Return the spec of `ft:vendor:name:account:id`, without a price: it is not documented."""
    name = [*model.lower().split(":"), "", ""][2]
    bases = [spec for spec in all_models() if spec.fine_tunable and name and name in spec.id.lower()]
    if len(bases) != 1:
        return None
    changes: dict[str, Any] = {"prices": None, "batch_prices": {}, "fine_tunable": False, "since": None}
    return replace(bases[0], id=model, **changes, sources={"capabilities": f"as {bases[0].id}"})


@lru_cache(maxsize=1_000)
def _unknown(model: str) -> ModelSpec:
    """Return the spec of an id that is not in the catalog; cached, so that the warning comes once."""
    spec = ModelSpec(id=model, status="unknown")
    if near := suggest(model):
        warn(
            f"model={model!r} is not in the catalog; did you mean {near!r}? It is sent as it is, with the defaults "
            "for unknown ids; a file named by KLUSTER_CATALOG, or catalog.add(ModelSpec(...)), says what it can do.",
            stacklevel=4,
        )
    return spec


def suggest(model: str) -> str | None:
    """Return the catalog's id that is most similar to an unknown id; None if none is similar."""
    ids = list(_models)  # a copy: other threads may add models during the search
    by_name = {id_.lower(): id_ for id_ in ids}
    by_name |= {id_.lower().rsplit("/", 1)[-1]: id_ for id_ in ids}
    wanted = model.lower().removeprefix("kluster/")
    near = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.9)
    return by_name[near[0]] if near and by_name[near[0]] != model else None


def add(spec: ModelSpec) -> None:
    """Add a model (a fine-tuned one, a dedicated deployment), or replace the one with the same id."""
    if not isinstance(spec, ModelSpec):
        raise TypeError(f"catalog.add takes a ModelSpec, not {type(spec).__name__}.")
    with _lock:
        _models[spec.id] = spec
        _unknown.cache_clear()
        _fine_tuned.cache_clear()


def take(specs: list[ModelSpec]) -> list[ModelSpec]:
    """Replace the catalog's specs of these models, and return them."""
    with _lock:
        _models.update({spec.id: spec for spec in specs})
        _unknown.cache_clear()
        _fine_tuned.cache_clear()
    return specs
