"""Keywords of texts, as one batch job: a list of them for each text, checked against a schema.

Run it with `python -m examples.batch.keywords`.
"""

import json

from examples._service import job_folder, service

from kluster_integrations.batch import BatchJob

MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
# They begin with the answer for the emulator, which does not understand what it reads.
ARTICLES = [
    "Keywords: honey bees, dance, flowers. Honey bees tell each other by a dance where the flowers are.",
    "Keywords: sourdough, wild yeast. Sourdough bread rises by wild yeast and needs a night to prove.",
    "Keywords: bridge, 1937. The Golden Gate Bridge opened in 1937.",
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
            print(f"{article.partition('. ')[2][:30]}…: {found}")


if __name__ == "__main__":
    with service():
        main()
