"""`POST /v1/embeddings`: deterministic vectors in which similar texts are near.

A vector is a hashed bag of words and of their character trigrams, of unit length. Short words weigh less. It knows
nothing about meaning, but a question finds the text that shares its words, and that is enough for a retrieval demo.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import zlib
from collections import Counter
from typing import cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kluster_integrations.emulator import rules, tokens
from kluster_integrations.emulator.rules import bad_request
from kluster_integrations.emulator.service import Json, record_of, service_of
from kluster_integrations.emulator.shapes import SHAPES

__all__ = ["ROUTES", "vector"]

_SUPPORTED = frozenset({"model", "input", "encoding_format"})
_DIMENSIONS = 1_024
_WORD = re.compile(r"\w+")
_TRIGRAM = 0.25  # of its word's weight
_LONG = 6  # letters; words that say little are short: the, of, is, der, la

Item = str | list[int]


async def _embed(request: Request) -> Response:
    service = service_of(request)
    body = rules.parse_json(await request.body())
    spec = rules.find_model(body, service.settings)
    if spec.purpose != "embeddings":
        raise bad_request(f"The model '{spec.id}' does not support embeddings", "model")
    # Not merely unknown: the reference says that `dimensions` is answered with 400.
    if "dimensions" in body:
        raise bad_request("Unsupported parameter: 'dimensions'", "dimensions", "unsupported_parameter")
    if service.settings.strict:
        rules.reject_unknown(body, _SUPPORTED)
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise bad_request("'encoding_format' must be 'float' or 'base64'", "encoding_format")
    items = _items(body.get("input"))
    counts = [_count(item, index, spec.context_window) for index, item in enumerate(items)]
    size = spec.embedding_dimensions or _DIMENSIONS
    texts = [item if isinstance(item, str) else " ".join(f"token{token}" for token in item) for item in items]
    vectors = [_encoded(vector(text, size), encoding) for text in texts]
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(vectors)]
    record_of(request.scope).count(spec, sum(counts), 0)
    usage = SHAPES[service.settings.shape].embedding_usage(sum(counts))
    return Json({"object": "list", "data": data, "model": spec.id, "usage": usage})


def _items(value: object) -> list[Item]:
    if not isinstance(value, str | list):
        raise bad_request("'input' must be a string, an array of strings, or tokens", "input")
    alone = isinstance(value, str) or (value and all(map(_token, value)))
    items: list[object] = [value] if alone else cast("list[object]", value)
    if not items:
        raise bad_request("'input' must not be empty", "input")
    for index, item in enumerate(items):
        tokenized = isinstance(item, list) and all(_token(token) for token in item)
        if not isinstance(item, str) and not tokenized:
            raise bad_request(f"input[{index}] must be a string or an array of tokens", f"input[{index}]")
        if not item:
            raise bad_request(f"input[{index}] must not be empty", f"input[{index}]")
    return cast("list[Item]", items)


def _token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(item: Item, index: int, most: int) -> int:
    number = tokens.count(item) if isinstance(item, str) else len(item)
    if number > most:
        message = f"input[{index}] has {number} tokens, which is more than the model's {most}"
        raise bad_request(message, f"input[{index}]", "context_length_exceeded")
    return number


def vector(text: str, size: int = _DIMENSIONS) -> list[float]:
    """Return the vector of a text: `size` floats of unit length."""
    values = [0.0] * size
    for feature, weight in _features(text).items():
        code = zlib.crc32(feature.encode("utf-8", "replace"))
        values[code % size] += weight if code >> 31 else -weight
    length = math.sqrt(sum(value * value for value in values))
    if not length:  # features that cancel each other out
        values[zlib.crc32(text.encode("utf-8", "replace")) % size] = length = 1.0
    return [value / length for value in values]


def _features(text: str) -> dict[str, float]:
    features: dict[str, float] = {}
    for word, times in Counter(_WORD.findall(text.lower())).items():
        weight = (min(len(word), _LONG) / _LONG) ** 2 * (1 + math.log(times))
        features[f"w:{word}"] = weight
        padded = f"<{word}>"
        for start in range(len(padded) - 2):
            key = f"t:{padded[start : start + 3]}"
            features[key] = features.get(key, 0.0) + weight * _TRIGRAM
    # A text without a word (punctuation, emoji) still has a place of its own.
    return features or {f"c:{char}": 1.0 for char in text}


def _encoded(values: list[float], encoding: object) -> list[float] | str:
    if encoding == "float":
        return values
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")


ROUTES = [Route("/embeddings", _embed, methods=["POST"])]
