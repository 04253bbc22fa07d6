"""What requests cost, counted and limited: `with budget(usd=5.0) as spent:` holds for every adapter.

`scope.py` says for which tasks and threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Self

from kluster_integrations.core.errors import BudgetExceededError, KlusterError, is_refusal
from kluster_integrations.core.scope import Scope
from kluster_integrations.core.specs import ModelSpec
from kluster_integrations.core.types import Usage

__all__ = ["Budget", "ModelSpend", "budget", "check", "count", "current", "job", "waiting"]

_ROUNDING = 1 - 1e-9  # ten times 0.1 adds up to a little less than 1.0


class ModelSpend(NamedTuple):
    """What one model has spent: requests, tokens, and US$ (0 for a model without a price)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0


class Budget:
    """Counts what requests cost, and refuses the next one once the limit is reached: `with budget(usd=5.0) as spent:`.

    A context manager, sync and async, for all adapters, over threads and tasks. If it is entered again, it goes on
    counting. Budgets nest: a request counts for every budget around it. Requests that are already running when the
    limit is reached finish and count, so the total may exceed it. Requests that wait for a batch job inside `deferred`
    count with an estimate until they are answered. Another process counts separately.

    Args:
        usd: The limit in US$, 0 or more; `math.inf` only counts.
        allow_unpriced: Whether to send requests to models whose price is unknown: they are counted with their tokens,
            and named in `unpriced`. Default: they are refused.

    Attributes:
        limit_usd: The limit in US$.
        allow_unpriced: Whether requests to models without a known price are sent.
        estimated: True if any number of tokens is an estimate, because the server sent no usage.

    Raises:
        ValueError: If `usd` is not a number, or below 0.
        BudgetExceededError: Raised by the next request inside, before it is sent, once the limit is reached.
    """

    def __init__(self, usd: float, *, allow_unpriced: bool = False) -> None:
        if isinstance(usd, bool) or not isinstance(usd, (int, float)) or not usd >= 0:
            raise ValueError(f"usd={usd!r} must be a number of US$, 0 or more, such as 5.0.")
        self.limit_usd = float(usd)
        self.allow_unpriced = allow_unpriced
        self.estimated = False
        self._by_model: dict[str, ModelSpend] = {}
        self._waiting = 0.0  # US$, estimated, of requests that wait for their batch job
        self._unpriced: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"Budget(spent {_usd(self.usd)} of {_usd(self.limit_usd)}, requests={self.requests})"

    @property
    def by_model(self) -> dict[str, ModelSpend]:
        """What each model has spent, by its id: `requests`, `prompt_tokens`, `completion_tokens` and `usd`."""
        return dict(self._by_model)

    @property
    def usd(self) -> float:
        """US$ spent so far: the catalog's prices times the tokens that the server counted."""
        return sum((spend.usd for spend in self.by_model.values()), 0.0)

    @property
    def requests(self) -> int:
        """Requests counted so far, repairs among them."""
        return sum(spend.requests for spend in self.by_model.values())

    @property
    def remaining(self) -> float:
        """US$ left, 0 where more than the limit is spent."""
        return max(0.0, self.limit_usd - self.usd)

    @property
    def unpriced(self) -> list[str]:
        """The models that were used and have no known price; `usd` does not include them."""
        return list(self._unpriced)

    def __enter__(self) -> Self:
        _budgets.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        _budgets.leave(self)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def _check(self, spec: ModelSpec, where: str = "") -> None:
        spent = self.usd
        if spent + self._waiting >= self.limit_usd * _ROUNDING:
            waiting = f", and about {_usd(self._waiting)} for what waits in batch jobs" if self._waiting else ""
            message = f"The budget of {_usd(self.limit_usd)} is spent ({_usd(spent)} so far{waiting})."
            hint = "pass a higher usd=… to budget(), or send the rest outside of it."
        elif spec.prices is None and not self.allow_unpriced:
            message = f"model={spec.id!r} has no known price{where}, so a budget cannot limit it."
            hint = "pass allow_unpriced=True to budget(), or give the model its prices with catalog.add(ModelSpec(…))."
        else:
            return
        raise self._refusal(message, hint)

    def _check_job(self, rows: Sequence[tuple[ModelSpec, Usage]], cost: float) -> None:
        for spec, _ in rows:
            self._check(spec, " for this batch job")
        taken = self.usd + self._waiting
        if (taken + cost) * _ROUNDING > self.limit_usd:
            message = f"The batch job would cost about {_usd(cost)}; the budget of {_usd(self.limit_usd)} has"
            hint = "make the job smaller, set max_completion_tokens in its lines, or raise the budget."
            raise self._refusal(f"{message} {_usd(max(0.0, self.limit_usd - taken))} left.", hint)

    def _refusal(self, message: str, hint: str) -> BudgetExceededError:
        error = BudgetExceededError(f"{message} Nothing was sent.", hint=hint)
        error.spent_usd, error.limit_usd = self.usd, self.limit_usd
        return error

    def _count(self, spec: ModelSpec, usage: Usage) -> None:
        cost = spec.cost(usage.prompt_tokens, usage.completion_tokens)
        if cost is None:
            self._unpriced[spec.id] = None
        before = self._by_model.get(spec.id, ModelSpend())
        self._by_model[spec.id] = ModelSpend(
            before.requests + usage.requests,
            before.prompt_tokens + usage.prompt_tokens,
            before.completion_tokens + usage.completion_tokens,
            before.usd + (cost or 0.0),
        )
        self.estimated = self.estimated or usage.estimated


