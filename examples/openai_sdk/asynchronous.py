"""Several questions at the same time, with the openai SDK's async client.

Run it with `python -m examples.openai_sdk.asynchronous [--model ID]`.
"""

import asyncio

from examples._service import model_option, service
from openai import AsyncOpenAI

from kluster_integrations import KlusterConfig

MEALS = ("breakfast", "lunch", "dinner")


async def ask(client: AsyncOpenAI, model: str, meal: str) -> str:
    completion = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"What is the ultimate {meal} sandwich?"}],
    )
    return completion.choices[0].message.content


async def main(model: str) -> None:
    config = KlusterConfig()
    async with AsyncOpenAI(base_url=config.base_url, api_key=config.require_key()) as client:
        answers = await asyncio.gather(*(ask(client, model, meal) for meal in MEALS))
    for meal, answer in zip(MEALS, answers, strict=True):
        print(f"{meal}: {answer}")


if __name__ == "__main__":
    chosen = model_option("mistralai/Mistral-Nemo-Instruct-2407")
    with service():
        asyncio.run(main(chosen))
