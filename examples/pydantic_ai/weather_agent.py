"""A weather agent with two tools, typed dependencies and a typed answer, as in kluster.ai's guide, with Pydantic AI.

Run it with `python -m examples.pydantic_ai.weather_agent [--model ID]`; needs `pydantic-ai-slim[openai]`.
`kluster export pydantic-ai` writes `kluster_model` for a project of your own.
"""

import asyncio
from dataclasses import dataclass
from math import dist

from examples._service import model_option, service
from openai import omit
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.messages import FunctionToolCallEvent, FunctionToolResultEvent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from kluster_integrations import KlusterConfig


@dataclass
class Almanac:
    """What the tools look things up in; an application has clients of web services here."""

    positions: dict[str, tuple[float, float]]
    weather: dict[str, str]


class Report(BaseModel):
    """The weather of one city."""

    city: str
    conditions: str


agent = Agent(deps_type=Almanac, output_type=Report, instructions="Look things up; never guess.")


@agent.tool
def find_position(context: RunContext[Almanac], city: str) -> dict[str, float]:
    """Find the latitude and longitude of a city."""
    if city not in context.deps.positions:
        raise ModelRetry(f"{city!r} is not known; the cities are {', '.join(context.deps.positions)}.")
    latitude, longitude = context.deps.positions[city]
    return {"latitude": latitude, "longitude": longitude}


@agent.tool
def get_weather(context: RunContext[Almanac], latitude: float, longitude: float) -> dict[str, str]:
    """Get the weather at a latitude and longitude."""
    positions = context.deps.positions
    nearest = min(positions, key=lambda city: dist(positions[city], (latitude, longitude)))
    return {"conditions": context.deps.weather[nearest]}


def kluster_model(name: str) -> OpenAIChatModel:
    """Return a model that takes tools, and sends nothing that kluster.ai does not take."""
    config = KlusterConfig()
    return OpenAIChatModel(
        name,
        provider=OpenAIProvider(base_url=config.base_url, api_key=config.require_key()),
        profile={
            "supports_json_schema_output": False,
            "supports_json_object_output": False,
            "openai_chat_send_back_thinking_parts": False,
        },
        settings={"extra_body": {"stream_options": omit}},
    )


async def main(model: str) -> None:
    almanac = Almanac(
        positions={"Lisbon": (38.72, -9.14), "Tokyo": (35.68, 139.69)},
        weather={"Lisbon": "18 degrees and light rain", "Tokyo": "25 degrees and sunny"},
    )
    question = "What is the weather in Lisbon, at latitude 38.72 and longitude -9.14? Find the position of Lisbon."
    async with agent.run_stream_events(question, deps=almanac, model=kluster_model(model)) as events:
        async for event in events:
            if isinstance(event, FunctionToolCallEvent):
                print("Calls: ", event.part.tool_name, event.part.args_as_json_str())
            elif isinstance(event, FunctionToolResultEvent):
                print("Result:", event.part.content)
    print("Report:", event.result.output)


#: What the emulator answers, without a key.
REPLIES = [
    {"tool_calls": [{"name": "find_position", "arguments": {"city": "Lisbon"}}]},
    {"tool_calls": [{"name": "get_weather", "arguments": {"latitude": 38.72, "longitude": -9.14}}]},
    {
        "tool_calls": [
            {"name": "final_result", "arguments": {"city": "Lisbon", "conditions": "18 degrees and light rain"}}
        ]
    },
]

if __name__ == "__main__":
    chosen = model_option("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo")
    with service(*REPLIES):
        asyncio.run(main(chosen))
