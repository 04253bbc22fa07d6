"""Every private name of CrewAI that is used is in `_compat`, and in the CrewAI that is installed."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

pytest.importorskip("crewai")

import crewai
from crewai import Agent

from kluster_integrations.crewai import _compat
from kluster_integrations.crewai._compat import PRIVATE_NAMES, PROMPTS, PrivateName

from .crews import INSTALLED

ADAPTER = Path(_compat.__file__).parent


@pytest.mark.parametrize("private", PRIVATE_NAMES, ids=lambda p: p.name)
def test_crewai_has_it(private: PrivateName) -> None:
    if private.since > INSTALLED:
        pytest.skip(f"CrewAI has it from {private.since} on")
    found = importlib.import_module(private.module)
    for name in private.name.split("."):
        found = vars(found).get(name) or getattr(found, "__private_attributes__", {}).get(name)
        assert found, f"crewai {crewai.__version__} has no {private.module}.{private.name}: {private.purpose}"


@pytest.mark.parametrize(("kind", "name"), PROMPTS)
def test_crewai_has_the_prompt(kind: str, name: str) -> None:
    assert _compat.prompt(kind, name)


def test_a_task_ends_after_errors_of_litellm() -> None:
    assert '.__module__.startswith("litellm")' in inspect.getsource(Agent._check_execution_error)
    assert _compat.LITELLM_MODULE.startswith("litellm")


def test_private_names_are_used_in_one_module() -> None:
    names = {private.name.rpartition(".")[2] for private in PRIVATE_NAMES if private.name.rpartition(".")[2][0] == "_"}
    elsewhere: list[str] = []
    for path in ADAPTER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            used: set[str] = set()
            if isinstance(node, ast.Attribute):
                used = {node.attr} & names
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("crewai"):
                used = {alias.name for alias in node.names if alias.name.startswith("_")}
            if used and path.name != "_compat.py":
                elsewhere.append(f"{path.name}:{node.lineno} {used}")
    assert elsewhere == []


def test_all_private_names_of_the_module_are_listed() -> None:
    listed = {private.name.rpartition(".")[2] for private in PRIVATE_NAMES}
    tree = ast.parse(Path(_compat.__file__).read_text())
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr.startswith("_")}
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and str(n.value).startswith("_")}
    own = {"_getframe", "__init_subclass__"}
    assert {n for n in used | strings if not str(n).startswith("__")} - own - listed == set()
