"""Programs as users run them: each in a Python of its own, with this package and the examples within reach."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

__all__ = ["ROOT", "check_nothing_is_left_open", "run_example"]

ROOT = Path(__file__).parent.parent


def _python(*arguments: str, cwd: Path, timeout: float, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "integrations"), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **environ},
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


def run_example(name: str, *arguments: str, cwd: Path = ROOT, timeout: float = 60, **environ: str) -> str:
    """Return what `examples.<name>` prints; a traceback is a failure."""
    warned = "error::DeprecationWarning:__main__"
    done = _python("-W", warned, "-m", f"examples.{name}", *arguments, cwd=cwd, timeout=timeout, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_nothing_is_left_open(code: str) -> None:
    """Run code whose last act is to print `done`; a resource that it leaves open is a failure."""
    code = textwrap.dedent(code)
    done = _python("-W", "error::ResourceWarning", "-X", "dev", "-c", code, cwd=ROOT, timeout=120)
    assert done.stdout == "done\n", done.stderr
    slow = "Executing <"  # asyncio's word on a busy machine
    assert [line for line in done.stderr.splitlines() if not line.startswith(slow)] == []
