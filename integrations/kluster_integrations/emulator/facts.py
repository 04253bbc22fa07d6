"""What a prompt says that could fill a field: numbers, names, quoted texts, dates, addresses, phrases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date

from kluster_integrations.emulator.words import (
    IMPERATIVES,
    STOPWORDS,
    alike,
    name_words,
    sentences,
    shorten,
    stem,
    word_set,
)

__all__ = ["Facts", "Found"]

_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august"),
    *("september", "october", "november", "december"),
)
_MONTH = "|".join(f"{name[:3]}(?:{name[3:]})?" for name in _MONTHS)
_FORMATS = {
    "email": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "uri": re.compile(r"https?://[^\s\"'<>)\]]*[^\s\"'<>)\].,;:?!]"),
    "uuid": re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"),
    "ipv4": re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"),
    "date-time": re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?"),
    "date": re.compile(r"\b\d{4}-\d\d-\d\d\b"),
    "time": re.compile(r"\b\d\d?:\d\d(?::\d\d)?\b"),
}
_NATURAL_DATES = (
    re.compile(rf"\b(?P<m>{_MONTH})\.?\s+(?P<d>\d\d?)(?:st|nd|rd|th)?,?\s+(?P<y>\d{{4}})\b", re.IGNORECASE),
    re.compile(rf"\b(?P<d>\d\d?)(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m>{_MONTH})\.?,?\s+(?P<y>\d{{4}})\b", re.IGNORECASE),
)
_NUMBER = re.compile(r"(?<![\w.])(?:(?<=\w-)|-)?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?(?!\.\d)")
_NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        (
            *("zero", "one", "two", "three", "four", "five", "six"),
            *("seven", "eight", "nine", "ten", "eleven", "twelve"),
        )
    )
}
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(w for w in _NUMBER_WORDS if w != 'one')})\b", re.IGNORECASE)
_QUOTED = re.compile(
    r"\"([^\"\n]+)\"|\u201c([^\u201d\n]+)\u201d|`([^`\n]+)`|(?<!\w)['\u2018]([^\n]{1,200}?)['\u2019](?!\w)"
)
_TOKEN = re.compile(r"[^\W_][\w'\u2019&-]*")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_LINKS = word_set("of de la le du da do dos van von der den del el al y bin")
_PREPOSITIONS = word_set("in for of at from to near between with by about on named called via en em nach")
#: What makes the word at the beginning of a sentence a name after all: "John is 30".
_VERBS = word_set("is was has had lives lived works worked likes and will")
#: Words that prompts put in capitals, and a longer word than most acronyms.
_STRESSED, _LONGEST_ACRONYM = word_set("never always ready very"), 6
#: A heading below the first level names a part of the prompt.
_HEADING = re.compile(r"^#{2,6}[ \t].*$", re.MULTILINE)
#: Up to so many words a prompt may be nothing but a name and a noun: "Paris weather".
_SHORT = 3
_LEAD = re.compile(
    r"^(?:please\s+)?(?:(?:can|could|would|will) you\s+)?(?:please\s+)?(?:use\s+(?:the\s+)?[`\w]+(?:\s+tool)?\s+to\s+)?"
    r"(?:(?:search|look)(?:\s+(?:the\s+)?(?:web|internet|online|docs?|documents?))?\s+(?:for|up)\s+"
    r"|(?:look up|find out|find|google|research|tell me|give me|show me|search)\s+(?:about\s+)?)?",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"\b(?:about|regarding|concerning|on the topic of)\s+(.+)", re.IGNORECASE | re.DOTALL)
_MATH = re.compile(r"[\d(][\d\s.()]{0,40}(?:[-+*/^%x\u00d7]\s{0,9}[\d(][\d\s.()]{0,40})+")


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate, where it stands, and the preposition before it (`""` without)."""

    start: int
    end: int
    text: str
    before: str = ""
    first: bool = False


