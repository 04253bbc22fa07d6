"""Programs as users run them: each in a Python of its own, with this package and the examples within reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

__all__ = ["ROOT", "check_nothing_is_left_open", "chosen", "run_example", "run_examples"]

ROOT = Path(__file__).parent.parent
_WARNED = "error::DeprecationWarning:__main__"


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
    done = _python("-W", _WARNED, "-m", f"examples.{name}", *arguments, cwd=cwd, timeout=timeout, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


# In one Python, for the import of a framework takes longer than most examples.
_EACH = """
import io, json, runpy, sys, traceback
from contextlib import redirect_stdout

printed = {}
for name in sys.argv[1:]:
    sys.argv = [name]
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            runpy.run_module(f"examples.{name}", run_name="__main__", alter_sys=True)
    except BaseException:
        out.write(traceback.format_exc())
    printed[name] = out.getvalue()
json.dump(printed, sys.stdout)
"""


def run_examples(*names: str, cwd: Path, timeout: float = 300) -> dict[str, str]:
    """Return what each of `examples.<name>` prints, one after the other in one Python; a traceback is part of it."""
    done = _python("-W", _WARNED, "-c", _EACH, *names, cwd=cwd, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def chosen(request: pytest.FixtureRequest) -> list[str]:
    """Return the examples that the tests of this module, as far as they were chosen, are about."""
    items = (item for item in request.session.items if item.path == request.path)
    found = (getattr(item, "callspec", None) for item in items)
    return [spec.params["name"] for spec in found if spec and set(spec.params) == {"name"}]


def check_nothing_is_left_open(code: str) -> None:
    """Run code whose last act is to print `done`; a resource that it leaves open is a failure."""
    code = textwrap.dedent(code)
    done = _python("-W", "error::ResourceWarning", "-X", "dev", "-c", code, cwd=ROOT, timeout=120)
    assert done.stdout == "done\n", done.stderr
    slow = "Executing <"  # asyncio's word on a busy machine
    assert [line for line in done.stderr.splitlines() if not line.startswith(slow)] == []
