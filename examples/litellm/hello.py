"""One question to a model, through LiteLLM.

Run it with `python -m examples.litellm.hello [--model ID]`.
"""

from examples._service import model_option, service

from kluster_integrations.litellm import register

# LiteLLM after the package: so it does not ask the network for prices.
import litellm  # isort: skip


def main(model: str) -> None:
    register()
    messages = [{"role": "user", "content": "What is the ultimate breakfast sandwich?"}]
    response = litellm.completion(model=f"kluster/{model}", messages=messages)
    print("Answer:", response.choices[0].message.content)
    print("Tokens:", response.usage.total_tokens)


if __name__ == "__main__":
    chosen = model_option("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo")
    with service():
        main(chosen)
