"""Marks in the built pages what a browser cannot know: which words stay in one line, and which cells hold a sentence.

A Markdown extension: `make docs` builds with it. A browser breaks a line at any hyphen, also within `--replies`, an id
or a date. So each of these is put into a `<span class="word">`; docs/assets/extra.css keeps it in one line, and copying
gives the same text as before. A word of code that is too long for a phone may break after a slash or an equals sign.
The first paragraph of a page becomes its description, for search engines.
"""

from __future__ import annotations

import html
import re
from typing import Any

from markdown import Extension
from markdown.postprocessors import Postprocessor

__all__ = ["makeExtension"]

_AFTER_RAW_HTML = 25  # Markdown's raw_html takes 30: only then are blocks of code in the text

_SHORT, _LONG = 28, 40  # in characters: what fits a phone beside other words, and what fits it alone
_SENTENCE = 24  # characters of a cell that would be as narrow as its longest word in a table that is too wide
_DESCRIPTION = 160  # characters that search engines show

_TAG = re.compile(r"(<[^>]+>)")
_DATE = re.compile(r"\b\d{4}-\d\d(?:-\d\d)?\b")
_BETWEEN_PARTS = re.compile(r"(?<=[=,(\[])|(?<=::)|(?<=[^:/]/)(?!/)")
_SENTENCES = re.compile(rf".{{30,{_DESCRIPTION}}}[.](?= )")
_PARAGRAPH = re.compile(r"<p>(?!Bases:)(.{40,}?)</p>", re.DOTALL)


class _Typeset(Postprocessor):
    def run(self, text: str) -> str:
        self._describe(text)
        parts = _TAG.split(text)
        open_tags: list[str] = []
        cell = 0
        for number, part in enumerate(parts):
            if not number % 2:
                marked = number and parts[number - 1].startswith('<span class="word')  # of a docstring, done before
                parts[number] = part if marked else _marked(part, open_tags)
                continue
            tag = re.match(r"</?\w+", part)
            name = tag.group().strip("</") if tag else ""
            if name in ("td", "th"):
                if not part.startswith("</"):
                    cell = number
                elif len(_plain("".join(parts[cell + 1 : number]))) > _SENTENCE and "class=" not in parts[cell]:
                    parts[cell] = parts[cell].replace(f"<{name}", f'<{name} class="sentence"', 1)
            elif name in ("pre", "code", "script", "style", "svg"):
                _ = open_tags.pop() if part.startswith("</") else open_tags.append(name)
        return "".join(parts)

    def _describe(self, text: str) -> None:
        """Set the description of the page; docstrings are converted before the page that they are in."""
        for processor in self.md.preprocessors:
            if (page := getattr(processor, "page", None)) and (first := _PARAGRAPH.search(text)):
                words = _plain(first[1])
                whole = _SENTENCES.match(words)
                cut = whole[0] if whole else words[:_DESCRIPTION].rsplit(" ", 1)[0] + " …"
                # The theme does not escape it.
                page.meta["description"] = html.escape(words if len(words) <= _DESCRIPTION else cut)


def _marked(text: str, open_tags: list[str]) -> str:
    if not open_tags:
        return _DATE.sub(lambda date: _word(date.group()), text)
    if open_tags == ["code"]:
        return re.sub(r"\S+", lambda word: _whole(word.group()), text)
    if open_tags == ["pre", "code"]:
        return re.sub(r"(?=\S*-\w)\S+", lambda word: _word(word[0]) if _length(word[0]) <= _LONG else word[0], text)
    return text


def _whole(word: str) -> str:
    """Return a word of code that breaks nowhere, or if it is long after what separates its parts."""
    if re.fullmatch(r"\w+", word):
        return word
    if _length(word) <= _SHORT:
        return _word(word)
    parts = [_word(part, long=_length(part) > _SHORT) for part in _BETWEEN_PARTS.split(word) if part]
    return "<wbr>".join(parts)


def _word(text: str, *, long: bool = False) -> str:
    return f'<span class="word{" long" if long else ""}">{text}</span>'


def _length(text: str) -> int:
    return len(html.unescape(text))


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", text)).split())


class _Extension(Extension):
    def extendMarkdown(self, md: Any) -> None:  # noqa: N802
        md.postprocessors.register(_Typeset(md), "kluster-typeset", _AFTER_RAW_HTML)


def makeExtension(**options: Any) -> Extension:  # noqa: N802
    """Return the extension; Markdown calls this by its name."""
    return _Extension(**options)
