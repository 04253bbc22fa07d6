"""`kluster demo`: what the package does, in four questions through `ChatKluster`; no key needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kluster_integrations.cli._errors import UsageError, connect, report
from kluster_integrations.cli._images import data_url, red_disc
from kluster_integrations.cli._terminal import AnswerPrinter, console, money, need
from kluster_integrations.errors import APIConnectionError, AuthenticationError, KlusterError

if TYPE_CHECKING:
    from langchain_core.messages import AIMessageChunk, BaseMessage
    from rich.console import Console
    from rich.table import Table

    from kluster_integrations.config import KlusterConfig

__all__ = ["run"]

_TEXT_MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
_REASONING_MODEL = "Qwen/Qwen3-235B-A22B-FP8"
_VISION_MODEL = "google/gemma-3-27b-it"
_RIDDLE = "A bat and a ball cost $1.10. The bat costs $1 more than the ball. What does the ball cost?"
_MAX_TOKENS = 1_024
_DELAY_SECONDS = 0.015  # so that one sees the stream; the emulator itself takes no time

_WEATHER = {"Lisbon": "sunny, 24 °C", "Oslo": "light rain, 11 °C"}
#: What the emulator answers.
_REPLIES: list[dict[str, Any]] = [
    {
        "when": "breakfast sandwich",
        "text": "Toast the bread, and put an egg, sharp cheese and something green between. Eat it while it is warm.",
    },
    {
        "when": "weather in Lisbon",
        "tool_calls": [{"name": "get_weather", "arguments": {"city": city}} for city in _WEATHER],
    },
    {"when": _WEATHER["Oslo"], "text": f"In Lisbon it is {_WEATHER['Lisbon']}; in Oslo there is {_WEATHER['Oslo']}."},
    {
        "when": _RIDDLE,
        "reasoning": "Ten cents would make the bat $1.10 and both $1.20. If the ball costs x, then x + x + 1 = 1.10.",
        "text": "The ball costs 5 cents, and the bat $1.05.",
    },
    {"when": "shape and color", "text": "A red disc on white."},
]
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Return the current weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city's name."}},
            "required": ["city"],
        },
    },
}


def run(
    gguf: Annotated[
        str | None,
        typer.Argument(metavar="PATH.gguf", help="With --local-llm: the model file.", show_default=False),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Ask the real server, with your key. This costs money.")] = False,
    local_llm: Annotated[
        bool,
        typer.Option("--local-llm", help="Let a real model on this machine answer; needs xllamacpp and a GGUF file."),
    ] = False,
) -> None:
    """Show a chat, a tool call, reasoning and a question about an image, with the tokens and the time of each."""
    if live and local_llm:
        raise UsageError("--live and --local-llm exclude each other.")
    if gguf and not local_llm:
        raise UsageError("PATH.gguf goes with --local-llm.")
    need("kluster demo", "langchain", *(() if live else ("emulator",)))
    out = console()
    if live:
        config = connect()
        config.require_key()
        failed = Demo(out, config, f"The server at {config.base_url} answers, with your key.").run()
    elif local_llm:
        from kluster_integrations.cli._local_llm import find_model, serve

        file = find_model(gguf)
        with serve(file) as upstream, _emulator(upstream=upstream) as config:
            who = f"A local emulator answers, not kluster.ai; {file.name} writes the text, on this machine."
            failed = Demo(out, config, who, images=False).run()
    else:
        with _emulator(replies=_REPLIES, delay=_DELAY_SECONDS if out.is_terminal else 0.0) as config:
            who = "A local emulator with a scripted engine answers, not kluster.ai; no key is used."
            failed = Demo(out, config, who).run()
    if failed:
        raise typer.Exit(1)


@contextmanager
def _emulator(**settings: Any) -> Iterator[KlusterConfig]:
    from kluster_integrations.emulator import Emulator

    # Usage in streams, which kluster.ai does not promise, for the table's numbers to be counted ones.
    with Emulator(usage_in_stream=True, **settings) as server:
        yield connect(api_key="demo", base_url=server.base_url)


@dataclass(frozen=True)
class Measured:
    """One request, for the table at the end."""

    step: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    cost: float | None
    first: float
    total: float


class Demo:
    """The four questions.

    Args:
        out: Where to.
        config: The server that answers.
        who: A sentence that says who answers, shown first and last.
        images: Whether the model behind it takes images.
    """

    def __init__(self, out: Console, config: KlusterConfig, who: str, *, images: bool = True) -> None:
        self._out = out
        self._config = config
        self._who = who
        self._images = images
        self._rows: list[Measured] = []

    def run(self) -> bool:
        """Ask all; return whether something failed."""
        self._out.print(self._who, style="bold")
        failed = False
        for step in (self._chat, self._tools, self._thoughts, self._image):
            try:
                step()
            except (AuthenticationError, APIConnectionError):
                raise  # the others would meet the same
            except KlusterError as err:
                report(err)
                failed = True
        self._out.print()
        _show_measured(self._out, self._rows)
        self._out.print("US$: these tokens at kluster.ai's list prices of 2025; ~ marks estimates.", style="dim")
        self._out.print(self._who, style="bold")
        self._out.print(
            'Next: kluster chat "Hello!", with KLUSTER_API_KEY set; without a key, kluster emulator.',
            style="cyan",
        )
        return failed

    def _chat(self) -> None:
        self._title("Streamed chat", _TEXT_MODEL)
        self._ask("chat", _TEXT_MODEL, [self._user("What makes a good breakfast sandwich? Two sentences.")])

    def _tools(self) -> None:
        from langchain_core.messages import ToolMessage

        self._title("A tool call and its result", _TEXT_MODEL)
        messages: list[BaseMessage] = [self._user("What is the weather in Lisbon and in Oslo?")]
        answer = self._ask("tool call", _TEXT_MODEL, messages, tools=[_TOOL])
        if not answer.tool_calls:
            self._out.print("(The model has called no tool.)", style="dim")
            return
        messages.append(answer)
        for call in answer.tool_calls:
            city = str(call["args"].get("city", ""))
            result = _WEATHER.get(city.split(",")[0], "cloudy, 17 °C")
            self._out.print(f"-> {call['name']}({city!r}) returns {result!r} (made up)", style="cyan")
            messages.append(ToolMessage(result, tool_call_id=call["id"]))
        self._ask("tool result", _TEXT_MODEL, messages, tools=[_TOOL])

    def _thoughts(self) -> None:
        self._title("A reasoning model, thoughts dimmed", _REASONING_MODEL)
        self._ask("reasoning", _REASONING_MODEL, [self._user(_RIDDLE)])

    def _image(self) -> None:
        self._title("A question about an image", _VISION_MODEL)
        if not self._images:
            self._out.print("(Left out: the local model takes no images.)", style="dim")
            return
        content = [
            {"type": "text", "text": "What shape and color is in this image?"},
            {"type": "image_url", "image_url": {"url": data_url(red_disc(), "image/png")}},
        ]
        self._ask("image", _VISION_MODEL, [self._user(content)])

    def _title(self, title: str, model: str) -> None:
        self._out.print()
        self._out.print(f"{title} ({model})", style="bold cyan")

    @staticmethod
    def _user(content: Any) -> BaseMessage:
        from langchain_core.messages import HumanMessage

        return HumanMessage(content)

    def _ask(self, step: str, model: str, messages: list[BaseMessage], **options: Any) -> AIMessageChunk:
        """Ask, print the answer as it comes, note what it took."""
        from langchain_core.messages import AIMessageChunk

        from kluster_integrations.langchain import ChatKluster

        chat = ChatKluster(model_name=model, config=self._config, max_tokens=_MAX_TOKENS)
        printer = AnswerPrinter(self._out, self._out)
        answer = AIMessageChunk(content="")
        began, first = time.perf_counter(), None
        try:
            for chunk in chat.stream(messages, **options):
                thought = chunk.additional_kwargs.get("reasoning_content", "")
                if first is None and (chunk.content or thought or chunk.tool_call_chunks):
                    first = time.perf_counter()
                printer.add(str(chunk.content), thought)
                answer = answer + chunk
        finally:
            printer.end()
        ended = time.perf_counter()
        self._rows.append(_measured(step, model, answer, (first or ended) - began, ended - began))
        return answer


def _measured(step: str, model: str, answer: AIMessageChunk, first: float, total: float) -> Measured:
    usage, said = answer.usage_metadata, answer.response_metadata
    return Measured(
        step,
        model,
        usage["input_tokens"] if usage else 0,
        usage["output_tokens"] if usage else 0,
        bool(said.get("usage_estimated")),
        said.get("cost"),
        first,
        total,
    )


def _show_measured(out: Console, rows: list[Measured]) -> None:
    table = _table(rows)
    if out.measure(table, options=out.options.update(width=1_000)).maximum <= out.width:  # ids stay whole
        out.print(table)
        return
    for row in rows:
        mark = "~" if row.estimated else ""
        out.print(f"{row.step}: {row.model}", style="bold", soft_wrap=True)
        out.print(
            f"  {mark}{row.prompt_tokens} + {mark}{row.completion_tokens} tokens, {money(row.cost)}, "
            f"first {row.first:.2f} s, total {row.total:.2f} s"
        )


def _table(rows: list[Measured]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("Step")
    table.add_column("Model", no_wrap=True)
    for name in ("Prompt", "Answer", "US$", "First", "Total"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        mark = "~" if row.estimated else ""
        table.add_row(
            row.step,
            row.model,
            f"{mark}{row.prompt_tokens}",
            f"{mark}{row.completion_tokens}",
            money(row.cost),
            f"{row.first:.2f} s",
            f"{row.total:.2f} s",
        )
    return table
