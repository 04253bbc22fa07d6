"""Embeddings: requests, and how responses are read (reference/kluster-api.md, Embeddings)."""

from __future__ import annotations

import base64
import contextlib
import math
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kluster_integrations.core import own_models, tokens
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import (
    BadRequestError,
    ContextWindowExceededError,
    InternalServerError,
    UnsupportedParameterError,
)

__all__ = ["DEFAULT_MODEL", "EMBEDDINGS_PATH", "MAX_BATCH", "build", "read"]

EMBEDDINGS_PATH = "/embeddings"
DEFAULT_MODEL = "BAAI/bge-m3"
MAX_BATCH = 2_048
"""The most texts in one request, as in OpenAI's API."""


def build(
    model: str, texts: Sequence[str], *, config: KlusterConfig, chunk_size: int = 256, dimensions: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the request bodies for some texts, in order, after all of them are checked.

    Texts are sent as text, never as token ids: a tokenizer with another vocabulary would silently give wrong vectors.

    Args:
        model: The model's id.
        texts: The texts to embed.
        config: Gives the plan and the catalog.
        chunk_size: Texts per request, 1 to 2048.
        dimensions: The wanted length of the vectors. It is sent only to models whose server has it (`native`). For
            others it must be the model's own length. It is never dropped: vectors of another length would be wrong.

    Raises:
        BadRequestError: If an input is empty or not a text; `ContextWindowExceededError` if it cannot fit.
    """
    spec = own_models.for_request(model, config)
    if spec.known and spec.purpose != "embeddings":
        raise BadRequestError(f"model={model!r} makes no embeddings.", hint=f"use {DEFAULT_MODEL!r}.")
    is_sent = dimensions is not None and "dimensions" in spec.native
    if dimensions is not None and not is_sent and dimensions != spec.embedding_dimensions:
        raise UnsupportedParameterError(
            f"kluster.ai does not take dimensions={dimensions!r}: vectors of {model!r} have the model's own length"
            + (f", {spec.embedding_dimensions}." if spec.embedding_dimensions else "."),
            hint="leave it out, and make the store for vectors of that length.",
        )
    if isinstance(texts, str):
        raise BadRequestError("input must be a list of texts, not one text.", hint="put it into a list.")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise BadRequestError(
                f"input[{i}]={text!r} must be a text that is not empty.", hint="leave empty texts out."
            )
        if spec.known and len(text) > spec.context_window and tokens.at_least(text) > spec.context_window:
            raise ContextWindowExceededError(
                f"input[{i}] is longer than the {spec.context_window} tokens that {model!r} takes.",
                hint="split the text.",
            )
    more = {"dimensions": dimensions} if is_sent else {}
    return (
        {"model": spec.id, "input": list(texts[at : at + chunk_size]), "encoding_format": "base64", **more}
        for at in range(0, len(texts), chunk_size)
    )


def read(data: object, body: Mapping[str, Any]) -> list[list[float]]:
    """Return the vectors of a response, in the order of the texts.

    Args:
        data: The decoded response.
        body: The request's body.

    Raises:
        InternalServerError: If there is not exactly one vector per input, of finite numbers.
    """
    rows = data.get("data") if isinstance(data, dict) else None
    wanted = len(body["input"])
    if not isinstance(rows, list) or len(rows) != wanted or not all(isinstance(r, dict) for r in rows):
        got = len(rows) if isinstance(rows, list) else "no"
        raise InternalServerError(f"The answer has {got} vectors for {wanted} texts.", body=data)
    places = [row.get("index") for row in rows]
    if places != [None] * wanted:  # a server that numbers no vector keeps the order
        if any(type(place) is not int for place in places) or sorted(places) != list(range(wanted)):
            raise InternalServerError(f"The vectors of the answer are not numbered 0 to {wanted - 1}.", body=None)
        rows = sorted(rows, key=lambda row: row["index"])
    vectors = [_vector(row.get("embedding")) for row in rows]
    if len({len(v) for v in vectors}) != 1 or not vectors[0]:
        raise InternalServerError("The vectors of the answer are empty, or differ in length.", body=None)
    return vectors


def _vector(value: object) -> list[float]:
    numbers: list[float] | None = None
    with contextlib.suppress(ValueError, OverflowError, TypeError):
        if isinstance(value, str):  # base64 of little-endian 32-bit floats
            made = array("f", base64.b64decode(value, validate=True))
            if sys.byteorder == "big":
                made.byteswap()
            numbers = made.tolist()
        elif isinstance(value, list) and {*map(type, value)} <= {int, float}:
            numbers = [*map(float, value)]
    if numbers is None or not (math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers))):
        raise InternalServerError(
            f"A vector of the answer is neither finite numbers nor base64 of such: {str(value)[:80]!r}."
        )
    return numbers
