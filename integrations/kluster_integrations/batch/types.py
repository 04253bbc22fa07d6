"""What a batch job tells about itself: costs, progress and results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal, NamedTuple

from kluster_integrations.core import own_models
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import BadRequestError, KlusterError
from kluster_integrations.core.specs import WINDOWS, ModelSpec, Prices, Window
from kluster_integrations.core.types import Completion, Usage

__all__ = [
    "UNSET",
    "WINDOWS",
    "BatchResult",
    "BatchStatus",
    "CostEstimate",
    "JobStatus",
    "ModelTokens",
    "Unset",
    "Window",
    "check_callable",
    "check_seconds",
    "dollars",
    "price",
    "priced",
]


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return self.name


UNSET: Final = Unset.UNSET
"""Marks an argument that was not passed, where None has its own meaning."""


def dollars(amount: float) -> str:
    """Return US$ as text: two decimals, or for small amounts as many as are needed."""
    digits = 2 if amount <= 0 else max(2, 3 - math.floor(math.log10(amount)))
    whole, _, part = f"{amount:.{digits}f}".partition(".")
    return f"${whole}.{part.rstrip('0'):0<2}"


class ModelTokens(NamedTuple):
    """The estimated tokens of all requests for one model."""

    model: str
    prompt: int
    completion: int

    def cost(self, window: Window, config: KlusterConfig | None = None) -> float | None:
        """Return their cost in a batch job, in US$; None if the price is unknown."""
        return price(self.model, self.prompt + self.completion, window, config)


def price(model: str, tokens: int, window: Window, config: KlusterConfig | None = None) -> float | None:
    """Return what tokens cost in a batch job, in US$; None if the price is unknown. Input and output cost the same.

    Args:
        model: The model's id.
        tokens: Tokens of prompts and answers together.
        window: The completion window.
        config: Its `catalog` has the prices of your own models; default: that of `KLUSTER_CATALOG`.
    """
    per_million = own_models.get(model, config=config).batch_prices.get(window)
    return None if per_million is None else tokens * per_million / 1_000_000


def priced(spec: ModelSpec, per_million: float | None) -> ModelSpec:
    """Return a spec with the batch price, the same for input and output; None is an unknown price."""
    return replace(spec, prices=None if per_million is None else Prices(per_million, per_million))


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The estimated cost of a job, before anything is sent. Costs are in US$, None if a price is unknown.

    Attributes:
        lines: The number of requests.
        files: The number of batch jobs they need, by the plan's limit of lines and the service's limit of 100 MB.
        tokens: The estimated tokens. An answer counts with its `max_completion_tokens`, else with 500.
        assumed: The number of requests without `max_completion_tokens`.
        real_time: The cost of the same requests, sent one by one.
        by_window: The cost by completion window.
        cheapest: `24h`, `48h`, `72h`, or `real_time`, because a batch job is not always cheaper. None if no cost is
            known.
        unknown: The models without a price, in real time or in a batch job.
    """

    lines: int
    files: int
    tokens: Usage
    assumed: int
    real_time: float | None
    by_window: Mapping[Window, float | None]
    unknown: tuple[str, ...]

    @classmethod
    def of(
        cls, models: list[ModelTokens], *, lines: int, files: int, assumed: int, config: KlusterConfig | None = None
    ) -> CostEstimate:
        """Add up the requests of some models; `config` is that of `price`."""
        prompt, completion = sum(m.prompt for m in models), sum(m.completion for m in models)
        real_time = [own_models.get(m.model, config=config).cost(m.prompt, m.completion) for m in models]
        by_window = {window: _total([m.cost(window, config) for m in models]) for window in WINDOWS}
        unknown = tuple(
            m.model
            for m, cost in zip(models, real_time, strict=True)
            if cost is None or any(m.cost(window, config) is None for window in WINDOWS)
        )
        tokens = Usage(prompt, completion, prompt + completion, estimated=True)
        return cls(lines, files, tokens, assumed, _total(real_time), by_window, unknown)

    @property
    def cheapest_window(self) -> Window:
        """The cheapest window (the shortest of several), or `24h` if no price is known."""
        return min(WINDOWS, key=lambda w: _or_infinite(self.by_window[w]))

    @property
    def cheapest(self) -> Window | Literal["real_time"] | None:
        """The cheapest way."""
        window = self.cheapest_window
        in_window, real_time = _or_infinite(self.by_window[window]), _or_infinite(self.real_time)
        if in_window == real_time == float("inf"):
            return None
        return "real_time" if real_time < in_window else window


def _total(costs: list[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _or_infinite(cost: float | None) -> float:
    return float("inf") if cost is None else cost


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job of the service.

    Attributes:
        id: The service's id; None before the job is created.
        status: The service's word, such as `in_progress`; `waiting` before the job is created. A job with an unknown
            word counts as running.
        lines: The number of its lines.
        answered: The number of answered lines, as the service counts them.
        failed: The number of failed lines, as the service counts them.
    """

    id: str | None
    status: str
    lines: int
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """The progress of a job.

    Attributes:
        total: The number of inputs.
        answered: The number of inputs whose completion is in the journal.
        failed: The number of inputs that have ended with an error.
        jobs: The service's jobs, in the order of their creation. Repairs and lines that are sent again are in further
            jobs.
        cost: US$ of all answers so far; None if a price is unknown.
        window: The completion window.
    """

    total: int
    answered: int
    failed: int
    jobs: tuple[JobStatus, ...]
    cost: float | None
    window: str

    @property
    def is_done(self) -> bool:
        """Whether every input has ended, with a completion or an error."""
        return self.answered + self.failed == self.total

    @property
    def progress(self) -> int:
        """The number of inputs that have ended, including those that the service counts in running jobs."""
        running = [job for job in self.jobs if job.status not in ("waiting", *ENDED)]
        ended = self.answered + self.failed + sum(job.answered + job.failed for job in running)
        return min(ended, self.total)


ENDED = ("completed", "failed", "expired", "cancelled")
"""The statuses of a job that has ended."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one input: a completion or an error.

    Attributes:
        index: The input's number, from 0.
        completion: The answer, with the tokens of all attempts; None if `error` is set.
        error: Why there is no answer; None if there is one.
        cost: US$ of all attempts at the batch price; None if the price is unknown.
        tries: How many lines were sent for this input: the first one, repairs, and lines that the service lost.
    """

    index: int
    completion: Completion | None
    error: KlusterError | None
    cost: float | None
    tries: int


def check_seconds(name: str, seconds: object) -> None:
    """Raise an error if a value is not a number of seconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise BadRequestError(f"{name}={seconds!r} must be seconds, 0 or more.", hint=f"such as {name}=10.")


def check_callable(name: str, function: object) -> None:
    """Raise an error if a value is neither a function nor None."""
    if function is not None and not callable(function):
        raise BadRequestError(f"{name}={function!r} must be a function.", hint=f"such as {name}=print.")