@dataclass(slots=True)
class Facts:
    """The candidates of one prompt. Each is given out once.

    Args:
        prompt: The text to search.
    """

    prompt: str
    quoted: list[Found] = field(init=False)
    names: list[Found] = field(init=False)
    numbers: list[Found] = field(init=False)
    formats: dict[str, list[Found]] = field(init=False)
    _used: set[tuple[int, int]] = field(init=False, default_factory=set)
    _anchors: dict[str, list[tuple[int, int]]] = field(init=False, default_factory=dict)
    _claimed: list[tuple[int, int]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.formats = {
            name: [Found(m.start(), m.end(), m[0]) for m in pattern.finditer(self.prompt)]
            for name, pattern in _FORMATS.items()
        }
        self.formats["date"] += _natural_dates(self.prompt)
        self.quoted = [
            Found(m.start(), m.end(), next(group for group in m.groups() if group))
            for m in _QUOTED.finditer(self.prompt)
        ]
        taken = [found for row in self.formats.values() for found in row]
        self.numbers = [found for found in _numbers(self.prompt) if not _inside(found, taken)]
        self.names = _names(self.prompt)

    def anchors(self, name: str) -> list[tuple[int, int]]:
        """Return where the prompt speaks of a field, by the stems of its name: whole names before single words."""
        if name not in self._anchors:
            self._anchors[name] = self._find_anchors(name)
        return self._anchors[name]

    def _find_anchors(self, name: str) -> list[tuple[int, int]]:
        wanted = [stem(word) for word in name_words(name) if len(word) > 1 or word == name.lower()]
        spots = [(m.start(), m.end(), stem(m[0].lower())) for m in re.finditer(r"[^\W_]+", self.prompt)]
        length = len(wanted)
        whole = [
            (spots[i][0], spots[i + length - 1][1])
            for i in range(len(spots) - length + 1)
            if length and all(alike(spots[i + k][2], wanted[k]) for k in range(length))
        ]
        if whole or length < 2:
            return whole
        telling = {word for word in wanted if word not in STOPWORDS}
        return [(start, end) for start, end, word in spots if word in telling]

    def spoken(self, name: str) -> float:
        """Return how much of a field's name the prompt mentions, from 0 to 1."""
        telling = {stem(word) for word in name_words(name) if word not in STOPWORDS}
        said = {stem(m[0].lower()) for m in re.finditer(r"[^\W_]+", self.prompt)}
        return sum(any(alike(word, other) for other in said) for word in telling) / max(len(telling), 1)

    def take(self, candidates: Sequence[Found], name: str, *, anchored_only: bool = False) -> Found | None:
        """Return the unused candidate that fits a field best: right at its name, after it, else the next one."""
        free = self.unused(candidates)
        best = self._anchored(free, name)
        if best is None and free and not anchored_only:
            best = free[0]
        if best is not None:
            self._used.add((best.start, best.end))
        return best

    def rest(self, candidates: Iterable[Found]) -> list[Found]:
        """Return, and use up, all unused candidates."""
        free = self.unused(candidates)
        self._used |= {(found.start, found.end) for found in free}
        return free

    def unused(self, candidates: Iterable[Found]) -> list[Found]:
        """Return all unused candidates."""
        return [
            found
            for found in candidates
            if (found.start, found.end) not in self._used
            and not any(start <= found.start and found.end <= end for start, end in self._claimed)
        ]

    def claim(self, start: int, end: int) -> None:
        """Use up a place of the prompt that has been understood otherwise."""
        self._claimed.append((start, end))

    def assigned(self, name: str) -> str | None:
        """Return what stands after `name:` or `name =`, up to the end of the line or a comma."""
        pattern = r"[\s_-]*".join(map(re.escape, name_words(name)))
        match = re.search(rf"(?<!\w){pattern}\s*[:=]\s*([^\n,;]+)", self.prompt, re.IGNORECASE)
        return match[1].strip().strip("\"'`.") or None if match and pattern else None

    def expression(self) -> str | None:
        """Return the first arithmetic expression."""
        match = _MATH.search(self.prompt)
        return match[0].strip(" .") if match else None

    def topic(self) -> str | None:
        """Return what the prompt is about, where it says so."""
        match = _ABOUT.search(self.prompt)
        return _trim(match[1]) if match else None

    def place(self) -> str | None:
        """Return what stands after the last preposition of place, also in lower case: "weather in sf"."""
        match = re.match(r".*\b(?:in|at|near|for)\s+([^.,;?!\n]{2,40})", self.prompt, re.DOTALL)
        return _trim(match[1]) if match else None

    def saying(self) -> str | None:
        """Return what is to be said: "a mail saying that ..."."""
        match = re.search(r"\b(?:saying|that says)(?:\s+that)?[\s:]+(.+)", self.prompt, re.DOTALL)
        return _trim(match[1]) if match else None

    def phrase(self) -> str:
        """Return the prompt without its polite and technical beginning, on one line."""
        # How to answer ("Use the search tool.") is not what to say.
        parts = [part for part in sentences(self.prompt) if not re.search(r"\btools?\b", part)]
        text = " ".join(parts) or self.prompt.strip()
        return _trim(text[_LEAD.match(text).end() :]) or _trim(text)  # type: ignore[union-attr]

    def _anchored(self, free: list[Found], name: str) -> Found | None:
        for start, end in self.anchors(name):
            # "3 days" for `days`, unless another word of the prompt claims the place after it: "days: 3".
            for found in free:
                if found.end <= start and not self.prompt[found.end : start].strip(" -"):
                    return found
            after = [f for f in free if f.start >= end and f.start - end <= 40]
            if after and not re.search(r"[.!?]\s", self.prompt[end : after[0].start]):
                return after[0]
        return None


def number(text: str) -> float:
    """Return the value of a number as a prompt writes it."""
    word = _NUMBER_WORDS.get(text.lower())
    return float(text.replace(",", "") if word is None else word)


def _numbers(prompt: str) -> list[Found]:
    found = [Found(m.start(), m.end(), m[0]) for pattern in (_NUMBER, _NUMBER_WORD) for m in pattern.finditer(prompt)]
    return sorted(found, key=lambda item: item.start)


def _natural_dates(prompt: str) -> list[Found]:
    found = []
    for pattern in _NATURAL_DATES:
        for match in pattern.finditer(prompt):
            month = next(i for i, name in enumerate(_MONTHS, 1) if name.startswith(match["m"].lower()[:3]))
            with suppress(ValueError):  # the 31st of April
                day = date(int(match["y"]), month, int(match["d"]))
                found.append(Found(match.start(), match.end(), day.isoformat()))
    return found


def _inside(found: Found, others: Iterable[Found]) -> bool:
    return any(other.start <= found.start and found.end <= other.end for other in others)


def _names(prompt: str) -> list[Found]:
    """Return runs of capitalized words: those after a preposition first, those that begin a sentence last."""
    headings = [m.span() for m in _HEADING.finditer(prompt)]
    tokens = [
        (m.start(), m.end(), m[0])
        for m in _TOKEN.finditer(prompt)
        if not any(start <= m.start() < end for start, end in headings)
    ]
    found: list[Found] = []
    i = 0
    while i < len(tokens):
        if not _capital(tokens[i][2]):
            i += 1
            continue
        last = _run_end(prompt, tokens, i)
        first = _begins_sentence(prompt, tokens[i][0])
        if first and tokens[i][2].lower() in STOPWORDS | IMPERATIVES:
            i += 1
            continue
        before = tokens[i - 1][2].lower() if i else ""
        if before not in _PREPOSITIONS and all(map(_stressed, (token[2] for token in tokens[i : last + 1]))):
            i = last + 1
            continue
        start, end = tokens[i][0], tokens[last][1]
        following = tokens[last + 1][2].lower() if last + 1 < len(tokens) else ""
        first = first and following not in _VERBS and last == i
        if first and len(tokens) > _SHORT:
            # "Book a table", "Qué tiempo hace": a lone capital at the beginning is most often no name.
            i += 1
            continue
        text = re.sub(r"['\u2019]s$", "", prompt[start:end])
        found.append(Found(start, end, text, before if before in _PREPOSITIONS else "", first))
        i = last + 1
    found += [Found(m.start(), m.end(), m[0]) for m in _CJK.finditer(prompt)]
    return sorted(found, key=lambda item: (not item.before, item.first, item.start))


def _capital(word: str) -> bool:
    return word[0].isupper() and word not in {"I", "I'm", "I\u2019m", "I'd", "I'll", "I've"}


def _stressed(word: str) -> bool:
    """Return whether a word is in capitals to stress it: NOT, NEVER, EXECUTABLE; but not IBM."""
    return word.isupper() and (word.lower() in STOPWORDS | IMPERATIVES | _STRESSED or len(word) > _LONGEST_ACRONYM)


def _run_end(prompt: str, tokens: list[tuple[int, int, str]], i: int) -> int:
    """Return the index of the last word of the name that begins at `i`."""
    place = i > 0 and tokens[i - 1][2].lower() in {"in", "at", "near", "for", "of", "from", "to"}
    while i + 1 < len(tokens):
        gap, word = prompt[tokens[i][1] : tokens[i + 1][0]], tokens[i + 1][2]
        following = tokens[i + 2][2] if i + 2 < len(tokens) else ""
        if gap == " " and _capital(word) and not tokens[i][2].endswith(("'s", "\u2019s")):
            i += 1
        elif gap == " " and word in _LINKS and following and _capital(following):
            i += 2
        elif gap == ", " and _continues_place(word, following, place=place):
            i += 1
        else:
            break
    return i


def _continues_place(word: str, following: str, *, place: bool) -> bool:
    """Return whether "X, word" is one place: "San Francisco, CA", "in Paris, France", not "in Paris, Rome and Oslo"."""
    if len(word) == 2 and word.isupper():
        return True
    return place and _capital(word) and following.lower() not in {"and", "or"} and following[:1].islower() is False


def _begins_sentence(prompt: str, start: int) -> bool:
    before = prompt[:start].rstrip(" \t\"'(*-#>")
    return not before or before[-1] in ".!?:\n"


def _trim(text: str) -> str:
    return shorten(text, 200).strip(" \t?.!,;:\"'")
