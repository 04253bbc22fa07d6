"""What is in images, as one batch job. An address is better than data in a file of at most 100 MB.

Run it with `python -m examples.batch.images [FILE…]`.
"""

import base64
import mimetypes
import sys
from pathlib import Path

from examples._service import job_folder, service

from kluster_integrations.batch import BatchJob

MODEL = "google/gemma-3-27b-it"
# A red square of 2 by 2 pixels and a single pixel, for want of files.
SQUARES = {
    "two.png": "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg==",
    "one.png": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
}


def read(paths: list[str]) -> dict[str, str]:
    """Return the addresses of images by their names: their data, as an address."""
    if not paths:
        return {name: f"data:image/png;base64,{data}" for name, data in SQUARES.items()}
    return {
        path: f"data:{mimetypes.guess_type(path)[0]};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"
        for path in paths
    }


def main(*paths: str) -> None:
    images = read(list(paths))
    requests = []
    for url in images.values():
        image = {"type": "image_url", "image_url": {"url": url}}
        content = [{"type": "text", "text": "What is in this image?"}, image]
        requests.append([{"role": "user", "content": content}])
    options = {"model": MODEL, "max_completion_tokens": 200}
    with BatchJob.create(requests, folder=job_folder("images"), window="24h", **options) as job:
        job.wait()
        for name, result in zip(images, job.results(), strict=True):
            print(f"{name}: {result.error or result.completion.text}")


#: What the emulator answers, without a key: one line after the other.
REPLIES = [{"text": "A red square of 2 by 2 pixels."}, {"text": "A single pixel."}]

if __name__ == "__main__":
    with service(*REPLIES):
        main(*sys.argv[1:])
