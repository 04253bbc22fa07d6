"""One question to a model, through LiteLLM.

Run it with `python -m examples.litellm.hello`.
"""

from examples._service import service

from kluster_integrations.litellm import register

# LiteLLM after the package: so it does not ask the network for prices.
import litellm  # isort: skip

MODEL = "kluster/klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"


def main() -> None:
    register()
    messages = [{"role": "user", "content": "What is the ultimate breakfast sandwich?"}]
    response = litellm.completion(model=MODEL, messages=messages)
    print("Answer:", response.choices[0].message.content)
    print("Tokens:", response.usage.total_tokens)


if __name__ == "__main__":
    with service():
        main()
