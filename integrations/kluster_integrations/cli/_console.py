"""The console of the commands: what a server says cannot steer the terminal, and a pipe gets no blanks at line ends."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from kluster_integrations.cli._text import CONTROL

__all__ = ["SafeConsole"]


class SafeConsole(Console):
    """Rich's console, without control characters in texts, and without the padding of tables in a pipe."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render; on a terminal without control characters, of which rich removes only some."""
        for segment in super().render(renderable, options):
            if segment.control or not self.is_terminal:
                yield segment
            else:
                yield Segment(CONTROL.sub("", segment.text), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; in a pipe without blanks at the ends of lines."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write(re.sub(" +$", "", captured.get(), flags=re.MULTILINE))
