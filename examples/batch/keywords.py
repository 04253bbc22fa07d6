"""Keywords of texts, as one batch job: a list of them for each text, checked against a schema.

Run it with `python -m examples.batch.keywords`.
"""

import json

from examples._service import job_folder, service

from kluster_integrations.batch import BatchJob

MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
ARTICLES = [
    "Honey bees tell each other by a dance where the flowers are.",
    "Sourdough bread rises by wild yeast and needs a night to prove.",
    "The Golden Gate Bridge opened in 1937.",
]
SCHEMA = {
    "type": "object",
    "properties": {"keywords": {"type": "array", "items": {"type": "string"}, "maxItems": 5}},
    "required": ["keywords"],
}


def request(article: str) -> dict[str, object]:
    """Return the request for one text."""
    return {
        "messages": [
            {"role": "system", "content": "Extract up to five keywords from the text."},
            {"role": "user", "content": article},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "keywords", "schema": SCHEMA}},
    }


def main() -> None:
    requests = map(request, ARTICLES)
    with BatchJob.create(requests, folder=job_folder("keywords"), model=MODEL, window="24h", max_cost=1) as job:
        estimate = job.estimate()
        print(f"About US$ {estimate.by_window['24h']:.6f}, in real time US$ {estimate.real_time:.6f}")
        job.wait()
        for article, result in zip(ARTICLES, job.results(), strict=True):
            found = result.error or ", ".join(json.loads(result.completion.text)["keywords"])
            print(f"{article[:30]}…: {found}")


#: What the emulator answers, without a key.
REPLIES = [
    {"json": {"keywords": ["honey bees", "dance", "flowers"]}, "when": "Honey bees"},
    {"json": {"keywords": ["sourdough", "wild yeast"]}, "when": "Sourdough"},
    {"json": {"keywords": ["bridge", "1937"]}, "when": "Golden Gate"},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
