"""A question about an image: one on the web, or a file that goes along.

Run it with `python -m examples.langchain.image [FILE]`.
"""

import base64
import mimetypes
import sys
from pathlib import Path

from examples._service import service
from langchain_core.messages import HumanMessage

from kluster_integrations.langchain import ChatKluster

# A red square of 2 by 2 pixels, for want of a file.
SQUARE = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="


def image_block(path: str | None) -> dict[str, str]:
    """Return an image as one of LangChain's content blocks."""
    if path is None:
        return {"type": "image", "base64": SQUARE, "mime_type": "image/png"}
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return {"type": "image", "base64": data, "mime_type": mimetypes.guess_type(path)[0] or "image/png"}


def main(path: str | None = None) -> None:
    model = ChatKluster(model="google/gemma-3-27b-it", max_tokens=200)
    message = HumanMessage([{"type": "text", "text": "What is in this image?"}, image_block(path)])

    print("Answer:", model.invoke([message]).text)


#: What the emulator answers, without a key.
REPLIES = [{"text": "A red square of 2 by 2 pixels.", "when": "What is in this image?"}]

if __name__ == "__main__":
    with service(*REPLIES):
        main(*sys.argv[1:2])
