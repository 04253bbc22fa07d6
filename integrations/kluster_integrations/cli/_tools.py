"""Tools from a shell: a Python function becomes a tool, and its calls are run."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kluster_integrations.cli._errors import UsageError
from kluster_integrations.cli._functions import load_function

__all__ = ["Tool", "load_tools"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: The last part of the name by which the user calls the function.
        definition: OpenAI's description of it, made of its annotations and its docstring.
        function: The function, which checks its arguments.
    """

    name: str
    definition: dict[str, Any]
    function: Callable[..., Any]

    def run(self, arguments: str) -> str:
        """Return what the function returns for one JSON object of arguments, as text.

        What it raises is for the model to read, and to do better. What it prints goes to stderr: stdout has the answer.
        """
        try:
            with contextlib.redirect_stdout(sys.stderr):
                result = self.function(**json.loads(arguments))
                if inspect.isawaitable(result):
                    result = asyncio.run(_awaited(result))
            return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
        except (Exception, SystemExit) as err:  # sys.exit() in a function must not end the conversation, with code 0
            return f"Error: {type(err).__name__}: {err}"


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def load_tools(names: Sequence[str]) -> list[Tool]:
    """Return the tools that `--tool module:function` names.

    Raises:
        UsageError: If one of them cannot be a tool, or two have the same name.
    """
    tools = {tool.name: tool for tool in map(_load, names)}
    if len(tools) < len(names):
        raise UsageError(
            f"--tool: two functions of {', '.join(names)} have the same name, by which the model calls them."
        )
    return list(tools.values())


def _load(name: str) -> Tool:
    """Return the tool that `module:function` names.

    Raises:
        UsageError: If there is no such function, or its parameters cannot be described.
    """
    from pydantic import PydanticUserError, TypeAdapter, validate_call

    function = load_function("--tool", name, "weather:get_weather")
    if not inspect.isroutine(function):
        what = "a class" if isinstance(function, type) else f"of type {type(function).__name__}"
        raise UsageError(f"--tool {name} must be a function, and is {what}.")
    try:
        parameters = TypeAdapter(function).json_schema()
    except (PydanticUserError, NameError) as err:
        reason = str(err).splitlines()[0].partition(". Set ")[0]  # pydantic's advice is for its models
        raise UsageError(f"--tool {name}: its parameters cannot be described in JSON: {reason}") from None
    if parameters.get("type") != "object":
        raise UsageError(f"--tool {name}: its parameters must have names: no * and no /.")
    if "self" in parameters.get("properties", ()):
        raise UsageError(f"--tool {name} is a method of an object: name a function, or a class method.")
    # Not __name__: that of a lambda, or of what a decorator returns, says nothing.
    called = name.rpartition(":")[2].rpartition(".")[2]
    described = {"name": called, "parameters": parameters}
    if text := inspect.getdoc(function):
        described["description"] = text
    return Tool(called, {"type": "function", "function": described}, validate_call(function))
