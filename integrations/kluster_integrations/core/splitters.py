"""Text that comes in pieces, told apart: thoughts from the answer, and the answer from what a stop sequence cuts off.

Nothing is held back longer than it takes to know what it is.
"""

from __future__ import annotations

__all__ = ["Segment", "StopMatcher", "ThoughtSplitter"]

_OPEN, _CLOSE = "<think>", "</think>"
_QUOTES = ("`", '"', "'")  # a tag behind one of them is spoken of, not used
Segment = tuple[bool, str]
"""(whether it is reasoning, text)"""


class ThoughtSplitter:
    """Tells thoughts from the answer in text that may hold `<think>…</think>`.

    Text that begins inside the thought (`opens_in_thought`) is reasoning up to `</think>`; where that never comes, the
    text was the answer, and `close` gives it back as content. Elsewhere text is content until `<think>` says otherwise;
    a `<think>` in the middle of an answer that nothing closes was only text too, and comes back. White space between a
    tag and the text is the template's, not the model's, and goes. Held back are only characters that may still be part
    of a tag, and white space at the edges of a thought.

    Args:
        opens_in_thought: The model's template already holds the opening tag.
        thinks: Whether the model may think. Where it does not, `<think>` is a tag at the beginning of an answer only,
            and a `</think>` that closes nothing is text.

    Attributes:
        reopened: After `close`, the text from a `<think>` in the middle of an answer that nothing has closed: part of
            the answer, but nothing in it is a tool call.
    """

    __slots__ = (
        "_after_thought",
        "_fresh",
        "_held",
        "_space",
        "_thinking",
        "_thinks",
        "_unclosed",
        "before",
        "reopened",
    )

    def __init__(self, *, opens_in_thought: bool = False, thinks: bool = True) -> None:
        self.before = ""  # the content before what comes next, to see a tag that is quoted in backticks
        self._thinks = thinks
        self._thinking = opens_in_thought
        self._fresh = True  # nothing but white space so far in this thought, or in the answer since the last one
        self._after_thought = False
        self._held = ""  # may be the beginning of a tag
        self._space: list[str] = []  # goes, if a thought begins or ends here
        self.reopened = ""  # what follows a `<think>` in the middle of an answer that nothing has closed
        self._unclosed: list[str] | None = [] if opens_in_thought else None  # what comes back if nothing closes it

    @property
    def idle(self) -> bool:
        """Whether text without `<` passes unchanged: the answer is under way and nothing is held."""
        return not (self._fresh or self._thinking or self._held)

    def take_reasoning(self, text: str) -> list[Segment]:
        """Take text that the server itself calls reasoning; content after it is not inside a thought."""
        if not self._thinking or self._unclosed is not None:
            self._enter(thinking=True)
        return self._out(text)

    def take_content(self, text: str) -> list[Segment]:
        """Take text of `content`, from a server that separates reasoning itself: no tag in it means anything."""
        if self._thinking:
            self._enter(thinking=False)
        text, self._held = self._held + text, ""
        return self._out(text)

    def feed(self, text: str) -> list[Segment]:
        """Return the segments that are certain, given this text too."""
        text = self._held + text
        self._held = ""
        segments: list[Segment] = []
        while text:
            at, tag = _next_tag(text)
            segments += self._out(text[:at])
            if not tag:
                self._held = text[at:]
                break
            segments += self._switch(tag)
            text = text[at + len(tag) :]
        return segments

    def close(self, *, is_cut: bool = False) -> list[Segment]:
        """Return what was held, and as content what turned out not to be a thought.

        Args:
            is_cut: Whether the answer was cut: at a limit of tokens, or at a stop sequence. A thought that is open then
                stays a thought.
        """
        segments = self._out(self._held)
        self._held = ""
        if self._thinking and self._unclosed is not None and not is_cut:
            text = "".join(self._unclosed)
            if text.startswith(_OPEN):
                self.reopened = text
            elif text:
                segments.append((False, text))
        elif not self._thinking and self._space and not self._after_thought:
            segments.append((False, "".join(self._space)))
        return segments

    def _switch(self, tag: str) -> list[Segment]:
        if tag == _CLOSE and self._thinking:
            self._enter(thinking=False)
        elif tag == _OPEN and self._thinking and self._fresh:
            self._unclosed = None  # not opened by the template after all: the model did it
        elif self._thinking or self.before.endswith(_QUOTES) or not (self._thinks or (tag == _OPEN and self._fresh)):
            return self._out(tag)
        elif tag == _OPEN:
            unclosed = None if self._fresh else [tag]
            self._enter(thinking=True)
            self._unclosed = unclosed
        return []

    def _enter(self, *, thinking: bool) -> None:
        self._after_thought = self._after_thought or not thinking
        self._thinking, self._fresh, self._space, self._unclosed = thinking, True, [], None

    def _out(self, text: str) -> list[Segment]:
        if not text:
            return []
        if self._unclosed is not None:
            self._unclosed.append(text)
        if not self._thinking:
            self.before = text
            if not self._fresh:
                return [(False, text)]
        if text.isspace():
            self._space.append(text)
            return []
        whole = "".join([*self._space, text])
        body = whole.rstrip() if self._thinking else whole
        self._space = [whole[len(body) :]] if len(body) < len(whole) else []
        if self._fresh and (self._thinking or self._after_thought):
            body = body.lstrip()
        self._fresh = False
        return [(self._thinking, body)]


def _next_tag(text: str) -> tuple[int, str]:
    """Return where the next tag begins and the tag; with "" for the tag, where one may be beginning."""
    at = text.find("<")
    while at >= 0:
        for tag in (_OPEN, _CLOSE):
            if text.startswith(tag, at):
                return at, tag
            if len(text) - at < len(tag) and tag.startswith(text[at:]):
                return at, ""
        at = text.find("<", at + 1)
    return len(text), ""


class StopMatcher:
    """Cuts an answer at stop sequences that the server was not told of (it takes four)."""

    __slots__ = ("_held", "_stops", "hit")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """Return what is certain to stand before any stop sequence."""
        text = self._held + text
        found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:  # the one that is complete first, however the text was cut; of two, the longer
            end, size, self.hit = min(found)
            self._held = ""
            return text[: end + size]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def close(self) -> str:
        """Return what was held back and turned out to be text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how much of the end of `text` may be the beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
