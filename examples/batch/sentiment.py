"""The mood of reviews, as one batch job; the folder remembers it, so that this may run again at any time.

Run it with `python -m examples.batch.sentiment`.
"""

import json
from collections import Counter

from examples._service import job_folder, service

from kluster_integrations.batch import BatchJob

MODEL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
REVIEWS = [
    "The battery lasts for days.",
    "It broke on the first day.",
    "It is a phone.",
    "My father loves it.",
]
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["positive", "neutral", "negative"]}},
    "required": ["mood"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA}}


def main() -> None:
    requests = ([{"role": "user", "content": f"What is the mood of this review?\n{review}"}] for review in REVIEWS)
    options = {"model": MODEL, "response_format": FORMAT, "temperature": 0, "max_completion_tokens": 50}
    with BatchJob.create(requests, folder=job_folder("sentiment"), window="72h", **options) as job:
        status = job.wait(on_progress=lambda status: print(f"{status.progress} of {status.total}"))
        moods = [json.loads(result.completion.text)["mood"] for result in job.results() if result.completion]

    for review, mood in zip(REVIEWS, moods, strict=True):
        print(f"{mood:8}  {review}")
    print(f"All:  {dict(Counter(moods))}, for US$ {status.cost:.6f}")


#: What the emulator answers, without a key.
REPLIES = [
    {"json": {"mood": "positive"}, "when": "battery"},
    {"json": {"mood": "negative"}, "when": "broke"},
    {"json": {"mood": "neutral"}, "when": "phone"},
    {"json": {"mood": "positive"}, "when": "father"},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
