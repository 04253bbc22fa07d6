"""Several tasks for each text, as one batch job: a genre, the language and a rating, each with a schema of its own.

Run it with `python -m examples.batch.tasks`.
"""

import json

from examples._service import job_folder, service

from kluster_integrations.batch import BatchJob

MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
FILMS = {
    "Breakfast Club": "Chicago, 1984: five pupils spend a Saturday in detention. As funny as it is true.",
    "Run Lola Run": "Berlin, 1998: Lola has twenty minutes to find the money. Breathless, and never too long.",
}
TASKS = {
    "genre": {"enum": ["comedy", "drama", "thriller"]},
    "language": {"type": "string"},
    "rating": {"type": "integer", "minimum": 1, "maximum": 5},
}


def request(text: str, task: str) -> dict[str, object]:
    """Return the request for one task of one text."""
    schema = {"type": "object", "properties": {task: TASKS[task]}, "required": [task]}
    return {
        "messages": [{"role": "user", "content": f"Say the {task} of this film.\n{text}"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": task, "schema": schema}},
    }


def main() -> None:
    asked = [(film, task) for film in FILMS for task in TASKS]
    requests = (request(FILMS[film], task) for film, task in asked)
    found: dict[str, dict[str, object]] = {film: {} for film in FILMS}
    with BatchJob.create(requests, folder=job_folder("tasks"), model=MODEL, window="48h") as job:
        job.wait()
        for (film, task), result in zip(asked, job.results(), strict=True):
            found[film][task] = json.loads(result.completion.text)[task] if result.completion else result.error

    for film, answers in found.items():
        print(f"{film}: {answers}")


#: What the emulator answers, without a key: one line after the other.
REPLIES = [
    {"json": {"genre": "comedy"}},
    {"json": {"language": "English"}},
    {"json": {"rating": 4}},
    {"json": {"genre": "thriller"}},
    {"json": {"language": "German"}},
    {"json": {"rating": 5}},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
