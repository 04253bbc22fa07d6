"""A router over kluster.ai's models: groups, limits, and who answers when a model cannot.

Run it with `python -m examples.litellm.routing`.
"""

from examples._service import service

from kluster_integrations.litellm import router

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
MESSAGES = [{"role": "user", "content": "What is the ultimate breakfast sandwich?"}]


def main() -> None:
    made = router(plan="core")  # 600 requests a minute and 100 at a time, for all models together
    for group in ("cheap", "tools", "reasoning", "vision"):
        response = made.completion(model=group, messages=MESSAGES)
        print(f"{group + ':':11}{response.model}")

    long = [{"role": "user", "content": "word " * 33_000}]
    response = made.completion(model="mistralai/Mistral-Small-24B-Instruct-2501", messages=long)
    print(f"too long:  {response.model}")

    # A model that does not exist fails, and what is named as its fallback answers.
    unsure = router([LLAMA, "nobody/knows-this"], fallbacks=[{"nobody/knows-this": [LLAMA]}], groups=False)
    response = unsure.completion(model="nobody/knows-this", messages=MESSAGES)
    print(f"fallback:  {response.model}")


if __name__ == "__main__":
    with service():
        main()
