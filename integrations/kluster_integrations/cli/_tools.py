"""Tools from a shell: a Python function becomes a tool, and its calls are run."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from kluster_integrations.cli._errors import UsageError
from kluster_integrations.cli._functions import load_function

__all__ = ["Tool", "load_tool"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: The function's name.
        definition: OpenAI's description of it, made of its annotations and its docstring.
        function: The function, which checks its arguments.
    """

    name: str
    definition: dict[str, Any]
    function: Callable[..., Any]

    def run(self, arguments: str) -> str:
        """Return what the function returns for one JSON object of arguments, as text.

        What it raises is for the model to read, and to do better.
        """
        try:
            result = self.function(**json.loads(arguments))
            if inspect.isawaitable(result):
                result = asyncio.run(_awaited(result))
            return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
        except (Exception, SystemExit) as err:  # sys.exit() in a function must not end the conversation, with code 0
            return f"Error: {type(err).__name__}: {err}"


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def load_tool(name: str) -> Tool:
    """Return the tool that `module:function` names.

    Raises:
        UsageError: If there is no such function, or its parameters cannot be described.
    """
    from pydantic import PydanticUserError, TypeAdapter, validate_call

    function = load_function("--tool", name, "weather:get_weather")
    try:
        parameters = TypeAdapter(function).json_schema()
    except (PydanticUserError, NameError) as err:
        reason = str(err).splitlines()[0]
        raise UsageError(f"--tool {name}: its parameters cannot be described in JSON: {reason}") from None
    if parameters.get("type") != "object":
        raise UsageError(f"--tool {name}: its parameters must have names: no * and no /.")
    described = {"name": function.__name__, "parameters": parameters}
    if text := inspect.getdoc(function):
        described["description"] = text
    return Tool(function.__name__, {"type": "function", "function": described}, validate_call(function))
