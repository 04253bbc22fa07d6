"""A question about an image, a file's or one on the web, with the openai SDK.

Run it with `python -m examples.openai_sdk.image [--model ID] [FILE|URL]`.
"""

import base64
import mimetypes
from pathlib import Path

from examples._service import model_parser, service
from openai import OpenAI

from kluster_integrations import KlusterConfig

# A red square of 2 by 2 pixels, for want of a file.
SQUARE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
)


def image_url(image: str) -> str:
    """Return the address of an image; a file's is its content."""
    if image.startswith(("http://", "https://", "data:")):
        return image
    kind = mimetypes.guess_type(image)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(Path(image).read_bytes()).decode()}"


def main(model: str, image: str) -> None:
    config = KlusterConfig()
    client = OpenAI(base_url=config.base_url, api_key=config.require_key())

    content = [
        {"type": "text", "text": "What is in this image?"},
        {"type": "image_url", "image_url": {"url": image_url(image)}},
    ]
    completion = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    print("Model: ", completion.model)
    print("Answer:", completion.choices[0].message.content)


#: What the emulator answers, without a key.
REPLIES = [{"text": "A red square of 2 by 2 pixels.", "when": "What is in this image?"}]

if __name__ == "__main__":
    parser = model_parser("google/gemma-3-27b-it")
    parser.add_argument("image", nargs="?", default=SQUARE, metavar="FILE|URL", help="the image")
    given = parser.parse_args()
    with service(*REPLIES):
        main(given.model, given.image)
