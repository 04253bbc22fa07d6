"""The `config.yaml` of LiteLLM's proxy, made from the catalog. Does not import LiteLLM."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kluster_integrations.catalog import PLANS, Plan, select
from kluster_integrations.config import KlusterConfig, env_source, known_plan
from kluster_integrations.litellm import routing

__all__ = ["HANDLER_FILE", "HANDLER_SOURCE", "config_yaml"]

HANDLER_FILE = "kluster_handler.py"
"""The file beside `config.yaml` for LiteLLM before 1.94, which loads handlers only from files."""
HANDLER_SOURCE = """\
# For LiteLLM's proxy, written by `kluster export litellm`.
from kluster_integrations.litellm.proxy import handler

__all__ = ["handler"]
"""

_HEAD = """\
# kluster.ai behind LiteLLM's proxy, written by `kluster export litellm`. To start it:
#
#   pip install "kluster-integrations[litellm{redis_extra}]" "litellm[proxy]" # in a checkout: ".[litellm{redis_extra}]"
#   export KLUSTER_API_KEY=…          # your key; it is in no file
#   export LITELLM_MASTER_KEY=sk-…    # what clients send; the proxy refuses a weak one
#   export LITELLM_LOCAL_MODEL_COST_MAP=True   # else the proxy asks the network for a table of prices at its start
{redis_line}#   litellm --config config.yaml
"""

_SETTINGS = """\
litellm_settings:
  # The provider: requests hold only what kluster.ai takes, errors are LiteLLM's, streams have usage and cost.
{handler_comment}  custom_provider_map:
    - provider: kluster
      custom_handler: {handler}
  # What kluster.ai does not take (n, store, service_tier, …) is left out; false answers 400 instead.
  drop_params: true
  # What histories such as Claude Code's lack is put in: the result of a tool call, a user's message at the beginning.
  modify_params: true
"""

_HANDLER_COMMENT = """\
  # Before litellm 1.94 the handler must be in a file beside this one: write `from kluster_integrations.litellm.proxy
  # import handler` into kluster_handler.py, and name kluster_handler.handler here.
"""

_GENERAL = """\
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  # Each answer has its cost in the header x-litellm-response-cost. Spend by key, user and team needs Postgres:
  # database_url: os.environ/DATABASE_URL
  # Files, batch jobs and reliability checks: clients send to /upstream/kluster/files, /upstream/kluster/batches,
  # /upstream/kluster/verify/reliability what they would send to kluster.ai, with the proxy's key. It passes through as
  # it is, without `metadata`: limits, budgets and prices are not applied. Without `auth` anybody may use your key.
  pass_through_endpoints:
    - path: "/upstream/kluster"
      target: {target}
      include_subpath: true
      auth: true
      headers:
        Authorization: "Bearer os.environ/KLUSTER_API_KEY"
"""


def config_yaml(
    models: Iterable[str] | None = None,
    *,
    plan: Plan | None = None,
    redis_url: str | None = None,
    max_wait: float | None = None,
    handler_file: bool = False,
) -> str:
    """Return a commented `config.yaml` for `litellm --config`.

    Args:
        models: Ids; default: all current chat and embedding models.
        plan: The account's plan, whose limits the proxy keeps. Default: `KLUSTER_PLAN`, else none.
        redis_url: The Redis that several instances share. An address with a user, a password or another secret is not
            written; set `KLUSTER_REDIS_URL` for the proxy then.
        max_wait: The most seconds that a request waits for the limits; after that the answer is 429. Default: no limit.
        handler_file: Whether to load the handler from `HANDLER_FILE` beside the file (for LiteLLM before 1.94) and not
            from this package.

    Raises:
        ValueError: If no plan has that name.
    """
    plan = known_plan(plan)
    models = None if models is None else list(models)
    general, longer = routing.fallbacks(models, plan=plan)
    deployments = routing.model_list(models, plan=plan, api_keys=["os.environ/KLUSTER_API_KEY"])
    unpriced = [spec.id for spec in select(models, plan) if spec.prices is None]
    secret = redis_url is not None and _holds_secret(redis_url)
    head = _HEAD.format(
        redis_extra=",redis" if redis_url else "",
        redis_line="#   export KLUSTER_REDIS_URL=redis://…   # it has a password\n" if secret else "",
    )
    parts = [
        head,
        _environment(plan, None if secret else redis_url, max_wait),
        "\n".join(["model_list:", *_models(deployments), ""]),
        _SETTINGS.format(
            handler_comment="" if handler_file else _HANDLER_COMMENT,
            handler="kluster_handler.handler" if handler_file else "kluster_integrations.litellm.proxy.handler",
        ),
        "\n".join(["router_settings:", *_router(general, longer, unpriced, max_wait, redis_url is not None), ""]),
        _GENERAL.format(target=_scalar(_target())),
    ]
    return "\n".join(part for part in parts if part)


def _holds_secret(redis_url: str) -> bool:
    """Return whether an address contains a secret; redis-py also reads a password from the query."""
    url = urlsplit(redis_url)
    queries = [name for name, _ in parse_qsl(url.query, keep_blank_values=True)]
    return "@" in url.netloc or any(re.search("user|pass|secret|token|key|cred", n, re.IGNORECASE) for n in queries)


def _target() -> str:
    """Return the address that the proxy passes requests on to: the variable that is set here, else kluster.ai's."""
    variable = env_source("base_url")
    return f"os.environ/{variable}" if variable else KlusterConfig().base_url


