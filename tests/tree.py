"""The files of the project. Standard library only, for the release check too."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ROOT", "files"]

ROOT = Path(__file__).parent.parent
_MADE = ("dist", "site", "build", "node_modules", "__pycache__", "PKG-INFO")


def files() -> list[Path]:
    """Return them: those that git does not ignore, or in an unpacked sdist all that nobody has made there."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
        return sorted(path for name in names.split("\0") if name and (path := ROOT / name).is_file())
    return sorted(_walk(ROOT))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in _MADE or path.name.startswith((".venv", ".pytest", ".ruff", ".mypy")):
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path
