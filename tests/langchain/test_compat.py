"""The private names of LangChain that the adapter calls or overrides: where they are, and what each is for.

A new version without one of them fails here, and the failure names it.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import langchain_core.exceptions
import pytest

import kluster_integrations.langchain
from kluster_integrations.langchain import ChatKluster, Verify, VerifyMiddleware, _compat
from kluster_integrations.langchain._batch import BoundKluster
from kluster_integrations.langchain._structured import StructuredOutput

from .conftest import CORE, version_of

MODULES = sorted(Path(kluster_integrations.langchain.__file__).parent.glob("*.py"))

# By `_compat`'s function: the first version that has it, and where it is.
CALLED: dict[str, tuple[tuple[int, ...], str]] = {
    "add_version": ((1, 5), "langchain_core.language_models.chat_models:BaseChatModel._add_version"),
    "to_messages": ((1, 2), "langchain_core.language_models.chat_models:BaseChatModel._convert_input"),
}
# langchain-core calls these on a model.
OVERRIDDEN: dict[str, str] = {
    "_generate": "an answer",
    "_agenerate": "an answer",
    "_stream": "a stream",
    "_astream": "a stream",
    "_llm_type": "the name of the class in traces",
    "_identifying_params": "the settings in traces",
    "_get_invocation_params": "the settings of a call in traces, and in the keys of caches",
    "_get_ls_params": "the settings that LangSmith shows",
    "_combine_llm_outputs": "the tokens of `generate` with several inputs",
}
OURS = (ChatKluster, BoundKluster, StructuredOutput, Verify, VerifyMiddleware)


def found(place: str) -> Any:
    module, _, path = place.partition(":")
    value = import_module(module)
    for name in path.split("."):
        value = getattr(value, name)
    return value


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def of_langchain() -> set[str]:
    """Return the private names that our classes inherit from LangChain."""
    bases = {base for cls in OURS for base in cls.__mro__ if base.__module__.startswith("langchain")}
    return {name for base in bases for name in (*vars(base), *inspect.get_annotations(base)) if is_private(name)}


def used(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each private name of LangChain that a module imports, calls or overrides."""
    inherited = of_langchain()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("langchain", "langgraph")):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in parts if is_private(name))
        elif isinstance(node, ast.Attribute) and node.attr in inherited:
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in inherited:
            yield node.lineno, node.name


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_is_there(name: str) -> None:
    first, place = CALLED[name]
    assert callable(getattr(_compat, name))
    if first <= CORE:
        assert callable(found(place)), place


@pytest.mark.skipif(version_of("langchain") < (1, 2, 10), reason="register() says that it needs a newer langchain")
@pytest.mark.parametrize("module", ["langchain.chat_models.base", "langchain.embeddings.base"])
def test_the_tables_of_providers_are_there(module: str) -> None:
    package, cls, make = _compat.provider_table(module)["openai"]
    assert (package, cls.startswith(("ChatOpenAI", "OpenAIEmbeddings")), callable(make)) == (
        "langchain_openai",
        True,
        True,
    )


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_is_overridden_is_called_as_before(name: str) -> None:
    base = found(f"langchain_core.language_models.chat_models:BaseChatModel.{name}")
    if isinstance(base, property):
        assert isinstance(getattr(ChatKluster, name), property)
        return
    named = (list(inspect.signature(f).parameters) for f in (getattr(ChatKluster, name), base))
    ours, theirs = ([n.lstrip("_") for n in names if n not in ("args", "kwargs")] for names in named)
    assert ours == theirs


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_other_module_uses_a_private_name(path: Path) -> None:
    names = {name: line for line, name in used(path)}
    if path.stem != "_compat":
        assert names.keys() <= OVERRIDDEN.keys(), names


def test_the_lists_are_complete() -> None:
    places = [place.rpartition(".")[2] for first, place in CALLED.values() if first <= CORE]
    assert {name for path in MODULES for _, name in used(path)} == {*OVERRIDDEN, *places}


@pytest.mark.parametrize("name", [name for name in _compat.__all__ if name.endswith("Error")])
def test_errors_are_langchains_own_where_it_has_them(name: str) -> None:
    theirs = getattr(langchain_core.exceptions, name, None)
    assert getattr(_compat, name) is theirs or (theirs is None and CORE < (1, 6))
