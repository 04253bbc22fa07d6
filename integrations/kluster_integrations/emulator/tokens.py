"""The emulator's own tokenizer: words and punctuation marks, each with the space before it.

No model counts like this, but it is simple and the same for every model. The tokens joined are the text.
"""

from __future__ import annotations

import re

__all__ = ["count", "split"]

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"\s*[{_CJK}]|\s*[^\W{_CJK}]{{1,16}}|\s*[^\w\s]|\s+|.", re.DOTALL)


def split(text: str) -> list[str]:
    """Return the tokens of a text. Joined, they are the text."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """Return the number of tokens of a text."""
    return sum(1 for _ in _TOKEN.finditer(text))
