"""One question to a chat model: whole, then streamed; and what the answer says of itself.

Run it with `python -m examples.langchain.quickstart [--model ID]`.
"""

from examples._service import model_option, service

from kluster_integrations.langchain import ChatKluster


def main(name: str) -> None:
    model = ChatKluster(model=name, temperature=0, max_tokens=200)
    question = "What is the ultimate breakfast sandwich?"

    answer = model.invoke(question)
    print("Answer: ", answer.text)
    print("Model:  ", answer.response_metadata["model_name"])
    print("Tokens: ", answer.usage_metadata["total_tokens"])
    print(f"Cost:    US$ {answer.response_metadata['cost']:.6f}")

    print("Stream:  ", end="")
    for chunk in model.stream(question):
        print(chunk.text, end="", flush=True)
    print()


if __name__ == "__main__":
    chosen = model_option("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo")
    with service():
        main(chosen)
