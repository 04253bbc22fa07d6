"""Shows below each Python block of the site what it prints. A Markdown extension: `make docs` builds with it.

The outputs are those of `tests/outputs/`, found by the block's code, so that pages hold none; a block that prints
nothing has none. `make outputs` writes them, and the tests compare them with what the blocks print.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from tests.outputs import OUTPUTS, digest

__all__ = ["makeExtension"]

_PYTHON = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_BEFORE_FENCES = 27  # pymdownx.superfences takes 25, pymdownx.snippets 32


class _Outputs(Preprocessor):
    def __init__(self, md: Markdown) -> None:
        super().__init__(md)
        files = [yaml.safe_load(file.read_text("utf-8")) for file in sorted(OUTPUTS.glob("*.yaml"))]
        self._outputs = {entry["code"]: entry["output"] for entries in files for entry in entries}

    def run(self, lines: list[str]) -> list[str]:
        return _PYTHON.sub(self._with_output, "\n".join(lines)).split("\n")

    def _with_output(self, block: re.Match[str]) -> str:
        output = self._outputs.get(digest(block["code"]))
        return f"{block[0]}\n\n``` {{ .text .output }}\n{output}```\n" if output else block[0]


class _Extension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(_Outputs(md), "kluster-outputs", _BEFORE_FENCES)


def makeExtension(**options: Any) -> Extension:  # noqa: N802
    """Return the extension; Markdown calls this by its name."""
    return _Extension(**options)
