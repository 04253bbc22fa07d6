"""What the tests of crews share: no telemetry, no other host, no key but kluster.ai's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crewai import LLM
from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types import llm_events

from kluster_integrations.crewai import KlusterLLM, kluster_llm
from kluster_integrations.emulator import Emulator

from .answers import answered
from .crews import INSTALLED, KEY, LLAMA, ran


@pytest.fixture(autouse=True)
def own_storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ran.clear()


@pytest.fixture(autouse=True)
def no_other_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which anything connects to another machine, also where the attempt is swallowed."""
    others: list[object] = []
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            others.append(address)
            raise OSError(f"a test wants to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    yield
    assert others == []


@pytest.fixture(scope="module")
def _answering() -> Iterator[Emulator]:
    with Emulator(engine=answered) as server:
        yield server


@pytest.fixture
def emulator(_answering: Emulator) -> Iterator[Emulator]:
    """A strict emulator that answers as crews need it, without requests, faults and replies of earlier tests."""
    _answering.clear()
    yield _answering
    _answering.clear()


@pytest.fixture
def llm(emulator: Emulator) -> Callable[..., KlusterLLM]:
    """Make an LLM on the emulator: `llm()`, `llm(R1, stream=True)`."""
    return lambda model=LLAMA, **options: kluster_llm(
        model, **{"base_url": emulator.base_url, "api_key": KEY, **options}
    )


@pytest.fixture
def native() -> Callable[..., Any]:
    """Make CrewAI's own LLM on a server, for what goes wrong with it, in the newest version."""
    if INSTALLED < (1, 15, 30):
        pytest.skip("what goes wrong with CrewAI's own class is of 1.15.30")
    return lambda server, model=LLAMA, **options: LLM(
        model=f"openai/{model}", base_url=server.base_url, api_key=KEY, **options
    )


@pytest.fixture
def events() -> Iterator[list[BaseEvent]]:
    """The events of LLM calls, in the order in which they are emitted; none of CrewAI's own listeners."""
    seen: list[BaseEvent] = []
    kinds = [k for k in vars(llm_events).values() if isinstance(k, type) and issubclass(k, llm_events.LLMEventBase)]
    with crewai_event_bus.scoped_handlers():
        emit = crewai_event_bus.emit

        def noted(source: Any, event: BaseEvent) -> Any:
            if type(event) in kinds:
                seen.append(event)
            return emit(source, event)

        crewai_event_bus.emit = noted  # type: ignore[method-assign]
        try:
            yield seen
        finally:
            del crewai_event_bus.emit
