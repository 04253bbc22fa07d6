"""An answer as it is written, and a reasoning model's thoughts.

Run it with `python -m examples.litellm.streaming`.
"""

import asyncio

from examples._service import service

from kluster_integrations.litellm import register

import litellm  # isort: skip

LLAMA = "kluster/klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "kluster/deepseek-ai/DeepSeek-R1-0528"
MESSAGES = [{"role": "user", "content": "What is the ultimate breakfast sandwich?"}]


def main() -> None:
    print("Answer:   ", end="")
    for chunk in litellm.completion(model=LLAMA, messages=MESSAGES, stream=True):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


async def thoughts() -> None:
    kind = ""
    async for chunk in await litellm.acompletion(model=R1, messages=MESSAGES, stream=True):
        delta = chunk.choices[0].delta
        for name, text in (("Thoughts", getattr(delta, "reasoning_content", None)), ("Answer", delta.content)):
            if text:
                print(text if name == kind else f"{chr(10) if kind else ''}{name + ':':10}{text}", end="", flush=True)
                kind = name
    print()


if __name__ == "__main__":
    with service():
        register()
        main()
        asyncio.run(thoughts())
