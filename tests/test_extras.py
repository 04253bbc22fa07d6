"""An import that lacks an extra says which, and keeps Python's own name of the module."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from kluster_integrations._extras import MODULES, needs

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
    assert message == f'{name} is not installed: pip install "kluster-integrations[{extra}]"'


def test_another_module_s_absence_is_left_as_it_is() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_module'$"), needs("langchain"):
        import no_such_module  # noqa: F401


def test_every_extra_has_its_modules() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(extras) - {"all"} <= set(MODULES)
