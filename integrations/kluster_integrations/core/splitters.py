"""Split a text that comes in pieces: into reasoning and answer, and at stop sequences.

Text is held back only until it is clear what it is.
"""

from __future__ import annotations

__all__ = ["Segment", "StopMatcher", "ThoughtSplitter"]

_OPEN, _CLOSE = "<think>", "</think>"
_QUOTES = ("`", '"', "'")  # a tag behind one of them is spoken of, not used
Segment = tuple[bool, str]
"""(whether it is reasoning, text)"""


class ThoughtSplitter:
    """Separates reasoning from the answer in text with `<think>…</think>`.

    With `opens_in_thought`, text is reasoning until `</think>`. If that tag never comes, the text was the answer, and
    `close` returns it as content. Otherwise text is content until `<think>`. A `<think>` in the middle of an answer
    that is never closed was only text, and `close` returns it, too. White space next to a tag comes from the template
    and is removed. Only characters that may be part of a tag, and white space at the edges of the reasoning, are held
    back.

    Args:
        opens_in_thought: Whether the model's chat template already contains the opening tag.
        thinks: Whether the model may reason. If not, `<think>` is a tag only at the beginning of an answer, and a
            `</think>` that closes nothing is text.
        stops: Stop sequences of the answer. Text after a stop is held back while it may be reasoning. A later
            `</think>` releases it; without one it is dropped.

    Attributes:
        reopened: After `close`: the text from an unclosed `<think>` in the middle of an answer. It belongs to the
            answer, but nothing in it is a tool call.
    """

    __slots__ = (
        "_after_thought",
        "_behind_stop",
        "_fresh",
        "_guard",
        "_held",
        "_space",
        "_stops",
        "_thinking",
        "_thinks",
        "_unclosed",
        "before",
        "reopened",
    )

    def __init__(self, *, opens_in_thought: bool = False, thinks: bool = True, stops: tuple[str, ...] = ()) -> None:
        self.before = ""  # the previous content, to see whether a tag is quoted in backticks
        self._thinks = thinks
        self._thinking = opens_in_thought
        self._fresh = True  # nothing but white space so far in this thought, or in the answer since the last one
        self._after_thought = False
        self._held = ""  # may be the beginning of a tag
        self._space: list[str] = []  # removed if the reasoning begins or ends here
        self.reopened = ""  # what follows a `<think>` in the middle of an answer that nothing has closed
        self._unclosed: list[str] | None = [] if opens_in_thought else None  # what comes back if nothing closes it
        self._stops = stops
        self._guard = StopMatcher(stops) if stops and opens_in_thought else None
        self._behind_stop: list[str] = []  # a stop sequence, and what follows it, in what may not be a thought

    @property
    def idle(self) -> bool:
        """Whether text without `<` passes unchanged: the answer has begun and nothing is held."""
        return not (self._fresh or self._thinking or self._held)

    def take_reasoning(self, text: str) -> list[Segment]:
        """Take text that the server marks as reasoning. Content after it is not inside the reasoning."""
        before: list[Segment] = []
        if not self._thinking or self._unclosed is not None:
            before = self._enter(thinking=True)
        return [*before, *self._out(text)]

    def take_content(self, text: str) -> list[Segment]:
        """Take `content` from a server that separates reasoning itself. Tags in it are ignored."""
        before = self._enter(thinking=False) if self._thinking else []
        text, self._held = self._held + text, ""
        return [*before, *self._out(text)]

    def feed(self, text: str) -> list[Segment]:
        """Take text, and return the segments that are certain now."""
        text = self._held + text
        self._held = ""
        segments: list[Segment] = []
        at = 0
        while at < len(text):
            begin, tag = _next_tag(text, at)
            segments += self._out(text[at:begin])
            if not tag:
                self._held = text[begin:]
                break
            segments += self._switch(tag)
            at = begin + len(tag)
        return segments

    def close(self, *, is_cut: bool = False) -> list[Segment]:
        """Return the held text; reasoning that was never closed becomes content.

        Args:
            is_cut: Whether the answer was cut off, by a limit of tokens or a stop sequence. Open reasoning then stays
                reasoning.
        """
        segments = self._out(self._held)
        self._held = ""
        if self._thinking and self._unclosed is not None and not is_cut:
            text = "".join(self._unclosed)
            if text.startswith(_OPEN):
                self.reopened = text
            elif text:
                segments.append((False, text))
        elif self._thinking:
            segments += self._release()
        elif self._space and not self._after_thought:
            segments.append((False, "".join(self._space)))
        return segments

    def _switch(self, tag: str) -> list[Segment]:
        if tag == _CLOSE and self._thinking:
            return self._enter(thinking=False)
        if tag == _OPEN and self._thinking and self._fresh:
            self._unclosed = self._guard = None  # not opened by the template after all: the model did it
        elif self._thinking or self.before.endswith(_QUOTES) or not (self._thinks or (tag == _OPEN and self._fresh)):
            return self._out(tag)
        elif tag == _OPEN:
            unclosed = None if self._fresh else [tag]
            self._enter(thinking=True)
            self._unclosed = unclosed
            self._guard = StopMatcher(self._stops) if self._stops and unclosed else None
        return []

    def _enter(self, *, thinking: bool) -> list[Segment]:
        """Begin or end the reasoning, and return the reasoning that is certain now."""
        certain = self._release()
        self._after_thought = self._after_thought or not thinking
        self._thinking, self._fresh, self._space, self._unclosed = thinking, True, [], None
        return certain

    def _release(self) -> list[Segment]:
        text = "" if self._guard is None else self._guard.close() + "".join(self._behind_stop)
        self._guard, self._behind_stop = None, []
        return [(True, text)] if text else []

    def _before_stop(self, text: str) -> str:
        """Return the part of possible reasoning that is before any stop sequence, and keep the rest."""
        assert self._guard is not None
        if self._guard.hit is not None:
            self._behind_stop.append(text)
            return ""
        before, rest = self._guard.split(text)
        self._behind_stop.append(rest)
        return before

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
        if self._guard is not None:
            body = self._before_stop(body)
        return [(self._thinking, body)]


