"""Asks the gateway at BASE_URL as Semantic Kernel and Strands do, and prints one JSON object per answer."""

import asyncio
import json
import os
import sys
from typing import Annotated

from openai import AsyncOpenAI
from pydantic import BaseModel
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
from semantic_kernel.functions import KernelArguments, kernel_function
from strands import Agent, tool
from strands.models.openai import OpenAIModel
from strands.models.openai_responses import OpenAIResponsesModel

[model] = sys.argv[1:]
there = {"base_url": os.environ["BASE_URL"], "api_key": "any"}
FACTS = "name: Lisbon, country: Portugal"
WEATHER = "What is the weather in Lisbon?"


class City(BaseModel):
    """A city."""

    name: str
    country: str


def show(client: str, kind: str, answer: object) -> None:
    print(json.dumps({"client": client, "kind": kind, "answer": answer}))


class Weather:
    @kernel_function(description="Get the weather of a city")
    def get_weather(self, city: Annotated[str, "The city's name"]) -> str:
        return f"Sunny in {city}"


async def semantic_kernel() -> None:
    service = OpenAIChatCompletion(ai_model_id=model, async_client=AsyncOpenAI(**there))
    plain = ChatCompletionAgent(service=service, name="Cook", instructions="You are a cook.")
    response = await plain.get_response("What is breakfast?")
    show("semantic-kernel", "text", str(response))
    show("semantic-kernel", "usage", response.metadata["usage"].prompt_tokens)
    streamed = [str(item) async for item in plain.invoke_stream("Stream!")]
    show("semantic-kernel", "stream", "".join(streamed))

    weather = ChatCompletionAgent(service=service, name="Weather", plugins=[Weather()])
    show("semantic-kernel", "tools", str(await weather.get_response(WEATHER)))
    streamed = [str(item) async for item in weather.invoke_stream(WEATHER)]
    show("semantic-kernel", "streamed tools", "".join(streamed))

    settings = OpenAIChatPromptExecutionSettings(response_format=City)
    city = ChatCompletionAgent(service=service, name="City", arguments=KernelArguments(settings))
    show("semantic-kernel", "object", json.loads(str(await city.get_response(FACTS))))


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city.

    Args:
        city: The city's name.
    """
    return f"Sunny in {city}"


async def strands(client: str, kind: type) -> None:
    asked = {"model": kind(client_args=there, model_id=model), "callback_handler": None}
    result = await Agent(**asked).invoke_async("What is breakfast?")
    show(client, "text", str(result).strip())
    show(client, "usage", result.metrics.accumulated_usage["inputTokens"])
    events = [event async for event in Agent(**asked).stream_async("Stream!")]
    show(client, "stream", "".join(event.get("data", "") for event in events))
    show(client, "reasoning", "".join(event.get("reasoningText", "") for event in events))
    agent = Agent(tools=[get_weather], **asked)
    show(client, "tools", str(await agent.invoke_async(WEATHER)).strip())
    found = await Agent(**asked).invoke_async(FACTS, structured_output_model=City)
    show(client, "object", found.structured_output.model_dump())


asyncio.run(semantic_kernel())
asyncio.run(strands("strands", OpenAIModel))
asyncio.run(strands("strands responses", OpenAIResponsesModel))
