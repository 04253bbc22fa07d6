"""The catalog from the server: `GET /v1/models?extended=true`, and a file that keeps its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kluster_integrations.core import specs, transport
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import InternalServerError
from kluster_integrations.core.specs import ModelSpec, Status

__all__ = ["load", "refresh"]


def refresh(config: KlusterConfig | None = None, *, cache: Path | str | None = None) -> list[ModelSpec]:
    """Read `GET /v1/models?extended=true`, and put its limits and capabilities into the catalog.

    From other servers it reads the window: vLLM's and SGLang's `max_model_len`, llama.cpp's `meta.n_ctx`.

    Prices, and everything else that the endpoint does not have, do not change. The endpoint needs no key.

    Args:
        config: The connection; default: from the environment.
        cache: A file to write the response to, for `load`.

    Returns:
        The specs of the models that the server lists.

    Raises:
        KlusterError: If the request fails, or the response is not a list of models.
    """
    answer = transport.get(KlusterConfig.of(config), "/models", query={"extended": "true"}).data
    rows = answer.get("data") if isinstance(answer, dict) else None
    try:
        found = _read_rows(rows)
    except ValueError as err:
        raise InternalServerError(f"GET /models did not answer with a list of models: {err}") from None
    if cache is not None:
        path = Path(cache)
        partial = path.with_suffix(path.suffix + ".partial")
        partial.write_text(json.dumps(rows), "utf-8")
        partial.replace(path)
    return specs.take(found)


def load(cache: Path | str) -> list[ModelSpec]:
    """Put the file that `refresh(cache=…)` has written into the catalog, without a request.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a file that `refresh` writes.
    """
    try:
        found = _read_rows(json.loads(Path(cache).read_bytes()))
    except ValueError as err:  # also if it is not JSON, or not UTF-8
        raise ValueError(
            f"cache={str(cache)!r} is not a list of models ({err}); write it with catalog.refresh(cache=…)."
        ) from None
    return specs.take(found)


def _read_rows(rows: object) -> list[ModelSpec]:
    """Return one spec per row; the catalog changes only if all rows are right."""
    if not isinstance(rows, list):
        raise ValueError("it is not a list.")
    return [_merge(row, f"row {i}") for i, row in enumerate(rows)]


_KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "id": (str, "a text"),
    "context_length": (int, "a number of tokens"),
    "output_length": (int, "a number of tokens"),
    "tools_supported": (bool, "true or false"),
    "tags": (list, "a list"),
    "limits": (dict, "an object"),
    "max_model_len": (int, "a number of tokens"),
    "meta": (dict, "an object"),
    "architecture": (dict, "an object"),
}


def _check_row(row: object, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not an object.")
    for name, (kind, words) in _KINDS.items():
        value = row.get(name)
        wrong = value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool)))
        if wrong or (name == "id" and not (value or "").strip()):
            raise ValueError(f"{where}: {name}={value!r} must be {words}.")
    count = (row.get("limits") or {}).get("concurrent_requests")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise ValueError(f"{where}: limits.concurrent_requests={count!r} must be a number of requests.")
    modalities = (row.get("architecture") or {}).get("input_modalities")
    if modalities is not None and not isinstance(modalities, list):
        raise ValueError(f"{where}: architecture.input_modalities={modalities!r} must be a list.")
    return row


def _merge(row_: object, where: str) -> ModelSpec:
    """Return the catalog's spec of a model with the values of one row of the extended model list."""
    row = _check_row(row_, where)
    old = specs.known_spec(row["id"]) or ModelSpec(id=row["id"], status="unknown")
    tags = row.get("tags") or []
    limits = row.get("limits") or {}
    own = _own_window(row, where)
    said: dict[str, Any] = {
        "context_window": row.get("context_length") or own,
        "max_output_tokens": row.get("output_length"),
        "supports_tools": row.get("tools_supported"),
        "concurrent_requests": limits.get("concurrent_requests"),
    }
    if row.get("tags") is not None or row.get("model_purpose"):
        said["supports_vision"] = "vision" in tags or row.get("model_purpose") == "multimodal"
        said["fine_tunable"] = "fine-tunable" in tags
    if row.get("model_purpose") == "embeddings":
        said["purpose"] = "embeddings"
    elif modalities := (row.get("architecture") or {}).get("input_modalities"):  # llama.cpp's
        said["supports_vision"] = "image" in modalities
    if own and said["max_output_tokens"] is None:  # such a server has no other limit of an answer
        said["max_output_tokens"] = own if old.status == "unknown" else min(own, old.max_output_tokens)
    changes = {k: v for k, v in said.items() if v is not None}
    # Without a window and a purpose from the server, keep status unknown: these are fallback values.
    known = old.status != "unknown" or {"context_window", "supports_vision"} <= changes.keys()
    status: Status = "current" if known else "unknown"
    # What is listed has not ended, whatever the docs say.
    return replace(old, **changes, status=status, until=None, sources={**old.sources, "refreshed": "server"})


def _own_window(row: Mapping[str, Any], where: str) -> int | None:
    """Return the context window that a server other than kluster.ai reports; None if it reports none."""
    window = row.get("max_model_len") or (row.get("meta") or {}).get("n_ctx")
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 0):
        raise ValueError(f"{where}: meta.n_ctx={window!r} must be a number of tokens.")
    return window
