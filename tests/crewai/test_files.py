"""`input_files`: a model that sees gets images with the messages, and all else through CrewAI's tool."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")
pytest.importorskip("crewai_files")

from crewai_files import ImageFile, TextFile

from kluster_integrations.crewai import KlusterLLM
from kluster_integrations.emulator import Emulator

from .crews import GEMMA, hello, make_agent

Make = Callable[..., KlusterLLM]


def png(width: int = 2, noise: bytes = b"") -> bytes:
    """Return an image, larger by `noise`."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(b"".join(b"\0" + b"\xff\0\0" * width for _ in range(width)))
    head = part(b"IHDR", struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + part(b"teSt", noise) + part(b"IDAT", rows) + part(b"IEND", b"")


def parts(emulator: Emulator) -> list[str]:
    messages = emulator.requests[0].body["messages"]
    return [part["type"] for message in messages if isinstance(message["content"], list) for part in message["content"]]


@pytest.mark.parametrize("stream", [False, True])
def test_an_image_goes_along_and_through_no_tool(stream: bool, llm: Make, emulator: Emulator) -> None:
    hello(llm(GEMMA, stream=stream)).kickoff(input_files={"photo": ImageFile(source=png())})

    assert parts(emulator) == ["text", "image_url"]
    assert "read_file" not in str(emulator.requests[0].body)


def test_a_text_goes_through_the_tool(llm: Make, emulator: Emulator) -> None:
    files: Any = {"photo": ImageFile(source=png()), "notes": TextFile(source=b"It is sunny.")}
    hello(llm(GEMMA)).kickoff(input_files=files)

    assert parts(emulator) == ["text", "image_url"]
    assert "read_file" in str(emulator.requests[0].body)


def test_an_agent_alone(llm: Make, emulator: Emulator) -> None:
    make_agent(llm(GEMMA)).kickoff("What is in the photo?", input_files={"photo": ImageFile(source=png())})

    assert parts(emulator) == ["text", "image_url"]


def test_a_large_image_goes_to_no_other_host(llm: Make, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    # crewai_files puts images above 5 MB into OpenAI's file store, for what it takes for OpenAI.
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    hello(llm(GEMMA)).kickoff(input_files={"photo": ImageFile(source=png(noise=bytes(6_000_000)))})

    assert parts(emulator) == ["text", "image_url"]
