"""What each kluster.ai model can do, how much it takes and what it costs.

The data is in `catalog.toml`, each figure with its source and date. Ids that are not in it are legal (a fine-tuned
model, a dedicated deployment) and get the conservative defaults of `ModelSpec`, until `add` or `refresh` says more.
"""

from __future__ import annotations

import difflib
import json
import threading
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from kluster_integrations.config import KlusterConfig

__all__ = [
    "PLANS",
    "ModelSpec",
    "Plan",
    "PlanLimits",
    "Prices",
    "add",
    "all_models",
    "get",
    "load",
    "refresh",
    "suggest",
]

Plan = Literal["trial", "core", "scale", "enterprise"]
Purpose = Literal["chat", "embeddings", "verification"]
Status = Literal["current", "retired", "unknown"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """What a plan allows. None is unlimited, or for the two windows: no cap of its own.

    Source: the rate-limit table of kluster.ai's docs, 2025-07-31.
    """

    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    max_batch_requests: int | None = None
    fine_tuned_models: int | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """US$ per million tokens, in real time."""

    input: float
    output: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost in US$ of one request with these numbers of tokens."""
        # In this order, which is LiteLLM's: so both say the same, to the last digit.
        return prompt_tokens * (self.input / _MILLION) + completion_tokens * (self.output / _MILLION)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model's limits, capabilities and prices.

    The defaults are what an unknown id gets: the smallest window and output that any plan documents (Trial's), no
    native tools (they are prompted), and no price. Images are sent to an unknown model, since only the server knows.

    Args:
        id: The id as it is sent; `klusterai/` is part of some ids.
        purpose: `chat`, `embeddings` or `verification`.
        context_window: Tokens of prompt and answer together.
        max_output_tokens: Tokens of the answer.
        supports_tools: Whether `tools` and `tool_choice` may be sent.
        supports_vision: Whether `image_url` parts may be sent.
        reasoning: Whether the model thinks before it answers.
        opens_in_thought: Whether the model's chat template already holds the opening `<think>`, so that an answer
            without the tag begins inside the thought (the R1 family).
        fine_tunable: Whether the service fine-tunes it.
        embedding_dimensions: Length of a vector, for `purpose="embeddings"`.
        prices: Real-time prices, None if unknown.
        batch_prices: US$ per million tokens (input and output alike) by completion window (`24h`, `48h`, `72h`).
        status: `current`, `retired` (the docs give an end), or `unknown` (not in the catalog).
        since: When it appeared in the docs (`YYYY`, `YYYY-MM` or `YYYY-MM-DD`).
        until: When it left.
        note: Where sources disagree.
        concurrent_requests: The server's own limit for this model, known after `refresh`.
        sources: Where the figures are from, by group.

    Raises:
        ValueError: If `id` is empty or a window is negative.
    """

    id: str
    purpose: Purpose = "chat"
    context_window: int = 32_768
    max_output_tokens: int = 4_096
    supports_tools: bool = False
    supports_vision: bool = False
    reasoning: bool = False
    opens_in_thought: bool = False
    fine_tunable: bool = False
    embedding_dimensions: int | None = None
    prices: Prices | None = None
    batch_prices: Mapping[str, float] = field(default_factory=dict, hash=False)
    status: Status = "current"
    since: str | None = None
    until: str | None = None
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

    @property
    def known(self) -> bool:
        """Whether the figures are somebody's word and not the defaults for an unknown id."""
        return self.status != "unknown"

    def for_plan(self, plan: Plan | None) -> ModelSpec:
        """Return this spec with the windows that the plan allows (Trial: 32k and 4k tokens); None changes nothing."""
        if plan is None:
            return self
        if plan not in get_args(Plan):
            raise ValueError(f"plan={plan!r} must be one of {', '.join(get_args(Plan))}.")
        limits = PLANS[plan]
        if limits.context_window is None or limits.max_output_tokens is None:
            return self
        return replace(
            self,
            context_window=min(self.context_window, limits.context_window),
            max_output_tokens=min(self.max_output_tokens, limits.max_output_tokens),
        )

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the real-time cost in US$ of one request, None where the price is unknown."""
        return self.prices.cost(prompt_tokens, completion_tokens) if self.prices else None


def _read_data() -> dict[str, Any]:
    text = resources.files("kluster_integrations").joinpath("catalog.toml").read_text("utf-8")
    return tomllib.loads(text)


def _spec_from(row: Mapping[str, Any]) -> ModelSpec:
    values = dict(row)
    if prices := values.get("prices"):
        values["prices"] = Prices(**prices)
    return ModelSpec(**values)


_DATA = _read_data()
PLANS: Mapping[str, PlanLimits] = {name: PlanLimits(**limits) for name, limits in _DATA["plans"].items()}
_lock = threading.Lock()
_models: dict[str, ModelSpec] = {row["id"]: _spec_from(row) for row in _DATA["models"]}
del _DATA


def all_models() -> list[ModelSpec]:
    """Return every spec of the catalog, in the catalog's order, added and refreshed ones last."""
    return list(_models.values())


def get(model: str, *, plan: Plan | None = None) -> ModelSpec:
    """Return the spec of a model id.

    An id that is not in the catalog is legal and gets the defaults of `ModelSpec` with `status="unknown"`; if it is
    close to a known id, a warning asks "did you mean".

    Args:
        model: The id, as it is sent.
        plan: The account's plan, which may cap the windows; None is no cap.

    Raises:
        ValueError: If `model` is not a non-empty string.
    """
    if not isinstance(model, str):
        raise ValueError(f"id={model!r} must be a model id, as text; see `kluster models`.")
    spec = _models.get(model)
    if spec is None:
        spec = _unknown(model)
    return spec if plan is None else spec.for_plan(plan)


@lru_cache(maxsize=1_000)
def _unknown(model: str) -> ModelSpec:
    """Return the spec of an id that is not in the catalog; cached, so that the warning comes once."""
    spec = ModelSpec(id=model, status="unknown")
    if near := suggest(model):
        warnings.warn(
            f"model={model!r} is not in the catalog; did you mean {near!r}? It is sent as it is, with the defaults "
            "for unknown ids; in Python, catalog.add(ModelSpec(...)) says what it can do.",
            stacklevel=3,
        )
    return spec


def suggest(model: str) -> str | None:
    """Return the catalog's id that an unknown id is likely a slip for, or None."""
    ids = list(_models)  # a copy in one step: other threads may add
    by_name = {id_.lower(): id_ for id_ in ids}
    by_name |= {id_.lower().rsplit("/", 1)[-1]: id_ for id_ in ids}
    wanted = model.lower().removeprefix("kluster/")
    near = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.9)
    return by_name[near[0]] if near and by_name[near[0]] != model else None


