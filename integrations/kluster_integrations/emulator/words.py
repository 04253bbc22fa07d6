"""Words, stems and sentences, for the engine that answers by word overlap."""

from __future__ import annotations

import re

__all__ = [
    "IMPERATIVES",
    "STOPWORDS",
    "alike",
    "name_words",
    "sentences",
    "shorten",
    "stem",
    "stems",
    "word_set",
    "words",
]


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text, as they are between spaces."""
    return frozenset(text.split())


STOPWORDS = word_set(
    """
    a about all also am an and any are as at be been being both but by can could did do does doing done each few
    for from had has have having he her here hers him his how i if in into is it its just let like may me might
    more most must my no nor not now of off on once one only or other our ours out over own per please she should
    so some such than that the their them then there these they this those to too under until up us use used uses
    using very was we were what when where which while who whom whose why will with would you your yours
    call called calling function functions get gets getting give given gives make return returned returns tell
    tool tools want wanted value values input inputs output outputs argument arguments parameter parameters
    show say says said know answer question
    """
)
#: Words that begin a request, or that stand alone.
IMPERATIVES = word_set(
    """add analyze answer build calculate check compare compute convert count create delete describe divide explain
    extract fetch find generate greet hello help here hi how list look lookup make multiply name ok open order plan play
    please read record research return save schedule search send set show start subtract sum summarize today tomorrow
    translate update using visit write yes"""
)
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SENTENCE = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])[\s\"')]+|\n+")
_SUFFIXES = ("ing", "ed", "es", "s")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def name_words(name: str) -> list[str]:
    """Return the words of an identifier: `get_userName` is get, user, name."""
    return words(_CAMEL.sub(" ", name).replace("_", " "))


def stem(word: str) -> str:
    """Return a word without a common English ending: living, lives and lived are liv, as is live."""
    word = re.split("['\u2019]", word, maxsplit=1)[0]
    for suffix in _SUFFIXES:
        root = word.removesuffix(suffix)
        if root != word and len(root) >= 3 and not word.endswith("ss"):
            word = root
            break
    if len(word) > 3:
        word = word.removesuffix("e")
    if len(word) > 3 and word.endswith("y"):
        word = word[:-1] + "i"
    return word


def alike(one: str, other: str) -> bool:
    """Return whether two stems are one word's: those of directed and director are."""
    if one == other:
        return True
    return min(len(one), len(other)) >= 5 and (one.startswith(other) or other.startswith(one))


def stems(text: str) -> set[str]:
    """Return the stems of the words that carry meaning."""
    return {stem(word) for word in words(text) if word not in STOPWORDS}


def sentences(text: str) -> list[str]:
    """Return the sentences (and lines) of a text, without the space around them."""
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


def shorten(text: str, most: int = 160) -> str:
    """Return a text on one line of at most `most` characters, cut between words where possible."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    cut = line[: most - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[most // 2 :] else cut) + "\u2026"
