"""Batch files of other programs: estimates of their tokens, and budgets for them."""

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
    """Estimate the tokens of a batch file's lines, by model; `requests` is the number of lines.

    Args:
        lines: The lines of the file. An answer counts with its limit of tokens, or with 500 if it has no limit.
        config: Its catalog knows the models.

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
            raise BadRequestError(f"{where} has messages or tools in an unknown form.", hint=_HINT) from None
        usage = Usage(prompt, completion, prompt + completion, estimated=True)
        found[model] = found[model].plus(usage) if model in found else usage
    return found


_HINT = "change that line of the file, and upload the file again."


@contextmanager
def counted(expected: Mapping[str, Usage], window: Window, config: KlusterConfig) -> Iterator[None]:
    """Let a job be created inside, if the open budgets have room for it; see `core.budget.job`.

    Args:
        expected: The estimate of its lines, by model.
        window: The completion window, which decides the price.
        config: Its catalog knows the models.

    Raises:
        BudgetExceededError: It does not fit, or the price of a model is not known.
    """
    specs = {model: own_models.get(model, config=config) for model in expected}
    with budget.job([(priced(spec, spec.batch_prices.get(window)), expected[model]) for model, spec in specs.items()]):
        yield
