"""Write the constraint files anew with uv: names, versions and markers only. `make pins`, or `make pins UPGRADE=1`.

A file keeps the versions that it has as long as they fit `pyproject.toml`; `--upgrade` takes the newest of everything.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Pins(NamedTuple):
    """What one environment installs: the same extras, groups and further requirements as its target in the Makefile."""

    purpose: str
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


_LITELLM = ("litellm", "emulator", "redis")

FILES = {
    "constraints.txt": Pins(
        "the world with CrewAI: openai 2.x on httpx", ("all",), ("test", "crewai", "lint", "bench", "record")
    ),
    # The oldest langchain-tests on pytest 9 is 1.1.5, which wants langchain-core 1.2.7; langgraph-prebuilt 1.0.9 and
    # later import names of langgraph 1.1.
    "constraints-oldest.txt": Pins(
        "the oldest of each framework that is supported",
        ("all",),
        ("test", "crewai"),
        ("langchain-core==1.2.7", "openai==2.30.0", "langchain==1.1.*", "langgraph-prebuilt==1.0.8"),
        ("--resolution=lowest-direct",),
    ),
    "constraints-openai3.txt": Pins(
        "the newest world without CrewAI and LiteLLM: openai 3.x on httpx2",
        ("langchain", "emulator", "gateway", "redis"),
        ("test",),
        ("openai>=3",),
    ),
    "constraints-litellm.txt": Pins(
        "LiteLLM's proxy, whose mcp 2 CrewAI does not allow beside itself", _LITELLM, ("test",), ("litellm[proxy]",)
    ),
    "constraints-litellm-oldest.txt": Pins(
        "the oldest LiteLLM that is supported, with its proxy", _LITELLM, ("test",), ("litellm[proxy]==1.90.*",)
    ),
    "constraints-frameworks.txt": Pins(
        "docs/litellm-frameworks.md and the gateway's Python clients", (*_LITELLM, "gateway"), ("test", "frameworks")
    ),
    "constraints-ray.txt": Pins("Ray Data", ("ray", "emulator", "redis"), ("test",)),
    "constraints-clients.txt": Pins("tests/clients, on openai 3.x", ("emulator", "gateway"), ("clients",)),
    "constraints-clients-openai2.txt": Pins(
        "LlamaIndex, Semantic Kernel and Strands in tests/clients, on openai 2.x",
        further=("llama-index-llms-openai-like", "semantic-kernel>=1.45", "strands-agents[openai]>=1.62"),
    ),
    "constraints-docs.txt": Pins("building the documentation", groups=("docs",)),
    "constraints-release.txt": Pins("building and checking what is released", groups=("release",)),
}


def compiled(pins: Pins, into: Path, *, upgrade: bool) -> None:
    """Have uv find versions that fit together, for every Python and platform at once, and write them to `into`."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11"),
        *("--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"),
        *([f"--extra={name}" for name in pins.extras] + [f"--group={name}" for name in pins.groups]),
        *(["--upgrade"] if upgrade else []),
        *pins.options,
        *(["pyproject.toml"] if pins.extras else []),  # else the groups alone, without what the package itself needs
        *(["-"] if pins.further else []),
        f"--output-file={into}",
    ]
    subprocess.run(command, cwd=ROOT, input="\n".join(pins.further), text=True, check=True)
    lines = [line for line in into.read_text().splitlines() if not line.startswith("#")]
    into.write_text(
        "\n".join([f"# Pins for {pins.purpose}. Names and versions only; `make pins` writes it.", *lines, ""])
    )


def main() -> int:
    """Write the files that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m release.pins", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="default: all of them")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    arguments = parser.parse_args()
    for name in arguments.files or FILES:
        print(name, flush=True)
        compiled(FILES[name], ROOT / name, upgrade=arguments.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main())
