"""A Ray program of its own: asks about numbered rows on two actors, and writes what came of them.

Arguments: how many rows, a folder (answers, `rows.json`), Ray's folder, the base URL, JSON of the fields of `Limits`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray

from kluster_integrations.config import KlusterConfig
from kluster_integrations.limits import Limits
from kluster_integrations.ray import KlusterRows

MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
BLANK, HUGE = 13, 14  # of a hundred rows those that cannot be asked


def prompt(number: int) -> str:
    return {BLANK: " ", HUGE: "word " * 200_000}.get(number % 100, f"Row {number}.")


def main(count: int, folder: Path, temp: str, base_url: str, fields: str) -> None:
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, _temp_dir=temp)
    rows = ray.data.from_items([{"id": n, "prompt": prompt(n)} for n in range(count)], override_num_blocks=10)
    arguments = {
        "model": MODEL,
        "prompt": "prompt",
        "limits": Limits(**json.loads(fields)),
        "log": folder / "answers",
        "config": KlusterConfig(base_url=base_url),
    }
    done = rows.map_batches(KlusterRows, fn_constructor_kwargs=arguments, concurrency=2, batch_size=count // 10)
    found = done.drop_columns(["prompt"]).take_all()
    (folder / "rows.json").write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
