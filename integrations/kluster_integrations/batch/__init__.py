"""Batch jobs, each line exactly once, and the service's asynchronous requests.

job = BatchJob.create(requests, folder="reviews", window="72h")
job.submit()                                # and close the laptop
…
with BatchJob.open("reviews") as job:       # another day
job.wait()
for result in job.results(): …          # one per input, in input order
"""

from kluster_integrations.batch.asynchronous import PendingAnswer, asubmit_async, submit_async
from kluster_integrations.batch.deferred import Deferred, deferred
from kluster_integrations.batch.job import BatchJob
from kluster_integrations.batch.types import BatchResult, BatchStatus, CostEstimate, JobStatus, Window

__all__ = [
    "BatchJob",
    "BatchResult",
    "BatchStatus",
    "CostEstimate",
    "Deferred",
    "JobStatus",
    "PendingAnswer",
    "Window",
    "asubmit_async",
    "deferred",
    "submit_async",
]
