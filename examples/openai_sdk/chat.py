"""One question to any model, with the plain openai SDK.

Run it with `python -m examples.openai_sdk.chat [--model ID]`.
"""

from examples._service import model_option, service
from openai import OpenAI

from kluster_integrations import KlusterConfig


def main(model: str) -> None:
    config = KlusterConfig()
    client = OpenAI(base_url=config.base_url, api_key=config.require_key())

    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the ultimate breakfast sandwich?"}],
        max_completion_tokens=1_000,  # not max_tokens, which kluster.ai calls deprecated
    )
    print("Model: ", completion.model)
    print("Answer:", completion.choices[0].message.content)
    print("Tokens:", completion.usage.total_tokens)


if __name__ == "__main__":
    chosen = model_option("deepseek-ai/DeepSeek-V3-0324")
    with service():
        main(chosen)
