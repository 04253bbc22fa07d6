"""The answers of `/v1/responses`, as long as they are remembered: for `previous_response_id` and `item_reference`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Memory", "Remembered"]

_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Remembered:
    """An answer, and the conversation up to its end.

    Attributes:
        response: The response object.
        items: The input items, those of earlier responses first, and the output items.
        size: About how many bytes of memory it takes.
    """

    response: Mapping[str, Any]
    items: Sequence[Mapping[str, Any]]
    size: int


class Memory:
    """The newest answers of this process. It forgets the oldest ones beyond `max_bytes`, and all when it ends."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, Remembered] = OrderedDict()
        self._items: dict[str, Mapping[str, Any]] = {}

    def add(self, answer: Remembered) -> None:
        """Remember an answer."""
        self._answers[answer.response["id"]] = answer
        self._items.update({item["id"]: item for item in answer.response["output"]})
        self._bytes += answer.size
        while self._bytes > self._max_bytes:
            self.remove(next(iter(self._answers)))

    def get(self, response_id: str) -> Remembered | None:
        """Return an answer, None if it is not remembered."""
        return self._answers.get(response_id)

    def item(self, item_id: str) -> Mapping[str, Any] | None:
        """Return an output item, None if it is not remembered."""
        return self._items.get(item_id)

    def remove(self, response_id: str) -> bool:
        """Forget an answer; return whether it was remembered."""
        if (answer := self._answers.pop(response_id, None)) is None:
            return False
        self._bytes -= answer.size
        for item in answer.response["output"]:
            self._items.pop(item["id"], None)
        return True
