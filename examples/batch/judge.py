"""An LLM as judge, as two batch jobs: two models answer, a third says which of the answers is better.

Run it with `python -m examples.batch.judge`.
"""

import json

from examples._service import job_folder, service

from kluster_integrations.batch import BatchJob

ONE, OTHER = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo", "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
JUDGE = "deepseek-ai/DeepSeek-V3-0324"
QUESTIONS = ["What is the ultimate breakfast sandwich?", "Why is the sky blue?"]
VERDICT = {
    "type": "object",
    "properties": {"winner": {"enum": ["first", "second", "neither"]}, "reason": {"type": "string"}},
    "required": ["winner", "reason"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT}}
ASK = "Which answer is better?\n\nQuestion: {}\n\nFirst answer: {}\n\nSecond answer: {}"


def texts(requests: list[dict[str, object]], name: str) -> list[str]:
    """Run a job, and return the texts of its answers."""
    with BatchJob.create(requests, folder=job_folder(name), window="72h", max_completion_tokens=1000) as job:
        job.wait()
        results = list(job.results())
    for result in results:
        if result.error:
            raise result.error
    return [result.completion.text for result in results if result.completion]


def main() -> None:
    pairs = [
        texts([{"model": model, "messages": [{"role": "user", "content": q}]} for q in QUESTIONS], f"judge/{number}")
        for number, model in enumerate((ONE, OTHER))
    ]
    asked = [ASK.format(*answers) for answers in zip(QUESTIONS, *pairs, strict=True)]
    requests = [
        {"model": JUDGE, "messages": [{"role": "user", "content": text}], "response_format": FORMAT} for text in asked
    ]
    names = {"first": ONE, "second": OTHER, "neither": "neither"}
    for question, text in zip(QUESTIONS, texts(requests, "judge/verdicts"), strict=True):
        verdict = json.loads(text)
        print(f"{question} {names[verdict['winner']]}: {verdict['reason']}")


if __name__ == "__main__":
    with service():
        main()
