"""What calls cost, call by call and in sum, streams included.

Run it with `python -m examples.litellm.costs`.
"""

import time
from collections import defaultdict
from typing import Any

from examples._service import service

from kluster_integrations.litellm import register

import litellm  # isort: skip
from litellm.integrations.custom_logger import CustomLogger  # isort: skip

MODELS = [
    "kluster/klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
    "kluster/klusterai/Meta-Llama-3.3-70B-Instruct-Turbo",
    "kluster/deepseek-ai/DeepSeek-R1-0528",
]
MESSAGES = [{"role": "user", "content": "What is the ultimate breakfast sandwich?"}]


class Spend(CustomLogger):
    """Adds up what LiteLLM logs, streams included."""

    def __init__(self) -> None:
        super().__init__()
        self.by_model: dict[str, float] = defaultdict(float)
        self.calls = 0

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        # Not kwargs["response_cost"]: in older versions a stream's is overwritten while its chunks are logged.
        self.by_model[kwargs["model"]] += kwargs["standard_logging_object"]["response_cost"]
        self.calls += 1


def main() -> None:
    register()
    spend = Spend()
    litellm.callbacks = [spend]
    for model in MODELS:
        response = litellm.completion(model=model, messages=MESSAGES)
        print(f"US$ {litellm.completion_cost(response):.8f}  {response.usage.total_tokens} tokens  {model}")
        for _ in litellm.completion(model=model, messages=MESSAGES, stream=True):
            pass
    until = time.monotonic() + 10
    while spend.calls < 2 * len(MODELS) and time.monotonic() < until:  # the log is written in another thread
        time.sleep(0.05)
    print(f"US$ {sum(spend.by_model.values()):.8f}  {spend.calls} calls, streams included")


if __name__ == "__main__":
    with service():
        main()
