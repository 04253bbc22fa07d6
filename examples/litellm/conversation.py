"""Two turns about a city, the second of which needs the first.

Run it with `python -m examples.litellm.conversation`.
"""

from examples._service import service

from kluster_integrations.litellm import register

import litellm  # isort: skip

MODEL = "kluster/klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
QUESTIONS = [
    "I want to visit San Francisco in June for its bridges. What should I see first?",
    "Which city did I say that I want to visit, and when?",
]
#: What the emulator answers, without a key.
REPLIES = [
    {"text": "The Golden Gate Bridge, early, before the fog."},
    {"text": "You want to visit San Francisco in June."},
]


def main() -> None:
    register()
    messages = [{"role": "system", "content": "You are a helpful travel guide. Keep answers short."}]
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        answer = litellm.completion(model=MODEL, messages=messages, temperature=0).choices[0].message
        messages.append({"role": "assistant", "content": answer.content})
        print("You:  ", question)
        print("Guide:", answer.content)


if __name__ == "__main__":
    with service(*REPLIES):
        main()
