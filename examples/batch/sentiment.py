"""The mood of reviews, as one batch job; the folder remembers it, so that this may run again at any time.

Run it with `python -m examples.batch.sentiment`.
"""

import json
from collections import Counter

from examples._service import job_folder, service

from kluster_integrations.batch import BatchJob

MODEL = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
# They begin with the answer for the emulator, which does not understand what it reads.
REVIEWS = [
    "mood: positive\nThe battery lasts for days.",
    "mood: negative\nIt broke on the first day.",
    "mood: neutral\nIt is a phone.",
    "mood: positive\nMy father loves it.",
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
        print(f"{mood:8}  {review.partition(chr(10))[2]}")
    print(f"All:  {dict(Counter(moods))}, for US$ {status.cost:.6f}")


if __name__ == "__main__":
    with service():
        main()
