"""The main async ways of the LangChain adapter in one event loop, under BlockBuster: each blocking call is an error.

A program of its own, for what blocks is often the first call of a process: an import, a certificate, a file.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from blockbuster import blockbuster_ctx
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.tools import tool
from pydantic import BaseModel

from kluster_integrations.langchain import ChatKluster, KlusterEmbeddings, Verify
from kluster_integrations.limits import Limits

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"


class Person(BaseModel):
    """A person."""

    name: str


SCHEMA = {"title": "person", "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@tool
async def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"Sunny in {city}"


async def everything(folder: str) -> None:
    for name in (LLAMA, R1):
        model = ChatKluster(model=name, limits=Limits(concurrent=5))
        await model.ainvoke("Hello!")
        _ = [chunk async for chunk in model.astream("Hello!")]
        await model.abatch(["Hello!", "Good-bye!"])
        for schema in (SCHEMA, Person):
            structured = model.with_structured_output(schema)
            await structured.ainvoke("name: Ada")
            _ = [item async for item in structured.astream("name: Ada")]
        tools = model.bind_tools([get_weather])
        await tools.ainvoke("What is the weather in Paris?")
        _ = [chunk async for chunk in tools.astream("What is the weather in Paris?")]
        _ = [event async for event in model.astream_events("Hello!", version="v2")]
        agent: Any = create_agent(model, [get_weather])
        await agent.ainvoke({"messages": [("user", "What is the weather in Paris?")]})
        _ = [item async for item in agent.astream({"messages": [("user", "What is the weather in Paris?")]})]
        agent = create_agent(model, [], response_format=ToolStrategy(Person))
        await agent.ainvoke({"messages": [("user", "name: Ada")]})
        await model.abatch_job(["Hello!"], folder=f"{folder}/{name}")
        await model.aclose()
    await KlusterEmbeddings().aembed_documents(["one", "another"])
    await Verify().ainvoke({"prompt": "Where is Lyon?", "output": "In France."})


with blockbuster_ctx():
    asyncio.run(everything(sys.argv[1]))
print("done")
