"""What `import kluster_integrations` costs and offers."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import kluster_integrations

_HEAVY = {
    *("openai", "httpx", "httpx2", "aiohttp", "pydantic", "pydantic_core"),
    *("langchain_core", "langchain", "litellm", "crewai", "ray", "starlette", "uvicorn", "typer", "rich", "jsonschema"),
}
_FRAMEWORKS = {"langchain_core", "langchain", "litellm", "crewai", "ray", "starlette", "uvicorn", "typer"}


def _loaded(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy() -> None:
    assert not _loaded("import kluster_integrations") & _HEAVY


def test_listing_the_names_loads_nothing_heavy() -> None:
    assert not _loaded("import kluster_integrations; dir(kluster_integrations); kluster_integrations.__all__") & _HEAVY


@pytest.mark.parametrize("module", ["catalog", "errors", "core.budget", "core.tokens"])
def test_core_data_modules_load_no_sdk(module: str) -> None:
    assert not _loaded(f"import kluster_integrations.{module}") & _HEAVY


@pytest.mark.parametrize(
    "module", ["config", "errors", "catalog", "ray", *(f"core.{name}" for name in ("request", "response", "transport"))]
)
def test_core_imports_no_framework(module: str) -> None:
    assert not _loaded(f"import kluster_integrations.{module}") & _FRAMEWORKS


def test_pytest_plugin_loads_nothing_heavy() -> None:
    # Every pytest run of every user loads it. Pytest itself is not at issue.
    assert not _loaded("import kluster_integrations.pytest_plugin") & _HEAVY


def test_importing_warns_of_nothing() -> None:
    code = "import kluster_integrations as k; [getattr(k, name) for name in k.__all__]"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", kluster_integrations.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(kluster_integrations, name) is not None


@pytest.mark.parametrize(
    ("name", "home"),
    [("KlusterConfig", "config"), ("KlusterError", "errors"), ("ModelSpec", "catalog"), ("budget", "core.budget")],
)
def test_public_names_are_the_modules_own(name: str, home: str) -> None:
    module = importlib.import_module(f"kluster_integrations.{home}")
    assert getattr(kluster_integrations, name) is getattr(module, name)


def test_budget_stays_the_function() -> None:
    importlib.import_module("kluster_integrations.core.budget")
    assert kluster_integrations.budget(usd=1).limit_usd == 1.0
    with pytest.raises(ModuleNotFoundError):  # it would take the place of the name above
        importlib.import_module("kluster_integrations.budget")


def test_dir_holds_the_public_names() -> None:
    assert set(kluster_integrations.__all__) <= set(dir(kluster_integrations))


def test_star_import_gives_all() -> None:
    names: dict[str, object] = {}
    exec("from kluster_integrations import *", names)
    assert set(kluster_integrations.__all__) <= set(names)


def test_unknown_attribute_is_named() -> None:
    with pytest.raises(AttributeError, match=r"kluster_integrations.*no attribute 'ChatKlusterr'"):
        _ = kluster_integrations.ChatKlusterr


@pytest.mark.parametrize(
    "module",
    ["catalog", "config", "errors", "limits", "core.request", "core.prompting", "core.tokens", "core.transport"],
)
def test_every_name_in_all_exists(module: str) -> None:
    loaded = importlib.import_module(f"kluster_integrations.{module}")
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []
