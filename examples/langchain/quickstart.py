"""One question to a chat model: whole, then streamed; and what the answer says of itself.

Run it with `python -m examples.langchain.quickstart`.
"""

from examples._service import service

from kluster_integrations.langchain import ChatKluster


def main() -> None:
    model = ChatKluster(model="klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", temperature=0, max_tokens=200)
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
    with service():
        main()
