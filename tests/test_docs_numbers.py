"""Numbers in the pages' sentences are those of the code: defaults, ports, sizes, times and versions.

Blocks run (test_docs.py), tables of figures are made from the catalog (test_docs_figures.py); nobody runs a number in
a sentence.
"""

from __future__ import annotations

import inspect
import re
import tomllib

import pytest

from kluster_integrations import __version__
from kluster_integrations.batch import steps
from kluster_integrations.batch.deferred import _THREADS
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import transport
from kluster_integrations.core.limits import redis
from kluster_integrations.gateway import answers, chat, jobs, memory
from kluster_integrations.ray import KlusterRows

from .outputs import OUTPUTS
from .pages import ROOT
from .test_docs_inline import KLUSTER

_SOURCE = "".join(file.read_text("utf-8") for file in (ROOT / "integrations/kluster_integrations").rglob("*.py"))
_SECONDS = {name: float(n) for name, n in re.findall(r'seconds_from\("(\w+)", ([\d.]+)\)', _SOURCE)}
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
_EXTRAS = _PROJECT["optional-dependencies"]
_WORDS = {2: "two", 3: "three", 10: "ten", 30: "half a minute", 60: "a minute"}
_CONFIG = {name: field.default for name, field in KlusterConfig.model_fields.items()}


def _oldest(extra: str) -> str:
    """Return the oldest version of an extra's first package that pyproject.toml allows."""
    match = re.search(r">=([\d.]+)", _EXTRAS[extra][0])
    assert match
    return match[1]


def _port(command: str) -> int:
    return int(next(param.default for param in KLUSTER.commands[command].params if "--port" in param.opts))


_OUTPUTS = (OUTPUTS / "command-line-console.yaml").read_text("utf-8")
_PARAMETERS = inspect.signature(KlusterRows.__init__).parameters
SENTENCES = [
    ("batch.md", f"checked for {_SECONDS['batch_settle']:.0f} seconds (`KLUSTER_BATCH_SETTLE`)"),
    ("batch.md", f"no new request has come for {_WORDS[int(_SECONDS['batch_quiet'])]} seconds (`quiet=`)"),
    ("batch.md", f"After {_WORDS[int(_SECONDS['batch_patience'] / 60)]} minutes with nothing but errors"),
    ("batch.md", f"sent again in another job, at most {_WORDS[steps._TRIES]} times"),
    ("batch.md", f"a pool has {_THREADS:,} workers"),
    ("batch.md", f"more than {steps.FILE_BYTES // 10**6} MB"),
    ("command-line.md", f"It sends {_OUTPUTS.partition(' requests to')[0].split()[-1]} small requests"),
    ("concepts/configuration.md", f"(seconds between the first looks at a job; {_SECONDS['batch_poll']:.0f})"),
    ("concepts/configuration.md", f"before a round is sent; {_SECONDS['batch_quiet']:.0f})"),
    ("concepts/configuration.md", f"before `deferred` gives up; {_SECONDS['batch_patience']:.0f})"),
    ("concepts/configuration.md", f"ends at most {_WORDS[int(transport._LAST_SECONDS)]} seconds after its finish"),
    ("concepts/errors.md", f"If that is more than {_WORDS[int(transport._LONGEST_WAIT)]}, the error is raised at once"),
    ("concepts/errors.md", f"`max_retries` ({_CONFIG['max_retries']}) times"),
    ("concepts/limits.md", f"a process that has died is free after {_WORDS[int(redis.LEASE)]}"),
    ("crewai.md", f"`max_retries` ({_CONFIG['max_retries']}) times"),
    ("emulator.md", f"It listens on port {_port('emulator')} until"),
    ("gateway.md", f"the newest {memory._MAX_BYTES >> 20} MB, until it stops"),
    ("gateway.md", f"up to {chat._MAX_N} answers with `n`"),
    ("gateway.md", f"up to {jobs.MAX_FILE >> 20} MiB"),
    ("gateway.md", f"When nothing has been sent for {answers._PING_SECONDS:.0f} seconds, a ping is"),
    (
        "gateway.md",
        f"`http://127.0.0.1:{_port('gateway')}/v1`, or Anthropic's to `http://127.0.0.1:{_port('gateway')}`",
    ),
    ("litellm.md", f"`{_EXTRAS['litellm'][0]}`"),
    ("litellm.md", f"is free after {_WORDS[int(redis.LEASE)]}"),
    ("ray.md", f"`max_concurrency` ({_PARAMETERS['max_concurrency'].default})"),
    ("troubleshooting.md", f"for `timeout` seconds ({_CONFIG['timeout']:.0f})"),
    ("../README.md", f"langchain-core from {_oldest('langchain')}, LiteLLM from {_oldest('litellm')}"),
    ("../README.md", f"and CrewAI from {_oldest('crewai')}, each below 2"),
    ("../README.md", f"only Python {_PROJECT['requires-python'].removeprefix('>=')} or newer"),
    ("getting-started.md", f"Python {_PROJECT['requires-python'].removeprefix('>=')} or newer"),
    ("getting-started.md", f"dist/kluster_integrations-{__version__}-py3-none-any.whl"),
    ("../CONTRIBUTING.md", f"Python {_PROJECT['requires-python'].removeprefix('>=')} or newer"),
]


@pytest.mark.parametrize(("page", "sentence"), SENTENCES, ids=[f"{page}-{text[:40]}" for page, text in SENTENCES])
def test_a_number_in_a_sentence(page: str, sentence: str) -> None:
    assert sentence in " ".join((ROOT / "docs" / page).read_text("utf-8").split())


def test_defaults_of_the_adapters() -> None:
    pytest.importorskip("langchain_core")
    from kluster_integrations.langchain import ChatKluster, KlusterEmbeddings

    page = " ".join((ROOT / "docs" / "langchain.md").read_text("utf-8").split())
    assert f"Up to `chunk_size` ({KlusterEmbeddings.model_fields['chunk_size'].default}) texts" in page
    repairs = ChatKluster.model_fields["max_repairs"].default
    for name, text in (("batch", f"`max_repairs` ({repairs}) times"), ("litellm", f"`max_repairs={repairs}` times")):
        assert text in " ".join((ROOT / "docs" / f"{name}.md").read_text("utf-8").split())
