"""`KlusterEmbeddings`, LangChain's embeddings of kluster.ai."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict, Field

from kluster_integrations.core import embeddings
from kluster_integrations.langchain._connection import Connected

__all__ = ["KlusterEmbeddings"]


class KlusterEmbeddings(Connected, Embeddings):
    """Vectors of texts, by kluster.ai.

    ```python
    from kluster_integrations.langchain import KlusterEmbeddings

    vectors = KlusterEmbeddings().embed_documents(["one text", "another"])
    ```

    Raises:
        pydantic.ValidationError: A `ValueError`, at construction, if an argument is not acceptable.
        KlusterError: At calls; empty texts are refused before any request.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = Field(default=embeddings.DEFAULT_MODEL, min_length=1)
    """The model's id; `BAAI/bge-m3` gives 1024 numbers for up to 8192 tokens."""

    chunk_size: int = Field(default=256, ge=1, le=embeddings.MAX_BATCH)
    """Texts a request; more are sent in several."""

    dimensions: int | None = None
    """Not taken by the service: anything but None is refused (or left out, with `unsupported="drop"`)."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector a text, in order."""
        vectors: list[list[float]] = []
        with self._transport.errors:
            for body in self._bodies(texts):
                answer = self._transport.post(embeddings.EMBEDDINGS_PATH, body)
                vectors += embeddings.read(answer.data, body)
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return self.embed_documents([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`."""
        vectors: list[list[float]] = []
        with self._transport.errors:
            for body in self._bodies(texts):
                answer = await self._transport.apost(embeddings.EMBEDDINGS_PATH, body)
                vectors += embeddings.read(answer.data, body)
        return vectors

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`."""
        return (await self.aembed_documents([text]))[0]

    def _bodies(self, texts: list[str]) -> Any:
        config = self._transport.config
        return embeddings.build(
            self.model, texts, config=config, chunk_size=self.chunk_size, dimensions=self.dimensions
        )