def _next_tag(text: str, at: int) -> tuple[int, str]:
    """Return the index of the next tag, and the tag; "" for the tag if only its beginning may be there."""
    at = text.find("<", at)
    while at >= 0:
        for tag in (_OPEN, _CLOSE):
            if text.startswith(tag, at):
                return at, tag
            if len(text) - at < len(tag) and tag.startswith(text[at:]):
                return at, ""
        at = text.find("<", at + 1)
    return len(text), ""


class StopMatcher:
    """Cuts an answer at stop sequences that were not sent to the server, which takes only four."""

    __slots__ = ("_begun", "_first", "_held", "_stops", "hit")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._begun = [_Beginning(stop) for stop in stops]
        self._first = {stop[0] for stop in stops}
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """Return the text that is certainly before any stop sequence."""
        return self.split(text)[0]

    def split(self, text: str) -> tuple[str, str]:
        """Return the text that is certainly before any stop sequence, and the sequence with the text after it."""
        if not self._held and self._first.isdisjoint(text):
            return text, ""
        new, text = text, self._held + text
        found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:  # the sequence that is complete first, however the text was cut; of two, the longer one
            end, size, self.hit = min(found)
            self._held = ""
            return text[: end + size], text[end + size :]
        keep = max(begun.size_behind(new) for begun in self._begun)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], ""

    def close(self) -> str:
        """Return the held text, since no stop sequence has come."""
        held, self._held = self._held, ""
        return held


class _Beginning:
    """How much of a stop sequence the text ends with (Knuth-Morris-Pratt, one step per character)."""

    __slots__ = ("_size", "_stop", "_table")

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._size = 0
        self._table = [0]  # by the size of a beginning: that of the longest shorter one, with which it ends
        for letter in stop[1:]:
            self._size = self._step(self._size, letter)
            self._table.append(self._size)
        self._size = 0

    def size_behind(self, text: str) -> int:
        """Return the size after this text, which must not complete the sequence."""
        if not self._size and self._stop[0] not in text:
            return 0
        most = len(self._stop) - 1
        size = self._size if len(text) <= most else 0
        for letter in text[max(0, len(text) - most) :]:
            size = self._step(size, letter)
        self._size = size
        return size

    def _step(self, size: int, letter: str) -> int:
        while size and letter != self._stop[size]:
            size = self._table[size - 1]
        return size + (letter == self._stop[size])
