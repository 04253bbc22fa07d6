"""Types the blocks of a page into a real `python -i`, as a reader pastes them, and returns what each of them prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .pages import ROOT, Block

__all__ = ["paste"]

_MARK = "--- end of a block ---"
# Nothing but what a block prints: no prompts, and no echo of an expression's value.
_BEGIN = "import sys; sys.ps1 = sys.ps2 = ''; sys.displayhook = lambda value: None; del sys"
_END = f"print({_MARK!r}); print({_MARK!r}, file=__import__('sys').stderr)"
_SAME = "import random; random.seed(0); del random"  # LiteLLM's router chooses by chance
_FORGET = "[globals().pop(name) for name in [*globals()] if not name.startswith('__')]"
_WRONG = re.compile(r"^(?:Traceback \(most recent call last\)|  File \"<stdin>\", line)", re.MULTILINE)


def paste(groups: Sequence[Sequence[Block]], *, folder: Path) -> list[list[str]]:
    """Return what each block prints when it is pasted into a prompt of Python, line by line.

    Python's prompt ends a compound statement at an empty line, and nowhere else: not all code that runs can be pasted.

    Args:
        groups: Blocks that share their names, such as those of a page; all groups go into one interpreter, for speed.
        folder: The working directory.

    Raises:
        AssertionError: If a block prints a traceback; it names the block's line.
    """
    typed = [_BEGIN]
    for group in groups:
        typed.append(_SAME)
        for block in group:
            typed += [*block.code.splitlines(), "", _END]
        typed.append(_FORGET)
    blocks = [block for group in groups for block in group]
    path = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
    done = subprocess.run(
        [sys.executable, "-q", "-i"],
        input="\n".join(typed) + "\n",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "PYTHONSTARTUP": ""},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    printed, errors = (text.split(f"{_MARK}\n") for text in (done.stdout, done.stderr))
    for block, error in zip([*blocks, None], errors, strict=False):
        where = f"the block of line {block.line}\n{block.code}" if block else "the end of the page "
        assert not _WRONG.search(error), f"{where}prints in Python's prompt:\n{error}"
    assert len(printed) == len(blocks) + 1, f"Python's prompt was left early:\n{done.stderr}"
    each = iter(printed)
    return [[next(each) for _ in group] for group in groups]
