"""Python frameworks: modules that make their models. Each runs by itself and needs nothing of this package."""

from __future__ import annotations

from kluster_integrations.cli.clients._target import Choice, Target, comment, proxy_note

__all__ = ["LLAMA_INDEX", "PYDANTIC_AI"]

_PYDANTIC_AI = '''\
import os

from openai import omit
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

BASE_URL = "{base_url}"

# By model: does it take tools, does it take images?
MODELS = {{
{models}
}}


def kluster_model(name: str = "{default}") -> OpenAIChatModel:
    """Return a model of kluster.ai; any id will do, also that of a fine-tuned model or a deployment."""
    tools, images = MODELS.get(name, ({unknown_tools}, True))
    return OpenAIChatModel(
        name,
        provider=OpenAIProvider(base_url=BASE_URL, api_key=os.environ["{key}"]),
        profile={{
            "supports_tools": tools,
            "supports_image_input": images,
            # Objects come by a tool call, else by the prompt: kluster.ai takes no response_format.
            "supports_json_schema_output": False,
            "supports_json_object_output": False,
            "default_structured_output_mode": "tool" if tools else "prompted",
            # Thoughts stay here: a message of kluster.ai's has no field for them.
            "openai_chat_send_back_thinking_parts": False,
        }},
        # Nor does it take stream_options, which is sent with every stream.
        settings={{"extra_body": {{"stream_options": omit}}}},
    )


if __name__ == "__main__":
    print(Agent(kluster_model()).run_sync("What is the ultimate breakfast sandwich?").output)
'''

_LLAMA_INDEX = '''\
import os

from llama_index.llms.openai_like import OpenAILike

BASE_URL = "{base_url}"

# By model: the window in tokens, does it take tools?
MODELS = {{
{models}
}}


def kluster_llm(model: str = "{default}", **options) -> OpenAILike:
    """Return a model of kluster.ai; any id will do."""
    window, tools = MODELS.get(model, (32_768, {unknown_tools}))
    return OpenAILike(
        model=model,
        api_base=BASE_URL,
        api_key=os.environ["{key}"],
        context_window=window,
        is_chat_model=True,
        is_function_calling_model=tools,
        should_use_structured_outputs=False,  # kluster.ai takes no response_format
        **options,
    )


if __name__ == "__main__":
    print(kluster_llm().complete("What is the ultimate breakfast sandwich?").text)
'''


_PYDANTIC_AI_HEAD = """
kluster.ai in Pydantic AI 2, written by `kluster export pydantic-ai`. Save it as kluster_models.py.

  pip install 'pydantic-ai-slim[openai]'
  python kluster_models.py    # asks a question; elsewhere: from kluster_models import kluster_model
"""
_LLAMA_INDEX_HEAD = """
kluster.ai in LlamaIndex, written by `kluster export llama-index`. Save it as kluster_models.py.

  pip install llama-index-llms-openai-like
  python kluster_models.py    # asks a question; elsewhere: from kluster_models import kluster_llm
"""
_LLAMA_INDEX_LIMIT = """
To limit answers: additional_kwargs={"max_completion_tokens": 500}. OpenAILike sends max_tokens as it is, which
kluster.ai calls deprecated.
"""
_NO_TOOLS = "Models without tools of their own take none; through the gateway (--gateway) they do."
_NO_TOOLS_NO_OBJECTS = """
Models without tools of their own take none, and give no objects (as_structured_llm), for which LlamaIndex sends
tool_choice all the same. Through the gateway (--gateway) they do both.
"""


def _pydantic_ai(choice: Choice) -> str:
    rows = [
        f'    "{spec.id}": ({_tools(choice, spec.supports_tools)}, {spec.supports_vision}),' for spec in choice.specs
    ]
    head = comment(_PYDANTIC_AI_HEAD, proxy_note(choice), _tools_note(choice, _NO_TOOLS))
    return head + _module(_PYDANTIC_AI, choice, rows)


def _llama_index(choice: Choice) -> str:
    rows = [
        f'    "{spec.id}": ({spec.context_window:_}, {_tools(choice, spec.supports_tools)}),' for spec in choice.specs
    ]
    limit = "" if choice.proxied else _LLAMA_INDEX_LIMIT
    head = comment(_LLAMA_INDEX_HEAD, proxy_note(choice), _tools_note(choice, _NO_TOOLS_NO_OBJECTS), limit)
    return head + _module(_LLAMA_INDEX, choice, rows)


def _tools(choice: Choice, native: bool) -> bool:
    """Whether tools may be sent: the gateway or proxy in between prompts models without native tools."""
    return native or choice.proxied


def _tools_note(choice: Choice, text: str) -> str:
    return "" if choice.proxied or all(spec.supports_tools for spec in choice.specs) else text


def _module(template: str, choice: Choice, rows: list[str]) -> str:
    return "\n" + template.format(
        base_url=choice.base_url,
        key=choice.key_variable,
        default=choice.default.id,
        models="\n".join(rows),
        unknown_tools=choice.proxied,
    )


PYDANTIC_AI = Target(
    name="pydantic-ai",
    file="Python module for Pydantic AI",
    fit="fits",
    tried="pydantic-ai-slim 2.68.0",
    render=_pydantic_ai,
)
LLAMA_INDEX = Target(
    name="llama-index",
    file="Python module for LlamaIndex",
    fit="fits, but for objects on models without tools",
    tried="llama-index-llms-openai-like 0.8.1",
    render=_llama_index,
)