def _environment(plan: Plan | None, redis_url: str | None, max_wait: float | None) -> str:
    lines: list[str] = []
    if plan is not None:
        limits = PLANS[plan]
        parts = [
            f"{limits.requests_per_minute} requests a minute" if limits.requests_per_minute else "",
            f"{limits.concurrent_requests} at the same time" if limits.concurrent_requests else "",
        ]
        lines += [f"  # The plan's limits, kept per key over all its models: {', '.join(filter(None, parts))}."]
        lines += [f"  KLUSTER_PLAN: {plan}"]
    if redis_url is not None:
        lines += ["  # Shares the limits between instances.", f"  KLUSTER_REDIS_URL: {json.dumps(redis_url)}"]
    if max_wait is not None:
        lines += ["  # Seconds that a request waits for the limits before it is answered with 429."]
        lines += [f'  KLUSTER_MAX_WAIT: "{max_wait:g}"']
    return "\n".join(["environment_variables:", *lines, ""]) if lines else ""


def _models(deployments: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the deployments, group by group."""
    group = None
    for deployment in deployments:
        name = deployment["model_name"]
        if name in routing.GROUPS and name != group:
            yield f"  # The group {name!r}: any of these answers."
        group = name
        yield f"  - model_name: {_scalar(name)}"
        for part in ("litellm_params", "model_info"):
            # The provider itself tells LiteLLM what the model can do.
            fields = {k: v for k, v in deployment[part].items() if not k.startswith(("supports_", "litellm_provider"))}
            inside = ", ".join(f"{k}: {_scalar(v)}" for k, v in fields.items())
            yield f"    {part}: {{{inside}}}"


def _router(
    general: list[dict[str, list[str]]],
    longer: list[dict[str, list[str]]],
    unpriced: Iterable[str],
    max_wait: float | None,
    redis: bool,
) -> Iterator[str]:
    if redis:
        yield "  # Shares what the router counts between instances."
        yield "  redis_url: os.environ/KLUSTER_REDIS_URL"
    for name, value in routing.retries(max_wait).items():
        if name == "retry_policy":
            yield "  # A request that would wait too long for the limits is answered with 429, and not sent again."
        yield f"  {name}: {_scalar(value)}"
    yield "  # There is one key: were a deployment put to rest for an error, its group would have nothing left. With"
    yield "  # deployments for several keys put `cooldown_time: 30` here instead."
    for name, value in routing.cooldowns(1).items():
        yield f"  {name}: {_scalar(value)}"
    yield "  # A budget for all of them, without a database; models without a known price count as free, and escape it:"
    yield f"  # {', '.join(unpriced) or 'there are none here'}."
    yield "  # provider_budget_config: {kluster: {budget_limit: 10.0, time_period: 1d}}"
    yield "  # Which models answer instead, after an error and where the prompt is too long."
    for name, table in (("fallbacks", general), ("context_window_fallbacks", longer)):
        yield f"  {name}:" + ("" if table else " []")
        for entry in table:
            yield from (f"    - {_scalar(model)}: {json.dumps(others)}" for model, others in entry.items())


def _scalar(value: object) -> str:
    """Return a value as YAML. JSON is YAML, except that a number with an exponent needs a decimal point."""
    if isinstance(value, float):
        text = repr(value)
        mantissa, e, exponent = text.partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}"
    return json.dumps(value, ensure_ascii=False)
