"""Which model a command means: an id, an alias, or the default of the settings."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping

from kluster_integrations import catalog
from kluster_integrations.cli._errors import UsageError
from kluster_integrations.errors import KlusterError

__all__ = [
    "ALIASES",
    "aliases",
    "complete_model",
    "default_model",
    "is_model",
    "near_model",
    "own_aliases",
    "resolve",
    "to_keep",
]

ALIASES: Mapping[str, str] = {
    "llama": "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo",
    "llama-8b": "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
    "maverick": "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
    "scout": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "r1": "deepseek-ai/DeepSeek-R1-0528",
    "v3": "deepseek-ai/DeepSeek-V3-0324",
    "gemma": "google/gemma-3-27b-it",
    "qwen": "Qwen/Qwen3-235B-A22B-FP8",
    "qwen-vl": "Qwen/Qwen2.5-VL-7B-Instruct",
    "magistral": "mistralai/Magistral-Small-2506",
    "mistral": "mistralai/Mistral-Small-24B-Instruct-2501",
    "nemo": "mistralai/Mistral-Nemo-Instruct-2407",
    "bge": "BAAI/bge-m3",
}
"""The aliases that are there from the start; the user's own win."""


def own_aliases() -> dict[str, str]:
    """Return the user's own aliases; an entry of the settings that is not an alias is left out.

    Raises:
        KlusterError: If the settings cannot be read.
    """
    from kluster_integrations.config import read_settings

    own = read_settings().get("aliases")
    return {name: id_ for name, id_ in own.items() if isinstance(id_, str) and id_} if isinstance(own, dict) else {}


def aliases() -> dict[str, str]:
    """Return all aliases, the user's own among them.

    Raises:
        KlusterError: If the settings cannot be read.
    """
    return {**ALIASES, **own_aliases()}


def default_model() -> str:
    """Return the id of the model that is asked where none is named.

    Raises:
        KlusterError: If the settings cannot be read, or name no model.
    """
    from kluster_integrations.config import read_settings, settings_file

    name = read_settings().get("default_model") or "llama"
    if not isinstance(name, str):
        problem = f"{settings_file()}: default_model={name!r} must be a text, an id or an alias."
        raise KlusterError(problem, hint="`kluster models default MODEL` sets it.")
    return resolve(name)


def resolve(name: str) -> str:
    """Return the id that a name stands for: an alias's, in any case; else the name itself, which may be any server's.

    What is close to an alias and nothing that is known gives a warning; of ids the core warns.
    """
    known = aliases()
    found = known.get(name) or known.get(name.lower())
    if found:
        return found
    if not is_model(name) and (near := near_model(name)):
        warnings.warn(f"model={name!r} is not known; did you mean {near!r}? It is sent as it is.", stacklevel=2)
    return name


def to_keep(name: str) -> str:
    """Return the id of a model that goes into the settings.

    Raises:
        UsageError: If no model can be called so.
    """
    if not name or any(c.isspace() for c in name):
        raise UsageError(f"MODEL {name!r} must be an id or an alias, without white space; `kluster models` lists them.")
    return resolve(name)


def is_model(word: str) -> bool:
    """Whether a word alone names a model: an alias, an id of the catalog, or what looks like an id."""
    if word.lower() in aliases() or any(spec.id == word for spec in catalog.all_models()):
        return True
    looks_like_id = "/" in word or word.startswith("ft:")
    return looks_like_id and "://" not in word and not any(c.isspace() for c in word)


def near_model(word: str) -> str | None:
    """Return the alias or id that a word is probably a misspelling of, or None."""
    near = difflib.get_close_matches(word.lower(), aliases(), n=1, cutoff=0.75)
    return near[0] if near else catalog.suggest(word)


def complete_model(incomplete: str) -> list[str]:
    """Return the aliases and ids that begin with what is typed, for a shell."""
    try:
        known: Mapping[str, str] = aliases()
    except KlusterError:  # the command itself says what is wrong with the settings
        known = ALIASES
    ids = [spec.id for spec in catalog.all_models() if spec.status == "current"]
    return [name for name in (*known, *ids) if name.lower().startswith(incomplete.lower())]
