"""`kluster_embedder`: kluster.ai's embeddings for CrewAI's memory and knowledge."""

from __future__ import annotations

import json
import uuid
from typing import Any, ClassVar

from chromadb.api.types import EmbeddingFunction, Space
from crewai.rag.embeddings.providers.custom.custom_provider import CustomProvider
from crewai.rag.embeddings.providers.custom.embedding_callable import CustomEmbeddingFunction

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import DEFAULT_EMBEDDING_MODEL, MAX_EMBEDDING_BATCH, Client
from kluster_integrations.crewai import _compat
from kluster_integrations.limits import Limits

__all__ = ["KlusterEmbedder", "embedder_provider", "kluster_embedder"]

_MARK = "kluster:"


class KlusterEmbedder(CustomEmbeddingFunction, EmbeddingFunction[Any]):  # CrewAI checks for the one and for the other
    """Makes vectors of texts; `kluster_embedder` documents its settings."""

    model: ClassVar[str] = DEFAULT_EMBEDDING_MODEL
    chunk_size: ClassVar[int] = 256
    client: ClassVar[Client | None] = None

    def __init__(self, **_: Any) -> None:
        # Without `kluster_embedder` all is as the environment says.
        self._client = self.client or Client(KlusterConfig())

    def __call__(self, input: list[str]) -> Any:
        """Return one vector per text, in order.

        Raises:
            KlusterError: Whatever goes wrong; empty texts are refused before any request.
        """
        return self._client.embed(self.model, input, chunk_size=self.chunk_size).rows

    @staticmethod
    def name() -> str:
        """Return the name that Chroma stores with a collection."""
        return "kluster"

    def get_config(self) -> dict[str, Any]:
        """Return the settings that Chroma stores; never a key."""
        return {"model": self.model}

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> KlusterEmbedder:
        """Return an embedder with the settings that Chroma has stored."""
        made: KlusterEmbedder = type(cls.__name__, (cls,), {"model": config["model"], "__module__": __name__})()
        return made

    def default_space(self) -> Space:
        """Return the distance for the vectors, whose length is 1."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """Return the distances that Chroma may use."""
        return ["cosine", "l2", "ip"]

    def is_legacy(self) -> bool:
        """Tell Chroma that this class has the methods of new embedding functions."""
        return False


def kluster_embedder(
    model: str = DEFAULT_EMBEDDING_MODEL,
    *,
    chunk_size: int = 256,
    config: KlusterConfig | None = None,
    limits: Limits | None = None,
    http_client: Any = None,
    **connection: Any,
) -> Any:
    """Return the embedder of a crew, an agent, a memory or knowledge: `Crew(memory=True, embedder=kluster_embedder())`.

    Args:
        model: The model's id; `BAAI/bge-m3` gives 1024 numbers for up to 8192 tokens.
        chunk_size: Texts per request, 1 to 2048.
        config: All settings of the connection together; single arguments win over it.
        limits: The account's limits. Default: those of the plan.
        http_client: An `httpx.Client` to use in place of the shared connections.
        connection: `api_key`, `base_url` and the other fields of `KlusterConfig`; default: the environment.

    Raises:
        ValueError: If an argument is not acceptable.
    """
    if not 1 <= chunk_size <= MAX_EMBEDDING_BATCH:
        raise ValueError(f"chunk_size={chunk_size!r} must be a number from 1 to {MAX_EMBEDDING_BATCH}.")
    if unknown := sorted(set(connection) - set(KlusterConfig.model_fields)):
        raise ValueError(f"{', '.join(unknown)}: allowed are {', '.join(KlusterConfig.model_fields)}.")
    client = Client(KlusterConfig.merged(config, **connection), limits=limits, http_client=http_client)
    values = {"model": model, "chunk_size": chunk_size, "client": client, "__module__": __name__}
    kept = {"model": model, "chunk_size": chunk_size, "base_url": client.config.base_url}
    name = _MARK + json.dumps({**kept, "id": uuid.uuid4().hex})
    _made[name] = type("KlusterEmbedder", (KlusterEmbedder,), values)
    return {"provider": _compat.EMBEDDER_PROVIDER, "config": {"model_name": name}}


def embedder_provider(**config: Any) -> Any:
    """Return the provider from which CrewAI makes an embedder; for settings that are not ours, CrewAI's own.

    From the checkpoint of another process only the model and the address are used. Everything else, such as the key,
    comes from the environment.
    """
    name = str(config.get("model_name"))
    if not name.startswith(_MARK):
        return _compat.own_embedder_provider(**config)
    if (made := _made.get(name)) is None:
        kept = json.loads(name.removeprefix(_MARK))
        client = Client(KlusterConfig(base_url=kept["base_url"]))
        values = {"model": kept["model"], "chunk_size": kept["chunk_size"], "client": client, "__module__": __name__}
        made = _made[name] = type("KlusterEmbedder", (KlusterEmbedder,), values)
    return CustomProvider(embedding_callable=made)


_made: dict[str, type[KlusterEmbedder]] = {}
_compat.register_embedder(f"{__name__}.{embedder_provider.__name__}")
