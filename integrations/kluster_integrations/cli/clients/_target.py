"""What is common to the programs that `kluster export` writes for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kluster_integrations.catalog import ModelSpec

__all__ = ["PROXY_URL", "Choice", "Target", "comment", "proxy_note"]

PROXY_URL = "http://127.0.0.1:4000/v1"
"""Where LiteLLM's proxy listens, unless it is told another port."""


_PROXY = """
It asks LiteLLM's proxy, which takes all that this program sends, and asks kluster.ai for what it has:

  kluster export litellm --output config.yaml    # its head says what to install and to export
  litellm --config config.yaml
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a configuration is to hold.

    Attributes:
        specs: The chat models, at least one; the first is the default where a program has one.
        embeddings: The embedding models.
        base_url: Where the program sends its requests.
        proxied: Whether that is LiteLLM's proxy, not kluster.ai itself.
        picked: Whether the user named the models.
    """

    specs: Sequence[ModelSpec]
    embeddings: Sequence[ModelSpec]
    base_url: str
    proxied: bool
    picked: bool

    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key for `base_url`."""
        return "LITELLM_MASTER_KEY" if self.proxied else "KLUSTER_API_KEY"

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
        tried: The program's package and version that the tests run.
        untried: What of it no test runs.
        render: Writes the configuration.
        needs_proxy: Whether it cannot talk to kluster.ai itself, so that without an address it gets the proxy's.
        private: Whether the file is where the user puts a key: nobody else may read it, and it is never overwritten.
    """

    name: str
    file: str
    fit: str
    tried: str
    render: Callable[[Choice], str]
    untried: str = ""
    needs_proxy: bool = False
    private: bool = False


def comment(*texts: str, mark: str = "#") -> str:
    """Return texts as comments, with an empty line between them; empty ones are left out."""
    lines = "\n\n".join(text.strip("\n") for text in texts if text).splitlines()
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in lines)


def proxy_note(choice: Choice) -> str:
    """Return how to start the proxy, where requests go through one, else nothing."""
    return _PROXY if choice.proxied else ""
