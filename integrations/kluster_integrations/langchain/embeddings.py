"""`KlusterEmbeddings`, LangChain's embeddings for kluster.ai."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict, Field

from kluster_integrations.core.client import DEFAULT_EMBEDDING_MODEL, MAX_EMBEDDING_BATCH
from kluster_integrations.langchain._connection import Connected

__all__ = ["KlusterEmbeddings"]


class KlusterEmbeddings(Connected, Embeddings):
    """A kluster.ai model as LangChain embeddings.

    ```python
    from kluster_integrations.langchain import KlusterEmbeddings

    vectors = KlusterEmbeddings().embed_documents(["one text", "another"])
    ```

    Raises:
        pydantic.ValidationError: A `ValueError`, at construction, if an argument is not acceptable.
        KlusterError: From a call. Empty texts are refused before the request.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = Field(default=DEFAULT_EMBEDDING_MODEL, min_length=1)
    """The model's id; `BAAI/bge-m3` gives 1024 numbers for up to 8192 tokens."""

    chunk_size: int = Field(default=256, ge=1, le=MAX_EMBEDDING_BATCH)
    """Texts per request, 1 to 2048."""

    dimensions: int | None = None
    """The length of the vectors: the model's own, unless another server has this parameter (`ModelSpec.native`)."""

    @property
    def _options(self) -> dict[str, Any]:
        return {"chunk_size": self.chunk_size, "dimensions": self.dimensions, "timeout": self._timeouts}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector per text, in order."""
        return self._fresh_client().embed(self.model, texts, **self._options).rows

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return self.embed_documents([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`."""
        client = await self._afresh_client()
        return (await client.aembed(self.model, texts, **self._options)).rows

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`."""
        return (await self.aembed_documents([text]))[0]
