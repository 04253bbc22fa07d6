"""Batch files that something else has written: what their lines are expected to take, and the budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from kluster_integrations.batch.lines import read_foreign
from kluster_integrations.batch.types import Window, priced
from kluster_integrations.core import budget, own_models, tokens
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import BadRequestError
from kluster_integrations.core.types import Usage

__all__ = ["counted", "expected"]


def expected(lines: Iterable[bytes], config: KlusterConfig) -> dict[str, Usage]:
    """Return about how many tokens the lines of a batch file take, by model; `requests` says how many lines.

    Args:
        lines: The file's. Of an answer the limit of tokens is counted; where a line has none, 500.
        config: Has the catalog that models are looked up in.

    Raises:
        BadRequestError: A line is not a chat request.
    """
    found: dict[str, Usage] = {}
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        where = f"Line {number} of the file"
        _, body = read_foreign(raw, where, _HINT)
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequestError(f"{where} has model={str(model)[:100]!r}, which must be a model id.", hint=_HINT)
        for name in ("max_completion_tokens", "max_tokens", "n"):
            limit = body.get(name)
            if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
                wrong = f"{name}={str(limit)[:100]!r}, which must be a whole number of 1 or more"
                raise BadRequestError(f"{where} has {wrong}.", hint=_HINT)
        try:
            most = own_models.get(model, config=config).max_output_tokens
            prompt, completion = tokens.estimate_request(body, most)
        except (AttributeError, TypeError, ValueError):
            raise BadRequestError(f"{where} has messages or tools of an unknown form.", hint=_HINT) from None
        usage = Usage(prompt, completion, prompt + completion, estimated=True)
        found[model] = found[model].plus(usage) if model in found else usage
    return found


_HINT = "correct the line, and upload the file again."


@contextmanager
def counted(expected: Mapping[str, Usage], window: Window, config: KlusterConfig) -> Iterator[None]:
    """Let a job be created inside, if the open budgets have room for it; see `core.budget.job`.

    Args:
        expected: What its lines are expected to take, by model.
        window: The completion window, which decides the price.
        config: Has the catalog that models are looked up in.

    Raises:
        BudgetExceededError: It does not fit, or the price of a model is not known.
    """
    specs = {model: own_models.get(model, config=config) for model in expected}
    with budget.job([(priced(spec, spec.batch_prices.get(window)), expected[model]) for model, spec in specs.items()]):
        yield
