"""The same questions to several models, as one batch job; then what each has answered, and what it cost.

Run it with `python -m examples.batch.compare`.
"""

from examples._service import job_folder, service

from kluster_integrations.batch import BatchJob

MODELS = [
    "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
    "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo",
    "deepseek-ai/DeepSeek-R1",
]
QUESTIONS = ["What is the ultimate breakfast sandwich?", "Why is the sky blue?"]


def main() -> None:
    asked = [(model, question) for model in MODELS for question in QUESTIONS]
    requests = [
        {"model": model, "messages": [{"role": "user", "content": question}], "max_completion_tokens": 2000}
        for model, question in asked
    ]
    costs = dict.fromkeys(MODELS, 0.0)
    with BatchJob.create(requests, folder=job_folder("compare"), window="auto", max_cost=1) as job:
        print("Cheapest:", job.estimate().cheapest)
        job.wait()
        for (model, question), result in zip(asked, job.results(), strict=True):
            costs[model] += result.cost or 0
            print(f"{model.rpartition('/')[2]:36} {question[:20]}… {(result.error or result.completion.text)!s:.60}")

    for model, cost in costs.items():
        print(f"US$ {cost:.6f}  {model}")


if __name__ == "__main__":
    with service():
        main()
