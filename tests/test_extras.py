"""An import that lacks an extra says which, and keeps Python's own name of the module."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kluster_integrations._extras import MODULES, _command, install_command, needs

from .tree import ROOT

IMPORTS = [
    ("langchain", "from kluster_integrations.langchain import ChatKluster", "langchain_core"),
    ("langchain", "from kluster_integrations.langchain import ChatKluster", "openai"),
    ("crewai", "from kluster_integrations.crewai import kluster_llm", "crewai"),
    ("litellm", "from kluster_integrations.litellm import register", "litellm"),
    ("litellm", "from kluster_integrations.litellm import KlusterLLM", "litellm"),
    ("emulator", "from kluster_integrations.emulator import Emulator", "starlette"),
    ("emulator", "from kluster_integrations.emulator import Emulator", "uvicorn"),
    ("gateway", "from kluster_integrations.gateway import Gateway", "uvicorn"),
    ("recording", "from kluster_integrations.recording import cassette", "vcr"),
]


@pytest.mark.parametrize(("extra", "statement", "missing"), IMPORTS)
def test_a_missing_extra_is_named(extra: str, statement: str, missing: str) -> None:
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        f"try:\n  {statement}\n"
        "except ModuleNotFoundError as err:\n  print(err.name, err, sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    name, message = done.stdout.splitlines()
    assert name.partition(".")[0] == missing
    assert message == f"{name} is not installed: {install_command(extra)}"


def test_extras_come_from_the_checkout_that_the_package_came_from(tmp_path: Path) -> None:
    url = tmp_path.as_uri()
    released = 'pip install "kluster-integrations[litellm]"'
    assert _command({}, "litellm") == released
    assert _command({"url": "https://example.com/a.whl", "archive_info": {}}, "litellm") == released
    assert _command({"url": f"{url}/gone", "dir_info": {}}, "litellm") == released
    assert _command({"url": url, "dir_info": {}}, "litellm,redis") == f'pip install "{tmp_path}[litellm,redis]"'
    editable = _command({"url": url, "dir_info": {"editable": True}}, "litellm")
    assert editable == f'pip install --editable "{tmp_path}[litellm]"'


def test_a_missing_extra_is_one_traceback() -> None:
    statement = "import sys; sys.modules['litellm'] = None; from kluster_integrations.litellm import register"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, encoding="utf-8", check=False)
    assert done.stderr.count("Traceback (most recent call last)") == 1, done.stderr


def test_the_absence_of_another_module_is_left_as_it_is() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_module'$"), needs("langchain"):
        import no_such_module  # noqa: F401


def test_every_extra_has_its_modules() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(extras) - {"all"} <= set(MODULES)
