"""Shows on the site what each block prints: below a block of Python, and below each command of a block of commands.

A Markdown extension: `make docs` builds with it. The outputs are those of `tests/outputs/`, found by the block's code,
so that pages hold none; what prints nothing has none. `make outputs` writes them, and the tests compare them with what
the blocks print. An output is a block of its own, so that the Copy button of the code leaves it out.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from tests.outputs import OUTPUTS, digest, prefixes

__all__ = ["makeExtension"]

_BLOCK = re.compile(r"^```(?P<language>python|console)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_COLUMNS = re.compile(r"^.*(?:\S {2,}\S|│).*$", re.MULTILINE)  # a line of a table, which must not wrap on a phone
_BEFORE_FENCES = 27  # pymdownx.superfences takes 25, pymdownx.snippets 32


class _Outputs(Preprocessor):
    def __init__(self, md: Markdown) -> None:
        super().__init__(md)
        files = [yaml.safe_load(file.read_text("utf-8")) for file in sorted(OUTPUTS.glob("*.yaml"))]
        self._outputs = {entry["code"]: entry["output"] for entries in files for entry in entries}

    def run(self, lines: list[str]) -> list[str]:
        return _BLOCK.sub(self._with_output, "\n".join(lines)).split("\n")

    def _with_output(self, block: re.Match[str]) -> str:
        """Cut the block behind each part that prints, and put there what it prints."""
        parts, shown = [], 0
        for code in prefixes(block["language"], block["code"]):
            output = self._outputs.get(digest(code))
            if output or code == block["code"]:
                parts.append(f"```{block['language']}\n{block['code'][shown : len(code)]}```")
                shown = len(code)
            if output:
                columns = " .columns" if len(_COLUMNS.findall(output)) > 1 else ""
                parts.append(f"``` {{ .text .output{columns} }}\n{output}```\n")
        return "\n\n".join(parts)


class _Extension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(_Outputs(md), "kluster-outputs", _BEFORE_FENCES)


def makeExtension(**options: Any) -> Extension:  # noqa: N802
    """Return the extension; Markdown calls this by its name."""
    return _Extension(**options)