budget = Budget
"""The name to use in a `with` statement."""

_budgets: Scope[Budget] = Scope("kluster_budgets")


def current() -> tuple[Budget, ...]:
    """Return the open budgets that a request which begins now counts for."""
    return _budgets.current()


def check(spec: ModelSpec) -> tuple[Budget, ...]:
    """Return `current()`, if all of them allow one more request to a model.

    Raises:
        BudgetExceededError: If one of them is spent, or does not allow a model without a price.
    """
    budgets = current()
    for each in budgets:
        each._check(spec)
    return budgets


@contextmanager
def waiting(spec: ModelSpec, expected: Usage) -> Iterator[tuple[Budget, ...]]:
    """As `check`, for a request that waits for its batch job: inside, its expected cost counts as spent.

    Otherwise all lines of a job would pass: they are asked at the same time and answered a day later.
    """
    cost = spec.cost(expected.prompt_tokens, expected.completion_tokens) or 0.0
    with _budgets.lock:
        budgets = check(spec)
        for each in budgets:
            each._waiting += cost
    try:
        yield budgets
    finally:
        with _budgets.lock:
            for each in budgets:
                each._waiting = max(0.0, each._waiting - cost)


@contextmanager
def job(rows: Sequence[tuple[ModelSpec, Usage]]) -> Iterator[None]:
    """Create a batch job inside this context, if its estimated cost fits into the rest of all open budgets.

    The estimate is counted and never replaced by the real cost, because this process may never read the results. A job
    that the service refused is not counted; one that may or may not exist is.

    Args:
        rows: For each model, its spec with the price of the batch job, and the expected tokens of all its requests.

    Raises:
        BudgetExceededError: It does not fit, or a budget does not allow a model without a price.
    """
    cost = sum(spec.cost(usage.prompt_tokens, usage.completion_tokens) or 0.0 for spec, usage in rows)
    with _budgets.lock:
        budgets = current()
        for each in budgets:
            each._check_job(rows, cost)
        for each in budgets:
            each._waiting += cost
    is_made = True
    try:
        yield
    except KlusterError as err:
        is_made = not is_refusal(err)
        raise
    finally:
        with _budgets.lock:
            for each in budgets:
                each._waiting = max(0.0, each._waiting - cost)
                for spec, usage in rows if is_made else ():
                    each._count(spec, usage)


def count(budgets: tuple[Budget, ...], spec: ModelSpec, usage: Usage) -> None:
    """Add the tokens of a request to the budgets that held when it began."""
    if budgets:
        with _budgets.lock:  # one for all: it is held for a microsecond per request
            for each in budgets:
                each._count(spec, usage)


def _usd(amount: float) -> str:
    return f"{amount:.8f}".rstrip("0").rstrip(".") + " US$"
