"""Functions that the command line is given by name: `module:function`, of an installed module or of this folder."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from kluster_integrations.cli._errors import UsageError

__all__ = ["load_function"]


def load_function(option: str, name: str, example: str) -> Any:
    """Return the function `module:function` (or `module:Class.method`); modules of the current folder count.

    Args:
        option: The option that names it, for errors.
        name: What the option says.
        example: What it could say.

    Raises:
        UsageError: If there is no such function.
    """
    module, _, function = name.partition(":")
    form = f"It must be MODULE:FUNCTION, such as {example}."
    if module.endswith(".py"):
        form += " A module is named without .py."
    if not module or not function or module.startswith("."):
        raise UsageError(f"{option} {name!r} names no function. {form}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = functools.reduce(getattr, function.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as err:  # a module runs when it is imported; a script may even call sys.exit()
        not_there = isinstance(err, ModuleNotFoundError) and f"{module}.".startswith(f"{err.name}.")
        if not_there or isinstance(err, AttributeError):
            raise UsageError(f"{option} {name}: {err}. {form}") from err
        problem = f"{type(err).__name__}: {err}".removesuffix(": ")
        raise UsageError(f"{option} {name}: the import of {module} fails with {problem}") from err
    if not callable(found):
        raise UsageError(f"{option} {name} must be a function, and is of type {type(found).__name__}.")
    return found
