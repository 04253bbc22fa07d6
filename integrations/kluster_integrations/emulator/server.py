"""`Emulator`: the application, its recorded requests, stated replies and faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Unpack

from kluster_integrations._serving import ThreadServer
from kluster_integrations.emulator import THREAD
from kluster_integrations.emulator.app import build_app
from kluster_integrations.emulator.faults import Fault
from kluster_integrations.emulator.jobs import Batches
from kluster_integrations.emulator.records import RecordedRequest
from kluster_integrations.emulator.replies import Reply, When
from kluster_integrations.emulator.service import Service
from kluster_integrations.emulator.settings import Options, Settings

__all__ = ["Emulator"]


class Emulator(ThreadServer):
    """A local look-alike of the kluster.ai API. A context manager; also `start()` and `stop()`.

    Args:
        settings: The settings; default: those of `Settings`.
        host: The address to listen on.
        port: The port, 0 for any free one.
        options: Single settings, such as `plan="trial"`, which win over `settings`. `Settings` documents each of them.

    Raises:
        ValueError: If an argument is not allowed.
    """

    _what = "emulator"
    _thread_name = THREAD
    _grace = 0.1  # open streams break, hanging requests end

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        **options: Unpack[Options],
    ) -> None:
        self._service = Service(replace(settings or Settings(), **options))
        super().__init__(build_app(self._service), host, port)

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far (the newest 10,000), in the order of their arrival; a copy of the list."""
        return list(self._service.records)

    @property
    def batches(self) -> Batches:
        """The files and batch jobs, and what happens to them."""
        return self._service.batches

    def clear(self) -> None:
        """Remove the recorded requests, all faults, stated replies, files and batch jobs."""
        self._service.records.clear()
        self._service.batches.clear()
        self._service.faults.clear()
        self._service.replies.clear()

    def reply(
        self,
        text: str | None = None,
        *,
        reasoning: str = "",
        tool_calls: Sequence[Mapping[str, object]] = (),
        json: object = None,
        finish_reason: str | None = None,
        usage: Mapping[str, object] | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        when: When | None = None,
        times: int | EllipsisType | None = ...,
    ) -> None:
        """State what the model answers. `Reply` documents the other arguments.

        With `when` the reply is for certain requests: those for a model (its id), those whose last message contains a
        text, or those for which a function of the `ChatRequest` returns True. Without `when` it waits in a queue for
        any request. `times` is how often it answers; None is always. Default: once without `when`; with `when` always,
        until another reply is stated for the same requests.

        Raises:
            ValueError: If a value is not allowed, or nothing is stated.
        """
        reply = Reply(text, reasoning, tool_calls, json, finish_reason, usage, status, headers)
        self._service.replies.add(reply, when=when, times=times)

    def add_fault(self, fault: Fault) -> None:
        """Schedule a fault; its `after` counts from now on.

        Raises:
            ValueError: If it is not a `Fault`.
        """
        self._service.faults.add(fault)

    def _starting(self) -> None:
        self._service.stopping = self._stopping
