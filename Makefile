# Every target sets up what it needs: python3 with venv and make are enough.
PYTHON ?= python3
VENV   ?= .venv
PIP    := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check

.PHONY: help demo test test-all test-aarch64 lint format bench bench-scan peers bench-peers gpu bench-runtime clean

help:  ## Show the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / — /'

# pip 25.1 is the first that installs PEP 735 dependency groups.
$(VENV)/dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --editable . --group dev $(PINS)
	@touch $@

demo: $(VENV)/dev  ## Convolve a real recording: make demo [SIGNAL=file.wav|.npy|.csv]
	$(VENV)/bin/python -m benchmarks.demo $(SIGNAL)

# A process for each core; files stay whole, since their tests share what they compile.
PYTEST := $(VENV)/bin/python -m pytest --numprocesses auto --dist loadfile

test: $(VENV)/dev  ## The suite, under 10 minutes on two cores
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: $(VENV)/dev  ## The whole suite, as CI runs it
	$(PYTEST) $(ARGS)

.aarch64/ready: tests/emulation/set_up.sh | $(VENV)/dev
	PIP="$(PIP)" tests/emulation/set_up.sh

# ARGS="-m pytest -m 'not slow' tests/conformance" takes half an hour.
test-aarch64: ARGS = -m tests.conformance.isa_sample neon
test-aarch64: .aarch64/ready  ## The kernels for AArch64, emulated by QEMU; needs Debian's apt-get
	tests/emulation/python.sh $(ARGS)

lint: $(VENV)/dev  ## Style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/dev  ## Let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/dev  ## Share of the FMA peak, layer by layer, without peers
	$(VENV)/bin/python -m benchmarks.dense $(ARGS)

bench-scan: $(VENV)/dev  ## Random layers: the slowest, and what the order of axes costs
	$(VENV)/bin/python -m benchmarks.scan $(ARGS)

peers:  ## One virtual environment for each peer, in .peers
	$(PYTHON) -m benchmarks.peers.install $(PEERS)

bench-peers: $(VENV)/dev  ## Measure against the peers and write a report
	$(VENV)/bin/python -m benchmarks.run --out benchmarks/results/cpu $(ARGS)
	$(VENV)/bin/python -m benchmarks.report benchmarks/results/cpu --readme README.md

# GPU_PYTHON names an interpreter that has numba-cuda, torch and CuPy already.
gpu: $(if $(GPU_PYTHON),,$(VENV)/dev)  ## With an NVIDIA GPU: conformance on the device, then times
	@$(or $(GPU_PYTHON),$(VENV)/bin/python) -m benchmarks.gpu --check
	NUMBACONV_TEST_DEVICE=cuda $(or $(GPU_PYTHON),$(VENV)/bin/python) -m pytest \
	    tests/cuda/test_kernels.py tests/conformance/test_exact.py tests/conformance/test_bounds.py $(ARGS)
	$(or $(GPU_PYTHON),$(VENV)/bin/python) -m benchmarks.gpu --out benchmarks/results

bench-runtime: $(VENV)/dev  ## Import, first call, steady call, parallel launch
	$(VENV)/bin/python -m benchmarks.runtime $(ARGS)

clean:  ## Remove what the targets made, but the peers
	rm -rf $(VENV) .aarch64 demo-output .pytest_cache .ruff_cache .mypy_cache .hypothesis