def add(spec: ModelSpec) -> None:
    """Add a model (a fine-tuned one, a dedicated deployment), or replace what the catalog says of its id."""
    if not isinstance(spec, ModelSpec):
        raise TypeError(f"catalog.add takes a ModelSpec, not {type(spec).__name__}.")
    with _lock:
        _models[spec.id] = spec
        _unknown.cache_clear()


def refresh(config: KlusterConfig | None = None, *, cache: Path | str | None = None) -> list[ModelSpec]:
    """Read `GET /v1/models?extended=true` and take its limits and capabilities into the catalog.

    Prices, and what the endpoint does not say, stay as they were. The endpoint needs no key.

    Args:
        config: Where to ask; default: from the environment.
        cache: A file to write the answer to, for `load`.

    Returns:
        The specs of the models that the server lists.

    Raises:
        KlusterError: If the server does not answer, or not with a list of models.
    """
    from kluster_integrations import transport
    from kluster_integrations.config import KlusterConfig
    from kluster_integrations.errors import InternalServerError

    answer = transport.get(config or KlusterConfig(), "/models", query={"extended": "true"}).data
    rows = answer.get("data") if isinstance(answer, dict) else None
    try:
        specs = _read_rows(rows)
    except ValueError as err:
        raise InternalServerError(f"GET /models did not answer with a list of models: {err}") from None
    if cache is not None:
        path = Path(cache)
        partial = path.with_suffix(path.suffix + ".partial")
        partial.write_text(json.dumps(rows), "utf-8")
        partial.replace(path)
    return _take(specs)


def load(cache: Path | str) -> list[ModelSpec]:
    """Take what `refresh(cache=…)` has written into the catalog, without a request.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not what `refresh` writes.
    """
    try:
        specs = _read_rows(json.loads(Path(cache).read_bytes()))
    except ValueError as err:  # also what is no JSON, or no UTF-8
        raise ValueError(
            f"cache={str(cache)!r} is not a list of models ({err}); write it with catalog.refresh(cache=…)."
        ) from None
    return _take(specs)


def _take(specs: list[ModelSpec]) -> list[ModelSpec]:
    with _lock:
        _models.update({spec.id: spec for spec in specs})
        _unknown.cache_clear()
    return specs


def _read_rows(rows: object) -> list[ModelSpec]:
    """Return a spec a row; all of them are checked before any is taken."""
    if not isinstance(rows, list):
        raise ValueError("it is no list.")
    return [_merge(row, f"row {i}") for i, row in enumerate(rows)]


_KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "id": (str, "a text"),
    "context_length": (int, "a number of tokens"),
    "output_length": (int, "a number of tokens"),
    "tools_supported": (bool, "true or false"),
    "tags": (list, "a list"),
    "limits": (dict, "an object"),
}


def _check_row(row: object, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is no object.")
    for name, (kind, words) in _KINDS.items():
        value = row.get(name)
        wrong = value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool)))
        if wrong or (name == "id" and not (value or "").strip()):
            raise ValueError(f"{where}: {name}={value!r} must be {words}.")
    return row


def _merge(row_: object, where: str) -> ModelSpec:
    """Lay one row of the extended model list over what the catalog has."""
    row = _check_row(row_, where)
    old = _models.get(row["id"]) or ModelSpec(id=row["id"], status="unknown")
    tags = row.get("tags") or []
    limits = row.get("limits") or {}
    said: dict[str, Any] = {
        "context_window": row.get("context_length"),
        "max_output_tokens": row.get("output_length"),
        "supports_tools": row.get("tools_supported"),
        "concurrent_requests": limits.get("concurrent_requests"),
    }
    if row.get("tags") is not None or row.get("model_purpose"):
        said["supports_vision"] = "vision" in tags or row.get("model_purpose") == "multimodal"
        said["fine_tunable"] = "fine-tunable" in tags
    if row.get("model_purpose") == "embeddings":
        said["purpose"] = "embeddings"
    changes = {k: v for k, v in said.items() if v is not None}
    # Where the server says neither windows nor kind, the defaults stay what they are: nobody's word.
    known = old.status != "unknown" or {"context_window", "supports_vision"} <= changes.keys()
    status: Status = "current" if known else "unknown"
    return replace(old, **changes, status=status, sources={**old.sources, "refreshed": "server"})
