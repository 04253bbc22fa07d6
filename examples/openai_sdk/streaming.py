"""An answer as it is written, and a reasoning model's thoughts before it, with the openai SDK.

Run it with `python -m examples.openai_sdk.streaming [--model ID]`.
"""

from examples._service import model_option, service
from openai import OpenAI

from kluster_integrations import KlusterConfig


def main(model: str) -> None:
    config = KlusterConfig()
    client = OpenAI(base_url=config.base_url, api_key=config.require_key())

    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the ultimate breakfast sandwich?"}],
        stream=True,  # without stream_options, which kluster.ai does not take
    )
    shown = ""
    for chunk in stream:
        for choice in chunk.choices:
            # The SDK knows no thoughts; what a server adds is an attribute all the same.
            thought = getattr(choice.delta, "reasoning_content", None)
            for kind, text in (("Thoughts", thought), ("Answer", choice.delta.content)):
                if text:
                    begin = "" if kind == shown else f"\n{kind}: " if shown else f"{kind}: "
                    print(begin + text, end="", flush=True)
                    shown = kind
    print()


if __name__ == "__main__":
    chosen = model_option("deepseek-ai/DeepSeek-R1-0528")
    with service():
        main(chosen)
