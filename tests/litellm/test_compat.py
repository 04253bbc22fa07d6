"""The private names of LiteLLM: all in one module, there in this version, and each in use."""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import kluster_integrations.litellm
from kluster_integrations.litellm import _compat, register

FOLDER = Path(str(kluster_integrations.litellm.__file__)).parent
# What LiteLLM's documentation names.
PUBLIC = ("litellm", "litellm.exceptions", "litellm.llms.custom_llm", "litellm.router", "litellm.types")


@pytest.mark.parametrize("path", _compat.NAMES)
def test_each_private_name_is_in_this_version_and_has_our_part(path: str) -> None:
    register()
    wrap, purpose = _compat.NAMES[path]
    found = pkgutil.resolve_name(path)
    assert found.__wrapped__.__module__.startswith("litellm"), f"for: {purpose}"
    assert found.__code__.co_filename == wrap.__code__.co_filename


def private_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [str(node.module)]
            names = [alias.name for alias in node.names if alias.name.startswith("_")]
            yield from (f"{node.module}.{name}" for name in names if str(node.module).startswith("litellm"))
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "litellm":
            modules = [f"litellm.{node.attr}"] if node.attr.startswith("_") else []
        for module in modules:
            known = module in PUBLIC or module.startswith("litellm.types.")
            if module.partition(".")[0] == "litellm" and not known:
                yield module


def test_the_private_names_are_found() -> None:
    code = "import litellm.utils\nfrom litellm.main import x\nfrom litellm import _y\nlitellm._z\nlitellm.drop_params"
    assert set(private_names(ast.parse(code))) == {"litellm.utils", "litellm.main", "litellm._y", "litellm._z"}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_no_other_module_uses_a_private_name(file: Path) -> None:
    found = set(private_names(ast.parse(file.read_text("utf-8"))))
    assert found == ({"litellm.utils"} if file.name == "_compat.py" else set())


def test_a_name_that_a_version_lacks_is_said_with_its_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compat, "NAMES", {"litellm.main:no_such_name": (lambda original: original, "tea is made")})
    with pytest.warns(RuntimeWarning, match=r"has no litellm\.main\.no_such_name, so this does not hold: tea is made"):
        _compat._replace_names.__wrapped__()
