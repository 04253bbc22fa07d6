"""Runs LlamaIndex with kluster_models.py beside it, on the model that is given, and prints what it says as JSON."""

import json
import sys

from kluster_models import kluster_llm
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel


class City(BaseModel):
    name: str
    country: str


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"Sunny in {city}"


model, tools = sys.argv[1:]
llm = kluster_llm(model, max_retries=0, additional_kwargs={"max_completion_tokens": 200})
asked = [ChatMessage(role="user", content="What is breakfast?")]
found = {
    "chat": llm.chat(asked).message.content,
    "stream": "".join(part.delta or "" for part in llm.stream_chat(asked)),
}
if tools == "tools":
    found["object"] = llm.as_structured_llm(City).complete("name: Lisbon, country: Portugal").raw.model_dump()
    tool = FunctionTool.from_defaults(get_weather)
    found["tools"] = llm.predict_and_call([tool], user_msg="What is the weather in Lisbon?").response
print(json.dumps(found))
