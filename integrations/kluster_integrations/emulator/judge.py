"""The scripted judgement of `klusterai/verify-reliability`: is what an answer says in what it is held against?

Names and numbers must all be there, and half of all that the question has not said already. That tells right from wrong
on the subjects of the docs' examples; a paraphrase it does not understand, nor what "not" denies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from kluster_integrations.emulator.words import STOPWORDS, sentences, shorten, stem, stems, word_set

__all__ = ["Verdict", "judge", "judge_conversation"]

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # no spaces between words: each sign counts
_TERM = re.compile(rf"\d+(?:[.,]\d+)*|[{_CJK}]|[^\W\d_{_CJK}]+(?:['\u2019][^\W\d_{_CJK}]+)?")
_CENTURY = re.compile(r"(?:19|20)(\d\d)")
_REPLIES = word_set("yes no true false correct right indeed sure")
_NEGATIVE = re.compile(r"\b(?:no|not|never|false)\b|n['\u2019]t\b", re.IGNORECASE)
_NAMED = 4  # words that an explanation quotes

#: What the emulator knows: the subjects of the docs' examples (verify-api, quick start, overview and the tutorial, docs
#: of 2025-07-31), so that these get the verdicts that the docs show.
_KNOWN: tuple[tuple[str, str], ...] = (
    ("capital France", "Paris is the capital of France."),
    (
        "where Eiffel Tower located city built Paris France",
        "The Eiffel Tower is in Paris, France; it was built in 1889 for the Paris Exposition.",
    ),
    ("Earth flat round", "The planet is round."),
    ("ghosts real exist", "No study has shown that ghosts exist."),
    (
        "vitamin C cures common cold",
        "Vitamin C may make common colds milder and shorter, but there is no evidence that it is a cure.",
    ),
    (
        "compound interest",
        "Compound interest is earned on the original investment and on earlier interest; money grows exponentially.",
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement.

    Args:
        is_hallucination: Whether the answer says what nothing supports.
        explanation: Why, in one sentence.
        found: The statement of general knowledge that it was held against, "" without one.
    """

    is_hallucination: bool
    explanation: str
    found: str = ""

    @property
    def text(self) -> str:
        """The verdict as chat completions give it.

        The docs show this form once, for the model's first id `klusterai/hallucination-detection` (tutorial of
        2025-05-28, its recorded output); later tutorials have recorded an HTTP 500 in its place.
        """
        return f"Hallucination: {'Yes' if self.is_hallucination else 'No'}\n\nExplanation: {self.explanation}"


def judge(question: str, answer: str, context: str = "") -> Verdict:
    """Return whether an answer is supported by the context; "" is general knowledge, of which there is little."""
    if context.strip():
        return _held_against(context, "the context", question, answer)
    asked = stems(question)
    # One shared word is not the same subject.
    known = [text for subject, text in _KNOWN if len(asked) > 1 and asked <= stems(subject)]
    if not known:
        what = "there is no context, and the emulator knows nothing of the subject, so it has no objection."
        return Verdict(False, f"Scripted judgement: {what}")
    verdict = _held_against(known[0], f'general knowledge ("{known[0]}")', question, answer)
    return Verdict(verdict.is_hallucination, verdict.explanation, known[0])


def judge_conversation(turns: Iterable[tuple[str, str]]) -> Verdict:
    """Judge the last answer of a conversation, given as roles and texts.

    The question is what ends in "?" in the last user message, else its last sentence. What was said beside it counts as
    context where it shares half of the question's words.
    """
    said = list(turns)
    at = max(i for i, (role, _) in enumerate(said) if role == "assistant")
    answer, before = said[at][1], said[:at]
    asked = max((i for i, (role, _) in enumerate(before) if role == "user"), default=-1)
    parts = sentences(before[asked][1]) if asked >= 0 else []
    asks = [text for text in parts if text.endswith("?")] or parts[-1:]
    wanted = stems(" ".join(asks))
    others = [text for i, (_, turn) in enumerate(before) if i != asked for text in sentences(turn)]
    statements = [text for text in (*others, *parts) if text not in asks and not text.endswith("?")]
    material = [text for text in statements if wanted and 2 * len(wanted & stems(text)) >= len(wanted)]
    return judge(" ".join(asks), answer, "\n".join(material))


def _held_against(material: str, name: str, question: str, answer: str) -> Verdict:
    support = _terms(material).keys()
    asked = _terms(question)
    claims = {key: term for key, term in _terms(answer).items() if key not in asked}
    affirmed = not claims or answer.strip().lower().startswith("yes")
    if affirmed and not _NEGATIVE.search(answer):
        claims |= asked
    missing = [term for key, term in claims.items() if not _supported(key, support)]
    wrong = [term for term in missing if term.exact]
    if wrong or 2 * len(missing) > len(claims):
        words = ", ".join(f'"{term.word}"' for term in (wrong or missing)[:_NAMED])
        return Verdict(True, shorten(f"Scripted judgement: {name} does not have {words}, which the answer says.", 400))
    return Verdict(False, shorten(f"Scripted judgement: {name} has what the answer says.", 400))


@dataclass(frozen=True, slots=True)
class _Term:
    """A word or number of a text; `exact` is a number, or a name by its capital within a sentence."""

    word: str
    exact: bool


def _terms(text: str) -> dict[str, _Term]:
    """Return the numbers and the words that carry meaning, by what they are compared by."""
    terms: dict[str, _Term] = {}
    for sentence in sentences(text):
        for place, word in enumerate(_TERM.findall(sentence)):
            lower = word.lower()
            if word[0].isdigit():
                terms[word.replace(",", "")] = _Term(word, exact=True)
            elif lower not in STOPWORDS and lower not in _REPLIES:
                term = _Term(word, exact=place > 0 and word[0].isupper())
                terms[stem(lower)] = max(terms.get(stem(lower), term), term, key=lambda one: one.exact)
    return terms


def _supported(key: str, support: Iterable[str]) -> bool:
    year = _CENTURY.fullmatch(key)
    return key in support or bool(year and year[1] in support)
