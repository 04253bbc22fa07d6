"""A text that matches a regular expression, for the patterns that schemas commonly hold."""

from __future__ import annotations

import re

__all__ = ["example"]

_CLASSES = {"d": "0", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a"}
_ANCHORS = frozenset("bBAZ")
_QUANTIFIER = re.compile(r"\{(\d+)(?:,\d*)?\}\??|([*+?])\??")
_LONGEST = 10_000
_CANDIDATES = "a0A-_ .:/@"


def example(pattern: str) -> str | None:
    """Return a text that matches, None if the pattern is past what is understood here.

    Literals, classes, groups, alternatives (the first is taken), anchors and quantifiers (the least is taken) are.
    """
    try:
        text, _ = _alternatives(pattern, 0)
        return text if re.search(pattern, text) else None
    except (re.error, IndexError, RecursionError):
        return None


def _alternatives(pattern: str, at: int) -> tuple[str, int]:
    """Read up to the end of a group; return the first alternative's text, and where the reading ended."""
    first: str | None = None
    text = ""
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            first, text, at = text if first is None else first, "", at + 1
            continue
        piece, at = _atom(pattern, at)
        times = 1
        if match := _QUANTIFIER.match(pattern, at):
            times = int(match[1]) if match[1] else int(match[2] == "+")
            at = match.end()
        if len(text) + len(piece) * times > _LONGEST:
            raise IndexError(at)
        text += piece * times
    return (text if first is None else first), at


def _atom(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at]
    if char == "(":
        if lookaround := re.compile(r"\((?:\?:|\?P<\w+>)?(?!\?)").match(pattern, at):
            text, end = _alternatives(pattern, lookaround.end())
            return text, end + 1
        raise IndexError(at)
    if char == "[":
        end = pattern.index("]", at + 2) if pattern[at + 1] != "^" else pattern.index("]", at + 3)
        return _member(pattern[at : end + 1]), end + 1
    if char == "\\":
        escaped = pattern[at + 1]
        return "" if escaped in _ANCHORS else _CLASSES.get(escaped, escaped), at + 2
    if char in "^$":
        return "", at + 1
    return "a" if char == "." else char, at + 1


def _member(char_class: str) -> str:
    literal = char_class[1:2] if char_class[1] not in "^\\" else ""
    candidates: list[str] = [literal, *_CANDIDATES, *map(chr, range(33, 127))]
    for candidate in candidates:
        if candidate and re.fullmatch(char_class, candidate):
            return candidate
    raise IndexError(char_class)
