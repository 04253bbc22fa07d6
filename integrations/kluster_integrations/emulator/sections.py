"""Where a prompt in parts says what is to be done, and which tools it lists."""

from __future__ import annotations

import re

__all__ = ["listed_tools", "matter"]

_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
_RULE = re.compile(r"^(?:-{3,}|\*{3,}|_{3,})[ \t]*$", re.MULTILINE)
#: "## Task", "## Current Step", "## Just completed step 1"; but not "## Task Context".
_STEP, _TASK = (
    re.compile(rf"(?:[\w-]+\s+){{0,2}}(?:{nouns})(?:\s+\d+)?\s*:?", re.IGNORECASE)
    for nouns in ("step", "task|question|query|request|problem")
)
#: A paragraph that begins with a sentence in bold says how to go about it.
_STRESSED = re.compile(r"^\*\*[^*\n]+[.!:]\*\*")
_TOOLS_HEADING = re.compile(r"(?:[\w-]+\s+){0,2}tools\s*:?", re.IGNORECASE)
_TOOLS_LINE = re.compile(r"^[ \t]*(?:available\s+)?tools[ \t]*:[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_LISTED = re.compile(
    r"(?:^|(?<=,))[ \t]*(?:[-*\u2022]|\d+[.)])?[ \t]*[`'\"]?([A-Za-z_][\w-]*)[`'\"]?[ \t]*(?=[,:(]|$|-\s)", re.M
)


def matter(prompt: str) -> str:
    """Return what a prompt with headings says under the one that names a step, else a task; without one, all of it."""
    parts = _sections(prompt)
    for wanted in (_STEP, _TASK):
        bodies = [body for heading, body in parts if wanted.fullmatch(heading) and body]
        if bodies:
            return bodies[-1]
    return prompt


def listed_tools(text: str) -> list[str]:
    """Return the names under a heading like "Available Tools", or behind it on its line."""
    places = [body for heading, body in _sections(text) if _TOOLS_HEADING.fullmatch(heading)]
    places += _TOOLS_LINE.findall(text)
    return list(dict.fromkeys(name for place in places for name in _LISTED.findall(place)))


def _sections(text: str) -> list[tuple[str, str]]:
    """Return each heading with what is below it, up to the next one or a rule."""
    spots = list(_HEADING.finditer(text))
    ends = [*(spot.start() for spot in spots[1:]), len(text)]
    return [(spot[1], _body(text[spot.end() : ends[i]])) for i, spot in enumerate(spots)]


def _body(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", _RULE.split(text, maxsplit=1)[0].strip())
    return "\n\n".join(part for part in paragraphs if not _STRESSED.match(part))
