"""What is common to the programs that `kluster export` writes for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from kluster_integrations.catalog import ModelSpec, PlanLimits

__all__ = ["GATEWAY_URL", "PROXY_URL", "Choice", "Target", "comment", "proxy_note"]

GATEWAY_URL = "http://127.0.0.1:8091/v1"
"""Where `kluster gateway` listens, unless it is told another port."""
PROXY_URL = "http://127.0.0.1:4000/v1"
"""Where LiteLLM's proxy listens, unless it is told another port."""


_PROXY = """
It asks LiteLLM's proxy, which takes all that this program sends, and asks kluster.ai for what it has:

  kluster export litellm --output config.yaml    # its head says what to install and to export
  litellm --config config.yaml
"""
_GATEWAY = """
It asks `kluster gateway`, which takes all that this program sends, and asks kluster.ai for what it has:

  pip install 'kluster-integrations[gateway]'    # in a checkout: '.[gateway]'
  export KLUSTER_GATEWAY_KEY=a-key-of-your-own    # for both; without one the gateway takes any key
  kluster gateway
"""
_BETWEEN = {"gateway": _GATEWAY, "proxy": _PROXY, None: ""}
_KEYS = {"gateway": "KLUSTER_GATEWAY_KEY", "proxy": "LITELLM_MASTER_KEY", None: "KLUSTER_API_KEY"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a configuration is to hold.

    Attributes:
        specs: The chat models, at least one; the first is the default where a program has one.
        embeddings: The embedding models.
        base_url: Where the program sends its requests.
        between: What stands there between the program and kluster.ai: the gateway, LiteLLM's proxy, or nothing.
        limits: The plan's limits, None if the plan is unknown.
        picked: Whether the user named the models.
    """

    specs: Sequence[ModelSpec]
    embeddings: Sequence[ModelSpec]
    base_url: str
    between: Literal["gateway", "proxy"] | None
    picked: bool
    limits: PlanLimits | None = None

    @property
    def proxied(self) -> bool:
        """Whether the program asks something that takes all it sends, and not kluster.ai itself."""
        return self.between is not None

    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key for `base_url`."""
        return _KEYS[self.between]

    @property
    def default(self) -> ModelSpec:
        """The model to begin with: the first one named, else a large one with tools, else the first."""
        return self.prefer("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo")

    def prefer(self, model: str) -> ModelSpec:
        """Return this model if the user named none and it is there, else the first."""
        found = next((spec for spec in self.specs if spec.id == model), None)
        return found if found and not self.picked else self.specs[0]


@dataclass(frozen=True, slots=True)
class Target:
    """A program, and how its configuration is written.

    Attributes:
        name: As it is given to `kluster export`.
        file: What the file is called, or what it is.
        fit: How well what the program sends fits what kluster.ai documents.
        tried: The program's package and version that the tests run with it, "" if none is.
        seen: The package and version whose page was used by hand, "" if none was; the tests send what it sent.
        untried: What of it was not run.
        render: Writes the configuration.
        steps: Says what to do by hand; None where the configuration says it itself.
        needs_gateway: Whether it cannot talk to kluster.ai itself, so that without an address it gets the gateway's.
        private: Whether the file is where the user puts a key: nobody else may read it, and it is never overwritten.
    """

    name: str
    file: str
    fit: str
    tried: str
    render: Callable[[Choice], str]
    seen: str = ""
    untried: str = ""
    steps: Callable[[Choice], list[str]] | None = None
    needs_gateway: bool = False
    private: bool = False


def comment(*texts: str, mark: str = "#") -> str:
    """Return texts as comments, with an empty line between them; empty ones are left out."""
    lines = "\n\n".join(text.strip("\n") for text in texts if text).splitlines()
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in lines)


def proxy_note(choice: Choice) -> str:
    """Return how to start what stands in between, else nothing."""
    return _BETWEEN[choice.between]
