"""5,000 reviews, each sorted into good, bad or neither, on two actors.

Run it with `python -m examples.ray.classify --rows 5000`. Killed and run again, it asks for nothing that is answered.
`KLUSTER_PLAN` or `--per-minute` keeps the account's limit, which both actors share with a Redis in `KLUSTER_REDIS_URL`.
"""

import argparse
import json
import random
from collections import Counter

import ray
from examples._service import job_folder, service

from kluster_integrations.limits import Limits
from kluster_integrations.ray import KlusterRows

MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
SCHEMA = {"type": "object", "properties": {"mood": {"enum": ["good", "bad", "neither"]}}, "required": ["mood"]}
PARAMS = {
    "temperature": 0,
    "max_completion_tokens": 50,
    "response_format": {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA}},
}
THINGS = ("battery", "screen", "camera", "sound", "case")
WORDS = {"is the best I have had": "good", "broke on the first day": "bad", "is what it says": "neither"}
#: What the emulator answers, without a key.
REPLIES = [{"json": {"mood": mood}, "when": words} for words, mood in WORDS.items()]


def reviews(count: int) -> list[dict[str, object]]:
    """Return rows that are the same in each run. One has no text: that does not stop the others."""
    dice = random.Random(7)
    texts = [f"Review {n}: the {dice.choice(THINGS)} {dice.choice([*WORDS])}." for n in range(count - 1)]
    return [{"id": n, "review": text} for n, text in enumerate([*texts, ""])]


def messages(row: dict[str, object]) -> list[dict[str, object]]:
    if not row["review"]:
        raise ValueError("the review has no text")
    return [{"role": "user", "content": f"Is this review good, bad or neither? {row['review']}"}]


def main(rows: int, limits: Limits | None) -> None:
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    log = job_folder("moods").resolve()
    arguments = {"model": MODEL, "messages": messages, "params": PARAMS, "limits": limits, "log": log}
    dataset = ray.data.from_items(reviews(rows), override_num_blocks=max(2, rows // 250))
    answered = dataset.map_batches(
        KlusterRows,
        fn_constructor_kwargs=arguments,
        concurrency=2,
        batch_size=250,
        batch_format="pyarrow",  # so that both new columns are text in every block, whatever is in them
    )
    moods: Counter[str] = Counter()
    for row in answered.iter_rows():
        if row["error"]:
            print(f"Row {row['id']}: {row['error']}")
        else:
            moods[json.loads(row["answer"])["mood"]] += 1
    print("Moods:", dict(sorted(moods.items())))
    print("Rows: ", rows)
    ray.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--per-minute", type=int, help="the account's limit; default: that of KLUSTER_PLAN")
    options = parser.parse_args()
    shared = Limits(requests=options.per_minute, redis_url=Limits.of(None).redis_url) if options.per_minute else None
    with service(*REPLIES):
        main(options.rows, shared)
