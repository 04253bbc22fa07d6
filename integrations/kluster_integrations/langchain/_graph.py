"""`later`: asks a model in a batch job, from a LangGraph node that waits for the answer. Needs `langgraph`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.types import interrupt

from kluster_integrations.batch import BatchJob, Window
from kluster_integrations.batch.types import UNSET, Unset
from kluster_integrations.langchain._errors import KlusterBadRequestError

__all__ = ["alater", "later"]


def later(
    model: Any,
    messages: LanguageModelInput,
    *,
    folder: str | Path,
    window: Window | Literal["auto"] | None = None,
    max_cost: float | Unset | None = UNSET,
    name: str = "",
    config: RunnableConfig | None = None,
) -> Any:
    """Ask a model in a batch job, inside a LangGraph node: interrupt the graph, and return the answer on resume.

    ```python
    def node(state):
        return {"messages": [later(model, state["messages"], folder="jobs")]}
    ```

    The job is submitted once, by the first run of the node. `graph.invoke(Command(resume=True), config)` looks for the
    answer, and interrupts again if there is none yet. The value of `resume` does not matter. The interrupt's value has
    `folder`, `batch_ids` and `window`. Put your own interrupts into other nodes: LangGraph counts the interrupts of a
    node, and here their number depends on when the graph is resumed.

    Args:
        model: A `ChatKluster`, or the result of its `bind`, `bind_tools` or `with_structured_output`.
        messages: The input, as for `invoke`. It must be the same in each run of the node: no time of day, nothing
            random.
        folder: The folder for jobs; each gets a folder in it.
        window: How long the service may take; default: `24h`.
        max_cost: The limit in US$; a job that would cost more is not sent. Default: no limit.
        name: A name for this question, if a node asks several.
        config: The node's configuration; needed only if LangGraph does not know which node is running.

    Returns:
        The result that the model's `invoke` would return.

    Raises:
        KlusterBadRequestError: This is not called in a graph's node, or the graph runs without a `thread_id`, so that
            it could not be resumed.
        KlusterError: The request or the job failed.
    """
    with model.batch_job([messages], folder=_place(folder, name, config), window=window, max_cost=max_cost) as job:
        while not job.last_status().is_done:
            job.submit()
            if not job.status().is_done:
                job.submit()  # of a repair, or of a line that was lost
                interrupt(_notice(job))
        [result] = job.results()
    return model.batch_output(result)


async def alater(
    model: Any,
    messages: LanguageModelInput,
    *,
    folder: str | Path,
    window: Window | Literal["auto"] | None = None,
    max_cost: float | Unset | None = UNSET,
    name: str = "",
    config: RunnableConfig | None = None,
) -> Any:
    """As `later`."""
    place = _place(folder, name, config)
    with await model.abatch_job([messages], folder=place, window=window, max_cost=max_cost) as job:
        while not job.last_status().is_done:
            await job.asubmit()
            if not (await job.astatus()).is_done:
                await job.asubmit()
                interrupt(_notice(job))
        [result] = job.results()
    return model.batch_output(result)


def _place(folder: str | Path, name: str, config: RunnableConfig | None) -> Path:
    """Return the job's folder, which depends on the thread and the step, not on the messages.

    So changed messages are an error of `BatchJob.create`, and not a second job.
    """
    try:
        configurable: Mapping[str, Any] = (config or get_config()).get("configurable") or {}
    except RuntimeError:  # LangGraph's "outside of a runnable context"
        configurable = {}
    thread, step = configurable.get("thread_id"), configurable.get("checkpoint_ns")
    if thread is None or step is None:
        raise KlusterBadRequestError(
            "later() is called outside of a LangGraph node, or its graph has no checkpointer or no thread_id: it could "
            "not be resumed.",
            hint='call it in a node of graph.compile(checkpointer=…), invoked with {"configurable": {"thread_id": …}}; '
            "elsewhere use model.batch_job(…).",
        )
    digest = hashlib.sha256("\0".join((str(thread), str(step), name)).encode()).hexdigest()[:24]
    return Path(folder) / digest


def _notice(job: BatchJob) -> dict[str, Any]:
    status = job.last_status()
    ids = [one.id for one in status.jobs]
    return {"folder": str(job.folder), "batch_ids": ids, "window": status.window}
