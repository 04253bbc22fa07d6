"""The real-time guide's whole flow: ask for the key, ask the model, show the answer, save all of it as JSON.

Run it with `python -m examples.openai_sdk.save_json [--model ID] [--output FILE]`.
"""

import json
import os
import sys
from getpass import getpass
from pathlib import Path

from examples._service import model_parser, service
from openai import OpenAI

from kluster_integrations import KlusterConfig
from kluster_integrations.config import env_source


def ask_for_key() -> None:
    """Take the key from the environment, else from whoever sits at the terminal; nothing typed is the emulator."""
    if env_source("api_key") is None and sys.stdin.isatty():
        os.environ["KLUSTER_API_KEY"] = getpass("Your kluster.ai API key (Enter: a local emulator): ")


def main(model: str, output: Path) -> None:
    config = KlusterConfig()
    client = OpenAI(base_url=config.base_url, api_key=config.require_key())

    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the ultimate breakfast sandwich?"}],
    )
    print(f"{completion.model} says:")
    print(completion.choices[0].message.content)

    output.write_text(json.dumps(completion.model_dump(), ensure_ascii=False, indent=4), encoding="utf-8")
    print(f"All of the answer is in {output}.")


if __name__ == "__main__":
    parser = model_parser("deepseek-ai/DeepSeek-R1-0528")
    parser.add_argument("--output", type=Path, default=Path("response.json"), metavar="FILE", help="the JSON file")
    given = parser.parse_args()
    ask_for_key()
    with service():
        main(given.model, given.output)
