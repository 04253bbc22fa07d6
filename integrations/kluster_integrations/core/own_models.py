"""A user's own models: `KLUSTER_CATALOG=models.toml`, in the form of this package's `catalog.toml`.

    [[models]]
    id = "my-llama"                                      # as the server calls it
    base = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"   # supplies every field that is missing here
    context_window = 16_384
    native = ["response_format", "stream_usage"]

The file applies only to the configuration that names it: another server may have another model with the same id.
"""

from __future__ import annotations

import datetime
import difflib
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, get_args

from kluster_integrations.core import specs
from kluster_integrations.core.config import DEFAULT_BASE_URL, KlusterConfig, env_value
from kluster_integrations.core.errors import BadRequestError, shortened
from kluster_integrations.core.notices import warn
from kluster_integrations.core.plans import Plan
from kluster_integrations.core.specs import NATIVE, WINDOWS, ModelSpec, Purpose, Status

__all__ = ["all_models", "check", "for_request", "get", "read", "select"]

_Rule = tuple[Callable[[object], bool], str]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value)


def _table_of(is_value: Callable[[object], bool], *names: str) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        return (
            isinstance(value, dict) and all(map(is_value, value.values())) and (not names or value.keys() == set(names))
        )

    return check


def _is_native(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name in NATIVE for name in value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


_FLAG: _Rule = (lambda value: isinstance(value, bool), "true or false")
_COUNT: _Rule = (_is_count, "a whole number, 0 or more")
_TEXT: _Rule = (_is_text, "a text that is not empty")
_WHEN: _Rule = (
    lambda value: isinstance(value, str) and specs.is_date(value),
    "a date: 'YYYY', 'YYYY-MM' or 'YYYY-MM-DD'",
)


def _one_of(choices: tuple[str, ...]) -> _Rule:
    return (lambda value: value in choices, f"one of {', '.join(choices)}")


_RULES: Mapping[str, _Rule] = {
    "id": _TEXT,
    "base": _TEXT,
    "purpose": _one_of(get_args(Purpose)),
    "context_window": _COUNT,
    "max_output_tokens": _COUNT,
    "supports_tools": _FLAG,
    "supports_vision": _FLAG,
    "reasoning": _FLAG,
    "opens_in_thought": _FLAG,
    "strict_roles": _FLAG,
    "native": (_is_native, f"a list of {', '.join(NATIVE)}"),
    "fine_tunable": _FLAG,
    "embedding_dimensions": _COUNT,
    "prices": (_table_of(_is_number, "input", "output"), "{ input = …, output = … }, in US$ per million tokens"),
    "batch_prices": (
        lambda value: _table_of(_is_number)(value) and set(value) <= set(WINDOWS),  # type: ignore[call-overload]
        "{ 24h = …, 48h = …, 72h = … } or some of these, in US$ per million tokens",
    ),
    "status": _one_of(get_args(Status)),
    "since": _WHEN,
    "until": _WHEN,
    "successor": _TEXT,
    "note": _TEXT,
    "concurrent_requests": _COUNT,
    "sources": (_table_of(_is_text), "a table of texts"),
}
assert _RULES.keys() == {field.name for field in fields(ModelSpec)} | {"base"}


def read(path: Path | str) -> list[ModelSpec]:
    """Read a file of your own models: TOML, one `[[models]]` per model, with the fields of `ModelSpec` and `base`.

    Missing fields come from the model that `base` names (in the catalog, or earlier in the file), else from the
    catalog's model with the same id, else from the defaults of `ModelSpec`; `max_output_tokens` then is
    `context_window`. Without a `context_window` no window is enforced.

    Raises:
        BadRequestError: If the file cannot be read, or a value is not allowed. The message names the file, the model,
            the field, the value and what is allowed.
    """
    try:
        data = tomllib.loads(Path(path).expanduser().read_text("utf-8-sig"))  # PowerShell begins files with the mark
    except OSError as err:
        _refuse(
            path,
            f"cannot be read: {err.strerror or err}.",
            "set KLUSTER_CATALOG (or catalog=…) to the path of a readable file, or unset it.",
        )
    except RecursionError:
        _refuse(path, "is not TOML that can be read: its lists are too deep.", "write lists inside lists less deep.")
    except ValueError as err:  # also if it is not UTF-8
        _refuse(path, f"is not TOML: {err}.", 'look at that line of the file; texts need quotes: id = "my-model".')
    rows = data.get("models")
    if data.keys() - {"models"} or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        found = ", ".join(data) or "nothing"
        _refuse(path, f"has {found} at its top; only [[models]] is allowed.", "begin each model with [[models]].")
    found_specs: dict[str, ModelSpec] = {}
    for number, row in enumerate(rows, 1):
        spec = _spec(path, number, row, found_specs)
        if spec.id in found_specs:
            _refuse(path, f"has model {shortened(spec.id)} twice.", "remove one of the two.")
        found_specs[spec.id] = spec
    return list(found_specs.values())


def _refuse(path: Path | str, what: str, hint: str) -> NoReturn:
    raise BadRequestError(f"The catalog {str(path)!r} {what}", hint=hint) from None


def _spec(path: Path | str, number: int, row: dict[str, Any], above: Mapping[str, ModelSpec]) -> ModelSpec:
    """Return the spec of one row."""
    model = f"model {shortened(row['id'])}" if "id" in row else f"model number {number}"
    if "id" not in row:
        _refuse(path, f"{model}: id is missing; it must be the model's id, as the server calls it.", "add id = …")
    row = {name: value.isoformat() if isinstance(value, datetime.date) else value for name, value in row.items()}
    for name, value in row.items():
        if name not in _RULES:
            near = difflib.get_close_matches(name, _RULES, n=1)
            hint = f"did you mean {near[0]}?" if near else "leave it out."
            _refuse(
                path,
                f"{model}: {shortened(name)[1:-1]}={shortened(value)} is not known; allowed are {', '.join(_RULES)}.",
                hint,
            )
        is_right, allowed = _RULES[name]
        if not is_right(value):
            hint = f"write {name} in the file as {allowed}" + ("." if name == "id" else ", or remove its line.")
            _refuse(path, f"{model}: {name}={shortened(value)} must be {allowed}.", hint)
    base_id = row.pop("base", row["id"])
    base = above.get(base_id) or specs.known_spec(base_id)
    if base is None and base_id != row["id"]:
        near_id = specs.suggest(base_id)
        hint = f"did you mean {near_id!r}?" if near_id else "`kluster models` lists the catalog's ids."
        _refuse(
            path, f"{model}: base={shortened(base_id)} must be a model of the catalog, or one further up in it.", hint
        )
    if "native" in row:
        row["native"] = frozenset(row["native"])
    if base is None:
        base = ModelSpec(id=row["id"], status="current" if "context_window" in row else "unknown")
        row.setdefault("max_output_tokens", row.get("context_window", base.max_output_tokens))
    return specs.spec_from({"sources": {**base.sources, "file": str(path)}, **row}, base)


@lru_cache(maxsize=100)
def _own(path: str, _version: object) -> Mapping[str, ModelSpec]:
    """Return the models of a file by their ids; each version of it is read once per process."""
    return {spec.id: spec for spec in read(path)}


def check(config: KlusterConfig) -> None:
    """Read the catalog file of a configuration, to find its errors before the first request.

    Raises:
        BadRequestError: See `read`.
    """
    _own_of(config)


def _own_of(config: KlusterConfig | None) -> Mapping[str, ModelSpec]:
    path = config.catalog if config is not None else os.path.expanduser(env_value("catalog") or "")  # noqa: PTH111
    if not path:
        return {}
    try:
        stat = os.stat(path)  # noqa: PTH116  # once per request: as a Path it takes twice as long
    except OSError:
        return _own(path, None)  # which says why it cannot be read
    return _own(path, (stat.st_mtime_ns, stat.st_size))


def all_models(config: KlusterConfig | None = None) -> list[ModelSpec]:
    """Return every spec of the catalog and of your own file, in the catalog's order; new ones come last.

    Args:
        config: Its `catalog` is the file; default: that of `KLUSTER_CATALOG`.

    Raises:
        BadRequestError: If the file cannot be read; see `read`.
    """
    return list({**{spec.id: spec for spec in specs.all_models()}, **_own_of(config)}.values())


def get(model: str, *, plan: Plan | None = None, config: KlusterConfig | None = None) -> ModelSpec:
    """Return the spec of a model id: from the user's own file, else from the catalog.

    A fine-tuned model (`ft:meta-llama:Llama-3.1-8B-Instruct:…`) has its base model's spec, without the price. Any other
    id works, too: it gets the defaults of `ModelSpec` with `status="unknown"`. If it is similar to a known id, a
    warning asks "did you mean".

    Args:
        model: The id, as it is sent.
        plan: The account's plan, which may limit the windows. Default: that of `config`, else no limit.
        config: Its `catalog` is the file; default: that of `KLUSTER_CATALOG`.

    Raises:
        ValueError: If `model` is not a text.
        BadRequestError: If the file cannot be read; see `read`.
    """
    if plan is None and config is not None:
        plan = config.plan
    spec = _own_of(config).get(model) if isinstance(model, str) else None
    return specs.get(model, plan=plan) if spec is None else spec.for_plan(plan)


def select(
    models: Iterable[str] | None = None, plan: Plan | None = None, config: KlusterConfig | None = None
) -> list[ModelSpec]:
    """Return the specs of several models.

    Args:
        models: Ids, with or without LiteLLM's prefix `kluster/`; default: all current chat and embedding models.
        plan: As in `get`.
        config: As in `get`.

    Raises:
        TypeError: If `models` is a text and not a list.
    """
    if isinstance(models, str):
        raise TypeError(f"models={models!r} must be a list of model ids.")
    if models is None:
        found = all_models(config)
        models = [spec.id for spec in found if spec.status == "current" and spec.purpose != "verification"]
    return [get(model.removeprefix("kluster/"), plan=plan, config=config) for model in models]


def for_request(model: str, config: KlusterConfig, *, warn: bool = True) -> ModelSpec:
    """Return the spec of the model that answers requests for `model`: the model itself, or its successor.

    With `config.fallback` a retired model is replaced by its successor; without it there is a warning. On another
    server than kluster.ai only an end date in the user's own file counts.
    """
    spec = asked = get(model, config=config)
    if not spec.has_ended:
        return spec
    met = {spec.id}
    while config.fallback and spec.has_ended and spec.successor and spec.successor not in met:
        spec = get(spec.successor, config=config)
        met.add(spec.id)
    if warn and (spec is not asked or config.base_url == DEFAULT_BASE_URL or "file" in asked.sources):
        _warn_of_end(asked.id, asked.until, asked.successor, None if spec is asked else spec.id)
    return spec


@lru_cache(maxsize=1_000)  # once per model
def _warn_of_end(model: str, until: str | None, successor: str | None, instead: str | None) -> None:
    if instead:
        more = f"{instead!r} is used in its place (fallback=True)."
    elif successor:
        more = f"use its successor {successor!r}, or set fallback=True (KLUSTER_FALLBACK=1) to switch to it."
    else:
        more = "choose another model; `kluster models` lists them."
    warn(f"model={model!r} ended with {until}: {more}", stacklevel=5)
