"""`ChatKluster`'s part in batch jobs: LangChain's inputs become requests, and results become messages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableBinding

from kluster_integrations.batch import BatchJob, BatchResult, Window
from kluster_integrations.batch.types import Unset
from kluster_integrations.langchain._compat import to_messages
from kluster_integrations.langchain._messages import to_result

__all__ = ["BoundKluster", "create_job", "to_output"]

# Of a call: its answer comes in a file, a day later and in another process.
_NOT_IN_FILE = frozenset({"check", "timeout", "extra_headers"})


class BoundKluster(RunnableBinding[LanguageModelInput, AIMessage]):  # type: ignore[no-redef]
    """A `ChatKluster` with arguments bound.

    langchain-core's own class calls the model's `batch_job` without the bound arguments: the tools were lost.
    """

    def batch_job(self, inputs: Iterable[LanguageModelInput], *, folder: str | Path, **options: Any) -> BatchJob:
        """As `ChatKluster.batch_job`, with the bound arguments."""
        job: BatchJob = self.bound.batch_job(inputs, folder=folder, **{**self.kwargs, **options})  # type: ignore[attr-defined]
        return job

    async def abatch_job(self, inputs: Iterable[LanguageModelInput], *, folder: str | Path, **options: Any) -> BatchJob:
        """As `batch_job`."""
        job: BatchJob = await self.bound.abatch_job(inputs, folder=folder, **{**self.kwargs, **options})  # type: ignore[attr-defined]
        return job

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the name that LangChain's loader knows."""
        return RunnableBinding.lc_id()


def create_job(
    model: Any,
    inputs: Iterable[LanguageModelInput],
    *,
    folder: str | Path,
    window: Window | Literal["auto"] | None,
    max_cost: float | Unset | None,
    strict: bool | None,
    settings: dict[str, Any],
) -> BatchJob:
    """Write the job for some inputs of a `ChatKluster` (not typed so, because its module imports this one)."""
    stop = settings.get("stop")
    kept = {name: value for name, value in settings.items() if name not in {*_NOT_IN_FILE, "stop"}}
    client = model._fresh_client()
    requests = (model._request(client, to_messages(model, one), stop, kept) for one in inputs)
    with client.errors:
        return BatchJob.create(
            requests, folder=folder, window=window, max_cost=max_cost, strict=strict, config=client.config
        )


def to_output(model: Any, result: BatchResult) -> AIMessage:
    """Return the message of a result, or raise its error as one of this adapter's classes."""
    with model._client.errors:
        if result.completion is None:
            raise result.error or ValueError(f"The result of input {result.index} is empty.")
    completion = result.completion
    spec = model._client.spec(completion.model or model.model_name)
    message = to_result(completion, spec, with_headers=False).generations[0].message
    message.response_metadata.pop("cost", None)  # in real time
    if result.cost is not None:
        message.response_metadata["cost"] = result.cost
    assert isinstance(message, AIMessage)
    if model.output_version == "v1":  # as langchain-core makes it of an answer to `invoke`
        blocks = {"content": message.content_blocks}
        metadata = {**message.response_metadata, "output_version": "v1"}
        return message.model_copy(update={**blocks, "response_metadata": metadata})
    return message
