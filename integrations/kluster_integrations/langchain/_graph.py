"""`later`: a LangGraph node that asks in a batch job, and pauses until there is an answer. Needs `langgraph`."""

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
    """Ask in a batch job, inside of a LangGraph node: interrupt the graph, and on resume return the answer.

    ```python
    def node(state):
        return {"messages": [later(model, state["messages"], folder="jobs")]}
    ```

    The job is submitted once, by the first run of the node. `graph.invoke(Command(resume=True), config)` looks for the
    answer, and interrupts again if there is none yet; the value of `resume` does not matter. The interrupt's value
    has `folder`, `batch_ids` and `window`. Put your own interrupts into other nodes: LangGraph counts the interrupts of
    a node, and here their number depends on when the graph is resumed.

    Args:
        model: A `ChatKluster`, or what its `bind`, `bind_tools` or `with_structured_output` return.
        messages: As `invoke` takes them. They must be the same each time that the node runs: no clock, no chance.
        folder: Where jobs are kept, each in a folder of its own.
        window: How long the service may take; default: `24h`.
        max_cost: US$; a job that would cost more is not sent. Default: no limit.
        name: Tells apart what one node asks for.
        config: The node's; needed only where LangGraph does not know which node is running.

    Returns:
        What the model's `invoke` would return.

    Raises:
        KlusterBadRequestError: It is not called in a graph's node, or the graph runs without a thread, so that nothing
            would be resumed.
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
    """Return the job's folder: the same whenever the same step of the same thread runs, whatever its messages are.

    Messages that have changed are then an error of `BatchJob.create`, not a second job.
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
